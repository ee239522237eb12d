"""Writing frames to a video file."""

import logging
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from vod2.atomic import temporary_path
from vod2.errors import VideoError

logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov", ".mkv", ".avi")


class VideoWriter:
    """A context manager that encodes frames as H.264, or as MPEG-4 where FFmpeg was built without an H.264 encoder.

    The file appears under its name when the block ends. If the block raises or is interrupted, what has been written
    so far is kept beside it, playable, as <name>.partial<suffix>. Sides of an odd length, which video cannot store,
    are lengthened by one pixel that repeats the edge.

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
            fps: frames per second, above 0.
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

    def __enter__(self) -> "VideoWriter":
        self._temporary = temporary_path(self.path)
        self._count = 0
        try:
            self._container = av.open(str(self._temporary), "w")
            self._stream = self._add_stream()
        except BaseException:
            self._temporary.unlink()
            raise
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append a frame (H, W, 3) uint8 BGR.

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
        picture.pts, picture.time_base = self._count, 1 / self.fps
        self._container.mux(self._stream.encode(picture))
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._container:
                if self._count:
                    self._container.mux(self._stream.encode(None))
            if self._count and kind is None:
                os.replace(self._temporary, self.path)
            elif self._count:
                partial = self.path.with_suffix(f".partial{self.path.suffix}")
                os.replace(self._temporary, partial)
                logger.warning("Stopped early: the first %d frames are in %s", self._count, partial)
        finally:
            self._temporary.unlink(missing_ok=True)
        if kind is None and not self._count:
            raise VideoError(f"no frame was written, so there is no video {str(self.path)!r}")

    def _add_stream(self) -> av.VideoStream:
        width, height = (side + side % 2 for side in self.size)
        if "libx264" in av.codecs_available:
            stream = self._container.add_stream("libx264", rate=self.fps, options={"crf": "20"})
        else:
            stream = self._container.add_stream("mpeg4", rate=self.fps)
            stream.bit_rate = int(0.25 * width * height * self.fps)  # bits a pixel; the default is a blur
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        return stream
