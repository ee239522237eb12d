"""Where the objects and the camera are in each frame, and which frames are deteriorated.

All paths are sums of sinusoids: smooth, bounded, and known at every frame without simulation.
"""

from dataclasses import dataclass

import numpy as np

SIDE_LIMITS = (0.18, 0.45)  # an object's side as a fraction of the frame's short side
MAX_ANGLE = 20.0  # degrees either way: 90-degree look-alikes stay 50 degrees apart
CLEAN_WITHIN = 18  # every deteriorated frame has a clean one of the same object at most this many frames away

_SPEED_LIMITS = (0.004, 0.12)  # fastest moment of a path in object sides per frame: slow, medium and fast objects
_SHORTEST_PERIOD = 16.0  # frames
_SCALE_SWING = 0.15  # of the logarithm of the side
_CANDIDATES = 50


@dataclass(frozen=True)
class PathLimits:
    """What paths are drawn from.

    Attributes:
        sides: least and greatest side as a fraction of the frame's short side.
        speeds: least and greatest speed of a path's fastest moment, in object sides per frame.
    """

    sides: tuple[float, float] = SIDE_LIMITS
    speeds: tuple[float, float] = _SPEED_LIMITS


@dataclass(frozen=True)
class Trajectory:
    """One object's pose over F frames.

    Attributes:
        centre: (F, 2) x, y in pixels.
        side: (F,) side in pixels of the square that the object is drawn in.
        angle: (F,) degrees, clockwise on the screen, in [-20, 20].
        direction: (F, 2) unit vectors of the motion.
    """

    centre: np.ndarray
    side: np.ndarray
    angle: np.ndarray
    direction: np.ndarray


def swing(rng: np.random.Generator, frames: int, rate: float) -> np.ndarray:
    """A path (F,) within [-1, 1] whose speed is at most about `rate` per frame."""
    rate = min(rate, 2 * np.pi / _SHORTEST_PERIOD)
    start = rng.uniform(0, 2 * np.pi, 2)
    time = np.arange(frames) * rate
    # Two frequencies, so that a path does not come back to itself after each period.
    return 0.75 * np.sin(time + start[0]) + 0.25 * np.sin(1.7 * time + start[1])


def draw_trajectory(
    rng: np.random.Generator,
    frames: int,
    height: int,
    width: int,
    spread: float = 1.0,
    speed_factor: float = 1.0,
    limits: PathLimits = PathLimits(),
) -> Trajectory:
    """One object's path: its centre keeps 0.4 sides away from the border, so little of the object leaves the frame.

    `spread` in (0, 1] shrinks the area that the path covers; the speed stays. `speed_factor` multiplies the speed,
    but no path turns back within less than 8 frames.
    """
    # Objects are sized by the short side, so that they fit into frames of any shape.
    short = min(height, width)
    low, high = (short * limit for limit in limits.sides)
    # Log-uniform: slow objects are as likely as fast ones.
    speed = speed_factor * np.exp(rng.uniform(*np.log(limits.speeds)))
    # Drawn so that the swing of the side stays within the limits.
    base = rng.uniform(low * np.exp(_SCALE_SWING), high * np.exp(-_SCALE_SWING))
    side = base * np.exp(_SCALE_SWING * swing(rng, frames, speed * rng.uniform(0.2, 0.8) / _SCALE_SWING))
    angle = MAX_ANGLE * rng.uniform(0.3, 1) * swing(rng, frames, speed * rng.uniform(0.5, 2))
    margin = 0.4 * side.max()
    axes = []
    for length in (width, height):
        room = length / 2 - margin
        amplitude = room * rng.uniform(0.3, 0.9) * spread
        middle = length / 2 + rng.uniform(-1, 1) * (room - amplitude)
        # `swing` moves in amplitudes per frame, the speed is in sides per frame.
        axes.append(middle + amplitude * swing(rng, frames, speed * base / amplitude))
    centre = np.stack(axes, axis=1)
    return Trajectory(centre, side, angle, _directions(centre))


def _directions(centre: np.ndarray) -> np.ndarray:
    # A single frame has no motion, and np.gradient needs two.
    if len(centre) == 1:
        return np.array([[1.0, 0.0]])
    velocity = np.gradient(centre, axis=0)
    length = np.linalg.norm(velocity, axis=1, keepdims=True)
    return np.where(length > 1e-9, velocity / np.maximum(length, 1e-9), [1.0, 0.0])


def draw_trajectories(
    rng: np.random.Generator, count: int, frames: int, height: int, width: int, speed_factor: float = 1.0
) -> list[Trajectory]:
    """Up to `count` paths whose boxes never overlap, so that no object hides another one's details.

    Of a number of candidates per object, which roam less and less, the first that keeps apart is taken; where none
    does, there are fewer objects.
    """
    paths: list[Trajectory] = []
    for _ in range(count):
        # All candidates are drawn, also where the first will do: what is drawn after them must not depend on that.
        candidates = []
        for spread in np.linspace(1, 0.1, _CANDIDATES):
            candidates.append(draw_trajectory(rng, frames, height, width, spread, speed_factor))
        for candidate in candidates:
            if not any(_overlap(candidate, other) for other in paths):
                paths.append(candidate)
                break
    return paths


def _overlap(first: Trajectory, second: Trajectory) -> bool:
    """Whether the boxes around two turned squares overlap in any frame."""
    distance = np.abs(first.centre - second.centre).max(axis=1)
    return bool((distance < _reach(first) + _reach(second)).any())


def _reach(trajectory: Trajectory) -> np.ndarray:
    """From the centre of a turned square to a side of the box around it: (F,) pixels."""
    angle = np.deg2rad(np.abs(trajectory.angle))
    return trajectory.side / 2 * (np.cos(angle) + np.sin(angle)) + 1


def draw_ranges(
    rng: np.random.Generator, frames: int, fraction: float, longest: int = CLEAN_WITHIN, mean: int = 6
) -> list[tuple[int, int]]:
    """Frame ranges [start, stop) that together hold about `fraction` of the frames, at random places.

    No range is longer than `longest`, their mean length is at least about `mean`, and two ranges never touch. With
    `fraction` > 0 and two frames or more there is at least one frame inside and one outside.
    """
    if fraction == 0 or frames < 2:
        return []
    inside = int(np.clip(round(frames * fraction), 1, frames - 1))
    outside = frames - inside
    # Rounded up: fewer ranges could not hold them all, more would be shorter than the mean.
    fewest, most = -(-inside // longest), -(-inside // mean)
    count = min(int(rng.integers(fewest, most + 1)), outside + 1)
    lengths = [inside // count + (i < inside % count) for i in range(count)]
    gaps = rng.multinomial(outside - (count - 1), np.full(count + 1, 1 / (count + 1)))
    # A clean frame between any two ranges.
    gaps[1:-1] += 1
    ranges, start = [], 0
    for gap, length in zip(gaps, lengths, strict=False):
        start += int(gap)
        ranges.append((start, start + length))
        start += length
    return ranges


def draw_camera(rng: np.random.Generator, frames: int, height: int, width: int) -> np.ndarray:
    """Camera motion over the background.

    Returns:
        (F, 2, 3) affine matrices from pixels of the frame to pixels of a background canvas of twice the frame's size:
        a pan of up to a quarter of the frame, a zoom of 5% and a roll of 3 degrees at most.
    """
    rates = np.exp(rng.uniform(np.log(0.01), np.log(0.1), 4))
    pan_x, pan_y, zoom, roll = (swing(rng, frames, rate) for rate in rates)
    scale, angle = np.exp(0.05 * zoom), np.deg2rad(3 * roll)
    matrices = np.zeros((frames, 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale * np.cos(angle)
    matrices[:, 1, 0] = scale * np.sin(angle)
    matrices[:, 0, 1] = -matrices[:, 1, 0]
    middle = np.array([width / 2, height / 2])
    pan = 0.25 * np.stack([pan_x * width, pan_y * height], axis=1)
    matrices[:, :, 2] = 2 * middle + pan - matrices[:, :, :2] @ middle
    return matrices
