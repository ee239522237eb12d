"""Pictures beside each other under their titles."""

from collections.abc import Sequence

import cv2
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GROUND, _INK = (32, 32, 32), (235, 235, 235)


def side_by_side_size(size: tuple[int, int], count: int) -> tuple[int, int]:
    """(width, height) of `side_by_side` for `count` images of (width, height)."""
    width, height = size
    return count * width, height + _bar_height(height)


def side_by_side(images: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Images (H, W, 3) uint8 BGR of one size from left to right, each with its title in a bar above it.

    Example:
        >>> image = np.zeros((48, 64, 3), np.uint8)
        >>> side_by_side([image, image], ["single", "video"]).shape[1::-1] == side_by_side_size((64, 48), 2)
        True
    """
    return np.concatenate([_add_title(image, title) for image, title in zip(images, titles, strict=True)], axis=1)


def _add_title(image: np.ndarray, title: str) -> np.ndarray:
    height, width = image.shape[:2]
    bar = np.full((_bar_height(height), width, 3), _GROUND, np.uint8)
    scale = 0.5 * len(bar) / 22  # letters of half the bar's height; those of scale 1 have 22 pixels
    (text_width, text_height), _ = cv2.getTextSize(title, _FONT, scale, 1)
    if text_width > 0.95 * width:
        scale *= 0.95 * width / text_width
        (text_width, text_height), _ = cv2.getTextSize(title, _FONT, scale, 1)
    origin = ((width - text_width) // 2, (len(bar) + text_height) // 2)
    cv2.putText(bar, title, origin, _FONT, scale, _INK, max(1, round(1.6 * scale)), cv2.LINE_AA)
    return np.concatenate([bar, image])


def _bar_height(height: int) -> int:
    return max(16, 2 * round(height / 32))
