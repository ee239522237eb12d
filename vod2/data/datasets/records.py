"""Whether the dicts of a dataset have the fields that training and evaluation take, and values that they can take."""

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from vod2.d2 import BoxMode

_LOGGER = logging.getLogger(__name__)

_OUTSIDE = 1.0  # pixels by which a box may leave its image: edges that count from 1
_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
_MISSING: Any = object()


class _Wrong(NamedTuple):
    """A value of a field that is not as it should be."""

    field: str
    value: object
    expected: str
    remedy: str = "fix it where the dataset is registered"


class RecordCheck:
    """Looks at dataset dicts one by one, and tells each kind of fault once, with its first place and how often it is.

    Args:
        name: of the dataset.
        classes: its names; None where they are not known.
        is_tested: detections are evaluated in it.
        only_kinds: of values, not the values: files may be missing, boxes be anywhere, labels be of no class.

    Example:
        >>> check = RecordCheck("mine", ["elf"], is_tested=False)
        >>> check.look_at(0, {"video_file": __file__, "video_id": "v", "frame_index": "7", "height": 4, "width": 6})
        >>> check.faults()[0].split("): ")[1]
        "frame_index is '7', expected a whole number from 0: fix it where the dataset is registered"
    """

    def __init__(
        self, name: str, classes: Sequence[str] | None, is_tested: bool = True, only_kinds: bool = False
    ) -> None:
        self._name, self._classes = name, None if only_kinds else classes
        self._is_tested, self._only_kinds = is_tested, only_kinds
        self._first: dict[tuple[str, str], str] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._frames = self._boxes = self._empty_boxes = 0

    def look_at(self, row: int, record: object) -> None:
        """Collect what is wrong with a dict."""
        self._frames += 1
        if not isinstance(record, Mapping):
            self._add(f"entry {row}", _Wrong("it", record, "a dict"))
            return
        seen: set[tuple[str, str]] = set()  # a frame counts once for a kind, whatever the number of its objects
        for wrong in (*_wrong_frame(record, self._is_tested, not self._only_kinds), *self._wrong_annotations(record)):
            kind = _kind(wrong)
            if kind not in seen:
                self._add(place_of(record, row), wrong)
            seen.add(kind)

    def _add(self, place: str, wrong: _Wrong) -> None:
        kind = _kind(wrong)
        value = "missing" if wrong.value is _MISSING else f"{wrong.value!r:.80}"
        text = f"{self._name}: {place}: {wrong.field} is {value}, expected {wrong.expected}: {wrong.remedy}"
        self._first.setdefault(kind, text)
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def faults(self) -> list[str]:
        """A sentence for each kind."""
        sentences = []
        for kind, text in self._first.items():
            more = self._counts[kind] - 1
            sentences.append(text + (f" ({more} more of {self._frames} frames alike)" if more else ""))
        if self._boxes and self._boxes == self._empty_boxes:
            sentences.append(f"{self._name}: every box is without area, expected x1 < x2 and y1 < y2: fix the boxes")
        elif self._empty_boxes:
            lost = f"{self._empty_boxes} of {self._boxes} boxes"
            _LOGGER.warning("%s: %s have no area: nothing is trained on them", self._name, lost)
        return sentences

    def _wrong_annotations(self, record: Mapping) -> Iterable[_Wrong]:
        annotations = record.get("annotations")
        if annotations is None:
            return
        if isinstance(annotations, str | Mapping) or not isinstance(annotations, Sequence):
            yield _Wrong("annotations", annotations, "a list of dicts")
            return
        for number, note in enumerate(annotations):
            field = f"annotations[{number}]"
            if not isinstance(note, Mapping):
                yield _Wrong(field, note, "a dict")
                continue
            yield from self._wrong_box(record, note, field)
            yield from self._wrong_labels(note, field)

    def _wrong_box(self, record: Mapping, note: Mapping, field: str) -> Iterable[_Wrong]:
        box, mode = note.get("bbox", _MISSING), note.get("bbox_mode", _MISSING)
        if mode not in _MODES:
            yield _Wrong(f"{field}.bbox_mode", mode, "BoxMode.XYXY_ABS or BoxMode.XYWH_ABS")
        if not isinstance(box, Sequence | np.ndarray) or isinstance(box, str) or len(box) != 4:
            yield _Wrong(f"{field}.bbox", box, "four numbers")
            return
        if not all(_is_number(side) and math.isfinite(side) for side in box):
            yield _Wrong(f"{field}.bbox", box, "four finite numbers")
            return
        if mode not in _MODES or self._only_kinds:
            return
        self._boxes += 1
        x1, y1, x2, y2 = BoxMode.convert([float(side) for side in box], mode, BoxMode.XYXY_ABS)
        if x2 < x1 or y2 < y1:
            yield _Wrong(f"{field}.bbox", box, f"x1 < x2 and y1 < y2 in {BoxMode(mode).name}")
            return
        self._empty_boxes += x1 == x2 or y1 == y2
        height, width = record.get("height"), record.get("width")
        if not (is_whole(height) and is_whole(width) and height > 0 and width > 0):  # type: ignore[operator]
            return
        if max(-x1, -y1, x2 - width, y2 - height) > _OUTSIDE:
            expected = f"a box in {width} x {height} pixels ({BoxMode(mode).name})"
            yield _Wrong(f"{field}.bbox", box, expected, "clip it, or fix bbox_mode, height and width")

    def _wrong_labels(self, note: Mapping, field: str) -> Iterable[_Wrong]:
        category = note.get("category_id", _MISSING)
        count = None if self._classes is None else len(self._classes)
        if (
            not is_whole(category)
            or (category < 0 and not self._only_kinds)
            or (count is not None and category >= count)
        ):
            bound = "" if count is None else f" to {count - 1}"
            yield _Wrong(f"{field}.category_id", category, f"a place in thing_classes, 0{bound}")
        if note.get("iscrowd", 0) not in (0, 1):
            yield _Wrong(f"{field}.iscrowd", note["iscrowd"], "0 or 1")
        if note.get("ignore") and not note.get("iscrowd"):  # as in COCO's JSON
            yield _Wrong(f"{field}.ignore", note["ignore"], "0, or iscrowd: 1 for a region that is ignored")
        track = note.get("track_id")
        if track is not None and not (is_whole(track) and abs(track) < 2**63):
            yield _Wrong(f"{field}.track_id", track, "a whole number, or no such key where it is not known")


def _kind(wrong: _Wrong) -> tuple[str, str]:
    # Whichever object of the frame it is, and however large the frame.
    return wrong.field.rpartition("].")[2], "in pixels" if "pixels" in wrong.expected else wrong.expected


def place_of(record: Mapping, row: int | None = None) -> str:
    """How a person finds the frame again."""
    file = record.get("file_name", record.get("video_file"))
    named = f" ({file})" if file is not None else ""
    if "video_id" in record:
        return f"frame {record.get('frame_index')!r} of video {record['video_id']!r}{named}"
    return f"entry {row}{named}" if row is not None else f"image{named}"


def _wrong_frame(record: Mapping, is_tested: bool, is_there: bool) -> Iterable[_Wrong]:
    """The fields beside the annotations."""
    yield from _wrong_file(record, is_there)
    for side in ("height", "width"):
        if not is_whole(record.get(side)) or record[side] < 1:
            yield _Wrong(side, record.get(side, _MISSING), "a whole number of pixels")
    image = record.get("image_id", _MISSING)
    if is_tested and (not isinstance(image, int | str | np.integer) or isinstance(image, bool)):
        yield _Wrong("image_id", image, "a text or number of each frame's own, such as 'video/000003'")
    if "video_id" not in record:  # a still image
        return
    if not isinstance(record["video_id"], str | int | np.integer):
        yield _Wrong("video_id", record["video_id"], "the name of the video")
    index, length = record.get("frame_index", _MISSING), record.get("video_length")
    if not is_whole(index) or index < 0:
        yield _Wrong("frame_index", index, "a whole number from 0")
    elif length is not None and not is_whole(length):
        yield _Wrong("video_length", length, "the number of frames of the video")
    elif length is not None and index >= length:
        expected = "less than video_length, which counts all frames of the video; frame_index counts from 0"
        yield _Wrong("frame_index", f"{index} with video_length {length}", expected)
    yield from _wrong_extras(record)


def _wrong_file(record: Mapping, is_there: bool) -> Iterable[_Wrong]:
    field = "video_file" if "video_file" in record else "file_name"
    file = record.get(field, _MISSING)
    if not isinstance(file, str | os.PathLike) or not str(file):
        yield _Wrong(field, file, "the path of the image, or video_file, that of its video")
    elif is_there and "://" not in str(file) and not os.path.isfile(file):
        backslashes = "\\" in str(file) and os.sep != "\\"
        remedy = "write it with slashes" if backslashes else "complete the dataset, or fix its path"
        yield _Wrong(field, str(file), "a file that is there", remedy)


def _wrong_extras(record: Mapping) -> Iterable[_Wrong]:
    template = record.get("frame_template")
    if template is not None:
        if not is_whole(record.get("frame_offset")):
            yield _Wrong("frame_offset", record.get("frame_offset", _MISSING), "a whole number beside frame_template")
        elif not _is_format(template):
            yield _Wrong("frame_template", template, "a path with one place for a number, such as 'v/%06d.jpg'")
    groups = record.get("groups")
    if groups is not None and not (_is_list(groups) and all(isinstance(group, str) and group for group in groups)):
        yield _Wrong("groups", groups, "a sequence of names such as ('close',)")
    regions = record.get("ignore_regions")
    if regions is not None and not (_is_list(regions) and all(map(_is_region, regions))):
        yield _Wrong("ignore_regions", regions, "[[x1, y1, x2, y2], ...]")


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)


def _is_region(value: Any) -> bool:
    return _is_list(value) and len(value) == 4 and all(map(_is_number, value))


def _is_format(template: object) -> bool:
    try:
        return isinstance(template, str) and template % 0 != template % 1
    except (TypeError, ValueError):
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
