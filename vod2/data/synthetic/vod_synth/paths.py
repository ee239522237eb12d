"""Where the things and the camera of VOD-Synth 1 are, and when they are deteriorated.

Paths come from the same smooth curves as those of the quick set, rounded to 1/16 pixel: from there on all is whole
numbers. Shape alphabet: F frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vod2.data.synthetic.motion import PathLimits, draw_trajectory, swing
from vod2.data.synthetic.vod_synth.drawing import UNIT, Pose

SIDES = (0.24, 0.45)  # of an object, as a fraction of the frame's short side
SPEEDS = ((0.001, 0.004), (0.001, 0.004), (0.008, 0.02), (0.05, 0.14))  # sides a frame at the fastest moment
MARGIN = 4  # the background reaches a quarter of the frame further on every side

_PAN = 0.12  # of the frame either way
_CAMERA_SPEEDS = (0.001, 0.001, 0.01, 0.04)  # radians a frame of the swing: half of the cameras are almost still
_ZOOM = 4  # percent either way


@dataclass(frozen=True)
class Path:
    """One thing's way through the world: (F,) arrays, positions and lengths in 1/16 pixel of a camera at rest."""

    x: np.ndarray
    y: np.ndarray
    side: np.ndarray
    angle: np.ndarray  # degrees, multiples of 1/64

    def meets(self, other: "Path") -> np.ndarray:
        """(F,) bool: the frames in which the two are closer than nine tenths of their mean side, along both axes."""
        distance = np.maximum(np.abs(self.x - other.x), np.abs(self.y - other.y))
        return 20 * distance < 9 * (self.side + other.side)


@dataclass(frozen=True)
class Camera:
    """What part of the background each frame shows; the background has two pixels for one of the frame.

    Attributes:
        left, top: (F,) of the part in pixels of the background.
        width, height: (F,) of the part.
        frame_width, frame_height: in pixels.
    """

    left: np.ndarray
    top: np.ndarray
    width: np.ndarray
    height: np.ndarray
    frame_width: int
    frame_height: int

    def see(self, path: Path, time: int) -> Pose:
        """A thing's pose in frame `time`."""
        width, frame = int(self.width[time]), 2 * self.frame_width
        # In the background's pixels, of which a margin lies before the origin of the paths.
        x = 2 * int(path.x[time]) + 2 * (self.frame_width // MARGIN) * UNIT - int(self.left[time]) * UNIT
        y = 2 * int(path.y[time]) + 2 * (self.frame_height // MARGIN) * UNIT - int(self.top[time]) * UNIT
        return Pose(
            x * self.frame_width // width,
            y * self.frame_width // width,
            int(path.side[time]) * frame // width,
            float(path.angle[time]),
        )


def draw_path(rng: np.random.Generator, frames: int, height: int, width: int, sides: tuple[float, float]) -> Path:
    """A slow path (half of them), a medium or a fast one."""
    speeds = SPEEDS[rng.integers(len(SPEEDS))]
    trajectory = draw_trajectory(rng, frames, height, width, limits=PathLimits(sides, speeds))
    x, y = _in_units(trajectory.centre[:, 0]), _in_units(trajectory.centre[:, 1])
    # Multiples of 1/64 are exact in binary, so that every machine turns by the same angle.
    return Path(x, y, _in_units(trajectory.side), np.rint(64 * trajectory.angle) / 64)


def _in_units(values: np.ndarray) -> np.ndarray:
    return np.rint(UNIT * values).astype(np.int64)


def draw_camera(rng: np.random.Generator, frames: int, height: int, width: int, rate: float | None = None) -> Camera:
    """A pan of up to an eighth of the frame and a zoom of some percent; `rate` in radians a frame, None to draw it."""
    if rate is None:
        rate = _CAMERA_SPEEDS[rng.integers(len(_CAMERA_SPEEDS))]
    pan_x, pan_y, zoom = (swing(rng, frames, rate) for _ in range(3))
    crop_width = 2 * width + 2 * np.rint(width * _ZOOM / 100 * zoom).astype(np.int64)
    # The shape of the frame, or the background would be stretched.
    crop_height = crop_width * height // width
    middle_x, middle_y = width + 2 * (width // MARGIN), height + 2 * (height // MARGIN)
    left = middle_x + np.rint(2 * _PAN * width * pan_x).astype(np.int64) - crop_width // 2
    top = middle_y + np.rint(2 * _PAN * height * pan_y).astype(np.int64) - crop_height // 2
    return Camera(left, top, crop_width, crop_height, width, height)


def canvas_size(height: int, width: int) -> tuple[int, int]:
    """Of the background: height and width in its own pixels."""
    return 2 * height + 4 * (height // MARGIN), 2 * width + 4 * (width // MARGIN)


def draw_bursts(
    rng: np.random.Generator,
    frames: int,
    stretches: Sequence[tuple[int, int]],
    kinds: tuple[str, ...],
    strengths: tuple[int, int],
) -> list[dict[str, int]]:
    """What befalls a thing, or all of a frame, in each frame: {kind: strength in percent}, one kind in a stretch
    [start, stop), nothing outside of them."""
    bursts: list[dict[str, int]] = [{} for _ in range(frames)]
    for start, stop in stretches:
        kind, strength = kinds[rng.integers(len(kinds))], int(rng.integers(strengths[0], strengths[1] + 1))
        for time in range(start, stop):
            bursts[time][kind] = strength
    return bursts
