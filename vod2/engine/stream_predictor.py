"""What all predictors of streams do, whatever runs their model."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from vod2.d2 import transforms
from vod2.engine.frame_detector import FramePreparation
from vod2.engine.streams import DetectedFrame, StreamDetector, VideoStream, step_together
from vod2.errors import UserError
from vod2.temporal import SupportSchedule

Predictor = TypeVar("Predictor", bound="StreamPredictor")


class PredictorDetector(StreamDetector, Protocol):
    """What a predictor asks of the detector that its streams share.

    Attributes:
        prepare: what is done to a frame before the model sees it.
        class_names: names by label; empty where they are not known.
    """

    prepare: FramePreparation
    class_names: Sequence[str]

    def close(self) -> None:
        """Let go of the model; no stream may use the detector any more."""


class StreamPredictor:
    """BGR images in, detections out, in the order of the frames: streams of one detector.

    Args:
        detector: that of all streams.
    """

    def __init__(self, detector: PredictorDetector) -> None:
        self._open_detector: PredictorDetector | None = detector
        # Streams that nobody holds any more are free already.
        self._streams: weakref.WeakSet[VideoStream] = weakref.WeakSet()
        self._default = self.open()

    def __enter__(self: Predictor) -> Predictor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all streams, without finishing the frames that wait, and free the model. Later calls raise UserError.

        A model that the caller holds himself stays with him.
        """
        for stream in list(self._streams):
            stream.close()
        if self._open_detector is not None:
            self._open_detector.close()  # streams that are still held refer to it
        self._open_detector = None

    @property
    def _detector(self) -> PredictorDetector:
        if self._open_detector is None:
            raise UserError(f"this {type(self).__name__} is closed: make a new one")
        return self._open_detector

    @property
    def _own_stream(self) -> VideoStream:
        """The stream of `step`, `flush` and `reset`."""
        assert self._detector  # it raises where the predictor is closed
        return self._default

    @property
    def class_names(self) -> Sequence[str]:
        """Names by label: those of the weights, or else of the first test dataset; empty where nobody knows them."""
        return self._detector.class_names

    @property
    def schedule(self) -> SupportSchedule:
        """What names the window of a frame."""
        return self._detector.schedule

    @property
    def resize(self) -> transforms.Augmentation:
        """How images are resized for the model."""
        return self._detector.prepare.resize

    @property
    def lookahead(self) -> int:
        """How many frames after frame t must come in before it is finished."""
        assert self.schedule.lookahead is not None  # see `StreamDetector`
        return self.schedule.lookahead

    def open(self, video: str = "stream") -> VideoStream:
        """A new stream with a memory of its own; the name only appears in messages."""
        stream = VideoStream(self._detector, video)
        self._streams.add(stream)
        return stream

    def step(self, frame: np.ndarray) -> list[DetectedFrame]:
        """`VideoStream.step` of the predictor's own stream."""
        return self._own_stream.step(frame)

    def flush(self) -> list[DetectedFrame]:
        """`VideoStream.flush` of the predictor's own stream."""
        return self._own_stream.flush()

    def reset(self) -> None:
        """`VideoStream.reset` of the predictor's own stream: the next `step` begins another video."""
        self._own_stream.reset()

    def stream(self, frames: Iterable[np.ndarray | None], video: str = "stream") -> Iterator[DetectedFrame]:
        """BGR uint8 images (H, W, 3) -> the same frames with detections, `lookahead` frames later.

        None stands for a frame that was lost: it has a number and no detections, and no frame looks across it, see
        `VideoStream.gap`. Each call is a stream of its own. An exception ends it, as it does any generator: to go on
        after one, `open` a stream and `step` it.

        Raises:
            UserError: see `VideoStream.step`.
        """
        stream = self.open(video)
        for frame in frames:
            yield from stream.gap(missing=1) if frame is None else stream.step(frame)
        yield from stream.flush()

    def step_many(self, frames: Sequence[tuple[VideoStream, np.ndarray]]) -> list[list[DetectedFrame]]:
        """The next frame of each of several streams -> for each what `VideoStream.step` returns, to rounding.

        The backbone runs once for all frames that have one size after resizing; choose how many to give at once by
        what fits into the memory of the device.

        A stream that fails leaves the others alone. If a batch cannot be encoded, its frames are encoded one by one, so
        that only those fail whose own frame does.

        Raises:
            StreamErrors: some streams failed. The others have been stepped: `found` of the exception is what would have
                been returned, `errors` the exception of each stream that failed, by its position in `frames`. Such a
                stream is as it was before, see `VideoStream.step`.
            ValueError: a stream is given twice, or is one of another predictor; then no stream has taken in anything.
        """
        return step_together(self._detector, frames)
