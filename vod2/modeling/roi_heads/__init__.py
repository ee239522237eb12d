"""Level 2: aggregation of proposals, and the heads that host it."""

from vod2.modeling.roi_heads.base import (
    PROPOSAL_AGGREGATOR_REGISTRY,
    ProposalAggregator,
    build_proposal_aggregator,
)
from vod2.modeling.roi_heads.predictor import VideoBoxPredictor
from vod2.modeling.roi_heads.video_roi_heads import HeadOutput, VideoROIHeads, as_proposal_set

__all__ = [
    "PROPOSAL_AGGREGATOR_REGISTRY",
    "HeadOutput",
    "ProposalAggregator",
    "VideoBoxPredictor",
    "VideoROIHeads",
    "as_proposal_set",
    "build_proposal_aggregator",
]
