"""What makes an object of VOD-Synth 1 hard to see in a frame.

From strength `AMBIGUOUS_FROM` on, nothing in a frame depends on which of its look-alikes an object is: its emblem is
hidden or has faded into the body. All work is done in whole numbers. Strengths are percent in here, (0, 100].
"""

import math

import cv2
import numpy as np

from vod2.data.synthetic.deterioration import AMBIGUOUS_FROM
from vod2.moved import moved

__getattr__ = moved(__name__, {"turned": "vod2.data.synthetic.vod_synth.deterioration:turn_away"})

OBJECT_KINDS: tuple[str, ...] = ("motion_blur", "defocus", "rare_pose")
"""Kinds that befall one object, on purpose; "occlusion" follows from what stands before it."""
FRAME_KINDS: tuple[str, ...] = ("compression", "low_light")
"""Kinds that befall a whole frame, and every object in it."""
KINDS: tuple[str, ...] = (*OBJECT_KINDS, "occlusion", *FRAME_KINDS)

_SMEAR = 65  # percent of a side at strength 100
_DEFOCUS = 14  # percent of a side: radius of the blur at strength 100
_MOST_SQUEEZED = 50  # percent of its width that an object loses at strength 100


def fading(kinds: dict[str, int]) -> int:
    """How far an emblem has faded into the body, 0-256. A rare pose hides it by itself until it is gone."""
    strongest = max((strength for kind, strength in kinds.items() if kind != "rare_pose"), default=0)
    if kinds.get("rare_pose", 0) >= 100 * AMBIGUOUS_FROM:
        return 256
    return min(256, int(256 * strongest / (100 * AMBIGUOUS_FROM)))


def squeeze(strength: int) -> float:
    """Width of a turned object over its usual width."""
    return (100 - _MOST_SQUEEZED * strength // 100) / 100


def turn_away(polygon: np.ndarray, strength: int) -> np.ndarray:
    """A marking on the front of an object that turns away: it moves to the edge, narrows, and is gone at 90 degrees."""
    angle = math.radians(90 * strength / (100 * AMBIGUOUS_FROM))
    across = 0.42 * math.sin(angle) + (polygon[:, 0] - 0.5) * math.cos(angle)
    return np.stack([0.5 + across, polygon[:, 1]], axis=1)


def smear_length(side: int, strength: int) -> int:
    """Pixels that an object moves during the exposure; `side` in 1/16 pixel."""
    return side * _SMEAR * strength // (16 * 100 * 100)


def defocus_radius(side: int, strength: int) -> int:
    """Of the box that is averaged over, twice; pixels."""
    return max(1, side * _DEFOCUS * strength // (16 * 100 * 100))


def motion_blur(layer: np.ndarray, length: int, velocity: tuple[int, int]) -> np.ndarray:
    """The mean of a patch (n, n, 4) int32 over `length` + 1 places along its motion, centred; its motion is (x, y)."""
    # 0 at rest: the direction is then the one chosen below.
    size = math.hypot(*velocity) or 1.0
    direction = (velocity[0] / size, velocity[1] / size) if any(velocity) else (1.0, 0.0)
    total = np.zeros_like(layer)
    for step in range(length + 1):
        along = step - length / 2
        total += _shift(layer, round(along * direction[0]), round(along * direction[1]))
    # With half of the divisor added, the whole-number division rounds.
    return (total + (length + 1) // 2) // (length + 1)


def _shift(layer: np.ndarray, right: int, down: int) -> np.ndarray:
    """Moved by whole pixels; what comes in at the edge is empty."""
    n = layer.shape[0]
    result = np.zeros_like(layer)
    rows, columns = slice(max(down, 0), n + min(down, 0)), slice(max(right, 0), n + min(right, 0))
    source = slice(max(-down, 0), n + min(-down, 0)), slice(max(-right, 0), n + min(-right, 0))
    result[rows, columns] = layer[source]
    return result


def defocus(layer: np.ndarray, radius: int) -> np.ndarray:
    """A patch (n, n, 4) int32 averaged twice over squares of 2 `radius` + 1 pixels."""
    side = 2 * radius + 1
    blurred = layer.astype(np.float32)  # sums of whole numbers below 2^24 are exact in float32
    for _ in range(2):
        total = cv2.boxFilter(blurred, cv2.CV_32F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        blurred = np.floor((total + side * side // 2) / (side * side))
    return blurred.astype(np.int32)


def compression(image: np.ndarray, strength: int) -> np.ndarray:
    """A frame (H, W, 3) uint8 through a JPEG of quality 20 (weakest) to 4."""
    quality = 20 - 16 * strength // 100
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None  # it has just been encoded
    return decoded


def low_light(image: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """A frame (H, W, 3) uint8 at down to a quarter of its light, with noise that is the sum of two dice."""
    light, amplitude = 256 - 192 * strength // 100, 4 + 12 * strength // 100
    noise = rng.integers(-amplitude, amplitude + 1, (2, *image.shape), dtype=np.int32).sum(axis=0, dtype=np.int32)
    return np.clip((image.astype(np.int32) * light >> 8) + noise, 0, 255).astype(np.uint8)
