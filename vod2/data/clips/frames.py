"""From the dict of a frame to pixels: the one place that knows whether they lie in an image or in a video file."""

import functools
import os
from collections import OrderedDict
from collections.abc import Iterable

import cv2
import numpy as np

from vod2.data.damage import damage_frame
from vod2.data.datasets.images import read_image
from vod2.data.datasets.video_index import VideoIndex, frame_path
from vod2.errors import UserError, VideoError
from vod2.video import VideoReader

# What is remembered of a file are the times of its frames: some ten bytes a frame.
_REMEMBERED_FILES = 1024
# Of one frame of each file that is kept open: eight of 1920 x 1080. A decoder may hold sixteen frames.
_OPEN_PIXELS = 2**24
# However small their frames are: a process may open 256 files on some systems.
_OPEN_FILES = 64


def read_frames(
    record: dict, indices: Iterable[int], index: VideoIndex | None = None, format: str = "BGR"
) -> dict[int, np.ndarray]:
    """Frames of the video that `record` is a frame of.

    They come from `video_file`, if the dict has it, by their exact number; or else from `file_name` and
    `frame_template`, or where there is no template, from the dict of the nearest frame that the dataset has. Of a video
    file no frame is decoded twice, and its decoder stays where it is for a next call that goes on from there.

    Where the dict has `damage` (see `vod2.data.datasets.damaged`), frames are damaged as it says.

    Args:
        record: video dataset dict, with `height` and `width`; for damage also `video_length`.
        indices: numbers of frames, in any order.
        index: finds the other frames of a dataset without `frame_template`.
        format: of the channels, such as "BGR".

    Returns:
        {number: (h, w, 3) uint8 in original pixels}, ascending; (h, w, 1) for "L".

    Raises:
        UserError: an image is missing, broken, or not of the size that the dict says; names the file.
        VideoError: the same of a frame of a video file; names the file and the number.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> _ = cv2.imwrite(f"{folder}/000003.png", np.zeros((4, 6, 3), np.uint8))
        >>> record = {"file_name": f"{folder}/000003.png", "video_id": "v", "frame_index": 3, "height": 4, "width": 6}
        >>> {number: image.shape for number, image in read_frames(record, [3]).items()}
        {3: (4, 6, 3)}
    """
    read = _from_file if "video_file" in record else _from_image
    # Ascending, so that a video file is decoded forwards and once.
    frames = {number: read(record, number, index, format) for number in sorted(set(indices))}
    if record.get("damage") is None:
        return frames
    return {number: _apply_damage(image, record, number, format) for number, image in frames.items()}


class ClipReader:
    """Reads the frames of a clip one by one, in any order, though a video file gives them in one pass.

    Args:
        record: video dataset dict of the clip's key frame.
        indices: all frames that the clip needs. Those of a video file are read at once and kept.
        index, format: as in `read_frames`.
    """

    def __init__(
        self, record: dict, indices: Iterable[int], index: VideoIndex | None = None, format: str = "BGR"
    ) -> None:
        self._video = record["video_id"]
        self._index, self._format = index, format
        self._frames: dict[int, np.ndarray | UserError] = {}
        if "video_file" in record:
            # One at a time: a frame that cannot be decoded leaves the others alone, and the decoder goes on from there.
            for number in sorted(set(indices)):
                try:
                    self._frames |= read_frames(record, [number], index, format)
                except UserError as error:
                    # Raised when the frame is asked for: only then is it known whether another may stand in for it.
                    self._frames[number] = error

    def __call__(self, record: dict, number: int) -> np.ndarray:
        """Frame `number` of the video of `record`, which may be another one; as `read_frames`, also in its errors."""
        if record["video_id"] != self._video or number not in self._frames:
            return read_frames(record, [number], self._index, self._format)[number]
        frame = self._frames[number]
        if isinstance(frame, UserError):
            raise frame
        return frame


def _from_image(record: dict, number: int, index: VideoIndex | None, format: str) -> np.ndarray:
    path = frame_path(record, number)
    if path is None:
        if index is None:
            raise ValueError(
                f"frame {number} of video {record['video_id']!r}: its dicts have no frame_template, so "
                "index=VideoIndex(dicts) is needed to find it"
            )
        path = index.path(record["video_id"], number)
    try:
        image = read_image(path, format)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image, though its video has it: complete the dataset") from error
    except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for broken files, depending on where
        raise UserError(f"{path}: the image cannot be read ({error}): get the file again") from error
    if _size(image) != (record["width"], record["height"]):
        raise UserError(f"{path}: {_mismatch(image, record)}")
    return image


def _from_file(record: dict, number: int, index: VideoIndex | None, format: str) -> np.ndarray:
    image = _reader(record["video_file"]).read([number])[number]
    if _size(image) != (record["width"], record["height"]):
        raise VideoError(f"{record['video_file']}, frame {number}: {_mismatch(image, record)}")
    if format == "BGR":
        return image
    if format == "RGB":
        return image[..., ::-1]
    if format == "L":
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
    raise UserError(f"INPUT.FORMAT is {format!r}, expected 'BGR', 'RGB' or 'L' for frames of video files")


def _apply_damage(image: np.ndarray, record: dict, number: int, format: str) -> np.ndarray:
    """The image after the damage, which works on BGR or one channel: it is the same whatever the format."""
    # Reversing the channels turns RGB into BGR and back; one channel stays as it is.
    order = slice(None, None, -1 if format == "RGB" else 1)
    image = np.ascontiguousarray(image[..., order])
    return damage_frame(image, record["damage"], record["video_id"], record["video_length"], number)[..., order]


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _mismatch(image: np.ndarray, record: dict) -> str:
    width, height = _size(image)
    return (
        f"the image has {width} x {height} pixels, its annotation says {record['width']} x {record['height']}: fix "
        "the one that is wrong"
    )


class _OpenReaders:
    """Readers that keep their files open, those used last; a loader goes through thousands of files.

    Opening a file takes longer than decoding a frame, and a decoder holds several frames, so their pixels are bounded.
    """

    def __init__(self, most_pixels: int = _OPEN_PIXELS, most_files: int = _OPEN_FILES) -> None:
        self._most_pixels, self._most_files = most_pixels, most_files
        self._readers: OrderedDict[VideoReader, int] = OrderedDict()  # pixels of a frame; the last one used last

    def use(self, reader: VideoReader) -> None:
        """Keep a reader open, and close those that there is no room for beside it."""
        width, height = reader.size
        self._readers[reader] = width * height
        self._readers.move_to_end(reader)
        while len(self._readers) > 1 and not self._have_room():
            closed, _ = self._readers.popitem(last=False)
            closed.close()

    def _have_room(self) -> bool:
        return len(self._readers) <= self._most_files and sum(self._readers.values()) <= self._most_pixels


_open_readers = _OpenReaders()


def _reader(path: str | os.PathLike) -> VideoReader:
    """The reader of a video file, which stays open until others have taken its room."""
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError as error:
        raise VideoError(f"there is no video {str(path)!r} ({error.strerror}): complete the dataset") from error
    reader = _cached_reader(os.fspath(path), changed)
    _open_readers.use(reader)
    return reader


# The time of change is part of the key, so a file that was replaced is read anew.
@functools.lru_cache(_REMEMBERED_FILES)
def _cached_reader(path: str, changed: int) -> VideoReader:
    return VideoReader(path)
