"""What happens when a frame of a dataset cannot be read: DATASETS.ON_BAD_FRAME.

A frame is bad if reading it raises a UserError: its file is missing, truncated, of another size than annotated, or a
frame of a video file that cannot be decoded. `tools/check_dataset.py` finds them before training does.
"""

import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from vod2.data.datasets.video_index import VideoIndex
from vod2.errors import UserError
from vod2.package_files import command_line

logger = logging.getLogger(__name__)

_SHOWN = 20  # bad frames that an error lists

ReadFrame = Callable[[dict, int], np.ndarray]
"""(dict of a frame, frame number) -> image of that frame of the same video; UserError if it cannot be read."""


class BadFrames:
    """Stands another frame in for one that cannot be read, counts such frames, and stops when they are too many.

    Training. Another frame of the same video takes the place of a bad one, and has its own number and annotations: the
    nearest that can be read; of two equally near ones the clip's generator draws. For a bad key frame, only frames that
    the dataset lists count, and only those with objects if it had objects. If its video has none (a still image never
    does), the clip is another one of the dataset, drawn from the same generator.

    Inference. A stream needs every frame, so the nearest readable image of the video is repeated under the number of
    the bad one; of two equally near ones the earlier. Detections in that frame are those of the repeated image, and it
    is evaluated like any other.

    Each bad file, image or video, is counted and logged once, however often it is met. The count is that of one mapper,
    and every worker process of every loader has its own: with 4 workers, up to 4 times `limit` files may be skipped.

    Args:
        policy: "error" lets the UserError of the first bad frame through; "skip" does the above.
        limit: bad files to put up with; one more raises a UserError that lists them.
        index: the dataset, to find stand-ins for key frames.

    Example:
        >>> from vod2.data.clips.bad_frames import BadFrames
        >>> def read(clip, index):
        ...     if index == 3:
        ...         raise UserError("000003.JPEG: the image cannot be read: get the file again")
        ...     return np.full((2, 2, 3), index, np.uint8)
        >>> clip = {"video_id": "fox", "frame_index": 3, "video_length": 9}
        >>> number, image = BadFrames("skip", limit=10).read(read, clip, 3)
        >>> number, int(image.max())
        (2, 2)
    """

    def __init__(self, policy: str = "error", limit: int = 0, index: VideoIndex | None = None) -> None:
        if policy not in ("error", "skip"):
            raise UserError(f"DATASETS.ON_BAD_FRAME is {policy!r}, expected 'error' or 'skip'")
        self.skip = policy == "skip"
        self.limit = limit
        self.index = index
        self._frames: set[tuple[str, int]] = set()  # (video, number) of the bad ones
        # Bad file -> what is wrong with it. Without a template, several numbers may stand for one image.
        self._errors: dict[str, str] = {}

    def __len__(self) -> int:
        """How many bad files were found so far."""
        return len(self._errors)

    def read(
        self, read: ReadFrame, clip: dict, index: int, rng: np.random.Generator | None = None
    ) -> tuple[int, np.ndarray]:
        """Frame `index` of the clip's video, or the nearest one that can be read.

        Args:
            read: reads one frame.
            clip: video dataset dict.
            index: number of the frame.
            rng: draws between two equally near frames; None takes the earlier.

        Returns:
            Number and image of the frame that was read.

        Raises:
            UserError: the frame is bad and the policy "error", the video has no readable frame, or the limit is passed.
        """
        for candidate in self._nearest_first(index, self._frames_of(clip), rng):
            image = self._read_or_none(read, clip, candidate, wanted=candidate == index)
            if image is not None:
                return candidate, image
        raise UserError(f"no frame of video {clip['video_id']!r} can be read: take it out of the list. {self._list()}")

    def read_key(self, read: ReadFrame, clip: dict, rng: np.random.Generator) -> tuple[dict, np.ndarray]:
        """The key frame of a training clip, or the one that takes its place.

        Args:
            read: reads one frame.
            clip: video dataset dict of the key frame.
            rng: the generator of the clip; nothing is drawn from it if the frame can be read.

        Returns:
            The dict of the frame that was read (`clip` itself, or another one of the dataset), and its image.

        Raises:
            UserError: as in `read`, or nothing of the dataset can be read.
        """
        image = self._read_or_none(read, clip, clip["frame_index"], wanted=True)
        if image is not None:
            return clip, image
        for record in self._other_keys(clip, rng):
            image = self._read_or_none(read, record, record["frame_index"])
            if image is not None:
                return record, image
        raise UserError(f"nothing of the dataset can be read in place of its bad frames. {self._list()}")

    def _read_or_none(self, read: ReadFrame, clip: dict, index: int, wanted: bool = False) -> np.ndarray | None:
        """The image, or None if it is bad. Frames known to be bad are read again only if they are `wanted`."""
        frame = (clip["video_id"], index)
        if frame in self._frames and not wanted:
            return None
        try:
            return read(clip, index)
        except UserError as error:
            if not self.skip:
                raise
            self._frames.add(frame)
            # The error of an image names its file.
            self._count(str(clip.get("video_file", error)), error)
            return None

    def _count(self, file: str, error: UserError) -> None:
        if file not in self._errors:
            self._errors[file] = str(error)
            logger.warning("Skipping bad frame %d of at most %d: %s", len(self), self.limit, error)
        if len(self) > self.limit:
            raise UserError(
                f"{len(self)} frames cannot be read, more than DATASETS.MAX_BAD_FRAMES = {self.limit}: check the "
                f"dataset with {command_line('check')}, fix it or raise the limit. {self._list()}"
            ) from error

    def _frames_of(self, clip: dict) -> Iterable[int]:
        """Numbers of the frames of the clip's video that have a file of their own."""
        # Without a template, a number that is not listed would be read as the image of the nearest listed frame.
        if not {"frame_template", "video_file"} & clip.keys() and self.index is not None:
            return self.index.frames(clip["video_id"]).tolist()
        return range(clip["video_length"])

    def _other_keys(self, clip: dict, rng: np.random.Generator) -> Iterator[dict]:
        if self.index is None:
            return
        frames = self.index.frames(clip["video_id"]).tolist()
        for number in self._nearest_first(clip["frame_index"], frames, rng):
            record = self.index.record(clip["video_id"], number)
            if record is not None and _can_replace(record, clip):
                yield record
        # The whole video is bad: go on with any other.
        for position in rng.permutation(len(self.index.items)):
            record = self.index.items[int(position)]
            if _can_replace(record, clip):
                yield record

    @staticmethod
    def _nearest_first(index: int, frames: Iterable[int], rng: np.random.Generator | None) -> Iterator[int]:
        yield index
        others = np.array([frame for frame in frames if frame != index], dtype=np.int64)
        # One draw says on which side of the bad frame to look first, at every distance.
        later_first = rng is not None and bool(rng.integers(2))
        order = np.lexsort((-others if later_first else others, np.abs(others - index)))
        yield from others[order].tolist()

    def _list(self) -> str:
        more = len(self) - _SHOWN
        shown = list(self._errors.values())[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        return "Bad frames: " + "; ".join(shown)


def _can_replace(record: dict, clip: dict) -> bool:
    """Whether a clip with objects stays one with objects."""
    return not clip.get("annotations") or bool(record.get("annotations"))
