"""Level 1: aggregation of feature maps."""

from vod2.modeling.backbone import split_maps
from vod2.modeling.pixel.aligner import ALIGNER_REGISTRY, Aligner, build_aligner
from vod2.modeling.pixel.base import (
    PIXEL_AGGREGATOR_REGISTRY,
    PixelAggregator,
    aggregated_stage,
    build_pixel_aggregator,
)
from vod2.modeling.pixel.dalign import DAlign
from vod2.modeling.pixel.enhance import enhance_clips, enter_memory, keeps_boxes
from vod2.modeling.pixel.flow_aligner import build_flownet
from vod2.modeling.pixel.st_aligners import LearnedSampling, MatchTrans, NonLocal

__all__ = [
    "ALIGNER_REGISTRY",
    "Aligner",
    "DAlign",
    "LearnedSampling",
    "MatchTrans",
    "NonLocal",
    "aggregated_stage",
    "build_aligner",
    "build_flownet",
    "PIXEL_AGGREGATOR_REGISTRY",
    "PixelAggregator",
    "build_pixel_aggregator",
    "enhance_clips",
    "enter_memory",
    "keeps_boxes",
    "split_maps",
]
