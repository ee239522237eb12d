"""Images as a model takes them, in a form that can be traced."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from vod2.d2 import GeneralizedRCNN, ImageList
from vod2.ops import is_portable

if TYPE_CHECKING:
    _Base = GeneralizedRCNN
else:
    _Base = object


class PortablePadding(_Base):
    """Mixin for a `GeneralizedRCNN`, which it must stand before: its `preprocess_image` can be traced.

    Detectron2 computes the size of the padded image as a tensor, and a traced program would not know the size of what
    follows.
    """

    def preprocess_image(self, batched_inputs: Sequence[dict]) -> ImageList:
        """Normalize, pad and stack images: dicts with image (C, H, W) -> (B, C, H', W').

        Within `vod2.ops.portable` all images must have one size.
        """
        if not is_portable():
            return super().preprocess_image(list(batched_inputs))
        images = [(clip["image"].to(self.device) - self.pixel_mean) / self.pixel_std for clip in batched_inputs]
        (height, width), *others = {tuple(image.shape[-2:]) for image in images}
        if others:
            raise ValueError(f"images of {1 + len(others)} sizes: a traced program has one")
        # Detectron2's ViT; the stand-in's backbones have no such constraints.
        if getattr(self.backbone, "padding_constraints", {}).get("square_size", 0):
            raise ValueError(f"{type(self.backbone).__name__} wants square images, which is not traced")
        step = max(self.backbone.size_divisibility, 1)
        padded = [functional.pad(image, (0, -width % step, 0, -height % step)) for image in images]
        return ImageList(torch.stack(padded), [(height, width)] * len(images))
