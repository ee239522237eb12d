"""The augmentations. All draw from NumPy's global generator, which each worker process seeds."""

import sys

import numpy as np
from fvcore.transforms.transform import BlendTransform, CropTransform, HFlipTransform, NoOpTransform, VFlipTransform
from PIL import Image

from .augmentation import Augmentation, as_augmentation
from .resize import ResizeTransform


class RandomApply(Augmentation):
    """Applies an augmentation or transform with probability `prob`."""

    def __init__(self, tfm_or_aug, prob=0.5):
        super().__init__()
        if not 0 <= prob <= 1:
            raise ValueError(f"expected a probability in [0, 1], got {prob}")
        self.aug = as_augmentation(tfm_or_aug)
        self.prob = prob

    def get_transform(self, *args):
        return self.aug.get_transform(*args) if np.random.uniform() < self.prob else NoOpTransform()

    def __call__(self, aug_input):
        return self.aug(aug_input) if np.random.uniform() < self.prob else NoOpTransform()


class RandomFlip(Augmentation):
    """Flips the image, horizontally or vertically, with probability `prob`."""

    def __init__(self, prob=0.5, *, horizontal=True, vertical=False):
        super().__init__()
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

    def __init__(self, shape, interp=Image.BILINEAR):
        super().__init__()
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self.interp = interp

    def get_transform(self, image):
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Resizes the shorter edge to a drawn length, keeping the aspect ratio.

    Args:
        short_edge_length: an int; or the lengths to choose from ("choice"); or the least and the greatest ("range").
            The length 0 leaves the image as it is.
        max_size: the longer edge's greatest length; the shorter one gives way.
        sample_style: "range" or "choice".
        interp: a resampling filter of PIL.
    """

    def __init__(self, short_edge_length, max_size=sys.maxsize, sample_style="range", interp=Image.BILINEAR):
        super().__init__()
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
        super().__init__()
        if crop_type not in ("relative_range", "relative", "absolute", "absolute_range"):
            raise ValueError(f"unknown crop_type {crop_type!r}: expected (relative|absolute) with or without _range")
        self.crop_type = crop_type
        self.crop_size = crop_size

    def get_transform(self, image):
        height, width = image.shape[:2]
        crop_height, crop_width = self.get_crop_size((height, width))
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
            if first > second:
                raise ValueError(f"crop_size must be (least, greatest) for 'absolute_range', got {self.crop_size}")
            crop_height = np.random.randint(min(height, first), min(height, second) + 1)
            return crop_height, np.random.randint(min(width, first), min(width, second) + 1)
        fraction = np.asarray(self.crop_size, dtype=np.float32)
        if self.crop_type == "relative_range":
            fraction = fraction + np.random.rand(2) * (1 - fraction)
        return int(height * fraction[0] + 0.5), int(width * fraction[1] + 0.5)


class _RandomBlend(Augmentation):
    """weight * image + (1 - weight) * something duller, the weight uniform in [intensity_min, intensity_max]."""

    def __init__(self, intensity_min, intensity_max):
        super().__init__()
        self.intensity_min = intensity_min
        self.intensity_max = intensity_max

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
        if image.shape[-1] != 3:
            raise ValueError(f"RandomSaturation works on RGB images, got one of shape {image.shape}")
        return image.dot([0.299, 0.587, 0.114])[:, :, None]
