"""Transforms (deterministic, fvcore's and the resize) and augmentations, which look at an input and draw a transform.

All augmentations draw from NumPy's global generator, which each worker process seeds.
"""

import inspect
import sys
from typing import Any

import numpy as np
import torch
from fvcore.transforms.transform import (
    BlendTransform,
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image
from torch.nn import functional as F

_TORCH_MODES: dict[Image.Resampling, dict[str, Any]] = {
    # F.interpolate refuses align_corners for this one
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
        self.interp = Image.Resampling.BILINEAR if interp is None else interp

    def apply_image(self, img, interp=None):
        """(h, w) or (h, w, C) array -> the same of (new_h, new_w). Raises ValueError for another size."""
        if img.shape[:2] != (self.h, self.w) or img.ndim > 3:
            raise ValueError(f"expected an image of ({self.h}, {self.w}) or ({self.h}, {self.w}, C), got {img.shape}")
        interp = Image.Resampling(self.interp if interp is None else interp)
        shape = self.new_h, self.new_w, *img.shape[2:]
        # A flipped or BGR image has negative strides, which torch does not support
        img = np.ascontiguousarray(img)
        if img.dtype == np.uint8:
            # PIL does not take (h, w, 1)
            pil = Image.fromarray(img[:, :, 0] if img.shape[2:] == (1,) else img)
            return np.asarray(pil.resize((self.new_w, self.new_h), interp)).reshape(shape)
        pixels = torch.from_numpy(img).view(self.h, self.w, -1).permute(2, 0, 1)[None]  # (1, C, h, w)
        resized = F.interpolate(pixels, shape[:2], **_TORCH_MODES[interp])[0].permute(1, 2, 0)
        return resized.reshape(shape).numpy()

    def apply_coords(self, coords):
        """(N, 2) floating point array of (x, y), changed in place."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def apply_segmentation(self, segmentation):
        """(h, w) array of labels, resized to the nearest."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def inverse(self):
        """The resize back."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class Augmentation:
    """A (usually random) policy that gives a `Transform`.

    A subclass defines `get_transform` with positional arguments named like attributes of the input it needs (`image`,
    `boxes`, or others that the caller's own input class has). A single argument, of any name, is the image.
    """

    def get_transform(self, *args):
        """Draws the transform. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_transform")

    def __call__(self, aug_input):
        """Draws the transform, applies it to `aug_input` in place, and returns it."""
        names = list(inspect.signature(self.get_transform).parameters)
        names = ["image"] if len(names) == 1 else names
        transform = self.get_transform(*(getattr(aug_input, name) for name in names))
        aug_input.transform(transform)
        return transform

    def __repr__(self):
        """The constructor's arguments, as far as they are attributes of the same name."""
        names = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


class _FixedTransform(Augmentation):
    """A transform in the place of an augmentation."""

    def __init__(self, transform):
        self.transform = transform

    def get_transform(self):
        return self.transform


def _as_augmentation(aug):
    return _FixedTransform(aug) if isinstance(aug, Transform) else aug


class AugmentationList(Augmentation):
    """Augmentations (or transforms) one after the other, each looking at what the one before has left."""

    def __init__(self, augs):
        self.augs = [_as_augmentation(aug) for aug in augs]

    def __call__(self, aug_input):
        """Applies all of them to `aug_input` in place and returns the `TransformList` of what was drawn."""
        return TransformList([aug(aug_input) for aug in self.augs])


class AugInput:
    """What augmentations look at and transform.

    Args:
        image: (H, W) or (H, W, C) array, uint8 in [0, 255] or floating point.
        boxes: (N, 4) array, XYXY_ABS.
    """

    def __init__(self, image, *, boxes=None):
        self.image = image
        self.boxes = boxes

    def transform(self, tfm):
        """Applies a transform to all attributes, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)


class RandomApply(Augmentation):
    """Applies an augmentation or transform with probability `prob`."""

    def __init__(self, tfm_or_aug, prob=0.5):
        if not 0 <= prob <= 1:
            raise ValueError(f"expected a probability in [0, 1], got {prob}")
        self.aug = _as_augmentation(tfm_or_aug)
        self.prob = prob

    def __call__(self, aug_input):
        return self.aug(aug_input) if np.random.uniform() < self.prob else NoOpTransform()


class RandomFlip(Augmentation):
    """Flips the image, horizontally or vertically, with probability `prob`."""

    def __init__(self, prob=0.5, *, horizontal=True, vertical=False):
        if horizontal == vertical:
            raise ValueError("expected exactly one of horizontal and vertical; for both use two RandomFlip")
        self.prob = prob
        self.horizontal = horizontal
        self.vertical = vertical

    def get_transform(self, image):
        height, width = image.shape[:2]
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resizes to a fixed (height, width), or to a square of the side `shape`."""

    def __init__(self, shape, interp=Image.Resampling.BILINEAR):
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self.interp = interp

    def get_transform(self, image):
        return ResizeTransform(image.shape[0], image.shape[1], self.shape[0], self.shape[1], self.interp)


class ResizeShortestEdge(Augmentation):
    """Resizes the shorter edge to a drawn length, keeping the aspect ratio.

    Args:
        short_edge_length: an int; or the lengths to choose from ("choice"); or the least and the greatest ("range").
            The length 0 leaves the image as it is.
        max_size: the longer edge's greatest length; the shorter one gives way.
        sample_style: "range" or "choice".
        interp: a resampling filter of PIL.
    """

    def __init__(self, short_edge_length, max_size=sys.maxsize, sample_style="range", interp=Image.Resampling.BILINEAR):
        if sample_style not in ("range", "choice"):
            raise ValueError(f"expected the sample_style 'range' or 'choice', got {sample_style!r}")
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        if sample_style == "range" and len(short_edge_length) != 2:
            raise ValueError(f"short_edge_length must be [least, greatest] for 'range', got {short_edge_length}")
        self.short_edge_length = short_edge_length
        self.max_size = max_size
        self.sample_style = sample_style
        self.interp = interp

    def get_transform(self, image):
        height, width = image.shape[:2]
        if self.sample_style == "range":
            least, greatest = self.short_edge_length
            # randint excludes its upper end
            size = np.random.randint(least, greatest + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return NoOpTransform()
        new_height, new_width = self.get_output_shape(height, width, size, self.max_size)
        return ResizeTransform(height, width, new_height, new_width, self.interp)

    @staticmethod
    def get_output_shape(oldh, oldw, short_edge_length, max_size):
        """(height, width) after the resize, in whole pixels, halves rounded up."""
        # In this order of operations: it decides how a size of exactly one half more is rounded.
        scale = short_edge_length / min(oldh, oldw)
        height, width = (short_edge_length, scale * oldw) if oldh < oldw else (scale * oldh, short_edge_length)
        if max(height, width) > max_size:
            scale = max_size / max(height, width)
            height, width = height * scale, width * scale
        return int(height + 0.5), int(width + 0.5)


class RandomCrop(Augmentation):
    """Crops a rectangle at a random place.

    Args:
        crop_type: what `crop_size` (height, width) means: "relative" to the image, in (0, 1]; "relative_range", each
            side drawn from [crop_size, 1]; "absolute" pixels, at most the image; "absolute_range", (least, greatest)
            pixels of either side.
        crop_size: two numbers.
    """

    def __init__(self, crop_type, crop_size):
        if crop_type not in ("relative_range", "relative", "absolute", "absolute_range"):
            raise ValueError(f"unknown crop_type {crop_type!r}: expected (relative|absolute) with or without _range")
        self.crop_type = crop_type
        self.crop_size = crop_size

    def get_transform(self, image):
        height, width = image.shape[:2]
        crop_height, crop_width = self.get_crop_size((height, width))
        # Top before left, as Detectron2 draws them: the same seed gives the same crop
        top = np.random.randint(height - crop_height + 1)
        left = np.random.randint(width - crop_width + 1)
        return CropTransform(left, top, crop_width, crop_height)

    def get_crop_size(self, image_size):
        """Draws the (height, width) of the crop of an image of (height, width), in pixels."""
        height, width = image_size
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(first, height), min(second, width)
        if self.crop_type == "absolute_range":
            crop_height = np.random.randint(min(height, first), min(height, second) + 1)
            return crop_height, np.random.randint(min(width, first), min(width, second) + 1)
        # float32 as in Detectron2: float64 would round a few sizes differently
        fraction: np.ndarray = np.asarray(self.crop_size, dtype=np.float32)
        if self.crop_type == "relative_range":
            fraction = fraction + np.random.rand(2) * (1 - fraction)
        return int(height * fraction[0] + 0.5), int(width * fraction[1] + 0.5)


class _RandomBlend(Augmentation):
    """weight * image + (1 - weight) * something duller, the weight uniform in [intensity_min, intensity_max]."""

    def __init__(self, intensity_min, intensity_max):
        self.intensity_min = intensity_min
        self.intensity_max = intensity_max

    def _dull(self, image):
        """What the image is blended with."""
        raise NotImplementedError

    def get_transform(self, image):
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(src_image=self._dull(image), src_weight=1 - weight, dst_weight=weight)


class RandomContrast(_RandomBlend):
    """Blends with the image's mean: an intensity below 1 reduces the contrast, above 1 increases it."""

    def _dull(self, image):
        return image.mean()


class RandomBrightness(_RandomBlend):
    """Blends with black: an intensity below 1 darkens the image, above 1 brightens it."""

    def _dull(self, image):
        return 0


class RandomSaturation(_RandomBlend):
    """Blends an RGB image with its grey: an intensity below 1 makes it greyer, above 1 more colourful."""

    def _dull(self, image):
        # Luma weights of R, G and B (BT.601); like Detectron2, it takes every image for RGB
        return image.dot([0.299, 0.587, 0.114])[:, :, None]
