"""Level 1: aggregation of feature maps."""

from vod2.modeling.backbone import split_maps
from vod2.modeling.pixel.aligner import ALIGNER_REGISTRY, Aligner, build_aligner, register_aligner
from vod2.modeling.pixel.base import (
    PIXEL_AGGREGATOR_REGISTRY,
    KeyframeSteps,
    PixelAggregator,
    aggregated_stage,
    build_pixel_aggregator,
)
from vod2.modeling.pixel.dalign import DAlign
from vod2.modeling.pixel.enhance import enhance_clips, enhance_in_context, enhance_supports, keeps_boxes
from vod2.modeling.pixel.flow_aligner import FlowNetSAligner, build_flownet
from vod2.modeling.pixel.st_aligners import LearnedSamplingAligner, MatchTransAligner, NonLocal
from vod2.moved import moved

__all__ = [
    "ALIGNER_REGISTRY",
    "PIXEL_AGGREGATOR_REGISTRY",
    "Aligner",
    "DAlign",
    "FlowNetSAligner",
    "KeyframeSteps",
    "LearnedSamplingAligner",
    "MatchTransAligner",
    "NonLocal",
    "PixelAggregator",
    "aggregated_stage",
    "build_aligner",
    "build_flownet",
    "build_pixel_aggregator",
    "enhance_clips",
    "enhance_in_context",
    "enhance_supports",
    "keeps_boxes",
    "register_aligner",
    "split_maps",
]

__getattr__ = moved(
    __name__,
    {
        "LearnedSampling": f"{__name__}:LearnedSamplingAligner",
        "MatchTrans": f"{__name__}:MatchTransAligner",
        "enter_memory": f"{__name__}:enhance_supports",
    },
)
