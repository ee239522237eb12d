"""What a caller holds of one stream of frames.

A step works on a draft of the stream's state, which takes the place of the state when all has succeeded. Whatever a
detector raises therefore leaves the stream as it was.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import numpy as np

from vod2.d2 import Instances
from vod2.detections.views import ResultViews
from vod2.errors import UserError
from vod2.modeling import OnlineLinker
from vod2.temporal import FrameMemory, SupportSchedule

_LOGGER = logging.getLogger(__name__)


class _FrameFields(NamedTuple):
    """What a `DetectedFrame` unpacks to."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    image: np.ndarray
    output: dict


class DetectedFrame(ResultViews, _FrameFields):
    """One finished frame, a tuple (index, image, output): its number, the image as it came in, and {"instances":
    Instances} in its pixels.

    `plot`, `save`, `to_dict`, `to_numpy`, `to_dataframe` and `to_supervision` give the detections in other forms.
    """

    @property
    def instances(self) -> Instances:
        """Those of `output`."""
        return self.output["instances"]

    def _number_and_image(self) -> tuple[int, np.ndarray | None]:
        return self.index, self.image

    def _replace(self, **fields: Any) -> "DetectedFrame":
        """A copy with other fields; the names of the classes stay."""
        replaced = super()._replace(**fields)
        replaced.class_names = self.class_names
        return replaced


class StreamDetector(Protocol):
    """What streams ask of the detector that they share; `FrameDetector` is one.

    Attributes:
        schedule: names the window of a frame; its lookahead is a number of frames.
        class_names: names by label; a detector without names need not have it.
    """

    schedule: SupportSchedule

    def encode(self, frames: Sequence[tuple[FrameMemory, np.ndarray]]) -> None:
        """Encode BGR uint8 images (H, W, 3), each the next frame of the video of a memory, and put them there."""

    def detect(self, memory: FrameMemory, index: int, size: tuple[int, int]) -> dict:
        """{"instances": Instances} in frame `index` of the memory's video, in pixels of an image of (height, width)."""


class StreamErrors(UserError):
    """What `step_many` raises when it has stepped all streams and some of them failed.

    Attributes:
        found: what `step_many` would have returned: for each stream the frames that it finished, [] where it failed.
        errors: {position in the call: exception}. A stream that failed is as it was before, see `VideoStream.step`.
    """

    def __init__(
        self, names: Sequence[str], found: Sequence[list[DetectedFrame]], errors: Mapping[int, Exception]
    ) -> None:
        self.found, self.errors = list(found), dict(errors)
        told = []
        for position, error in errors.items():
            # The errors of a model do not say whose frame it was.
            whose = "" if isinstance(error, UserError) else f"stream {names[position]!r}: {type(error).__name__}: "
            told.append(f"{whose}{error}")
        super().__init__(f"{len(errors)} of {len(names)} streams failed: {'; '.join(told)}")


class _State:
    """What a stream remembers. Its memory calls the first frame after a gap 0.

    Attributes:
        first: the number of what is frame 0 to the memory.
        size: (height, width) of the frames, None before the first.
        waiting: the images that came last and are not finished, oldest first.
    """

    def __init__(
        self, memory: FrameMemory, first: int, size: tuple[int, int] | None, waiting: deque[np.ndarray]
    ) -> None:
        self.memory, self.first, self.size, self.waiting = memory, first, size, waiting

    @staticmethod
    def begin(schedule: SupportSchedule, video: str, first: int) -> "_State":
        memory = FrameMemory(schedule)
        memory.start(video, length=0)
        return _State(memory, first, None, deque())

    def draft(self) -> "_State":
        """A copy to work on: frames, images and what is carried are shared, and nobody writes into those."""
        return _State(self.memory.copy(), self.first, self.size, self.waiting.copy())

    @property
    def arrived(self) -> int:
        """The frames of the memory's video until now."""
        assert self.memory.length is not None  # `begin` sets it
        return self.memory.length

    @property
    def index(self) -> int:
        """The number of the next frame."""
        return self.first + self.arrived

    def take(self, frame: np.ndarray) -> None:
        """`frame` is the next one, and the memory holds what was encoded of it."""
        self.size = (frame.shape[0], frame.shape[1])
        self.waiting.append(frame)
        self.memory.extend()

    def finish(self, detector: StreamDetector, lookahead: int) -> list[DetectedFrame]:
        """Detect, oldest first, in the waiting frames that `lookahead` frames have followed."""
        found = []
        while len(self.waiting) > lookahead:
            image = self.waiting[0]
            index = self.arrived - len(self.waiting)
            output = detector.detect(self.memory, index, (image.shape[0], image.shape[1]))
            self.waiting.popleft()
            finished = DetectedFrame(self.first + index, image, output)
            # A detector of one's own need not have names.
            finished.class_names = getattr(detector, "class_names", ())
            found.append(finished)
        return found


class VideoStream:
    """One video that arrives frame by frame; made by `VideoPredictor.open`. Any number may share a predictor.

    It holds the encoded frames of the window, and the images that wait for the frames after them. With a window of
    `radius` frames back and L ahead that is at most radius + L + 2 encoded frames and L + 1 images, however long the
    stream is; a frame is finished with the arrival of the L-th frame after it. Images are not copied: do not write into
    one before its frame is finished.

    An exception in the model (or Ctrl-C) leaves the stream as it was before the call. A frame whose `step` failed was
    not taken in: give it again; or go on with the next frame, which then has its number; or call `gap(1)` first, which
    counts it as lost. Where the model fails again and again on a frame that waits, `gap(finish=False)` gives those up.

    Several threads may use one stream: calls run one after the other, in the order in which they get their turn.

    It is a context manager that closes the stream.

    Attributes:
        video: its name.
        index: the number that the next frame will have.

    Example:
        >>> import numpy as np
        >>> from vod2 import VideoPredictor
        >>> predictor = VideoPredictor("configs/quick/RDN.yaml", weights="", lookahead=1)
        >>> stream, frame = predictor.open("door"), np.zeros((64, 96, 3), np.uint8)
        >>> [[found.index for found in stream.step(frame)] for _ in range(3)]
        [[], [0], [1]]
        >>> [found.index for found in stream.flush()]
        [2]
    """

    def __init__(self, detector: StreamDetector, video: str) -> None:
        self.detector, self.video = detector, video
        self._lock = threading.Lock()
        self._closed = False
        self._state = _State.begin(detector.schedule, video, 0)

    @property
    def memory(self) -> FrameMemory:
        """The encoded frames of the window; another object after each call that changes it."""
        return self._state.memory

    @property
    def index(self) -> int:
        return self._state.index

    def __len__(self) -> int:
        """The frames that have come in and are not finished."""
        return len(self._state.waiting)

    def __enter__(self) -> "VideoStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free what is remembered, without finishing the frames that wait. Later calls raise UserError."""
        with self._lock:
            self._closed = True
            self._begin(self._state.index)

    def reset(self) -> None:
        """Forget everything, unfinished frames too; the next frame is number 0.

        Raises:
            UserError: the stream is closed.
        """
        with self._lock:
            self._require_open()
            self._begin(0)

    def step(self, frame: np.ndarray) -> list[DetectedFrame]:
        """A BGR uint8 image (H, W, 3) -> the frames that it finishes: none at first, later one.

        Raises:
            UserError: the frame is no such image, or has another size than the one before it, or the stream is closed.
                It is not taken in; nor is it where the model raises anything.
        """
        found, errors = _step(self.detector, [(self, frame)])
        if errors:
            raise errors[0]
        return found[0]

    def flush(self) -> list[DetectedFrame]:
        """Finish the frames that wait, as at the end of a video. More frames may follow.

        An exception finishes none of them: they wait as before, and another call begins with the first of them.

        Raises:
            UserError: the stream is closed.
        """
        with self._lock:
            return self._flush()

    def gap(self, missing: int = 0, finish: bool = True) -> list[DetectedFrame]:
        """Frames are lost here, or the picture changes its size: nothing before is a support of anything after.

        Args:
            missing: how many frames are lost; the numbers of later frames grow by that much.
            finish: False gives up the frames that wait, too.

        Returns:
            What `flush` does; [] if `finish` is False.

        Raises:
            UserError: the stream is closed.
        """
        if missing < 0:
            raise ValueError(f"gap: expected a number of missing frames of at least 0, got {missing}")
        with self._lock:
            self._require_open()
            found = self._flush() if finish else []
            self._begin(self._state.index + missing)
            return found

    def check(self, frame: np.ndarray) -> None:
        """Raises UserError if the stream cannot take in `frame`."""
        self._require_open()
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            got = f"{frame.shape} {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise UserError(
                f"stream {self.video!r}, frame {self.index}: got {got}, expected a BGR image (H, W, 3) of uint8"
            )
        if 0 in frame.shape:
            raise UserError(f"stream {self.video!r}, frame {self.index}: the image of {frame.shape} has no pixels")
        size = self._state.size
        if size is not None and size != frame.shape[:2]:
            raise UserError(
                f"stream {self.video!r}, frame {self.index}: the picture has changed from "
                f"{size[1]}x{size[0]} to {frame.shape[1]}x{frame.shape[0]} pixels; call gap() first to "
                "begin anew with the new size, or resize the frame"
            )

    def _require_open(self) -> None:
        if self._closed:
            raise UserError(f"stream {self.video!r} is closed: open a new one with VideoPredictor.open")

    def _flush(self) -> list[DetectedFrame]:
        self._require_open()
        draft = self._state.draft()
        found = draft.finish(self.detector, 0)
        self._state = draft
        return found

    def _begin(self, first: int) -> None:
        self._state = _State.begin(self.detector.schedule, self.video, first)


def step_together(
    detector: StreamDetector, frames: Sequence[tuple[VideoStream, np.ndarray]]
) -> list[list[DetectedFrame]]:
    """The next frame of each of several streams of one detector -> for each the frames that it finishes.

    Raises:
        StreamErrors: some streams failed, and are as before; the others were stepped, and their frames are in `found`.
        ValueError: a stream is given twice, or is one of another detector; then no stream has taken in anything.
    """
    found, errors = _step(detector, frames)
    if errors:
        names = [stream.video for stream, _ in frames]
        raise StreamErrors(names, found, errors) from next(iter(errors.values()))
    return found


def _step(
    detector: StreamDetector, frames: Sequence[tuple[VideoStream, np.ndarray]]
) -> tuple[list[list[DetectedFrame]], dict[int, Exception]]:
    """`step_together` that returns the errors: {position: exception}, ascending."""
    streams = [stream for stream, _ in frames]
    if len(set(map(id, streams))) < len(streams):
        raise ValueError("step_many takes one frame of each stream, but a stream was given twice")
    for stream in streams:
        if stream.detector is not detector:
            raise ValueError(f"stream {stream.video!r} was opened by another predictor: step it with that one")
    lookahead = detector.schedule.lookahead
    assert lookahead is not None  # see StreamDetector
    found: list[list[DetectedFrame]] = [[] for _ in frames]
    errors: dict[int, Exception] = {}
    with ExitStack() as locks:
        # In the same order everywhere: two threads that step the same streams do not wait for each other.
        for stream in sorted(streams, key=id):
            locks.enter_context(stream._lock)
        drafts: dict[int, _State] = {}
        for position, (stream, frame) in enumerate(frames):
            try:
                stream.check(frame)
                drafts[position] = stream._state.draft()
            except UserError as error:
                errors[position] = error
        _encode(detector, frames, drafts, errors)
        for position, draft in drafts.items():
            if position in errors:
                continue
            try:
                draft.take(frames[position][1])
                found[position] = draft.finish(detector, lookahead)
            except Exception as error:
                errors[position] = error
        # Last, so that Ctrl-C before leaves all of them as they were.
        for position, draft in drafts.items():
            if position not in errors:
                streams[position]._state = draft
    return found, dict(sorted(errors.items()))


def _encode(
    detector: StreamDetector,
    frames: Sequence[tuple[VideoStream, np.ndarray]],
    drafts: dict[int, _State],
    errors: dict[int, Exception],
) -> None:
    """Encode the frames that have a draft, at once; if that fails, one by one, to know whose fault it is."""
    if not drafts:
        return
    try:
        detector.encode([(draft.memory, frames[position][1]) for position, draft in drafts.items()])
        return
    except Exception as error:
        if len(drafts) == 1:
            errors[next(iter(drafts))] = error
            return
        _LOGGER.warning(
            "%d frames could not be encoded at once (%s): they are encoded one by one", len(drafts), str(error)
        )
    for position in drafts:
        stream, frame = frames[position]
        # Anew, as the memory may hold the frame already.
        drafts[position] = stream._state.draft()
        try:
            detector.encode([(drafts[position].memory, frame)])
        except Exception as error:
            errors[position] = error


def link_stream(frames: Iterable[DetectedFrame], linker: OnlineLinker) -> Iterator[DetectedFrame]:
    """The frames of one stream with linked detections on the CPU, which have `track_ids`; at most `window` wait.

    Example:
        >>> from vod2.modeling import OnlineLinker, TubeletLinking
        >>> list(link_stream([], OnlineLinker(TubeletLinking(), window=8)))
        []
    """
    waiting: deque[DetectedFrame] = deque()
    for frame in frames:
        waiting.append(frame)
        for instances in linker.push(frame.output["instances"].to("cpu")):
            yield waiting.popleft()._replace(output={"instances": instances})
    for instances in linker.flush():
        yield waiting.popleft()._replace(output={"instances": instances})
