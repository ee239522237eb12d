"""What can happen to a frame: kinds of damage, each a function of the frame and a strength.

To add one, write it here and name it in `DAMAGES`. Frames are (H, W, C) uint8, BGR or one channel; strengths are in
(0, 1], and what is measured in pixels grows with the frame's longer side.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vod2.data.synthetic.deterioration import line_kernel

# At strength 1, as a share of the longer side
_SMEAR, _DEFOCUS_RADIUS = 0.06, 0.018
_PERIOD = (0.12, 0.25)  # distance of two bars that pass, least and greatest


@dataclass(frozen=True)
class Moment:
    """One frame of a burst.

    Attributes:
        draws: four numbers in [0, 1) that are the same in the whole burst; a kind takes its direction and the like
            from them.
        time: how far the burst has come, in [0, 1).
        rng: of this frame alone.
    """

    draws: tuple[float, float, float, float]
    time: float
    rng: np.random.Generator


def motion_blur(image: np.ndarray, strength: float, moment: Moment) -> np.ndarray:
    """The camera moves during the exposure: everything is smeared along one direction, drawn for the burst."""
    angle = np.pi * moment.draws[0]
    direction = np.array([np.cos(angle), np.sin(angle)])
    return _filter(image, line_kernel(direction, _SMEAR * strength * max(image.shape[:2])))


def defocus(image: np.ndarray, strength: float, moment: Moment) -> np.ndarray:
    """Every point becomes a disk, as of a lens that is focused elsewhere."""
    radius = _DEFOCUS_RADIUS * strength * max(image.shape[:2])
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    # The edge of the disk runs through pixels, which count as far as they are inside.
    disk = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return _filter(image, disk / disk.sum())


def low_contrast(image: np.ndarray, strength: float, moment: Moment) -> np.ndarray:
    """Haze, or a thermal camera out of its range: down to 15% of the contrast, and noise."""
    mean = image.mean(axis=(0, 1), dtype=np.float64)
    faded = mean + (image - mean) * (1 - 0.85 * strength)
    return _as_pixels(faded + (4 + 8 * strength) * _noise(image, moment))


def low_light(image: np.ndarray, strength: float, moment: Moment) -> np.ndarray:
    """Down to 10% of the light, with shot noise, whose variance grows with the light, and the noise of reading out."""
    dark = image * (1 - 0.9 * strength)
    # Independent noises add up in their variances.
    deviation = np.sqrt(0.5 * dark.mean(axis=2, keepdims=True) + (2 + 4 * strength) ** 2)
    return _as_pixels(dark + deviation * _noise(image, moment))


def compression(image: np.ndarray, strength: float, moment: Moment) -> np.ndarray:
    """A JPEG of quality 16 (weakest) to 2: blocks as in a keyframe of a video whose rate is far too low.

    It needs no other frame, unlike what a video codec does between keyframes.
    """
    quality = round(16 - 14 * strength)
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    # imdecode drops the channel of a gray image.
    assert decoded is not None  # it has just been encoded
    return decoded.reshape(image.shape)


def occlusion(image: np.ndarray, strength: float, moment: Moment) -> np.ndarray:
    """Parallel bars of one shade pass over the frame, as of a fence that the camera moves along.

    A burst draws their direction, distance, phase and shade; of the frame they cover 25% (weakest) to 75%.
    """
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    damaged = image.copy()
    damaged[bars(x, y, max(height, width), strength, moment)] = 30 + int(180 * moment.draws[3])
    return damaged


def bars(x: np.ndarray, y: np.ndarray, side: int, strength: float, moment: Moment) -> np.ndarray:
    """Whether the points (x, y), pixels of a frame whose longer side is `side`, lie behind a bar."""
    angle = np.pi * moment.draws[0]
    period = side * (_PERIOD[0] + (_PERIOD[1] - _PERIOD[0]) * moment.draws[1])
    across = (x * np.cos(angle) + y * np.sin(angle)) / period
    # In a whole burst they move by a period, so that none of them hides the same place all the time.
    return (across + moment.draws[2] + moment.time) % 1 < 0.25 + 0.5 * strength


def covered_share(box: tuple[float, float, float, float], side: int, strength: float, moment: Moment) -> float:
    """How much of a box (xyxy pixels, inside its frame) `occlusion` hides, in [0, 1]."""
    x1, y1, x2, y2 = box
    # Centres of the pixels that the box has a part in
    x, y = np.arange(np.floor(x1), np.ceil(x2)) + 0.5, np.arange(np.floor(y1), np.ceil(y2)) + 0.5
    return float(bars(x[None, :], y[:, None], side, strength, moment).mean())


def _filter(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    # filter2D drops a single channel.
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE).reshape(image.shape)


def _noise(image: np.ndarray, moment: Moment) -> np.ndarray:
    """(H, W, 1) normal, the same in all channels: in a gray picture it stays gray."""
    return moment.rng.standard_normal((*image.shape[:2], 1), dtype=np.float32)


def _as_pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


DAMAGES: dict[str, Callable[[np.ndarray, float, Moment], np.ndarray]] = {
    "motion_blur": motion_blur,
    "defocus": defocus,
    "low_contrast": low_contrast,
    "low_light": low_light,
    "compression": compression,
    "occlusion": occlusion,
}
"""Kind -> (frame, strength, moment) -> damaged frame, of which `frame` is not part."""
