"""The resize of images and coordinates."""

import numpy as np
import torch
from fvcore.transforms.transform import Transform
from PIL import Image
from torch.nn import functional as F

_TORCH_MODES = {
    Image.Resampling.NEAREST: {"mode": "nearest"},
    Image.Resampling.BILINEAR: {"mode": "bilinear", "align_corners": False},
    Image.Resampling.BICUBIC: {"mode": "bicubic", "align_corners": False},
}


class ResizeTransform(Transform):
    """Resizes an image of (h, w) pixels to (new_h, new_w).

    A uint8 image is resized by PIL, which averages over all source pixels when it shrinks; any other dtype by
    `torch.nn.functional.interpolate`, which does not.

    Args:
        h, w: size before.
        new_h, new_w: size after.
        interp: a resampling filter of PIL; bilinear where None.
    """

    def __init__(self, h, w, new_h, new_w, interp=None):
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img, interp=None):
        """(h, w) or (h, w, C) array -> the same of (new_h, new_w). Raises ValueError for another size."""
        if img.shape[:2] != (self.h, self.w) or img.ndim > 3:
            raise ValueError(f"expected an image of ({self.h}, {self.w}) or ({self.h}, {self.w}, C), got {img.shape}")
        interp = Image.Resampling(self.interp if interp is None else interp)
        if img.dtype == np.uint8:
            return self._with_pil(img, interp)
        pixels = torch.from_numpy(np.ascontiguousarray(img)).view(self.h, self.w, -1)
        pixels = pixels.permute(2, 0, 1)[None]  # (1, C, h, w)
        resized = F.interpolate(pixels, (self.new_h, self.new_w), **_TORCH_MODES[interp])[0].permute(1, 2, 0)
        return resized.reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def _with_pil(self, img, interp):
        single = img.ndim == 3 and img.shape[2] == 1
        pil = Image.fromarray(np.ascontiguousarray(img[:, :, 0] if single else img))
        resized = np.asarray(pil.resize((self.new_w, self.new_h), interp))
        return resized[:, :, None] if single else resized

    def apply_coords(self, coords):
        """(N, 2) floating point array of (x, y), changed in place."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def apply_segmentation(self, segmentation):
        """(h, w) array of labels, resized to the nearest."""
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self):
        """The resize back."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
