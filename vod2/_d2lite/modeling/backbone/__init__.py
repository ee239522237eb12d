"""Backbones: ResNet and the feature pyramid on it."""

from vod2._d2lite.modeling.backbone.backbone import BACKBONE_REGISTRY, Backbone, build_backbone
from vod2._d2lite.modeling.backbone.fpn import FPN, LastLevelMaxPool, build_resnet_fpn_backbone
from vod2._d2lite.modeling.backbone.resnet import (
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    DeformBottleneckBlock,
    ResNet,
    ResNetBlockBase,
    build_resnet_backbone,
    make_stage,
)

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "BasicBlock",
    "BasicStem",
    "BottleneckBlock",
    "DeformBottleneckBlock",
    "FPN",
    "LastLevelMaxPool",
    "ResNet",
    "ResNetBlockBase",
    "build_backbone",
    "build_resnet_backbone",
    "build_resnet_fpn_backbone",
    "make_stage",
]
