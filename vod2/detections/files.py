"""Files of one video's detections, of whatever program.

F: frames of the video, n: detections of a frame.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vod2.bounded import load_json, shown
from vod2.d2 import Instances
from vod2.data.datasets.common import fields_of, lines_of, read_text
from vod2.data.datasets.faults import MAX_FRAMES, Fault, Place, number, refuse, whole
from vod2.detections.foreign import as_instances
from vod2.errors import UserError

SUFFIXES = {".json": "json or coco", ".jsonl": "jsonl", ".txt": "mot"}
"""What the files of the formats are called."""

_SPARSEST = 1000  # frames for each detection, where no video says how many there are
_NUMBERS = ("index", "frame", "frame_index")  # names of a frame's number; the last one is that of archives
_MOT_FIELDS = "frame,track,left,top,width,height,score,class,..."


class Found(NamedTuple):
    """A detection of a file: `box` xyxy pixels, in frame `frame` from 0."""

    frame: int
    box: tuple[float, float, float, float]
    score: float
    label: int


class DetectionsOfFile(NamedTuple):
    """What a file holds.

    Args:
        frames: F, each with pred_boxes, scores and pred_classes.
        kind: "coco", "json", "jsonl" or "mot", see `vod2.evaluation.detection_files.FORMATS`.
        class_names: by label; [] where the file has none.
    """

    frames: list[Instances]
    kind: str
    class_names: list[str]


def read_detections(
    path: str | os.PathLike,
    length: int | None = None,
    size: tuple[int, int] | None = None,
    first_frame: int | None = None,
) -> DetectionsOfFile:
    """The detections of one video. Tracks that the file has are left out.

    Args:
        path: a .json of COCO results, whose `image_id` are numbers of frames, or of `vod2 detect --json`; a .jsonl with
            {"index", "boxes" (xyxy), "scores", "labels"} in each line, or lines of `vod2 detect --jsonl`; a .txt of
            MOTChallenge, whose classes count from 1 and are one where the column is missing or -1.
        length: number of frames F; by default up to the last one with a detection.
        size: (height, width) in pixels; by default what holds all boxes.
        first_frame: number that the file has for the first frame; by default 1 for MOTChallenge, 0 for the others.

    Raises:
        UserError: it cannot be read, or something in it is no detection of this video; names the place.
    """
    path = Path(path)
    kind, found, class_names = _read(path)
    first = first_frame if first_frame is not None else int(kind == "mot")
    by_frame: dict[int, list[Found]] = defaultdict(list)
    most = MAX_FRAMES if length is None else length
    for place, detection in found:
        index = detection.frame - first
        if not 0 <= index < most:
            raise Fault.at(
                place,
                f"a detection in frame {detection.frame}",
                f"{first} to {first + most - 1}, the frames of the video",
                remedy="give the right video, or --first-frame if the file counts from another number",
            )
        by_frame[index].append(detection)
    count = max(by_frame, default=-1) + 1 if length is None else length
    total = sum(map(len, by_frame.values()))
    if length is None and count > _SPARSEST * (total + 1):
        # A wrong number in the file would ask for the memory of millions of frames.
        raise UserError(
            f"{path}: {total} detections up to frame {count - 1 + first}: give --video, which says how many frames "
            "there are, or fix the numbers of the frames"
        )
    extent = size or _extent(by_frame)
    frames = []
    for index in range(count):
        rows = by_frame.get(index, [])
        columns = ([row.box for row in rows], [row.score for row in rows], [row.label for row in rows])
        frames.append(as_instances(columns, extent, f"{path}: frame {index + first}"))
    return DetectionsOfFile(frames, kind, class_names)


def _extent(by_frame: Mapping[int, list[Found]]) -> tuple[int, int]:
    """(height, width) of what holds the boxes of all frames, at least a pixel."""
    boxes = [row.box for rows in by_frame.values() for row in rows]
    right = max((box[2] for box in boxes), default=1.0)
    bottom = max((box[3] for box in boxes), default=1.0)
    return max(1, int(-(-bottom // 1))), max(1, int(-(-right // 1)))


def _read(path: Path) -> tuple[str, Iterator[tuple[Place, Found]], list[str]]:
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return "mot", _mot(path), []
    if suffix == ".jsonl":
        return "jsonl", _json_lines(path), []
    if suffix != ".json":
        expected = ", ".join(f"{name} ({kind})" for name, kind in SUFFIXES.items())
        raise UserError(f"{path}: expected a file of detections with one of these suffixes: {expected}")
    content = _parsed(read_text(path, "the file of detections"), Place(path))
    if isinstance(content, list):
        return "coco", _coco(content, path), []
    if isinstance(content, dict) and isinstance(content.get("frames"), list):
        names = content.get("class_names", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Fault.at(Place(path, entry="class_names"), shown(names), "a list of names")
        return "json", _records(content["frames"], path), names
    raise Fault.at(Place(path), shown(content), "a list of COCO results, or an object with `frames`")


def _parsed(text: str, place: Place) -> Any:
    try:
        return load_json(text)
    except ValueError as error:
        raise Fault.at(place, f"no JSON ({error})", "detections") from error


def _mot(path: Path) -> Iterator[tuple[Place, Found]]:
    for place, fields in fields_of(path, "the detections", _MOT_FIELDS, range(7, 11), refuse, ","):
        frame = whole(fields[0], place, "frame")
        left, top, width, height, score = (number(text, place, "a box or score") for text in fields[2:7])
        # -1 stands for what a program does not know.
        label = whole(fields[7], place, "class") if len(fields) > 7 else -1
        box = (left, top, left + width, top + height)
        yield place, _found(place, frame, box, score, max(label - 1, 0))


def _coco(entries: list, path: Path) -> Iterator[tuple[Place, Found]]:
    for row, entry in enumerate(entries):
        place = Place(path, entry=f"[{row}]")
        if not isinstance(entry, dict):
            raise Fault.at(place, shown(entry), "a result with image_id, category_id, bbox and score")
        left, top, width, height = _numbers(entry, "bbox", 4, place)
        frame = whole(
            _field(entry, "image_id", place), place, "image_id (without a dataset it must be a frame's number)"
        )
        label = whole(_field(entry, "category_id", place), place, "category_id")
        score = number(_field(entry, "score", place), place, "score")
        yield place, _found(place, frame, (left, top, left + width, top + height), score, label)


def _json_lines(path: Path) -> Iterator[tuple[Place, Found]]:
    videos = set()
    for row, line in enumerate(lines_of(path, "the detections", refuse), start=1):
        if not line.strip():
            continue
        place = Place(path, row)
        record = _parsed(line, place)
        if isinstance(record, dict):
            videos.add(str(record.get("video")))  # those of an archive have it
        if len(videos) > 1:
            raise Fault.at(
                place, f"a frame of {shown(record.get('video'))}", "those of one video", remedy="split the file"
            )
        yield from _record(record, place)


def _records(records: list, path: Path) -> Iterator[tuple[Place, Found]]:
    for row, record in enumerate(records):
        yield from _record(record, Place(path, entry=f"frames[{row}]"))


def _record(record: object, place: Place) -> Iterator[tuple[Place, Found]]:
    """The detections of one frame: a list of them, or a list of each column."""
    if not isinstance(record, dict):
        raise Fault.at(place, shown(record), "a frame with `index` and `detections`, or `boxes`, `scores` and `labels`")
    name = next((name for name in _NUMBERS if name in record), "frame")
    frame = whole(_field(record, name, place), place, "the number of the frame")
    if "detections" in record:
        rows = record["detections"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Fault.at(place, f"detections: {shown(rows)}", "a list of objects with `box`, `label` and `score`")
    else:
        columns = [_field(record, name, place) for name in ("boxes", "scores", "labels")]
        lengths = [len(column) if isinstance(column, list) else -1 for column in columns]
        if len(set(lengths)) > 1 or lengths[0] < 0:
            raise Fault.at(place, "boxes, scores and labels of different lengths", "lists of one length")
        rows = [dict(zip(("box", "score", "label"), values, strict=True)) for values in zip(*columns, strict=True)]
    for row in rows:
        box = _numbers(row, "box", 4, place)
        score = number(_field(row, "score", place), place, "score")
        yield place, _found(place, frame, box, score, whole(_field(row, "label", place), place, "label"))


def _found(place: Place, frame: int, box: tuple, score: float, label: int) -> Found:
    if box[2] < box[0] or box[3] < box[1]:
        raise Fault.at(place, f"the box {list(box)} (xyxy) ends before it begins", "a width and a height of at least 0")
    if label < 0:
        raise Fault.at(place, f"label {label}", "a whole number of at least 0")
    return Found(frame, box, score, label)


def _field(entry: dict, name: str, place: Place) -> Any:
    if name not in entry:
        raise Fault.at(place, f"no {name!r} in {shown(entry)}", f"a detection with {name!r}")
    return entry[name]


def _numbers(entry: dict, name: str, count: int, place: Place) -> tuple[float, ...]:
    values = _field(entry, name, place)
    if not isinstance(values, list) or len(values) != count:
        raise Fault.at(place, f"{name} is {shown(values)}", f"{count} numbers")
    return tuple(number(value, place, name) for value in values)
