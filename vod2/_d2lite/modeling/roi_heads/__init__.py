"""Heads that classify and move proposals."""
# ruff: noqa: F401

from vod2._d2lite.modeling.roi_heads.fast_rcnn import (
    ROI_BOX_HEAD_REGISTRY,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    build_box_head,
)
from vod2._d2lite.modeling.roi_heads.roi_heads import (
    ROI_HEADS_REGISTRY,
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
    build_roi_heads,
)
