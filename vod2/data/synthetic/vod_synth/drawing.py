"""Drawing with whole numbers only, so that the same pixels come out on every machine.

Polygons are placed in 1/16 pixel, rasterised by OpenCV's integer code at four times the resolution, and averaged.
Shape alphabet: n side of a patch in pixels, S = 4 samples a pixel and side. Colours are BGR.
"""

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vod2.moved import moved

__getattr__ = moved(
    __name__,
    {
        "covered": "vod2.data.synthetic.vod_synth.drawing:covered_pixels",
        "premultiplied": "vod2.data.synthetic.vod_synth.drawing:premultiply",
    },
)

UNIT = 16  # positions and lengths are whole multiples of 1/16 pixel
OPAQUE = 256  # alpha of a pixel that is covered whole
_SAMPLES = 4
_SHIFT = 4  # OpenCV's fixed point: 1/16 of a sample


@dataclass(frozen=True)
class Pose:
    """Where something stands in a frame.

    Attributes:
        x, y: its centre, in 1/16 pixel.
        side: of the square that it is drawn in, in 1/16 pixel.
        angle: degrees, clockwise on the screen.
        squeeze: its width over its usual width: below 1 where it is turned away.
    """

    x: int
    y: int
    side: int
    angle: float = 0.0
    squeeze: float = 1.0


@dataclass(frozen=True)
class Patch:
    """A square part of a frame.

    Attributes:
        left, top: of its first pixel in the frame; may be negative.
        size: side in pixels.
    """

    left: int
    top: int
    size: int

    @classmethod
    def around(cls, pose: Pose, margin: int = 0) -> "Patch":
        """With room for the turned square and `margin` pixels on all sides."""
        half = -(-pose.side * 3 // (4 * UNIT)) + 2 + margin  # a turned square reaches 0.71 sides out
        return cls(pose.x // UNIT - half, pose.y // UNIT - half, 2 * half + 1)

    def window(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
        """Rows and columns of the frame that the patch covers, and the same of the patch; None outside."""
        x1, y1 = max(self.left, 0), max(self.top, 0)
        x2, y2 = min(self.left + self.size, width), min(self.top + self.size, height)
        if x1 >= x2 or y1 >= y2:
            return None
        inside = slice(y1 - self.top, y2 - self.top), slice(x1 - self.left, x2 - self.left)
        return (slice(y1, y2), slice(x1, x2)), inside

    def canvas(self, *channels: int) -> np.ndarray:
        """Zeros (S n, S n, *channels) uint8 to fill polygons in."""
        side = self.size * _SAMPLES
        return np.zeros((side, side, *channels), np.uint8)


def fill(canvas: np.ndarray, polygons: Sequence, pose: Pose, patch: Patch, value: int | tuple[int, ...]) -> None:
    """Fill polygons of the unit square, in place; `canvas` is `patch.canvas()`."""
    turn = math.radians(pose.angle)
    cosine, sine = math.cos(turn), math.sin(turn)
    for polygon in polygons:
        points = np.asarray(polygon, np.float64)
        across, down = (points[:, 0] - 0.5) * pose.squeeze, points[:, 1] - 0.5
        # Written out: a matrix product may round differently on another processor.
        x = pose.side * (across * cosine - down * sine) + (pose.x - patch.left * UNIT)
        y = pose.side * (across * sine + down * cosine) + (pose.y - patch.top * UNIT)
        samples = np.stack([x, y], axis=1) * _SAMPLES - 0.5 * UNIT  # centres of samples lie at i + 0.5
        cv2.fillPoly(canvas, [np.rint(samples).astype(np.int32)], value, shift=_SHIFT)


def average(canvas: np.ndarray) -> np.ndarray:
    """Sums over the S x S samples of each pixel: (S n, S n, ...) uint8 to (n, n, ...) uint16."""
    # uint16, as sixteen samples of 255 overflow uint8.
    row_sums = _sum([canvas[i::_SAMPLES].astype(np.uint16) for i in range(_SAMPLES)])
    return _sum([row_sums[:, i::_SAMPLES] for i in range(_SAMPLES)])


def _sum(parts: Sequence[np.ndarray]) -> np.ndarray:
    return functools.reduce(operator.add, parts)


def draw_mask(shape: tuple[Sequence, Sequence], pose: Pose, patch: Patch) -> np.ndarray:
    """A silhouette (S n, S n) uint8, 0 or 1."""
    canvas = patch.canvas()
    filled, cut = shape
    fill(canvas, filled, pose, patch, 1)
    fill(canvas, cut, pose, patch, 0)
    return canvas


def covered_pixels(mask: np.ndarray) -> np.ndarray:
    """Pixels of which at least half is covered: (S n, S n) to (n, n) bool."""
    return average(mask) >= _SAMPLES**2 // 2


def premultiply(colours: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Colours (S n, S n, 3) inside of a silhouette (S n, S n) to a patch (n, n, 4) int32.

    Colours are 0-255 and multiplied by alpha, alpha is 0-256.
    """
    bgr = average(colours * mask[:, :, None]).astype(np.int32)
    alpha = average(mask).astype(np.int32) * (OPAQUE // _SAMPLES**2)
    # The mean of sixteen samples, rounded; alpha keeps its sum, scaled to OPAQUE.
    return np.concatenate([(bgr + 8) >> 4, alpha[:, :, None]], axis=2)


def blend(image: np.ndarray, layer: np.ndarray, patch: Patch) -> None:
    """Lay (n, n, 4) of `premultiply` over the part of `image` (H, W, 3) uint8 that it covers, in place."""
    window = patch.window(*image.shape[:2])
    if window is None:
        return
    outside, inside = window
    part = layer[inside]
    below = image[outside].astype(np.int32)
    result = ((below * (OPAQUE - part[:, :, 3:]) + OPAQUE // 2) >> 8) + part[:, :, :3]
    image[outside] = np.minimum(result, 255).astype(np.uint8)
