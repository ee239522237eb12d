"""The detector and the contracts of its three levels of aggregation."""

from vod2.modeling.aggregation import Aggregated
from vod2.modeling.anchors import PreciseAnchorGenerator, RoundedAnchorGenerator, TorchvisionAnchorGenerator
from vod2.modeling.backbone import build_narrow_resnet_backbone
from vod2.modeling.efficientnet import build_efficientnet_lite_backbone
from vod2.modeling.legacy import LegacyConventions
from vod2.modeling.linking import (
    BLR,
    BOX_LINKER_REGISTRY,
    BoxLinker,
    GreedyLinking,
    OnlineLinker,
    SeqNMS,
    TubeletLinking,
    build_box_linker,
)
from vod2.modeling.one_stage import FCOS, RescoringHeads, VideoOneStage
from vod2.modeling.pixel import PIXEL_AGGREGATOR_REGISTRY, PixelAggregator
from vod2.modeling.propose import propose_clips, propose_frames
from vod2.modeling.pyramid import build_pyramid_backbone
from vod2.modeling.roi_heads import (
    PROPOSAL_AGGREGATOR_REGISTRY,
    ProposalAggregator,
    ProposalNeeds,
    VideoROIHeads,
    asks_for_ids,
    build_relations,
)
from vod2.modeling.simple_pyramid import build_timm_vit_pyramid_backbone
from vod2.modeling.timm_backbone import build_timm_backbone, build_timm_fpn_backbone
from vod2.modeling.video_detector import VideoDetector
from vod2.modeling.video_rcnn import VideoRCNN
from vod2.modeling.video_rpn import VideoRPN

__all__ = [
    "BLR",
    "BOX_LINKER_REGISTRY",
    "FCOS",
    "PIXEL_AGGREGATOR_REGISTRY",
    "PROPOSAL_AGGREGATOR_REGISTRY",
    "Aggregated",
    "BoxLinker",
    "GreedyLinking",
    "LegacyConventions",
    "OnlineLinker",
    "PixelAggregator",
    "PreciseAnchorGenerator",
    "ProposalAggregator",
    "ProposalNeeds",
    "RescoringHeads",
    "RoundedAnchorGenerator",
    "SeqNMS",
    "TorchvisionAnchorGenerator",
    "TubeletLinking",
    "VideoDetector",
    "VideoOneStage",
    "VideoRCNN",
    "VideoROIHeads",
    "VideoRPN",
    "asks_for_ids",
    "build_box_linker",
    "build_efficientnet_lite_backbone",
    "build_narrow_resnet_backbone",
    "build_pyramid_backbone",
    "build_relations",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "build_timm_vit_pyramid_backbone",
    "propose_clips",
    "propose_frames",
]
