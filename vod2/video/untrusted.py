"""Videos of strangers, such as uploads: only containers that hold their frames themselves, and only so much of them."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from vod2.errors import VideoError
from vod2.video.reader import VideoReader
from vod2.video.sources import require_file, require_pixels

# FFmpeg also takes lists of files for videos (concat, HLS, DASH, SDP), and would read what a stranger's list names.
_CONTAINERS = {
    "mov": "MP4 and MOV",
    "matroska": "Matroska and WebM",
    "avi": "AVI",
    "mpegts": "MPEG-TS",
    "mpeg": "MPEG",
    "ogg": "Ogg",
    "asf": "WMV",
    "flv": "FLV",
    "mxf": "MXF",
    "mjpeg": "Motion JPEG",
    "jpeg_pipe": "Motion JPEG",  # whose images have a JFIF header
}
_OPTIONS = {"format_whitelist": ",".join(_CONTAINERS), "protocol_whitelist": "file", "enable_drefs": "0"}
# Their length is made up of their size.
_GUESSED_LENGTH = ("mpeg", "mpegts", "mjpeg", "jpeg_pipe")


class VideoLimits(NamedTuple):
    """What is read of a video at most.

    Args:
        frames: number of frames, lost ones included.
        seconds: from its start to its last frame.
        pixels: width times height of a frame.
    """

    frames: int = 9000
    seconds: float = 300.0
    pixels: int = 2**23  # a little more than 3840 x 2160


class UntrustedVideo(VideoReader):
    """A `VideoReader` of one file whose content nobody vouches for.

    Attributes:
        limits: those that it was given.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "upload"
        >>> _ = path.write_text("ffconcat version 1.0\\nfile another.mp4\\n")
        >>> try:
        ...     UntrustedVideo(path)
        ... except VideoError as error:
        ...     print("MP4" in str(error))
        True
    """

    def __init__(self, path: str | os.PathLike, limits: VideoLimits | None = None) -> None:
        """Open `path` and decode its first frame.

        Args:
            path: a file.
            limits: checked by what the file says of itself, and again as it is read.

        Raises:
            VideoError: it is no video in one of the common containers, has no frame, or exceeds a limit. Iteration
                raises it where more comes out than the file had said.
        """
        self.limits = limits or VideoLimits()
        container = common_container(path, self.limits.pixels)
        super().__init__(path, self.limits.pixels)
        if self.frame_count_hint is not None and container not in _GUESSED_LENGTH:
            self._require_within(self.frame_count_hint, self.frame_count_hint / self.fps)

    def __iter__(self) -> Iterator[np.ndarray]:
        for count, frame in enumerate(super().__iter__(), 1):
            self._require_within(count, self.time)
            yield frame

    def with_gaps(self) -> Iterator[np.ndarray | None]:
        """As of `VideoReader`; the None of lost frames count as frames."""
        for count, frame in enumerate(super().with_gaps(), 1):
            self._require_within(count, self.time)
            yield frame

    def _require_within(self, frames: int, seconds: Fraction | float) -> None:
        if frames > self.limits.frames:
            raise VideoError(f"{str(self.path)!r} has more than {self.limits.frames} frames: cut it, and try again")
        if float(seconds) > self.limits.seconds:
            raise VideoError(f"{str(self.path)!r} lasts more than {self.limits.seconds:g} s: cut it, and try again")


def common_container(path: str | os.PathLike, max_pixels: int) -> str:
    """FFmpeg's name of a file's container, which holds its frames itself, whatever the name of the file says.

    FFmpeg decides by a file's first bytes what it is, every time in the same way. So a file that has passed is not
    taken for a list of other files afterwards.

    Args:
        path: a file that nobody writes to any more.
        max_pixels: of a frame, as the header says.

    Raises:
        VideoError: it is another container, or none, or no regular file; or its frames are larger.
    """
    require_file(path)
    try:
        with av.open(str(Path(path).absolute()), options=_OPTIONS, metadata_errors="replace") as container:
            for stream in container.streams.video:
                if stream.codec_context is not None:
                    require_pixels(path, stream.codec_context.width, stream.codec_context.height, max_pixels)
            return container.format.name
    except (av.FFmpegError, OSError, ValueError) as error:
        names = ", ".join(dict.fromkeys(_CONTAINERS.values()))
        raise VideoError(
            f"{str(path)!r} cannot be read as a video: expected one of {names} that is not cut off or damaged"
        ) from error


def without_path(text: str, path: str | os.PathLike, name: str) -> str:
    """A message about a file, by the name that its owner knows it by, in place of its path.

    Example:
        >>> without_path("'/srv/7f/video' has no frame", "/srv/7f/video", "cat.mp4")
        "'cat.mp4' has no frame"
    """
    for known in (str(Path(path).absolute()), str(path)):
        text = text.replace(repr(known), repr(name)).replace(known, name)
    return text
