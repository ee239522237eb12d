"""What a stream remembers: the frames of the current window, and where asked some that have left it. No weights."""

import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from vod2.moved import renamed_method
from vod2.structures import Frame, Role, TemporalContext
from vod2.structures.derived import LayerState
from vod2.temporal.schedule import SupportSchedule


class _Shared(NamedTuple):
    """The frames of a context as they were put, and what layers in some state made of them."""

    frames: tuple[Frame, ...]
    state: LayerState
    made: TemporalContext

    def holds(self, context: TemporalContext, state: LayerState) -> bool:
        same = self.made.roles == context.roles and all(map(operator.is_, self.frames, context.frames))
        return same and self.state.holds(state)


class FrameMemory:
    """The encoded frames of one video that its next detections still need; owned by the caller of `VideoDetector.step`.

    Its size is bounded: after `context(t)` it holds exactly the frames of window(t) and t itself, and in its store the
    latest of those that have left the window, up to `store_bytes`. A window that needs one of them again (MEGA's global
    frames, each of which is a local one at another time) gets it back instead of encoding it again. It also
    keeps the latest context that was `shared`, with what was made of it, until another one is.

    Args:
        schedule: names the window of each frame.
        store_bytes: of the tensors of frames in the store; 0 for no store.

    Example:
        >>> from vod2.structures import Frame
        >>> from vod2.temporal import FrameMemory, SlidingWindow
        >>> memory = FrameMemory(SlidingWindow(1))
        >>> memory.start("video", length=4)
        >>> for index in range(3):
        ...     memory.put(Frame("video", index, (32, 32)))
        >>> [frame.index for frame in memory.context(1).frames]
        [0, 1, 2]
    """

    def __init__(self, schedule: SupportSchedule, store_bytes: int = 0) -> None:
        self.schedule = schedule
        self.store_bytes = store_bytes
        self.start("", None)

    def start(self, video: str, length: int | None) -> None:
        """Forget everything and begin the video named `video`; length None for a live stream."""
        self.video, self.length = video, length
        self._frames: dict[int, Frame] = {}
        self._store: OrderedDict[int, Frame] = OrderedDict()  # the frame that left the window last comes last
        self._stored_bytes = 0
        self._carry: dict[str, Tensor] = {}
        self._shared: _Shared | None = None

    def extend(self, frames: int = 1) -> None:
        """The video has turned out to be longer: one that arrives while it is watched grows frame by frame."""
        assert self.length is not None, "a live stream without a length cannot become longer"
        self.length += frames

    def __len__(self) -> int:
        return len(self._frames)

    def __contains__(self, index: int) -> bool:
        return index in self._frames or index in self._store

    def restore(self, index: int) -> bool:
        """Whether frame `index` was in the store; from there it comes back among the frames of the window."""
        frame = self._store.pop(index, None)
        if frame is None:
            return False
        self._stored_bytes -= frame.num_bytes()
        self.put(frame)
        return True

    def put(self, frame: Frame) -> None:
        """Remember an encoded frame.

        What layers make of its proposals' features alone is kept with it (`ProposalSet.rows`), as long as it is here.

        Raises:
            ValueError: if the frame belongs to another video.
        """
        if frame.video_id != self.video:
            raise ValueError(
                f"the memory holds video {self.video!r}, got a frame of {frame.video_id!r}: call start() first"
            )
        if frame.proposals is not None:
            frame = frame.with_(proposals=frame.proposals.remembered())
        if (stored := self._store.pop(frame.index, None)) is not None:
            self._stored_bytes -= stored.num_bytes()
        self._frames[frame.index] = frame

    def missing(self, t: int) -> list[int]:
        """Frames that must be put before `context(t)`, ascending."""
        wanted = {support.index for support in self.schedule.window(t, self.length, self.video)} | {t}
        return sorted(wanted - self._frames.keys() - self._store.keys())

    def context(self, t: int) -> TemporalContext:
        """The context of frame t; frames that no window from t on needs are dropped.

        Raises:
            ValueError: if a frame of window(t), or t itself, has not been put.
        """
        # Before anything is dropped: a caller may put them and ask again.
        if lacking := self.missing(t):
            raise ValueError(f"video {self.video!r}, frame {t}: frames {lacking} of its window were never put")
        # What leaves the window is not kept for a later one: `SupportSchedule.new` names it again if that needs it.
        window = self.schedule.window(t, self.length, self.video)
        kept = {support.index for support in window} | {t}
        for index in kept:
            self.restore(index)
        for index in self._frames.keys() - kept:
            self._keep(self._frames.pop(index))
        frames = tuple(self._frames[support.index] for support in window)
        return TemporalContext(frames, tuple(support.role for support in window), self._carry)

    def shared(
        self,
        context: TemporalContext,
        state: LayerState | None,
        make: Callable[[TemporalContext], TemporalContext | None],
    ) -> TemporalContext:
        """What `make` makes of a context: for one of the same frames and roles as the latest, what it made of that.

        Where it makes None, the context itself. What is carried is that of the context in any case.

        Args:
            context: of the next key frame.
            state: of all layers that `make` uses; where it has changed, or is None, nothing older counts.
            make: does not look at what is carried.
        """
        made: TemporalContext | None
        if self._shared is not None and state is not None and self._shared.holds(context, state):
            made = self._shared.made
        else:
            self._shared = None  # first: both would take twice the room
            made = make(context)
            if made is not None and state is not None:
                self._shared = _Shared(context.frames, state, made)
        return context if made is None else TemporalContext(made.frames, made.roles, context.carry)

    def _keep(self, frame: Frame) -> None:
        """Put a frame that leaves the window into the store, from which the oldest make room for it."""
        if not self.store_bytes:
            return
        # What layers have made of it would take several times the room.
        if frame.proposals is not None:
            frame = frame.with_(proposals=frame.proposals.forgotten())
        size = frame.num_bytes()
        if size > self.store_bytes:
            return
        self._store[frame.index] = frame
        self._stored_bytes += size
        while self._stored_bytes > self.store_bytes:
            _, oldest = self._store.popitem(last=False)
            self._stored_bytes -= oldest.num_bytes()

    def cached_context(self) -> TemporalContext:
        """All frames that are in it at this moment, ascending, as LOCAL ones."""
        frames = tuple(self._frames[index] for index in sorted(self._frames))
        return TemporalContext(frames, (Role.LOCAL,) * len(frames), self._carry)

    held = renamed_method("FrameMemory", "held", "cached_context")

    def frame(self, index: int) -> Frame:
        """The remembered frame `index`."""
        return self._frames[index]

    def copy(self) -> "FrameMemory":
        """Another memory of the same frames, which carries the same; what is done to it stays in it."""
        other = FrameMemory(self.schedule, self.store_bytes)
        other.start(self.video, self.length)
        # The tensors are shared: nothing writes into them. So is what layers made of them, the same for both.
        other._frames, other._carry = dict(self._frames), dict(self._carry)
        other._store, other._stored_bytes, other._shared = self._store.copy(), self._stored_bytes, self._shared
        return other

    def without(self, index: int) -> "FrameMemory":
        """`copy` without frame `index`."""
        other = self.copy()
        other.restore(index)
        other._frames.pop(index, None)
        return other

    def carry(self, values: Mapping[str, Tensor]) -> None:
        """Replace what the aggregators carry from frame to frame; values are detached."""
        # Otherwise the graph of the whole stream hangs on the last frame, where a caller runs with gradients.
        self._carry = {name: value.detach() for name, value in values.items()}
