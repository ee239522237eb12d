"""A video in memory that browsers play and can stop at any frame."""

import io
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from vod2.errors import VideoError
from vod2.video.clock import OutputClock

# Encoder, container, type, options. No B-frames in H.264: containers shift the times of such streams.
_FORMATS = (
    ("libx264", "mp4", "video/mp4", {"crf": "22", "bf": "0", "preset": "medium"}),
    ("libvpx-vp9", "webm", "video/webm", {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "6"}),
    ("libvpx", "webm", "video/webm", {"crf": "12", "b": "2M", "deadline": "realtime", "cpu-used": "6"}),
)
# Nothing on a page is shown larger.
_LONGEST_SIDE = 1280
# The same colours in the numbers of FFmpeg's scaler and of its codecs, and their range of values.
_BT601, _BT601_TAG, _LIMITED_RANGE = 5, 6, 1


class EmbeddedVideo(NamedTuple):
    """An encoded file, its MIME type, and of the frames that went in: how many, (width, height) in pixels, and times.

    `times` are the seconds at which they are shown, ascending, the first is 0.
    """

    data: bytes
    type: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    size: tuple[int, int]
    times: list[float]


class BrowserVideo:
    """Encodes frames in memory as H.264, or else VP9 or VP8, of 1280 pixels at most.

    Frame i is shown from i / fps on, or from its time on if frames are written with their times. Only H.264 keeps
    these; VP9 and VP8 have a constant rate.

    Raises:
        VideoError: FFmpeg was built without an encoder for browsers.
    """

    def __init__(self, fps: Fraction | float) -> None:
        self._rate = Fraction(fps).limit_denominator(1001)
        self._encoder, container_format, self._type, self._options = _choose()
        self._file = io.BytesIO()
        self._container = av.open(self._file, "w", format=container_format)
        self._stream: av.VideoStream | None = None
        self._size = (0, 0)
        self._times: list[float] = []
        self._first: Fraction | float = 0  # time of the first frame, which is shown at 0

    @property
    def count(self) -> int:
        """Frames so far."""
        return len(self._times)

    def write(self, frame: np.ndarray, time: Fraction | float | None = None) -> None:
        """Append a frame.

        Args:
            frame: (H, W, 3) uint8 BGR; the first one sets the size.
            time: seconds, above that of the frame before (if it is not, the frame is shown a millisecond after that);
                None is 1 / fps after the frame before. Give it for all frames or for none.
        """
        if self._stream is None:
            # WebM has one length for all frames, with which players stop at a wrong one where the rate varies.
            self._is_timed = time is not None and self._type == "video/mp4"
            self._first = time or 0
            self._stream = self._start(frame.shape[1], frame.shape[0])
        stream = self._stream
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")
        picture = picture.reformat(stream.width, stream.height, "yuv420p", dst_colorspace=_BT601)
        place = self._clock.place(time - self._first if self._is_timed and time is not None else None)
        picture.pts, picture.time_base = place, self._clock.unit
        self._times.append(float(place * self._clock.unit))
        self._container.mux(stream.encode(picture))

    def finish(self) -> EmbeddedVideo:
        """End the file; nothing can be written any more.

        Raises:
            VideoError: there was no frame.
        """
        if self._stream is None:
            raise VideoError("a report needs at least one frame of the video, and got none")
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return EmbeddedVideo(self._file.getvalue(), self._type, self.count, self._size, self._times)

    def _start(self, width: int, height: int) -> av.VideoStream:
        self._size = (width, height)
        stream = self._container.add_stream(self._encoder, rate=self._rate, options=self._options)
        assert isinstance(stream, av.VideoStream)
        scale = min(1, _LONGEST_SIDE / max(width, height))
        stream.width, stream.height = (max(2, 2 * round(side * scale / 2)) for side in (width, height))
        stream.pix_fmt = "yuv420p"
        # Players would guess others for large pictures.
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT601_TAG, _LIMITED_RANGE
        # To stop at a frame, a player decodes from the keyframe before.
        stream.codec_context.gop_size = max(1, round(self._rate))
        self._clock = OutputClock(self._rate, self._is_timed)
        if self._is_timed:
            stream.codec_context.time_base = self._clock.unit
        return stream


def _choose() -> tuple[str, str, str, dict[str, str]]:
    for choice in _FORMATS:
        if choice[0] in av.codecs_available:
            return choice
    names = ", ".join(choice[0] for choice in _FORMATS)
    raise VideoError(f"this FFmpeg has no encoder for browsers: expected one of {names}; install PyAV from its wheel")
