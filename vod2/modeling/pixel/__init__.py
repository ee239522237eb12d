"""Level 1: aggregation of feature maps."""

from vod2.modeling.pixel.aligner import ALIGNER_REGISTRY, Aligner, build_aligner
from vod2.modeling.pixel.base import PIXEL_AGGREGATOR_REGISTRY, PixelAggregator, build_pixel_aggregator

__all__ = [
    "ALIGNER_REGISTRY",
    "Aligner",
    "build_aligner",
    "PIXEL_AGGREGATOR_REGISTRY",
    "PixelAggregator",
    "build_pixel_aggregator",
]
