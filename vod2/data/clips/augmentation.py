"""The augmentation of SSD, which SELSA, CSMN and HVR-Net train with: colours, then expanding, then cropping.

Like Detectron2's, augmentations look at one image, draw from numpy's global generator and return a transform, which
`VideoDatasetMapper` applies to every frame of the clip. h, w: size of an image. Boxes are xyxy in pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from vod2.d2 import Boxes, CfgNode, pairwise_iou, transforms
from vod2.errors import UserError

_TO_HSV = {"BGR": cv2.COLOR_BGR2HSV, "RGB": cv2.COLOR_RGB2HSV}
_FROM_HSV = {"BGR": cv2.COLOR_HSV2BGR, "RGB": cv2.COLOR_HSV2RGB}
_IGNORED_LABEL = 255  # Detectron2's MODEL.SEM_SEG_HEAD.IGNORE_VALUE


def build_video_augmentation(cfg: CfgNode) -> list[transforms.Augmentation]:
    """What INPUT.VIDEO_AUGMENTATION names, to be put before Detectron2's resizing and flipping.

    Raises:
        UserError: an unknown name.
    """
    name = cfg.INPUT.VIDEO_AUGMENTATION
    if name == "":
        return []
    if name == "SSD":
        ssd = cfg.INPUT.SSD
        return [
            PhotometricDistortion(
                cfg.INPUT.FORMAT, ssd.BRIGHTNESS, ssd.CONTRAST, ssd.SATURATION, ssd.HUE, ssd.PHOTOMETRIC_PROB
            ),
            RandomExpand(cfg.MODEL.PIXEL_MEAN, ssd.EXPAND, ssd.EXPAND_PROB),
            MinIoUCrop(ssd.CROP_MIN_IOU),
        ]
    raise UserError(f"INPUT.VIDEO_AUGMENTATION is {name!r}, expected 'SSD', or '' for none")


class PhotometricTransform(transforms.Transform):
    """Changes colours, not places. The steps are in the order of the arguments; each clips to [0, 255].

    Args:
        image_format: "BGR" or "RGB".
        brightness: added to every value.
        contrast: factor of every value.
        saturation: factor of the saturation, which stays at most 1.
        hue: added to the hue, in degrees.
        channels: the source of each channel; None leaves them.
        contrast_last: the contrast comes after the hue instead.
    """

    def __init__(
        self,
        image_format: str,
        brightness: float = 0.0,
        contrast: float = 1.0,
        saturation: float = 1.0,
        hue: float = 0.0,
        channels: Sequence[int] | None = None,
        contrast_last: bool = False,
    ) -> None:
        super().__init__()
        if image_format not in _TO_HSV:
            raise UserError(f"colours can be augmented where INPUT.FORMAT is 'BGR' or 'RGB', it is {image_format!r}")
        self.image_format = image_format
        self.brightness, self.contrast, self.contrast_last = brightness, contrast, contrast_last
        self.saturation, self.hue, self.channels = saturation, hue, channels

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(h, w, 3) in [0, 255], uint8 (then rounded) or floating point; colours are computed in float32."""
        # SSD changes the contrast once, before the changes in HSV or after them.
        first, last = (1.0, self.contrast) if self.contrast_last else (self.contrast, 1.0)
        image = (img.astype(np.float32) + np.float32(self.brightness)).clip(0, 255)
        image = (image * np.float32(first)).clip(0, 255)
        if self.saturation != 1 or self.hue != 0:
            image = self._in_hsv(image)
        image = (image * np.float32(last)).clip(0, 255)
        if self.channels is not None:
            image = image[:, :, list(self.channels)]
        # astype alone cuts fractions off, and so darkens.
        return (np.rint(image) if img.dtype == np.uint8 else image).astype(img.dtype)

    def _in_hsv(self, image: np.ndarray) -> np.ndarray:
        hsv = cv2.cvtColor(image, _TO_HSV[self.image_format])  # hue in [0, 360), saturation in [0, 1]
        # The hue is an angle, so it goes round; the saturation ends at 1.
        hsv[:, :, 0] = (hsv[:, :, 0] + np.float32(self.hue)) % 360
        hsv[:, :, 1] = (hsv[:, :, 1] * np.float32(self.saturation)).clip(0, 1)
        return cv2.cvtColor(hsv, _FROM_HSV[self.image_format])

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(n, 2), as they are."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """(h, w) labels, as they are."""
        return segmentation


class ExpandTransform(transforms.Transform):
    """Lays an image on a larger canvas.

    Args:
        left, top: where its corner comes to lie.
        width, height: of the canvas.
        orig_w, orig_h: of the image.
        fill: value of the canvas, one for each channel.
    """

    def __init__(
        self, left: int, top: int, width: int, height: int, orig_w: int, orig_h: int, fill: Sequence[float]
    ) -> None:
        super().__init__()
        self.left, self.top, self.width, self.height = left, top, width, height
        self.orig_w, self.orig_h, self.fill = orig_w, orig_h, fill

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(h, w, C) to (height, width, C) of the same dtype; integers round the fill."""
        fill = np.asarray(self.fill)
        return self._paste(img, np.rint(fill) if np.issubdtype(img.dtype, np.integer) else fill)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """(h, w) labels to (height, width), ignored outside."""
        return self._paste(segmentation, np.asarray(_IGNORED_LABEL))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(n, 2) floating point array of (x, y), changed in place."""
        coords[:, 0] += self.left
        coords[:, 1] += self.top
        return coords

    def inverse(self) -> transforms.Transform:
        """The crop of the image from the canvas."""
        return transforms.CropTransform(self.left, self.top, self.orig_w, self.orig_h, self.width, self.height)

    def _paste(self, image: np.ndarray, fill: np.ndarray) -> np.ndarray:
        canvas = np.empty((self.height, self.width, *image.shape[2:]), image.dtype)
        canvas[...] = fill
        canvas[self.top : self.top + self.orig_h, self.left : self.left + self.orig_w] = image
        return canvas


class CentreCropTransform(transforms.CropTransform):
    """A crop that takes with it the objects whose centre is inside, and no others (see `kept_by_centre`)."""

    def keeps(self, boxes: np.ndarray) -> np.ndarray:
        """(n,) bool for (n, 4) boxes: whether the centre is inside, not on the border."""
        window = np.array([[self.x0, self.y0, self.x0 + self.w, self.y0 + self.h]])
        return _centres_inside(window, boxes)[0]


def kept_by_centre(drawn: transforms.TransformList, boxes: np.ndarray) -> np.ndarray:
    """(n,) bool: which of (n, 4) boxes, in pixels before `drawn`, every `CentreCropTransform` in it keeps."""
    kept = np.ones(len(boxes), dtype=bool)
    for transform in drawn.transforms:
        if isinstance(transform, CentreCropTransform):
            kept &= transform.keeps(boxes)
        # Each crop looks at the boxes as they are when it comes, after the transforms before it.
        boxes = transform.apply_box(boxes)
    return kept


class PhotometricDistortion(transforms.Augmentation):
    """Brightness, contrast, saturation, hue and a shuffle of the channels, each with the probability `prob`.

    The contrast comes before or after saturation and hue, each in half of the cases.

    Args:
        image_format: "BGR" or "RGB".
        brightness: at most so much is added or taken away, in [0, 255].
        contrast, saturation: (least, greatest) factor.
        hue: at most so many degrees to either side.
        prob: of each.
    """

    def __init__(
        self,
        image_format: str,
        brightness: float = 32.0,
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
        hue: float = 18.0,
        prob: float = 0.5,
    ) -> None:
        self.image_format, self.prob = image_format, prob
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def get_transform(self, image: np.ndarray) -> PhotometricTransform:
        chosen = np.random.uniform(size=5) < self.prob
        return PhotometricTransform(
            self.image_format,
            brightness=np.random.uniform(-self.brightness, self.brightness) if chosen[0] else 0.0,
            contrast=np.random.uniform(self.contrast[0], self.contrast[1]) if chosen[1] else 1.0,
            saturation=np.random.uniform(self.saturation[0], self.saturation[1]) if chosen[2] else 1.0,
            hue=np.random.uniform(-self.hue, self.hue) if chosen[3] else 0.0,
            channels=np.random.permutation(3).tolist() if chosen[4] else None,
            contrast_last=bool(np.random.uniform() < 0.5),
        )


class RandomExpand(transforms.Augmentation):
    """Lays the image somewhere on a canvas whose sides are longer by one drawn ratio.

    Args:
        fill: value of the canvas, one for each channel; the mean of the images leaves nothing after normalisation.
        ratio: (least, greatest), at least 1.
        prob: of doing anything.
    """

    def __init__(self, fill: Sequence[float], ratio: Sequence[float] = (1.0, 2.0), prob: float = 0.5) -> None:
        if not 1 <= ratio[0] <= ratio[1]:
            raise UserError(f"INPUT.SSD.EXPAND is {tuple(ratio)}, expected (least, greatest) ratio, both at least 1")
        self.fill, self.ratio, self.prob = fill, ratio, prob

    def get_transform(self, image: np.ndarray) -> transforms.Transform:
        if np.random.uniform() >= self.prob:
            return transforms.NoOpTransform()
        h, w = image.shape[:2]
        ratio = np.random.uniform(self.ratio[0], self.ratio[1])
        height, width = int(h * ratio), int(w * ratio)
        # + 1, as a canvas no larger than the image still has one place for it.
        left, top = np.random.randint(width - w + 1), np.random.randint(height - h + 1)
        return ExpandTransform(left, top, width, height, w, h, self.fill)


class MinIoUCrop(transforms.Augmentation):
    """No crop; or one whose IoU with every box is at least a drawn threshold; or any. All equally likely.

    A crop contains the centre of at least one box, where there are boxes, and has an aspect ratio in [1/2, 2]. If no
    such crop turns up in `tries` draws, it begins anew with another threshold.

    Args:
        min_ious: the thresholds, in (0, 1].
        min_scale: least side of a crop, as a fraction of the image's.
        tries: draws for one threshold.
    """

    def __init__(
        self, min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9), min_scale: float = 0.3, tries: int = 50
    ) -> None:
        self.min_ious, self.min_scale, self.tries = min_ious, min_scale, tries

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> transforms.Transform:
        """`boxes`: (n, 4) of the frame that decides; None for none."""
        boxes = np.zeros((0, 4)) if boxes is None else boxes
        # A box without area overlaps nothing, and would rule out every crop.
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
        thresholds = [None, *self.min_ious, 0.0]
        while True:  # ends with the first None, at the latest
            threshold = thresholds[np.random.randint(len(thresholds))]
            if threshold is None:
                return transforms.NoOpTransform()
            windows = self._draw_windows(*image.shape[:2])
            windows = windows[_acceptable_windows(windows, boxes, threshold)]
            if len(windows):
                x0, y0, x1, y1 = windows[0].tolist()
                return CentreCropTransform(x0, y0, x1 - x0, y1 - y0, image.shape[1], image.shape[0])

    def _draw_windows(self, h: int, w: int) -> np.ndarray:
        """(tries, 4) whole pixels."""
        size = np.random.uniform(self.min_scale, 1, (self.tries, 2)) * (w, h)
        corner = np.random.uniform(size=(self.tries, 2)) * ((w, h) - size)
        return np.concatenate([corner, corner + size], axis=1).astype(np.int64)


def _acceptable_windows(windows: np.ndarray, boxes: np.ndarray, min_iou: float) -> np.ndarray:
    """(m,) bool for (m, 4) windows: whether each may be the crop, given (n, 4) boxes that are not empty."""
    width, height = (windows[:, 2:] - windows[:, :2]).T
    # Whole pixels may leave nothing of a thin window in a small image.
    has_shape = (width > 0) & (height > 0) & (height <= 2 * width) & (width <= 2 * height)
    if len(boxes) == 0:
        return has_shape
    ious = pairwise_iou(*(Boxes(torch.from_numpy(b.astype(np.float64))) for b in (windows, boxes))).numpy()
    return has_shape & (ious.min(axis=1) >= min_iou) & _centres_inside(windows, boxes).any(axis=1)


def _centres_inside(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(m, n) bool for (m, 4) windows and (n, 4) boxes."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2  # (n, 2)
    inside = (windows[:, None, :2] < centres) & (centres < windows[:, None, 2:])
    return inside.all(axis=2)
