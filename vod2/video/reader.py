"""Reading frames from a video file or from a folder of images."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from vod2.errors import VideoError
from vod2.video.decoding import Gap, State, TolerantDecoder, VideoStatus
from vod2.video.seeking import FrameCursor, frame_rate, open_video, read_table
from vod2.video.sources import MAX_PIXELS, require_file, require_image_pixels

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# A folder of images does not say how fast it plays.
FOLDER_FPS = Fraction(25)


class VideoReader:
    """The frames of a video file (whatever FFmpeg decodes) or of a folder of images, as (H, W, 3) uint8 BGR arrays.

    It can be iterated any number of times, each time from the first frame; `read` gets frames by number. Images of a
    folder come in natural order (frame 9 before frame 10). A rotation that a phone has stored is applied.

    Iteration goes on after damage: it gives all frames that can be read, once each and whatever their distance in time,
    and `status` and `gaps` tell what is missing. `read` is strict, since its numbers count missing frames too.

    Attributes:
        fps: frames per second, a Fraction; 25 for a folder. Of a variable rate it is the mean.
        time: seconds from the start of the video to the frame that iteration gave last, a Fraction that never falls.
        size: (width, height) in pixels.
        frame_count_hint: how many frames there are as far as the file says, None where it does not say; decoding it may
            give a few more or less.
        status: how the latest iteration went, a `VideoStatus`; None until one has come to its end.
        gaps: where frames were lost in the latest iteration so far, a list of `Gap`.

    Example:
        >>> import tempfile, cv2
        >>> folder = tempfile.mkdtemp()
        >>> for name in ("0.png", "1.png"):
        ...     _ = cv2.imwrite(f"{folder}/{name}", np.zeros((24, 32, 3), np.uint8))
        >>> reader = VideoReader(folder)
        >>> reader.size, [frame.shape for frame in reader]
        ((32, 24), [(24, 32, 3), (24, 32, 3)])
        >>> list(reader.read([1])), reader.frame_count()
        ([1], 2)
        >>> reader.status.state, reader.gaps
        ('ok', [])
    """

    def __init__(self, path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> None:
        """Open `path` and decode its first frame.

        Args:
            path: a regular file or a folder; a pipe or an address is a stream for `Camera`.
            max_pixels: the most pixels (width times height) of a frame; one that claims more is not decoded.

        Raises:
            VideoError: there is no such file or folder, or it holds no frame that can be read. Iteration raises it
                where a later frame has another size.
        """
        require_file(path)
        self.path, self.max_pixels = Path(path), max_pixels
        self._images = images_in(self.path) if self.path.is_dir() else None
        self._cursor: FrameCursor | None = None
        self._length: int | None = None
        if self._images is None:
            if self.path.suffix.lower() in IMAGE_SUFFIXES:  # a video of one frame; FFmpeg does not tell its size
                require_image_pixels(self.path, max_pixels)
            container, stream = open_video(self.path, max_pixels)
            with container:
                self.fps = frame_rate(self.path, container, stream, max_pixels)
                self.frame_count_hint = stream.frames or _frames_by_duration(container, self.fps)
        else:
            self.fps, self.frame_count_hint = FOLDER_FPS, len(self._images)
        self._size: tuple[int, int] | None = None
        self.status: VideoStatus | None = None
        self.gaps: list[Gap] = []
        self.time = Fraction(0)
        first = next(iter(self), None)
        if first is None:
            raise VideoError(self._ended().reason)
        self._size, self.status, self.gaps = (first.shape[1], first.shape[0]), None, []

    @property
    def size(self) -> tuple[int, int]:
        assert self._size is not None  # the constructor has read the first frame
        return self._size

    def _ended(self) -> VideoStatus:
        """What iteration has come to, when it has ended."""
        assert self.status is not None
        return self.status

    def __iter__(self) -> Iterator[np.ndarray]:
        frames = self._decode() if self._images is None else self._read_images(self._images)
        for index, frame in enumerate(frames):
            self._check_size(index, frame)
            yield frame

    def with_gaps(self) -> Iterator[np.ndarray | None]:
        """As iteration, with None for each frame that was lost, so that frames have the same numbers as in `read`."""
        known = 0
        for frame in self:
            yield from itertools.repeat(
                None, sum(gap.missing for gap in self.gaps[known:])
            )  # a damaged file has any number
            known = len(self.gaps)
            yield frame

    def frame_count(self) -> int:
        """The number of frames, exactly: all packets of a file are read, but not decoded unless there is no other way.

        Raises:
            VideoError: the file cannot be read.
        """
        if self._images is not None:
            return len(self._images)
        if self._length is None:
            self._open_cursor()
        if self._length is None:
            self._length = sum(1 for _ in self._decode())
        return self._length

    def has_constant_rate(self) -> bool:
        """Whether frame k is shown k / fps after the first, within a tenth of a frame: then the times need not be kept.

        True as well where the file does not tell when its frames are shown. Reads all packets, and decodes none.

        Raises:
            VideoError: the file cannot be read.
        """
        return self._images is not None or self._open_cursor().is_regular(self.fps)

    def read(self, indices: Iterable[int]) -> dict[int, np.ndarray]:
        """Frames by number, of an intact video the same as iteration gives.

        A file is decoded from the keyframe before a frame, or on from the frame that was read last: in one call no
        frame is decoded twice. It stays open in between; `close` lets go of it.

        Args:
            indices: numbers of frames from 0 in presentation order, in any order.

        Returns:
            {number: (H, W, 3) uint8 BGR}, ascending.

        Raises:
            VideoError: there is no such frame, it cannot be decoded, or it has another size than the first.
        """
        images = {}
        for index in sorted(set(indices)):
            images[index] = self._read_one(index)
            self._check_size(index, images[index])
        return images

    def close(self) -> None:
        """Let go of the file that `read` keeps open. The reader can still be used."""
        if self._cursor is not None:
            self._cursor.close()

    def _read_one(self, index: int) -> np.ndarray:
        cursor = self._open_cursor() if self._images is None else None
        known = self._length if self._images is None else len(self._images)
        if index < 0 or (known is not None and index >= known):
            raise VideoError(f"there is no frame {index} in {str(self.path)!r}, which has {self.frame_count()} frames")
        if self._images is not None:
            return _read_image(self._images[index], self.max_pixels)
        frame = None if cursor is None else cursor.frame(index)
        if frame is None:
            raise VideoError(
                f"frame {index} of {str(self.path)!r} is missing or cannot be decoded: the file may be damaged or end "
                "before it"
            )
        return _to_image(frame)

    def _open_cursor(self) -> FrameCursor:
        if self._cursor is None:
            table = read_table(self.path, self.max_pixels)
            self._length = self._length if table is None else len(table.times)
            self._cursor = FrameCursor(self.path, table, self.max_pixels)
        return self._cursor

    def _check_size(self, index: int, frame: np.ndarray) -> None:
        size = (frame.shape[1], frame.shape[0])
        if self._size is not None and size != self._size:
            raise VideoError(
                f"frame {index} of {str(self.path)!r} is {size[0]}x{size[1]} pixels, but the first one is "
                f"{self._size[0]}x{self._size[1]}: all frames of a video must have one size"
            )

    def _decode(self) -> Iterator[np.ndarray]:
        decoder = TolerantDecoder(self.path, self.fps, self.max_pixels)
        self.gaps = decoder.gaps
        for frame in decoder:
            self.time = decoder.time
            yield _to_image(frame)
        self.status = decoder.status()

    def _read_images(self, images: list[Path]) -> Iterator[np.ndarray]:
        self.gaps = gaps = []
        errors: list[VideoError] = []
        lost = 0
        for number, path in enumerate(images):
            try:
                image = _read_image(path, self.max_pixels)
            except VideoError as error:
                errors.append(error)
                lost += 1
                continue
            if lost:
                gaps.append(Gap(number - len(errors), lost))
            lost = 0
            self.time = number / self.fps
            yield image
        self.status = _folder_status(self.path, len(images), errors)


def _to_image(frame: av.VideoFrame) -> np.ndarray:
    # Threads of the conversion live as long as the decoder, and a forked process would wait for them forever.
    image = frame.to_ndarray(format="bgr24", threads=1)
    # FFmpeg and NumPy both count a rotation counterclockwise.
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90))) if frame.rotation else image


def _frames_by_duration(container: av.container.InputContainer, fps: Fraction) -> int | None:
    """The number of frames in a container that does not count them; FFmpeg's durations are in microseconds."""
    return None if container.duration is None else round(container.duration * fps / 1_000_000)


def _folder_status(folder: Path, count: int, errors: list[VideoError]) -> VideoStatus:
    read = count - len(errors)
    if not count:
        reason = f"{str(folder)!r} has no frames: expected a video file or a folder of images"
    else:
        more = f", and {len(errors) - 1} more of {count} images" if len(errors) > 1 else ""
        reason = f"{errors[0]}{more}" if errors else ""
    state: State = "unreadable" if not read else "partial" if errors else "ok"
    return VideoStatus(state, read, count, len(errors), reason)


def images_in(folder: Path) -> list[Path]:
    """The images of a folder in natural order: digits compare as numbers. Hidden files, as ._1.png, are none of it."""
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    images = [path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(images, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> list[int | str]:
    """Sorts names as people do: "frame 9" before "frame 10".

    Example:
        >>> sorted(["a10", "a9", "a"], key=natural_key)
        ['a', 'a9', 'a10']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def _read_image(path: Path, max_pixels: int) -> np.ndarray:
    require_image_pixels(path, max_pixels)
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error as error:  # it has a limit of its own
        raise VideoError(f"{str(path)!r} cannot be read as an image ({error.err}): get the file again") from error
    if image is None:
        raise VideoError(f"{str(path)!r} cannot be read as an image: the file may be damaged")
    return image


def video_status(path: str | os.PathLike) -> VideoStatus:
    """Read a video to its end and tell how that went; a file that cannot be opened is unreadable, not an error.

    Example:
        >>> video_status("absent.mp4").state
        'unreadable'
    """
    try:
        reader = VideoReader(path)
        for _ in reader:
            pass
    except VideoError as error:
        return VideoStatus("unreadable", 0, None, 0, str(error))
    assert reader.status is not None  # iteration has ended
    return reader.status
