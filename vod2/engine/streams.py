"""What a caller holds of one stream of frames."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from vod2.errors import UserError
from vod2.modeling import OnlineLinker
from vod2.temporal import FrameMemory, SupportSchedule


class DetectedFrame(NamedTuple):
    """One finished frame: its number, the image as it came in, and {"instances": Instances} in its pixels."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    image: np.ndarray
    output: dict


class StreamDetector(Protocol):
    """What streams ask of the detector that they share; `FrameDetector` is one.

    Attributes:
        schedule: names the window of a frame; its lookahead is a number of frames.
    """

    schedule: SupportSchedule

    def encode(self, frames: Sequence[tuple[FrameMemory, np.ndarray]]) -> None:
        """Encode BGR uint8 images (H, W, 3), each the next frame of the video of a memory, and put them there."""

    def detect(self, memory: FrameMemory, index: int, size: tuple[int, int]) -> dict:
        """{"instances": Instances} in frame `index` of the memory's video, in pixels of an image of (height, width)."""


class VideoStream:
    """One video that arrives frame by frame; made by `VideoPredictor.open`. Any number may share a predictor.

    It holds the encoded frames of the window, and the images that wait for the frames after them. With a window of
    `radius` frames back and L ahead that is at most radius + L + 2 encoded frames and L + 1 images, however long the
    stream is; a frame is finished with the arrival of the L-th frame after it. Images are not copied: do not write into
    one before its frame is finished.

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
        self.memory = FrameMemory(detector.schedule)
        self._size: tuple[int, int] | None = None
        self.reset()

    @property
    def index(self) -> int:
        return self._first + self._arrived

    @property
    def _arrived(self) -> int:
        """The frames of the memory's video until now."""
        assert self.memory.length is not None  # `_begin` sets it
        return self.memory.length

    def __len__(self) -> int:
        """The frames that have come in and are not finished."""
        return len(self._waiting)

    def reset(self) -> None:
        """Forget everything, unfinished frames too; the next frame is number 0."""
        self._begin(0)

    def step(self, frame: np.ndarray) -> list[DetectedFrame]:
        """A BGR uint8 image (H, W, 3) -> the frames that it finishes: none at first, later one.

        Raises:
            UserError: the frame is no such image, or has another size than the one before it. It is not taken in.
        """
        return step_together(self.detector, [(self, frame)])[0]

    def flush(self) -> list[DetectedFrame]:
        """Finish the frames that wait, as at the end of a video. More frames may follow."""
        return self.finished(0)

    def gap(self, missing: int = 0) -> list[DetectedFrame]:
        """Frames are lost here, or the picture changes its size: nothing before is a support of anything after.

        Args:
            missing: how many frames are lost; the numbers of later frames grow by that much.

        Returns:
            What `flush` does.
        """
        if missing < 0:
            raise ValueError(f"gap: expected a number of missing frames of at least 0, got {missing}")
        found = self.flush()
        self._begin(self.index + missing)
        return found

    def check(self, frame: np.ndarray) -> None:
        """Raises UserError if the stream cannot take in `frame`."""
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            got = f"{frame.shape} {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise UserError(
                f"stream {self.video!r}, frame {self.index}: got {got}, expected a BGR image (H, W, 3) of uint8"
            )
        if 0 in frame.shape:
            raise UserError(f"stream {self.video!r}, frame {self.index}: the image of {frame.shape} has no pixels")
        if self._size is not None and self._size != frame.shape[:2]:
            raise UserError(
                f"stream {self.video!r}, frame {self.index}: the picture has changed from "
                f"{self._size[1]}x{self._size[0]} to {frame.shape[1]}x{frame.shape[0]} pixels; call gap() first to "
                "begin anew with the new size, or resize the frame"
            )

    def arrived(self, frame: np.ndarray) -> None:
        """`frame` is the next one, and the memory holds what was encoded of it."""
        self._size = (frame.shape[0], frame.shape[1])
        self._waiting.append(frame)
        self.memory.extend()

    def finished(self, lookahead: int) -> list[DetectedFrame]:
        """Detect, oldest first, in the waiting frames that `lookahead` frames have followed."""
        found = []
        while len(self._waiting) > lookahead:
            image = self._waiting[0]
            index = self._arrived - len(self._waiting)
            output = self.detector.detect(self.memory, index, (image.shape[0], image.shape[1]))
            self._waiting.popleft()
            found.append(DetectedFrame(self._first + index, image, output))
        return found

    def _begin(self, index: int) -> None:
        self._first = index  # the number of what is frame 0 to the memory
        self._size = None
        self._waiting: deque[np.ndarray] = deque()
        self.memory.start(self.video, length=0)


def step_together(
    detector: StreamDetector, frames: Sequence[tuple[VideoStream, np.ndarray]]
) -> list[list[DetectedFrame]]:
    """The next frame of each of several streams of one detector -> for each the frames that it finishes.

    Raises:
        UserError: see `VideoStream.step`; then no stream has taken in anything.
        ValueError: a stream is given twice, or is one of another detector.
    """
    streams = [stream for stream, _ in frames]
    if len(set(map(id, streams))) < len(streams):
        raise ValueError("step_many takes one frame of each stream, but a stream was given twice")
    for stream, frame in frames:
        if stream.detector is not detector:
            raise ValueError(f"stream {stream.video!r} was opened by another predictor: step it with that one")
        stream.check(frame)
    detector.encode([(stream.memory, frame) for stream, frame in frames])
    for stream, frame in frames:
        stream.arrived(frame)
    lookahead = detector.schedule.lookahead
    assert lookahead is not None  # see StreamDetector
    return [stream.finished(lookahead) for stream in streams]


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
