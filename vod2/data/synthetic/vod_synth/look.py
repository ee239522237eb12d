"""What the things and backgrounds of VOD-Synth 1 look like, drawn once for each video."""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from vod2.data.synthetic.shapes import SHAPES, circle
from vod2.data.synthetic.vod_synth.classes import (
    DISTRACTOR_SHAPES,
    EMBLEM_NAMES,
    EMBLEM_SHADES,
    Emblem,
    emblem,
    placed_emblem,
    silhouette,
)
from vod2.data.synthetic.vod_synth.drawing import UNIT, Patch, Pose, draw_mask, fill

Colour = tuple[int, int, int]

_BLOTCHES = 5
_CLUTTER = 8  # blobs on a background
_OCTAVES = ((4, 30), (10, 20), (24, 12), (60, 8))  # cells down the canvas, amplitude in grey values


@dataclass(frozen=True)
class Look:
    """Shape and colours of one thing.

    Attributes:
        shape: polygons to fill, polygons to cut out.
        emblem: what is marked on it; None for nothing.
        body, light, dark: BGR, a middle, a light and a dark shade of one hue.
        blotches: polygons of the body in another shade, with their colours.
    """

    shape: tuple
    emblem: Emblem | None
    body: Colour
    light: Colour
    dark: Colour
    blotches: tuple[tuple[np.ndarray, Colour], ...]


def draw_look(rng: np.random.Generator, shape: tuple, mark: Emblem | None, hue: int) -> Look:
    """Colours for a shape; `hue` in degrees."""
    body = _shade(hue, int(rng.integers(55, 86)), int(rng.integers(50, 76)))
    light = _shade(hue + int(rng.integers(-10, 11)), int(rng.integers(10, 26)), 98)
    dark = _shade(hue + int(rng.integers(-10, 11)), int(rng.integers(80, 101)), int(rng.integers(12, 21)))
    blotches = []
    for _ in range(_BLOTCHES):
        x, y = (int(value) / 100 for value in rng.integers(10, 91, 2))
        factor = int(rng.integers(84, 117))
        blue, green, red = (min(255, value * factor // 100) for value in body)
        blotches.append((circle(x, y, int(rng.integers(6, 19)) / 100)[::8], (blue, green, red)))
    return Look(shape, mark, body, light, dark, tuple(blotches))


def draw_object_look(rng: np.random.Generator, category: int, hue: int) -> Look:
    """An object of a class."""
    return draw_look(rng, silhouette(category), emblem(category), hue)


def draw_distractor_look(rng: np.random.Generator, hue: int) -> Look:
    """A thing of no class in the colours and with the emblem of one."""
    name = DISTRACTOR_SHAPES[rng.integers(len(DISTRACTOR_SHAPES))]
    return draw_look(rng, SHAPES[name], _any_emblem(rng, 0.3), hue)


def _any_emblem(rng: np.random.Generator, half: float) -> Emblem:
    name, shade = EMBLEM_NAMES[rng.integers(len(EMBLEM_NAMES))], EMBLEM_SHADES[rng.integers(len(EMBLEM_SHADES))]
    return placed_emblem(name, shade, (0.5, 0.5, half))


def draw_blob_look(rng: np.random.Generator, hue: int) -> Look:
    """An irregular thing without an emblem."""
    return draw_look(rng, ([draw_blob(rng)], []), None, hue)


def draw_blob(rng: np.random.Generator) -> np.ndarray:
    """An irregular polygon (12, 2) around the middle of the unit square."""
    return 0.5 + (circle(0, 0, 0.5)[::8]) * rng.integers(72, 101, (12, 1)) / 100


def _shade(hue: int, saturation: int, value: int) -> Colour:
    # Python's own arithmetic: OpenCV's conversion may round differently on another processor.
    red, green, blue = colorsys.hsv_to_rgb((hue % 360) / 360, saturation / 100, value / 100)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_background(rng: np.random.Generator, height: int, width: int, hues: list[int]) -> np.ndarray:
    """A textured canvas (height, width, 3) uint8 BGR: noise of several scales, and clutter in the objects' colours."""
    canvas = np.full((height, width, 3), int(rng.integers(100, 156)), np.int32) + rng.integers(-14, 15, 3)
    for cells, amplitude in _OCTAVES:
        grid = rng.integers(0, 256, (cells, max(2, cells * width // height)), dtype=np.uint8)
        # The only interpolation of OpenCV that is the same to the bit everywhere.
        noise = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.int32)
        # The noise spans 128 to either side: >> 7 scales it to the amplitude.
        canvas += ((noise - 128) * amplitude >> 7)[:, :, None]
    canvas = np.clip(canvas, 0, 255).astype(np.uint8)
    for _ in range(_CLUTTER):
        _draw_clutter(canvas, rng, hues[rng.integers(len(hues))])
    return canvas


def _draw_clutter(canvas: np.ndarray, rng: np.random.Generator, hue: int) -> None:
    """A blob, half transparent, now and then with an emblem."""
    height, width = canvas.shape[:2]
    pose = Pose(
        int(rng.integers(width * UNIT)),
        int(rng.integers(height * UNIT)),
        height * UNIT * int(rng.integers(6, 30)) // 100,
    )
    patch = Patch.around(pose)
    look = draw_blob_look(rng, hue + int(rng.integers(-20, 21)))
    mark = _any_emblem(rng, 0.25) if rng.integers(3) == 0 else None
    window = patch.window(height, width)
    if window is None:
        return
    outside, inside = window
    # One sample a pixel will do: clutter needs no smooth edges.
    mask = draw_mask(look.shape, pose, patch)[::4, ::4]
    colours = patch.canvas(3)
    colours[:] = look.body
    if mark is not None:
        fill(colours, mark.light, pose, patch, look.light)
        fill(colours, mark.dark, pose, patch, look.dark)
    share = (mask[inside] * int(rng.integers(60, 151)))[:, :, None].astype(np.int32)
    below, above = canvas[outside].astype(np.int32), colours[::4, ::4][inside].astype(np.int32)
    canvas[outside] = ((below * (256 - share) + above * share) >> 8).astype(np.uint8)
