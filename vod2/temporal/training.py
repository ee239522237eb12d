"""Which supports a training clip gets. Pure: no weights, no files, no state.

A `TrainingSchedule` draws a few supports of a key frame t. t and length count frames of one video; t is in [0, length).
"""

from abc import ABC, abstractmethod

import numpy as np

from vod2.d2 import CfgNode, Registry
from vod2.keys import BuiltOfKeys, build_of_keys
from vod2.structures import Role, Support
from vod2.temporal.schedule import check_frame

TRAINING_SCHEDULE_REGISTRY = Registry("TRAINING_SCHEDULE")
TRAINING_SCHEDULE_REGISTRY.__doc__ = """
Subclasses of `TrainingSchedule`, chosen by VIDEO.TRAIN_SCHEDULE.NAME. Each declares in `reads` the keys of
VIDEO.TRAIN_SCHEDULE that it is built of, see `vod2.keys.BuiltOfKeys`.
"""


def build_training_schedule(cfg: CfgNode) -> "TrainingSchedule":
    """The schedule that VIDEO.TRAIN_SCHEDULE describes.

    Raises:
        UserError: for an unknown name, a value that the schedule refuses, or a key that is not at its default and that
            the schedule does not read.
    """
    node = cfg.VIDEO.TRAIN_SCHEDULE
    (schedule,) = build_of_keys(
        TRAINING_SCHEDULE_REGISTRY, cfg, TrainingSchedule.node, [node.NAME], others=("NAME", "WITH_KEY")
    )
    return WithKey(schedule) if node.WITH_KEY else schedule


class TrainingSchedule(BuiltOfKeys, ABC):
    """Draws the supports of a training clip."""

    node = "VIDEO.TRAIN_SCHEDULE"

    @abstractmethod
    def sample(self, t: int, length: int, rng: np.random.Generator) -> list[Support]:
        """Supports of frame t; the same generator state gives the same frames."""


@TRAINING_SCHEDULE_REGISTRY.register()
class NoSupport(TrainingSchedule):
    """Single-frame training: no supports."""

    reads = {}

    def sample(self, t: int, length: int, rng: np.random.Generator) -> list[Support]:
        check_frame(t, length)
        return []


@TRAINING_SCHEDULE_REGISTRY.register()
class RandomNear(TrainingSchedule):
    """`count` frames of [t - radius, t + radius], t included (RDN, "temporal dropout" of section 3.3).

    Frames are distinct where the video has that many; a shorter one repeats some, a still image repeats itself.

    Example:
        >>> import numpy as np
        >>> from vod2.temporal import RandomNear
        >>> [s.index for s in RandomNear(radius=18, count=2).sample(0, 1, np.random.default_rng(0))]
        [0, 0]
    """

    reads = {"radius": "RADIUS", "count": "COUNT"}

    def __init__(self, radius: int, count: int) -> None:
        if radius < 0 or count < 0:
            raise ValueError(f"RandomNear: expected radius and count of at least 0, got {radius} and {count}")
        self.radius, self.count = radius, count

    def sample(self, t: int, length: int, rng: np.random.Generator) -> list[Support]:
        check_frame(t, length)
        # t is among them: RDN draws from [t - T, t + T].
        near = np.arange(max(t - self.radius, 0), min(t + self.radius, length - 1) + 1)
        return _draw(near, self.count, rng, Role.LOCAL)


@TRAINING_SCHEDULE_REGISTRY.register()
class RandomVideo(TrainingSchedule):
    """`count` frames from the whole video (SELSA); distinct where the video has that many.

    Args:
        count: supports to draw.
        include_key: t itself may be drawn (SELSA). Without it, only a still image repeats itself.
    """

    reads = {"count": "COUNT", "include_key": "INCLUDE_KEY"}

    def __init__(self, count: int, include_key: bool = True) -> None:
        if count < 0:
            raise ValueError(f"RandomVideo: expected a count of at least 0, got {count}")
        self.count, self.include_key = count, include_key

    def sample(self, t: int, length: int, rng: np.random.Generator) -> list[Support]:
        check_frame(t, length)
        # A still image has no other frame: it repeats itself also without the key frame.
        frames = np.arange(length)
        if not self.include_key and length > 1:
            frames = np.delete(frames, t)
        return _draw(frames, self.count, rng, Role.GLOBAL)


@TRAINING_SCHEDULE_REGISTRY.register()
class RandomBothSides(TrainingSchedule):
    """Frames from the whole video, half of them before t and half after it: t is the middle one in time (HVR-Net).

    Given t, either half is uniform, as it is where a clip is drawn at random and its middle frame is the key frame.
    Frames are distinct where a side has that many. The first and the last frame of a video have all supports on one
    side; a still image repeats itself.

    Args:
        count: supports to draw, an even number.

    Raises:
        ValueError: if the count is negative or odd.

    Example:
        >>> import numpy as np
        >>> from vod2.temporal import RandomBothSides
        >>> [s.index for s in RandomBothSides(count=2).sample(1, 3, np.random.default_rng(0))]
        [0, 2]
    """

    reads = {"count": "COUNT"}

    def __init__(self, count: int = 2) -> None:
        if count < 0 or count % 2:
            raise ValueError(
                f"RandomBothSides: expected an even count of at least 0 (half before the key frame), got {count}"
            )
        self.count = count

    def sample(self, t: int, length: int, rng: np.random.Generator) -> list[Support]:
        check_frame(t, length)
        before, after = np.arange(t), np.arange(t + 1, length)
        if len(before) and len(after):
            half = self.count // 2
            return [*_draw(before, half, rng, Role.GLOBAL), *_draw(after, half, rng, Role.GLOBAL)]
        # First or last frame: all supports come from the side that there is.
        others = np.concatenate([before, after]) if length > 1 else np.array([t])
        return _draw(others, self.count, rng, Role.GLOBAL)


@TRAINING_SCHEDULE_REGISTRY.register()
class LocalMemoryGlobal(TrainingSchedule):
    """Frames near t, frames that a stream remembers when it comes to t, and frames of the whole video (MEGA).

    LOCAL ones are of [t - radius, t + radius]; MEMORY ones are of the last 2 radius + 1 frames before these, or frame 0
    where the video has none; GLOBAL ones are of everywhere. Those of one role are distinct where there are that many
    frames; a still image repeats itself.

    Args:
        radius: frames of the local window on either side of t.
        local, memory, whole: LOCAL, MEMORY and GLOBAL supports to draw.
        include_key: t itself is one more LOCAL support, the first, as it is in a stream's window.

    Example:
        >>> import numpy as np
        >>> from vod2.temporal import LocalMemoryGlobal
        >>> supports = LocalMemoryGlobal(radius=1).sample(4, 9, np.random.default_rng(0))
        >>> "".join(role.name[0] for _, role in supports)
        'LLLMMMGG'
        >>> sorted(index for index, role in supports if role.name == "MEMORY")
        [0, 1, 2]
    """

    reads = {
        "radius": "RADIUS",
        "local": "COUNT",
        "memory": "MEMORY_COUNT",
        "whole": "GLOBAL_COUNT",
        "include_key": "INCLUDE_KEY",
    }

    def __init__(
        self, radius: int = 12, local: int = 2, memory: int = 3, whole: int = 2, include_key: bool = True
    ) -> None:
        if min(radius, local, memory, whole) < 0:
            raise ValueError(
                "LocalMemoryGlobal: expected a radius and numbers of frames of at least 0, got "
                f"{radius} and {local}, {memory}, {whole}"
            )
        self.radius, self.local, self.memory, self.whole = radius, local, memory, whole
        self.include_key = include_key

    def sample(self, t: int, length: int, rng: np.random.Generator) -> list[Support]:
        check_frame(t, length)
        first = t - self.radius  # of the local window
        near = np.arange(max(first, 0), min(t + self.radius, length - 1) + 1)
        # As many frames as a window has, before it. At the start of a video there is none: then frame 0.
        past = np.arange(max(first - 2 * self.radius - 1, 0), max(first, 1))
        supports = [Support(t, Role.LOCAL)] if self.include_key else []
        supports += _draw(near, self.local, rng, Role.LOCAL)
        supports += _draw(past, self.memory, rng, Role.MEMORY)
        supports += _draw(np.arange(length), self.whole, rng, Role.GLOBAL)
        return supports


@TRAINING_SCHEDULE_REGISTRY.register()
class RandomKeyframe(TrainingSchedule):
    """The keyframe of t, wherever t may stand between two of them (DFF): t - n, n in {0 .. interval - 1}, uniform.

    It is clipped to the video, so that a still image is its own.

    Example:
        >>> import numpy as np
        >>> from vod2.temporal import RandomKeyframe
        >>> RandomKeyframe(interval=1).sample(8, 9, np.random.default_rng(0))[0].index
        8
    """

    reads = {"interval": "INTERVAL"}

    def __init__(self, interval: int = 10) -> None:
        if interval < 1:
            raise ValueError(f"RandomKeyframe: expected an interval of at least 1, got {interval}")
        self.interval = interval

    def sample(self, t: int, length: int, rng: np.random.Generator) -> list[Support]:
        check_frame(t, length)
        return [Support(max(t - int(rng.integers(self.interval)), 0), Role.KEYFRAME)]


@TRAINING_SCHEDULE_REGISTRY.register()
class KeyframeTriplet(TrainingSchedule):
    """Two keyframes around t, of which a stream has made its memory (LSTS): `new`, the last one, and `old`, before it.

    new comes as KEYFRAME, or as KEY where it is t itself: the loss is then that of a keyframe. old comes as MEMORY, or
    not at all where new is the first keyframe of its video. A still image is its own first keyframe. All are uniform,
    with the interval D and h = D // 2:

    - "stream": new = t - {0 .. D - 1}, from frame 0 on, and old = new - D + {-h .. h}; new is the first keyframe where
      that falls before the video. These are the distances that a stream has at test, and some on either side of D.
    - "online": new = t - {1 .. D}, old = t - {D + 1 .. D + h}. Public code has it beside "released".
    - "released": new = t + {-h .. h - 1}, which may lie after t, and old = t - {h + 1 .. D}: the configuration that
      public code was released with.

    The last two are clipped to the video; new is the first keyframe where old becomes the same frame.

    Args:
        interval: D, at least 1; at least 2 for "released".
        form: which of the three.

    Raises:
        ValueError: for another form, or an interval that is too small.

    Example:
        >>> import numpy as np
        >>> from vod2.temporal import KeyframeTriplet
        >>> [(s.index, s.role.name) for s in KeyframeTriplet(interval=1).sample(8, 9, np.random.default_rng(0))]
        [(8, 'KEY'), (7, 'MEMORY')]
    """

    FORMS = ("stream", "online", "released")
    reads = {"interval": "INTERVAL", "form": "TRIPLET"}

    def __init__(self, interval: int = 10, form: str = "stream") -> None:
        if form not in self.FORMS:
            raise ValueError(f"KeyframeTriplet: expected TRIPLET to be one of {self.FORMS}, got {form!r}")
        least = 2 if form == "released" else 1
        if interval < least:
            raise ValueError(f"KeyframeTriplet: expected an interval of at least {least}, got {interval}")
        self.interval, self.form = interval, form

    def sample(self, t: int, length: int, rng: np.random.Generator) -> list[Support]:
        check_frame(t, length)
        new, old = self._draw_pair(t, rng)
        # Only "released" draws a new after t, which may lie beyond the end.
        new = min(max(new, 0), length - 1)
        # A stream has no keyframe before its first one, which public code has wherever its clipping ends.
        is_first = old < 0 if self.form == "stream" else max(old, 0) == new
        supports = [Support(new, Role.KEY if new == t else Role.KEYFRAME)]
        return supports if is_first else [*supports, Support(max(old, 0), Role.MEMORY)]

    def _draw_pair(self, t: int, rng: np.random.Generator) -> tuple[int, int]:
        """new and old, not clipped; but old of "stream" counts from the new that is in the video."""
        interval, half = self.interval, self.interval // 2

        def draw(first: int, last: int) -> int:
            return int(rng.integers(first, last, endpoint=True))

        if self.form == "stream":
            # Clipped before old is drawn: a stream's first keyframe is frame 0, and it has no memory.
            new = max(t - draw(0, interval - 1), 0)
            return new, new - interval + draw(-half, half)
        if self.form == "online":
            # An interval of 1 has no half: one frame is left to draw.
            return t - draw(1, interval), t - draw(interval + 1, interval + max(half, 1))
        return t + draw(-half, half - 1), t - draw(half + 1, interval)


class WithKey(TrainingSchedule):
    """The supports of another schedule, after t itself as KEY: its proposals look at each other, too (SELSA).

    Example:
        >>> import numpy as np
        >>> from vod2.temporal import RandomVideo, WithKey
        >>> [s.role.name for s in WithKey(RandomVideo(count=1)).sample(3, 9, np.random.default_rng(0))]
        ['KEY', 'GLOBAL']
    """

    def __init__(self, schedule: TrainingSchedule) -> None:
        self.schedule = schedule

    def sample(self, t: int, length: int, rng: np.random.Generator) -> list[Support]:
        return [Support(t, Role.KEY), *self.schedule.sample(t, length, rng)]


def _draw(frames: np.ndarray, count: int, rng: np.random.Generator, role: Role) -> list[Support]:
    # Distinct frames where there are enough of them; a short video repeats some instead of giving fewer.
    drawn = rng.choice(frames, size=count, replace=len(frames) < count)
    return [Support(int(index), role) for index in drawn]
