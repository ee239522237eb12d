"""Level 1: aggregation of feature maps."""

from vod2.modeling.pixel.base import PIXEL_AGGREGATOR_REGISTRY, PixelAggregator, build_pixel_aggregator

__all__ = ["PIXEL_AGGREGATOR_REGISTRY", "PixelAggregator", "build_pixel_aggregator"]
