"""The models: backbones, proposal generators, heads and the meta-architecture."""
# ruff: noqa: F401

from vod2._d2lite.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY, build_anchor_generator
from vod2._d2lite.modeling.backbone import (
    BACKBONE_REGISTRY,
    FPN,
    Backbone,
    ResNet,
    ResNetBlockBase,
    build_backbone,
    build_resnet_backbone,
)
from vod2._d2lite.modeling.meta_arch import META_ARCH_REGISTRY, GeneralizedRCNN, build_model, detector_postprocess
from vod2._d2lite.modeling.proposal_generator import (
    PROPOSAL_GENERATOR_REGISTRY,
    RPN_HEAD_REGISTRY,
    build_proposal_generator,
    build_rpn_head,
)
from vod2._d2lite.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    FastRCNNOutputLayers,
    ROIHeads,
    StandardROIHeads,
    build_box_head,
    build_roi_heads,
)
