"""Deteriorations: why a frame does not show what an object is.

A deterioration is a function `(layer, strength) -> patch` that replaces the sharp rendering of one object in one frame.
To add one, write it here, name it in `DETERIORATIONS`, and let the scene draw frame ranges for it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vod2.data.synthetic.sprite import Sprite

AMBIGUOUS_FROM = 0.5  # from this strength on, look-alikes are rendered to the same pixels
_SMEAR = 0.65  # length of the smear in sides at strength 1; at 0.5 it is just over one period of the stripes


@dataclass(frozen=True)
class ObjectLayer:
    """One object in one frame, ready to be rendered to a patch.

    Attributes:
        sprite: the upright drawings.
        matrix: (2, 3) affine matrix from pixels of the sprite to pixels of the patch.
        patch_size: side of the square patch in pixels, with room for a smear.
        side: the object's side in pixels of the frame.
        direction: (2,) unit vector of its motion.
    """

    sprite: Sprite
    matrix: np.ndarray
    patch_size: int
    side: float
    direction: np.ndarray

    def warp(self, image: np.ndarray) -> np.ndarray:
        """Render an upright drawing (S, S, 4) to the patch (patch_size, patch_size, 4)."""
        return cv2.warpAffine(image, self.matrix, (self.patch_size, self.patch_size), flags=cv2.INTER_LINEAR)


def motion_blur(layer: ObjectLayer, strength: float) -> np.ndarray:
    """The object smeared along its motion during an exposure centred on the frame's time.

    A smear alone would leave stripes that lie along the motion untouched, and with them the class. So what tells
    look-alikes apart also fades: from `AMBIGUOUS_FROM` on, nothing in the pixels depends on which of them it is.

    Args:
        layer: the object; `strength`: in (0, 1].

    Returns:
        Patch (patch_size, patch_size, 4) float32, colours multiplied by alpha.
    """
    # At AMBIGUOUS_FROM the sharp drawing is gone, and only what look-alikes share is left.
    fade = min(1.0, strength / AMBIGUOUS_FROM)
    image = cv2.addWeighted(layer.sprite.sharp, 1 - fade, layer.sprite.ambiguous, fade, 0)
    return cv2.filter2D(layer.warp(image), -1, line_kernel(layer.direction, _SMEAR * strength * layer.side))


def line_kernel(direction: np.ndarray, length: float) -> np.ndarray:
    """A kernel that averages over a line: (n, n) float32, sum 1, n odd.

    Args:
        direction: (2,) a unit vector, xy.
        length: in pixels.
    """
    size = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((size, size), np.float32)
    # Many points along the line, each shared between its four pixels, keep the kernel exact at subpixel lengths.
    points = size // 2 + np.linspace(-0.5, 0.5, 4 * size)[:, None] * length * direction
    # A point on the last pixel is given to the one before, so that the neighbours below exist for every point.
    corner = np.minimum(points.astype(int), max(size - 2, 0))
    right, down = (points - corner).T
    x, y = corner.T
    for shift_x, weight_x in ((0, 1 - right), (1, right)):
        for shift_y, weight_y in ((0, 1 - down), (1, down)):
            np.add.at(kernel, (y + shift_y, x + shift_x), weight_x * weight_y)
    return kernel / kernel.sum()


DETERIORATIONS: dict[str, Callable[[ObjectLayer, float], np.ndarray]] = {"motion_blur": motion_blur}
