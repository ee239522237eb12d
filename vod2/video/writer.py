"""Writing frames to a video file."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from vod2.atomic import move_into_place, temporary_path
from vod2.errors import VideoError
from vod2.video.clock import OutputClock

logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov", ".mkv", ".avi")


class VideoWriter:
    """A context manager that encodes frames as H.264, or as MPEG-4 where FFmpeg was built without an H.264 encoder.

    The file appears under its name when the block ends. If the block raises or is interrupted, what has been written
    so far is kept beside it, playable, as <name>.partial<suffix>. Sides of an odd length, which video cannot store,
    are lengthened by one pixel that repeats the edge.

    Frames that are written with their times are shown at these times: a variable rate and pauses stay. AVI has one rate
    only; there a frame goes to the nearest place that is free, and a warning says so where that is more than a frame
    off.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "black.mp4"
        >>> with VideoWriter(path, fps=25, size=(64, 48)) as video:
        ...     for _ in range(3):
        ...         video.write(np.zeros((48, 64, 3), np.uint8))
        >>> path.exists()
        True
    """

    def __init__(self, path: str | os.PathLike, fps: Fraction | float, size: tuple[int, int]) -> None:
        """
        Args:
            path: its suffix is one of `SUFFIXES`.
            fps: frames per second, above 0; of a variable rate, the mean.
            size: (width, height) of the frames in pixels.

        Raises:
            VideoError: another suffix.
            ValueError: fps is not positive.
        """
        self.path = Path(path)
        if self.path.suffix.lower() not in SUFFIXES:
            raise VideoError(f"{str(path)!r} is no name for a video: expected one that ends in {', '.join(SUFFIXES)}")
        # MPEG-4 keeps the rate as a fraction of two 16-bit numbers; 1001 is the denominator of 29.97.
        self.fps = Fraction(fps).limit_denominator(1001)
        if self.fps <= 0:
            raise ValueError(f"fps={fps}: expected a positive number of frames per second")
        self.size = size
        self._has_one_rate = self.path.suffix.lower() == ".avi"

    @property
    def partial_path(self) -> Path:
        """Where an interrupted video is kept."""
        return self.path.with_suffix(f".partial{self.path.suffix}")

    def __enter__(self) -> "VideoWriter":
        self._temporary = temporary_path(self.path)
        self._count = 0
        self._warned = False
        try:
            self._container = av.open(str(self._temporary), "w")
            self._stream: av.VideoStream | None = None  # until the first frame tells whether there are times
        except BaseException:
            self._temporary.unlink()
            raise
        return self

    def write(self, frame: np.ndarray, time: Fraction | float | None = None) -> None:
        """Append a frame.

        Args:
            frame: (H, W, 3) uint8 BGR.
            time: seconds from the start of the video, from 0 and above that of the frame before (if it is not, the
                frame is shown as soon after that as can be); None is 1 / fps after the frame before. Give it for all
                frames or for none.

        Raises:
            ValueError: the frame has another size or type.
        """
        width, height = self.size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"VideoWriter got a frame of {frame.shape} {frame.dtype}, expected {(height, width, 3)} uint8"
            )
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(padded, format="bgr24")
        stream = self._stream or self._add_stream(is_timed=time is not None)
        picture.pts, picture.time_base = self._clock.place(time), self._clock.unit
        self._warn_if_late()
        with self._naming_the_video():
            self._container.mux(stream.encode(picture))
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                if self._count:
                    move_into_place(self._temporary, self.path)
            elif self._count:
                self._keep_partial()
            else:
                self._container.close()
        finally:
            self._temporary.unlink(missing_ok=True)
        if kind is None and not self._count:
            raise VideoError(f"no frame was written, so there is no video {str(self.path)!r}")

    def _finish(self) -> None:
        """Write what the encoder still holds, and what a container has at its end."""
        with self._naming_the_video(), self._container:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))

    def _keep_partial(self) -> None:
        try:
            self._finish()
        except OSError as error:  # such as a full disk, which may be why the block has raised
            logger.warning("Stopped early: nothing of %s is kept (%s)", self.path, error.strerror)
            return
        move_into_place(self._temporary, self.partial_path)
        logger.warning("Stopped early: the first %d frames are in %s", self._count, self.partial_path)

    @contextmanager
    def _naming_the_video(self) -> Iterator[None]:
        """FFmpeg's errors name the temporary file; here, that of the user."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _warn_if_late(self) -> None:
        if self._has_one_rate and self._clock.delay > 1 / self.fps and not self._warned:
            self._warned = True
            logger.warning(
                "%s: frame %d is shown %.2f s late, as AVI has a constant rate: write .mp4 or .mkv to keep the times",
                self.path,
                self._count,
                self._clock.delay,
            )

    def _add_stream(self, is_timed: bool) -> av.VideoStream:
        width, height = (side + side % 2 for side in self.size)
        if "libx264" in av.codecs_available:
            options = {"crf": "20"}
            if is_timed or self._has_one_rate:
                # With B-frames a variable rate makes files that say a wrong length, and AVI tells wrong times.
                options["bf"] = "0"
            stream = self._container.add_stream("libx264", rate=self.fps, options=options)
        else:
            stream = self._container.add_stream("mpeg4", rate=self.fps)
            stream.bit_rate = int(0.25 * width * height * self.fps)  # bits a pixel; the default is a blur
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        self._clock = OutputClock(self.fps, is_timed, self._has_one_rate)
        if is_timed and not self._has_one_rate:
            stream.codec_context.time_base = self._clock.unit
        self._stream = stream
        return stream
