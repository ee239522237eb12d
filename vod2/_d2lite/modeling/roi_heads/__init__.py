"""Heads that classify and move proposals."""

from vod2._d2lite.modeling.roi_heads.box_head import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead, build_box_head
from vod2._d2lite.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from vod2._d2lite.modeling.roi_heads.roi_heads import (
    ROI_HEADS_REGISTRY,
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
    build_roi_heads,
)

__all__ = [
    "FastRCNNConvFCHead",
    "FastRCNNOutputLayers",
    "ROIHeads",
    "ROI_BOX_HEAD_REGISTRY",
    "ROI_HEADS_REGISTRY",
    "Res5ROIHeads",
    "StandardROIHeads",
    "build_box_head",
    "build_roi_heads",
    "fast_rcnn_inference",
]
