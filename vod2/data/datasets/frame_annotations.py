"""Annotations of frames that a dataset's list leaves out, read when a clip needs them."""

import pickle
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

CACHE_BYTES = 64 * 2**20
"""What one `AnnotationCache` holds at most, unless a single part is larger."""

_ENTRY_BYTES = 200  # of a frame beside its annotations: key, objects, places in two dictionaries


class FrameAnnotations(ABC):
    """Reads annotations with the parser of a dataset. Subclasses are small, can be pickled and compared.

    A dataset has one as `frame_annotations` of its metadata; datasets that are derived from it take it over.
    """

    @abstractmethod
    def part(self, video_id: str, index: int) -> Hashable:
        """Names what is read at once to know frame `index`: that frame, its video, or the whole dataset."""

    @abstractmethod
    def read(self, part: Any) -> Iterable[dict]:
        """Dicts with video_id, frame_index and annotations of the frames in a part; none of a frame without a file.

        Raises:
            UserError: a file is broken; names it.
        """


@dataclass(frozen=True)
class LoadedAnnotations(FrameAnnotations):
    """What the loader of a dataset returns when it is given no list.

    Args:
        load: a function at the top of its module, which returns video dataset dicts or a `VideoDataset`.
        arguments: of `load`.
        videos: the argument of `load` that takes a list of videos, if it can read one alone; else all are read at once.

    Example:
        >>> from vod2.data.datasets import load_uavdt
        >>> reader = LoadedAnnotations(load_uavdt, {"root": "datasets/UAVDT", "split": "train"}, videos="sequences")
        >>> reader.part("M0101", 7)
        'M0101'
    """

    load: Callable
    # A dict has no hash; readers with other arguments are still unequal.
    arguments: dict = field(hash=False)
    videos: str | None = None

    def part(self, video_id: str, index: int) -> str | None:
        return video_id if self.videos else None

    def read(self, part: Any) -> Iterable[dict]:
        # A list of one video, where the loader can read one alone.
        loaded = self.load(**self.arguments, **({self.videos: [part]} if self.videos else {}))
        return loaded.dicts if hasattr(loaded, "dicts") else loaded


class AnnotationCache:
    """The annotations of any frame, by (video, number). Parts that were asked for last are kept, up to `max_bytes`.

    Each process has its own; what is returned does not depend on what was kept.

    Args:
        reader: reads what is not kept.
        max_bytes: of the kept annotations as they are stored. The latest part is kept, however large.

    Attributes:
        stored_bytes: how much is kept.

    Example:
        >>> from vod2.data.datasets.frame_annotations import AnnotationCache, LoadedAnnotations
        >>> def load():
        ...     return [{"video_id": "fox", "frame_index": 0, "annotations": []}]
        >>> cache = AnnotationCache(LoadedAnnotations(load, {}))
        >>> cache("fox", 0), cache("fox", 1)
        ([], None)
    """

    def __init__(self, reader: FrameAnnotations, max_bytes: int = CACHE_BYTES) -> None:
        self.reader, self.max_bytes = reader, max_bytes
        self._parts: OrderedDict[Hashable, dict[tuple[str, int], bytes]] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        self.stored_bytes = 0

    def __call__(self, video_id: str, index: int) -> list[dict] | None:
        """Detectron2's `annotations` of a frame (a fresh copy), or None where nobody has annotated it."""
        # As it is the part that is kept, the frames of a video or file that is read at once cost one reading.
        part = self.reader.part(video_id, index)
        if part in self._parts:
            self._parts.move_to_end(part)
        else:
            self._keep(part)
        stored = self._parts[part].get((video_id, index))
        return None if stored is None else pickle.loads(stored)

    def _keep(self, part: Hashable) -> None:
        # One text a frame: as Python objects a box takes ten times as much.
        frames = {
            (record["video_id"], record["frame_index"]): pickle.dumps(record["annotations"])
            for record in self.reader.read(part)
            if record.get("annotations") is not None
        }
        self._parts[part] = frames
        self._sizes[part] = _ENTRY_BYTES + sum(_ENTRY_BYTES + len(stored) for stored in frames.values())
        self.stored_bytes += self._sizes[part]
        while len(self._parts) > 1 and self.stored_bytes > self.max_bytes:
            oldest, _ = self._parts.popitem(last=False)
            self.stored_bytes -= self._sizes.pop(oldest)
