"""Video dataset dicts, and where the frames of their videos are."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vod2.d2 import DatasetFromList
from vod2.data.datasets.frame_annotations import AnnotationCache, FrameAnnotations
from vod2.errors import UserError


def as_video_dicts(dicts: Iterable[dict]) -> list[dict]:
    """Give Detectron2's dataset dicts the keys of a video where they lack them; those that have them stay as they are.

    A dict without `video_id` is a still image: a video of one frame, named after its file. Without `video_length`, a
    video ends with its last frame in `dicts`; numbers may have gaps (see `VideoIndex.path`).

    Raises:
        UserError: a dict with `video_id` has no `frame_index`, or one has no `height` and `width`.
    """
    completed = []
    lengths: dict[str, int] = {}
    for record in dicts:
        # The dicts may be the catalog's own.
        record = dict(record)
        if "video_id" not in record:
            record |= {"video_id": record["file_name"], "frame_index": 0, "video_length": 1}
        missing = [key for key in ("frame_index", "height", "width") if key not in record]
        if missing:
            raise UserError(
                f"{record.get('file_name', record.get('video_file'))}: its dataset dict has no "
                f"{' and no '.join(missing)}: add them where the dataset is registered"
            )
        video = record["video_id"]
        lengths[video] = max(lengths.get(video, 0), record["frame_index"] + 1)
        completed.append(record)
    for record in completed:
        record.setdefault("video_length", lengths[record["video_id"]])
    return completed


def frame_path(dataset_dict: dict, index: int) -> str | None:
    """The file of frame `index` of the video that `dataset_dict` is a frame of; None if the dict does not tell."""
    if index == dataset_dict["frame_index"]:
        return dataset_dict["file_name"]
    if "frame_template" in dataset_dict:
        return dataset_dict["frame_template"] % (index + dataset_dict["frame_offset"])
    return None


class VideoIndex:
    """Finds frames by video and number.

    Worker processes share its memory: the dicts are kept serialized in one array, and numbers in numpy arrays.

    Args:
        dicts: video dataset dicts (see `as_video_dicts`), in any order.
        readers: {dataset_name of dicts: reads the annotations of frames that have no dict}; without, nobody knows them.

    Attributes:
        items: `dicts` as a dataset, in the same order; an item is a fresh copy.

    Example:
        >>> from vod2.data import VideoIndex
        >>> template = {"frame_template": "fox/%06d.JPEG", "frame_offset": 0}
        >>> index = VideoIndex([{"file_name": "fox/000007.JPEG", "video_id": "fox", "frame_index": 7, **template}])
        >>> index.path("fox", 8), index.record("fox", 8)
        ('fox/000008.JPEG', None)
    """

    def __init__(self, dicts: Sequence[dict], readers: Mapping[str, FrameAnnotations] | None = None) -> None:
        self.items = DatasetFromList(list(dicts), copy=True)
        self._unlisted = {name: AnnotationCache(reader) for name, reader in (readers or {}).items()}
        self._video_numbers: dict[str, int] = {}
        numbers = [self._video_numbers.setdefault(d["video_id"], len(self._video_numbers)) for d in dicts]
        video = np.array(numbers, dtype=np.int64)
        frames = np.array([d["frame_index"] for d in dicts], dtype=np.int64)
        self._positions = np.lexsort((frames, video))  # by video, then by frame
        self._frames = frames[self._positions]
        self._starts = np.searchsorted(video[self._positions], np.arange(len(self._video_numbers) + 1))

    def record(self, video_id: str, index: int) -> dict | None:
        """The dict of frame `index`, or None if the dataset does not have it."""
        record = self._nearest(video_id, index)
        return record if record["frame_index"] == index else None

    def annotations(self, video_id: str, index: int) -> list[dict] | None:
        """The annotations of what stands for frame `index`, see `path`; None where they are not known.

        Those of a frame without a dict are read from the dataset's files, if there is a reader, the latest ones kept.

        Raises:
            KeyError: the dataset does not have the video.
            UserError: the annotations are broken; names the file.
        """
        nearest = self._nearest(video_id, index)
        # Without a template an unlisted frame has the pixels of the nearest listed one, and so its objects.
        if nearest["frame_index"] == index or not {"frame_template", "video_file"} & nearest.keys():
            return nearest.get("annotations")
        unlisted = self._unlisted.get(nearest.get("dataset_name", ""))
        return None if unlisted is None else unlisted(video_id, index)

    def frames(self, video_id: str) -> np.ndarray:
        """(n,) int64 numbers of the frames of a video that the dataset lists, ascending.

        Raises:
            KeyError: the dataset does not have the video.
        """
        return self._frames[self._range(video_id)]

    def path(self, video_id: str, index: int) -> str:
        """The file of frame `index`.

        In a dataset without `frame_template`, a frame without a dict is replaced by the nearest that has one.

        Raises:
            KeyError: the dataset does not have the video.
        """
        nearest = self._nearest(video_id, index)
        # A dict without a template knows no other file than its own.
        return frame_path(nearest, index) or nearest["file_name"]

    def _range(self, video_id: str) -> slice:
        if video_id not in self._video_numbers:
            raise KeyError(f"video {video_id!r} is not in the dataset, which has {len(self._video_numbers)} videos")
        number = self._video_numbers[video_id]
        return slice(self._starts[number], self._starts[number + 1])

    def _nearest(self, video_id: str, index: int) -> dict:
        span = self._range(video_id)
        nearest = span.start + int(np.abs(self._frames[span] - index).argmin())
        return self.items[int(self._positions[nearest])]
