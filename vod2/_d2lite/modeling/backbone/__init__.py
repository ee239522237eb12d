"""Backbones: ResNet and the feature pyramid on it."""
# ruff: noqa: F401

from vod2._d2lite.modeling.backbone.backbone import BACKBONE_REGISTRY, Backbone, build_backbone
from vod2._d2lite.modeling.backbone.fpn import FPN, LastLevelMaxPool, build_resnet_fpn_backbone
from vod2._d2lite.modeling.backbone.resnet import (
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    ResNet,
    ResNetBlockBase,
    build_resnet_backbone,
)
