"""Datasets of videos; the builtin names are registered on import."""

from vod2.data.datasets import builtin as _builtin  # noqa: F401  (registers)
from vod2.data.datasets.ilsvrc import VID_CLASSES, VID_WNIDS
from vod2.data.datasets.imagenet_det import limit_images_per_class, load_imagenet_det, register_imagenet_det
from vod2.data.datasets.imagenet_vid import load_imagenet_vid, register_imagenet_vid

__all__ = [
    "VID_CLASSES",
    "VID_WNIDS",
    "limit_images_per_class",
    "load_imagenet_det",
    "load_imagenet_vid",
    "register_imagenet_det",
    "register_imagenet_vid",
]
