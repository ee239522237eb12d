"""Level 2: aggregation of proposals, and the heads that host it."""

from vod2.modeling.roi_heads.base import (
    PROPOSAL_AGGREGATOR_REGISTRY,
    AggregatorSequence,
    ProposalAggregator,
    ProposalNeeds,
    asks_for_ids,
    build_proposal_aggregator,
    build_relations,
    with_features,
)
from vod2.modeling.roi_heads.box_head import AveragedBoxHead, LinearBoxHead, require_linear_box_head
from vod2.modeling.roi_heads.pooler import FastROIPooler
from vod2.modeling.roi_heads.predictor import DetectionSelection, VideoBoxPredictor
from vod2.modeling.roi_heads.rfcn import RFCNHeads
from vod2.modeling.roi_heads.video_heads import HeadOutput, VideoHeads
from vod2.modeling.roi_heads.video_roi_heads import VideoROIHeads

__all__ = [
    "PROPOSAL_AGGREGATOR_REGISTRY",
    "AggregatorSequence",
    "AveragedBoxHead",
    "DetectionSelection",
    "FastROIPooler",
    "HeadOutput",
    "LinearBoxHead",
    "ProposalAggregator",
    "ProposalNeeds",
    "RFCNHeads",
    "VideoBoxPredictor",
    "VideoHeads",
    "VideoROIHeads",
    "asks_for_ids",
    "build_proposal_aggregator",
    "build_relations",
    "require_linear_box_head",
    "with_features",
]
