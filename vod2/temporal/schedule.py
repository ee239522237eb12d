"""Which frames a frame looks at in inference. Pure: no weights, no files, no state.

A `SupportSchedule` names the whole window of frame t. t and length count frames of one video; t is in [0, length).
"""

import functools
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from vod2.d2 import CfgNode, Registry
from vod2.keys import BuiltOfKeys, build_of_keys
from vod2.structures import Role, Support

SUPPORT_SCHEDULE_REGISTRY = Registry("SUPPORT_SCHEDULE")
SUPPORT_SCHEDULE_REGISTRY.__doc__ = """
Subclasses of `SupportSchedule`, chosen by VIDEO.TEST_SCHEDULE.NAME. Each declares in `reads` the keys of
VIDEO.TEST_SCHEDULE that it is built of, see `vod2.keys.BuiltOfKeys`.
"""


def build_support_schedule(cfg: CfgNode) -> "SupportSchedule":
    """The schedule that VIDEO.TEST_SCHEDULE describes; several names joined by "+" make a `ScheduleUnion`.

    Raises:
        UserError: for an unknown name, a value that its schedule refuses, or a key that is not at its default and that
            none of the schedules reads.
    """
    names = cfg.VIDEO.TEST_SCHEDULE.NAME.split("+")
    parts = build_of_keys(SUPPORT_SCHEDULE_REGISTRY, cfg, SupportSchedule.node, names)
    return parts[0] if len(parts) == 1 else ScheduleUnion(parts)


def check_frame(t: int, length: int | None) -> None:
    """Raises ValueError if a video of `length` frames (None: without an end) has no frame t."""
    if t < 0 or (length is not None and t >= length):
        raise ValueError(f"frame {t} is not in a video of {length} frames (frames count from 0)")


class SupportSchedule(BuiltOfKeys, ABC):
    """Names the window of every frame in inference.

    `lookahead` is how many frames after t the window of t may reach: 0 is causal, None is the whole video. A live
    stream has no length: `length=None` is legal for causal schedules only. What a frame costs repeats every `period`
    frames.
    """

    node = "VIDEO.TEST_SCHEDULE"
    lookahead: int | None = 0
    period: int = 1

    @property
    def largest_window(self) -> int | None:
        """The most entries that a window has, whatever the frame and the video; None where nobody knows."""
        return None

    @abstractmethod
    def _window(self, t: int, length: int | None, video: str) -> list[Support]:
        """The window of t; t and length have been checked."""

    def window(self, t: int, length: int | None, video: str = "") -> list[Support]:
        """All that frame t of the video named `video` looks at; a frame may stand in it more than once.

        Raises:
            ValueError: if t is not in the video, or length is None and the schedule is not causal.
        """
        check_frame(t, length)
        if length is None and self.lookahead != 0:
            reach = "the whole video" if self.lookahead is None else f"{self.lookahead} frames ahead"
            raise ValueError(
                f"{type(self).__name__} looks at {reach}: it cannot run on a stream of unknown length; give the "
                "length, or use a causal schedule (lookahead 0)"
            )
        return self._window(t, length, video)

    def with_lookahead(self, frames: int) -> "SupportSchedule":
        """The same schedule with a lookahead of `frames`, 0 for a causal one.

        Raises:
            ValueError: if it cannot have that; says what it can.
        """
        # The base class has one lookahead; schedules that can have others override this.
        if frames == self.lookahead:
            return self
        name = type(self).__name__
        if self.lookahead is None:
            raise ValueError(f"{name} looks at the whole video: it cannot have a lookahead of {frames} frames")
        raise ValueError(f"{name} cannot have a lookahead of {frames} frames: it always has {self.lookahead}")

    def new(self, t: int, length: int | None, video: str = "", previous: int | None = None) -> list[int]:
        """Frames to be read and encoded at t, ascending: t and window(t), less what `previous` has left in memory.

        `previous` is the frame that was detected before t in this video (None at the beginning).
        """
        wanted = {support.index for support in self.window(t, length, video)} | {t}
        # The memory has exactly the window of the frame before and that frame, see `FrameMemory.context`.
        if previous is not None:
            wanted -= {support.index for support in self.window(previous, length, video)} | {previous}
        return sorted(wanted)


@SUPPORT_SCHEDULE_REGISTRY.register()
class NoWindow(SupportSchedule):
    """Single-frame inference: an empty window."""

    reads = {}

    @property
    def largest_window(self) -> int:
        return 0

    def _window(self, t: int, length: int | None, video: str) -> list[Support]:
        return []


@SUPPORT_SCHEDULE_REGISTRY.register()
class SlidingWindow(SupportSchedule):
    """[t - radius, t + lookahead], t included (RDN, Algorithm 1).

    Args:
        radius: frames before t.
        lookahead: frames after t; None means radius.
        edge: "clip" ends the window at the ends of the video (Algorithm 1: max(1, t - T)); "repeat" repeats the edge
            frame, so that every window has radius + 1 + lookahead entries.

    Example:
        >>> from vod2.temporal import SlidingWindow
        >>> [s.index for s in SlidingWindow(2).window(0, 10)]
        [0, 1, 2]
        >>> SlidingWindow(2).new(1, 10, previous=0)
        [3]
    """

    reads = {"radius": "RADIUS", "lookahead": "LOOKAHEAD", "edge": "EDGE"}
    lookahead: int

    def __init__(self, radius: int, lookahead: int | None = None, edge: str = "clip") -> None:
        if radius < 0 or (lookahead is not None and lookahead < 0):
            raise ValueError(f"SlidingWindow: expected radius and lookahead of at least 0, got {radius}, {lookahead}")
        if edge not in ("clip", "repeat"):
            raise ValueError(f"SlidingWindow: expected edge 'clip' or 'repeat', got {edge!r}")
        self.radius, self.edge = radius, edge
        self.lookahead = radius if lookahead is None else lookahead

    @classmethod
    def from_config(cls, node: CfgNode) -> "SlidingWindow":
        arguments = cls.arguments(node)
        # The key is a number, which cannot be None: a negative one stands for the radius.
        if arguments["lookahead"] < 0:
            arguments["lookahead"] = None
        return cls(**arguments)

    def with_lookahead(self, frames: int) -> "SlidingWindow":
        farthest = max(self.radius, self.lookahead)
        if not 0 <= frames <= farthest:
            raise ValueError(f"SlidingWindow: expected a lookahead of 0 (causal) to {farthest} frames, got {frames}")
        return SlidingWindow(self.radius, frames, self.edge)

    @property
    def largest_window(self) -> int:
        return self.radius + 1 + self.lookahead

    def _window(self, t: int, length: int | None, video: str) -> list[Support]:
        # Without a length the lookahead is 0 (`window` refuses others), and t is the last frame that there is.
        last = t + self.lookahead if length is None else length - 1
        indices: np.ndarray = np.arange(t - self.radius, t + self.lookahead + 1)
        # Public code of RDN repeats the edge frame, Algorithm 1 of RDN ends the window there.
        if self.edge == "repeat":
            indices = indices.clip(0, last)
        else:
            indices = indices[(indices >= 0) & (indices <= last)]
        return [Support(int(index), Role.LOCAL) for index in indices]


@SUPPORT_SCHEDULE_REGISTRY.register()
class GlobalSample(SupportSchedule):
    """`count` frames of the whole video, t among them: nearly the same for each of its frames (SELSA).

    Every frame has a priority that follows from the video's name and its number; the sample are t and those of the
    other frames that have the highest. So it is `count` frames for every t, and only its last one makes way for a t
    that has a lower priority. A causal one (lookahead 0) takes them from the frames until t: a frame that it has once
    left out never comes back, so a live stream holds `count` frames.

    Args:
        count: frames of a window, at most the length of the video is taken.
        include_key: frame t always is one of them; without it, it is one if it has the priority, and the window is the
            same for all frames of the video.
        lookahead: None for the whole video, 0 for the frames until t.

    Raises:
        ValueError: if the count is less than 1 (0 without `include_key`), or the lookahead is another.

    Example:
        >>> from vod2.temporal import GlobalSample
        >>> whole, causal = GlobalSample(3), GlobalSample(3, lookahead=0)
        >>> [len(whole.window(t, 100, "video")) for t in (0, 50, 99)]
        [3, 3, 3]
        >>> whole.window(99, 100, "video") == causal.window(99, None, "video")
        True
    """

    reads = {"count": "COUNT", "include_key": "INCLUDE_KEY", "lookahead": "LOOKAHEAD"}

    def __init__(self, count: int, include_key: bool = True, lookahead: int | None = None) -> None:
        if count < (1 if include_key else 0):
            least = "1, the key frame itself" if include_key else "0"
            raise ValueError(f"GlobalSample: expected a count of at least {least}, got {count}")
        if lookahead not in (None, 0):
            raise ValueError(f"GlobalSample: expected a lookahead of 0 or the whole video, got {lookahead}")
        self.count, self.include_key, self.lookahead = count, include_key, lookahead

    @classmethod
    def from_config(cls, node: CfgNode) -> "GlobalSample":
        return cls(**_causal_or_whole(cls.arguments(node)))

    def with_lookahead(self, frames: int) -> "SupportSchedule":
        if frames:
            return super().with_lookahead(frames)
        return GlobalSample(self.count, self.include_key, 0)

    @property
    def largest_window(self) -> int:
        return self.count

    def _window(self, t: int, length: int | None, video: str) -> list[Support]:
        visible = length if self.lookahead is None else t + 1  # frames that the sample is taken from
        indices = _sample_of_video(video, visible, self.count)
        if self.include_key and t not in indices:
            # t takes the place of the frame with the lowest priority.
            indices = _sample_of_video(video, visible, self.count - 1) | {t}
        return [Support(index, Role.GLOBAL) for index in sorted(indices)]


def _causal_or_whole(arguments: dict) -> dict:
    """LOOKAHEAD of a sample of the video: 0 is causal, all other values are of a sliding window beside it."""
    return arguments | {"lookahead": 0 if arguments["lookahead"] == 0 else None}


_BLOCK = 4096  # frames


@functools.lru_cache(maxsize=64)
def _sample_of_video(video: str, length: int, count: int) -> frozenset[int]:
    """The `count` of the first `length` frames with the highest priority.

    Built on the sample of all full blocks before, so that a frame of an endless stream costs at most a block.
    """
    start = max(length - 1, 0) // _BLOCK * _BLOCK  # of the last block, which may not be full
    earlier = _sample_of_video(video, start, count) if start else ()
    # A frame that is not among the best of the blocks before is not among the best of all.
    frames = np.array([*sorted(earlier), *range(start, length)], dtype=np.uint64)
    best = _ascending(video, frames)[max(len(frames) - count, 0) :]
    return frozenset(frames[best].tolist())


def _ascending(video: str, frames: np.ndarray) -> np.ndarray:
    """The rows of `frames` (uint64) in the order of their priority in the video, the highest last."""
    name = np.uint64(zlib.crc32(video.encode()))  # `hash` would be another in every process
    # The name in the upper half and the number in the lower: no two frames of two videos share a number.
    return np.argsort(_mixed((name << np.uint64(32)) + frames))


def _mixed(x: np.ndarray) -> np.ndarray:
    """uint64 numbers that look random, one for each of `x`: the finalizer of SplitMix64 (Steele et al., 2014)."""
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@SUPPORT_SCHEDULE_REGISTRY.register()
class RollingGlobal(SupportSchedule):
    """`count` frames of the whole video, one of which makes way for another at every frame (MEGA).

    P is the order of all L frames of the video by the priorities of `GlobalSample`, the highest first. Frame 0 looks at
    P[0] .. P[count - 1]. Frame t > 0 takes P[(t + count - 1) mod L] for the entry that has been there longest; at frame
    0, P[count - 1] came first and P[0] last, as in the authors' code. Where L is less than twice the count, a frame may
    stand in the window more than once, and where L is less than the count, one does.

    A causal one (lookahead 0) has the window of a causal `GlobalSample`: frames that have left a live stream do not
    come back.

    Args:
        count: entries of a window.
        lookahead: None for the whole video, 0 for the frames until t.
        orders: {video: P} for the videos that are to have another one than that of their priorities.

    Example:
        >>> from vod2.temporal import RollingGlobal
        >>> schedule = RollingGlobal(2, orders={"video": [3, 0, 2, 1]})
        >>> [[s.index for s in schedule.window(t, 4, "video")] for t in range(4)]
        [[0, 3], [3, 2], [2, 1], [1, 3]]
    """

    reads = {"count": "COUNT", "lookahead": "LOOKAHEAD"}

    def __init__(
        self, count: int, lookahead: int | None = None, orders: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        if count < 0:
            raise ValueError(f"RollingGlobal: expected a count of at least 0, got {count}")
        if lookahead not in (None, 0):
            raise ValueError(f"RollingGlobal: expected a lookahead of 0 or the whole video, got {lookahead}")
        self.count, self.lookahead, self.orders = count, lookahead, dict(orders or {})
        for video, order in self.orders.items():
            if sorted(order) != list(range(len(order))):
                raise ValueError(f"RollingGlobal: the order of video {video!r} is not a permutation: {list(order)}")

    @classmethod
    def from_config(cls, node: CfgNode) -> "RollingGlobal":
        return cls(**_causal_or_whole(cls.arguments(node)))

    def with_lookahead(self, frames: int) -> "SupportSchedule":
        if frames:
            return super().with_lookahead(frames)
        return RollingGlobal(self.count, 0, self.orders)

    @property
    def largest_window(self) -> int:
        return self.count

    def _window(self, t: int, length: int | None, video: str) -> list[Support]:
        # No rolling in a live stream: the frames that would come in have not arrived yet.
        if self.lookahead == 0:
            return [Support(index, Role.GLOBAL) for index in sorted(_sample_of_video(video, t + 1, self.count))]
        order = self.orders[video] if video in self.orders else _order_of_video(video, length)
        if len(order) != length:
            raise ValueError(
                f"RollingGlobal: the order of video {video!r} has {len(order)} frames, the video has {length}"
            )
        window = []
        for entry in range(t, t + self.count):
            # Entries from `count` on come in the order of P. The first `count` are there from the beginning, and leave
            # in the opposite order.
            place = self.count - 1 - entry if entry < self.count else entry
            window.append(Support(int(order[place % length]), Role.GLOBAL))
        return window


@functools.lru_cache(maxsize=16)
def _order_of_video(video: str, length: int) -> np.ndarray:
    """(length,): all frames, that of the highest priority first. Read-only."""
    # Read-only, as the cache gives the same array to all who ask.
    order = _ascending(video, np.arange(length, dtype=np.uint64))[::-1]
    order.flags.writeable = False
    return order


@SUPPORT_SCHEDULE_REGISTRY.register()
class Keyframes(SupportSchedule):
    """The last keyframe at or before t, where every `interval`-th frame is one (DFF, LSTS). Causal."""

    reads = {"interval": "INTERVAL"}

    def __init__(self, interval: int) -> None:
        if interval < 1:
            raise ValueError(f"Keyframes: expected an interval of at least 1, got {interval}")
        self.interval = self.period = interval

    @property
    def largest_window(self) -> int:
        return 1

    def _window(self, t: int, length: int | None, video: str) -> list[Support]:
        return [Support(t - t % self.interval, Role.KEYFRAME)]


class ScheduleUnion(SupportSchedule):
    """The windows of several schedules, one after the other (MEGA: local and global)."""

    def __init__(self, schedules: Sequence[SupportSchedule]) -> None:
        if not schedules:
            raise ValueError("ScheduleUnion: expected at least one schedule")
        self.schedules = tuple(schedules)
        reaches = [schedule.lookahead for schedule in schedules]
        bounded = [reach for reach in reaches if reach is not None]
        # One part that looks at the whole video decides for all.
        self.lookahead = max(bounded) if len(bounded) == len(reaches) else None
        # What a frame costs repeats when it does so in all parts.
        self.period = math.lcm(*(schedule.period for schedule in schedules))

    def with_lookahead(self, frames: int) -> "SupportSchedule":
        """Its sliding windows get the lookahead; the other parts become causal."""
        parts = []
        for part in self.schedules:
            parts.append(part.with_lookahead(frames if isinstance(part, SlidingWindow) else 0))
        # Without a sliding window the union is causal: then the base class refuses any lookahead but 0.
        return SupportSchedule.with_lookahead(ScheduleUnion(parts), frames)

    @property
    def largest_window(self) -> int | None:
        sizes = [schedule.largest_window for schedule in self.schedules]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def _window(self, t: int, length: int | None, video: str) -> list[Support]:
        return [support for schedule in self.schedules for support in schedule.window(t, length, video)]
