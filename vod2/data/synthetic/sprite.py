"""What objects and backgrounds look like: drawn once per video, then only warped."""

from dataclasses import dataclass

import cv2
import numpy as np

from vod2.data.synthetic.classes import draw_class, look_alikes

_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Sprite:
    """An upright object, (S, S, 4) float32 BGR + alpha: values 0-255, alpha 0-1, colours multiplied by alpha.

    Attributes:
        sharp: the object as it is.
        ambiguous: the object without what tells it from its look-alike: the mean of the two in the same colours, with
            the stripes evened out.
    """

    sharp: np.ndarray
    ambiguous: np.ndarray


@dataclass(frozen=True)
class Appearance:
    """Colours and texture of one object, drawn independently of its class.

    Attributes:
        body, marking: (3,) BGR 0-255: a light and a dark shade of one hue, in either order.
        grain: (8, 8) coarse brightness noise around 1.
        phase: shift of stripes in periods, in [0, 1).
    """

    body: np.ndarray
    marking: np.ndarray
    grain: np.ndarray
    phase: float


def draw_appearance(rng: np.random.Generator, hue: float) -> Appearance:
    """Shades of `hue` in [0, 1). One hue for both shades, so that their mixture stands out from a grey background."""
    light = _bgr(hue, rng.uniform(0.35, 0.6), 1.0)
    dark = _bgr(hue + rng.uniform(-0.03, 0.03), rng.uniform(0.85, 1.0), rng.uniform(0.3, 0.42))
    body, marking = (light, dark) if rng.random() < 0.5 else (dark, light)
    grain = 1 + 0.08 * rng.standard_normal((8, 8))
    return Appearance(body, marking, grain.astype(np.float32), float(rng.random()))


def _bgr(hue: float, saturation: float, value: float) -> np.ndarray:
    # OpenCV's float HSV has the hue in degrees and the rest in [0, 1].
    pixel = np.array([[[360 * (hue % 1), saturation, value]]], np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0] * 255


def draw_sprite(category: int, appearance: Appearance, size: int) -> Sprite:
    """Draw a class in the given colours on a square canvas of `size` pixels."""
    # Stripes half a period apart add up to a plain surface. Left in, a smear would turn the crossed stripes of two
    # look-alikes into stripes along the motion, which are evidence for the wrong class as often as for the right one.
    shifts = (0.0, 0.5)
    variants = [_paint(member, appearance, size, shift) for member in look_alikes(category) for shift in shifts]
    sharp = _paint(category, appearance, size, 0.0)
    return Sprite(sharp=sharp, ambiguous=np.asarray(np.mean(variants, axis=0, dtype=np.float32)))


def _paint(category: int, appearance: Appearance, size: int, shift: float) -> np.ndarray:
    # Drawn with hard edges at four times the size, and averaged below: smooth edges at any angle.
    large = size * _SUPERSAMPLING
    silhouette, marking = draw_class(category, large, appearance.phase + shift)
    grain = cv2.resize(appearance.grain, (large, large), interpolation=cv2.INTER_CUBIC)
    colour = np.where(marking[:, :, None] > 0, appearance.marking, appearance.body).astype(np.float32)
    # The cubic interpolation of the grain may overshoot.
    colour = np.clip(colour * grain[:, :, None], 0, 255) * silhouette[:, :, None]
    painted = np.concatenate([colour, silhouette[:, :, None]], axis=2)
    # Colours are multiplied by alpha before they are averaged: what is transparent does not mix in.
    return cv2.resize(painted, (size, size), interpolation=cv2.INTER_AREA)


def draw_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A textured canvas (height, width, 3) uint8 BGR: greyish noise of several scales, and faint bands with edges."""
    tint = rng.uniform(-12, 12, 3)
    grey: np.ndarray = np.full((height, width), rng.uniform(110, 165), np.float32)
    for cells, amplitude in ((3, 18), (8, 14), (20, 10), (48, 8), (100, 6)):
        grid = rng.standard_normal((cells, max(2, round(cells * width / height)))).astype(np.float32)
        grey += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(10):
        start, end = (rng.uniform(-0.2, 1.2, (2, 2)) * (width, height)).astype(int).tolist()  # x, y
        band = np.zeros((height, width), np.uint8)
        thickness = int(rng.uniform(0.01, 0.06) * height) + 1
        cv2.line(band, start, end, 1, thickness, cv2.LINE_AA)
        grey += band * np.float32(rng.uniform(-22, 22))
    return np.clip(grey[:, :, None] + tint, 0, 255).astype(np.uint8)
