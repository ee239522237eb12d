"""Renders the videos of the synthetic benchmark from a seed."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from vod2.data.synthetic.classes import SYNTHETIC_CLASSES
from vod2.data.synthetic.deterioration import DETERIORATIONS, ObjectLayer
from vod2.data.synthetic.motion import Trajectory, draw_camera, draw_ranges, draw_trajectories
from vod2.data.synthetic.sprite import Sprite, draw_appearance, draw_background, draw_sprite

SPLITS = ("train", "val")

_STRENGTHS = (0.3, 1.0)


class Splits:
    """The numbers of videos of a set: what has `train_videos` and `val_videos`."""

    train_videos: int
    val_videos: int

    def video_count(self, split: str) -> int:
        """Videos of a split, "train" or "val"."""
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: expected one of {SPLITS}")
        return self.train_videos if split == "train" else self.val_videos

    def check_video(self, split: str, index: int) -> None:
        """Raises ValueError for an unknown split, or where it has no video `index`."""
        count = self.video_count(split)
        if not 0 <= index < count:
            raise ValueError(f"index={index}: split {split!r} has {count} videos, numbered from 0")


@dataclass(frozen=True)
class SyntheticConfig(Splits):
    """What a synthetic set is made of; equal configurations give equal files.

    Attributes:
        seed: non-negative. A video depends on it, on its split and index, and on the fields below that are not counts
            of videos.
        train_videos, val_videos: videos per split, 0 or more.
        frames: frames per video.
        height, width: of a frame in pixels, at least 64.
        classes: how many of `SYNTHETIC_CLASSES`, from the first on; 1 to 30.
        max_objects: objects per video are 1 to this many.
        blur_fraction: fraction of an object's frames that are blurred, 0 to 0.7; an object's own lies within 0.05.
        speed: factor on how fast the objects move, turn and grow, 0.1 to 20. Paths bend at least every 8 frames and
            keep apart, so beyond about 10 little is gained, and fast videos have fewer objects.

    Example:
        >>> config = SyntheticConfig(seed=0, train_videos=2, val_videos=1, frames=5, height=128, width=192, classes=6)
        >>> image, objects = next(render_video(config, "val", 0))
        >>> image.shape, objects[0].track_id
        ((128, 192, 3), 0)
    """

    seed: int
    train_videos: int
    val_videos: int
    frames: int
    height: int
    width: int
    classes: int = len(SYNTHETIC_CLASSES)
    max_objects: int = 3
    blur_fraction: float = 0.45
    speed: float = 1.0

    def __post_init__(self) -> None:
        limits = {
            "seed": (0, None),
            "train_videos": (0, None),
            "val_videos": (0, None),
            "frames": (1, 1_000_000),  # six digits of file name
            "height": (64, 8192),
            "width": (64, 8192),
            "classes": (1, len(SYNTHETIC_CLASSES)),
            "max_objects": (1, 8),
            "blur_fraction": (0, 0.7),
            "speed": (0.1, 20),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            # Not `value < low`, which NaN would pass.
            if not value >= low or (high is not None and value > high):
                expected = f"at least {low}" if high is None else f"from {low} to {high}"
                raise ValueError(f"{name}={value}: expected {expected}")


@dataclass(frozen=True)
class SyntheticObject:
    """One object in one frame.

    Attributes:
        track_id: from 0, the same through the video.
        category_id: index into `SYNTHETIC_CLASSES`.
        box: x1, y1, x2, y2 in pixels, edges: around the pixels that the object covers inside the image, or would
            cover if it were sharp. Boxes of one frame do not overlap.
        deterioration: {kind: strength in (0, 1]}, empty where the object is clean.
        visible_share: of its pixels, in [0, 1]; 1 where the set does not record it.
    """

    track_id: int
    category_id: int
    box: tuple[int, int, int, int]
    deterioration: dict[str, float] = field(default_factory=dict)
    visible_share: float = 1.0

    @property
    def name(self) -> str:
        return SYNTHETIC_CLASSES[self.category_id]


@dataclass(frozen=True)
class _Track:
    category_id: int
    sprite: Sprite
    trajectory: Trajectory
    deterioration: list[dict[str, float]]  # per frame {kind: strength}, empty where the object is clean


def render_video(
    config: SyntheticConfig, split: str, index: int
) -> Iterator[tuple[np.ndarray, tuple[SyntheticObject, ...]]]:
    """Render one video frame by frame.

    Args:
        config: the set. The video does not change with the numbers of videos.
        split: "train" or "val".
        index: of the video in its split, from 0.

    Returns:
        Iterator over the frames: image (H, W, 3) uint8 BGR, and the objects that are at least partly inside it.

    Raises:
        ValueError: unknown split, or no such video.
    """
    config.check_video(split, index)
    return _render(config, np.random.default_rng([config.seed, SPLITS.index(split), index]), index)


def _render(
    config: SyntheticConfig, rng: np.random.Generator, index: int
) -> Iterator[tuple[np.ndarray, tuple[SyntheticObject, ...]]]:
    height, width = config.height, config.width
    # Of twice the frame's size, with room for the camera to pan.
    canvas = draw_background(rng, 2 * height, 2 * width)
    cameras = draw_camera(rng, config.frames, height, width)
    tracks = _draw_tracks(config, rng, index)
    for time, camera in enumerate(cameras):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(canvas, camera, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        objects = []
        for track_id, track in enumerate(tracks):
            item = _draw_object(image, track, track_id, time)
            if item is not None:
                objects.append(item)
        yield image, tuple(objects)


def _draw_tracks(config: SyntheticConfig, rng: np.random.Generator, index: int) -> list[_Track]:
    count = int(rng.integers(1, config.max_objects + 1))
    trajectories = draw_trajectories(rng, count, config.frames, config.height, config.width, config.speed)
    hue = rng.random()
    tracks = []
    for number, trajectory in enumerate(trajectories):
        # The first object takes the classes in turn, so that small sets have every class.
        # Drawn for the first object, too: the draws after it are the same whatever its class.
        random_category = int(rng.integers(config.classes))
        category = index % config.classes if number == 0 else random_category
        # Hues spread around the circle, so that the objects of one video are told apart by colour.
        object_hue = hue + (number + rng.uniform(-0.15, 0.15)) / len(trajectories)
        # A little larger than ever shown: warping then only reduces, by less than two.
        sprite = draw_sprite(category, draw_appearance(rng, object_hue), int(np.ceil(1.3 * trajectory.side.max())))
        tracks.append(_Track(category, sprite, trajectory, _draw_deterioration(config, rng)))
    return tracks


def _draw_deterioration(config: SyntheticConfig, rng: np.random.Generator) -> list[dict[str, float]]:
    """What befalls an object in each frame: one kind at most, its strength constant over a frame range."""
    frames: list[dict[str, float]] = [{} for _ in range(config.frames)]
    fraction = max(config.blur_fraction + rng.uniform(-0.05, 0.05), 0.0) if config.blur_fraction else 0.0
    kinds = tuple(DETERIORATIONS)
    for start, stop in draw_ranges(rng, config.frames, fraction):
        kind, strength = kinds[rng.integers(len(kinds))], round(rng.uniform(*_STRENGTHS), 3)
        for frame in frames[start:stop]:
            frame[kind] = strength
    return frames


def _draw_object(image: np.ndarray, track: _Track, track_id: int, time: int) -> SyntheticObject | None:
    """Draw an object into `image`, in place; None where it is outside."""
    layer, origin = _layer(track, time)
    sharp = layer.warp(track.sprite.sharp)
    # The box is that of the sharp object: a smear makes it no larger.
    box = _visible_box(sharp[:, :, 3], origin, image.shape[:2])
    deterioration = track.deterioration[time]
    patch = sharp
    # At most one kind in a frame, so no patch is thrown away.
    for kind, strength in deterioration.items():
        patch = DETERIORATIONS[kind](layer, strength)
    _blend(image, patch, origin)
    if box is None:
        return None
    return SyntheticObject(track_id, track.category_id, box, deterioration)


def _layer(track: _Track, time: int) -> tuple[ObjectLayer, np.ndarray]:
    """The object at a frame, and the pixel (x, y) of the frame at which its patch begins."""
    path = track.trajectory
    side, centre = path.side[time], path.centre[time]
    half = int(np.ceil(side)) + 2  # a square turned by 20 degrees reaches 0.65 sides out, a smear another 0.33
    origin = np.floor(centre).astype(int) - half
    size = track.sprite.sharp.shape[0]
    # Continuous coordinates have pixel centres at i + 0.5, the matrix at i.
    angle, scale = np.deg2rad(path.angle[time]), side / size
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = centre - origin - 0.5 - turn @ np.full(2, size / 2 - 0.5)
    matrix = np.concatenate([turn, shift[:, None]], axis=1)
    return ObjectLayer(track.sprite, matrix, 2 * half + 1, float(side), path.direction[time]), origin


def _visible_box(alpha: np.ndarray, origin: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The box of the pixels that are at least half covered, clipped to the image of `size` (h, w)."""
    x, y, width, height = cv2.boundingRect((alpha >= 0.5).astype(np.uint8))
    x1, y1 = max(int(origin[0]) + x, 0), max(int(origin[1]) + y, 0)
    x2, y2 = min(int(origin[0]) + x + width, size[1]), min(int(origin[1]) + y + height, size[0])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _blend(image: np.ndarray, patch: np.ndarray, origin: np.ndarray) -> None:
    """Lay a patch with premultiplied alpha over the part of `image` that it covers, in place."""
    height, width = image.shape[:2]
    x1, y1 = np.maximum(origin, 0)
    x2, y2 = np.minimum(origin + patch.shape[0], (width, height))
    if x1 >= x2 or y1 >= y2:
        return
    patch = patch[y1 - origin[1] : y2 - origin[1], x1 - origin[0] : x2 - origin[0]]
    below = image[y1:y2, x1:x2]
    blended = below * (1 - patch[:, :, 3:]) + patch[:, :, :3]
    image[y1:y2, x1:x2] = np.clip(np.rint(blended), 0, 255).astype(np.uint8)
