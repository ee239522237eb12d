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
from vod2.data.datasets.common import fields_of, read_text
from vod2.data.datasets.faults import MAX_SIDE, Fault, Place, number, refuse, whole
from vod2.detections.foreign import as_instances
from vod2.errors import UserError

SUFFIXES = {".json": "json or coco", ".jsonl": "jsonl", ".txt": "mot"}
"""What the files of the formats are called."""

FIRST_FRAME = {"json": 0, "jsonl": 0, "coco": 0, "mot": 1}
"""What the formats call the first frame."""
MAX_FRAMES_WITHOUT_VIDEO = 250_000
"""More than two hours of 30 a second: a wrong number in a file would ask for the memory of millions of frames."""

_MOST_NAMES = 100_000  # labels that may have a name
_NUMBERS = ("index", "frame", "frame_index")  # names of a frame's number; the last one is that of archives
_MOT_FIELDS = "frame,track,left,top,width,height,score,class,..."


class Found(NamedTuple):
    """A detection of a file: `box` xyxy pixels."""

    box: tuple[float, float, float, float]
    score: float
    label: int


class Facts:
    """What a file says of its video beside the detections.

    Attributes:
        video: its name; None where the file has none.
        fps: frames per second; None where the file does not say it.
        size: (height, width) in pixels; None where the file does not say it.
        times: {number of a frame in the file: seconds from the start}.
        names: {label: name of the class}.
    """

    def __init__(self) -> None:
        self.video: str | None = None
        self.fps: float | None = None
        self.size: tuple[int, int] | None = None
        self.times: dict[int, float] = {}
        self.names: dict[int, str] = {}

    @property
    def class_names(self) -> list[str]:
        """Names by label up to the highest one that has one."""
        return [self.names.get(label, f"class {label}") for label in range(max(self.names, default=-1) + 1)]


class DetectionsOfFile(NamedTuple):
    """What a file holds.

    Args:
        frames: F, each with pred_boxes, scores and pred_classes.
        kind: "coco", "json", "jsonl" or "mot", see `vod2.evaluation.detection_files.FORMATS`.
        first: number that the file has for frame 0.
        facts: what it says of its video.
    """

    frames: list[Instances]
    kind: str
    first: int
    facts: Facts


Rows = Iterator[tuple[Place, int, Found | None]]
"""Detections with their frames' numbers in the file; None stands for a frame without any."""


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
        length: number of frames F; by default up to the last one that the file names.
        size: (height, width) in pixels; by default what the file says, or else what holds all boxes.
        first_frame: number that the file has for the first frame; by default 1 for MOTChallenge, 0 for the others.

    Raises:
        UserError: it cannot be read, or something in it is no detection of this video; names the place.
    """
    path = Path(path)
    kind, rows, facts = _read(path)
    first = first_frame if first_frame is not None else FIRST_FRAME[kind]
    by_frame: dict[int, list[Found]] = defaultdict(list)
    most = MAX_FRAMES_WITHOUT_VIDEO if length is None else length
    for place, frame, detection in rows:
        index = frame - first
        if not 0 <= index < most:
            remedy = "give the right video, or --first-frame if the file counts from another number"
            if length is None:
                remedy = "give --video, which says how many frames there are, or --first-frame, or fix the number"
            expected = f"{first} to {first + most - 1}, the frames of the video"
            raise Fault.at(place, f"a detection in frame {frame}", expected, remedy=remedy)
        by_frame[index]  # the frame is there, also without a detection
        if detection is not None:
            by_frame[index].append(detection)
    count = max(by_frame, default=-1) + 1 if length is None else length
    extent = size or facts.size or _extent(by_frame)
    empty = as_instances(([], [], []), extent)  # shared: nobody writes into what was read
    frames = []
    for index in range(count):
        found = by_frame.get(index, [])
        # The columns of `Found` are in the order that `as_instances` takes.
        columns = tuple(zip(*found, strict=True))
        frames.append(as_instances(columns, extent, f"{path}: frame {index + first}") if found else empty)
    return DetectionsOfFile(frames, kind, first, facts)


def _extent(by_frame: Mapping[int, list[Found]]) -> tuple[int, int]:
    """(height, width) of what holds the boxes of all frames, at least a pixel."""
    boxes = [row.box for rows in by_frame.values() for row in rows]
    right = max((box[2] for box in boxes), default=1.0)
    bottom = max((box[3] for box in boxes), default=1.0)
    return max(1, int(-(-bottom // 1))), max(1, int(-(-right // 1)))


def _read(path: Path) -> tuple[str, Rows, Facts]:
    facts = Facts()
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return "mot", _mot(path), facts
    if suffix == ".jsonl":
        return "jsonl", _json_lines(path, facts), facts
    if suffix != ".json":
        expected = ", ".join(f"{name} ({kind})" for name, kind in SUFFIXES.items())
        raise UserError(
            f"{path}: expected a file of detections with one of these suffixes: {expected}; the results of an "
            "evaluation need --dataset"
        )
    content = _parsed(read_text(path, "the file of detections"), Place(path))
    if isinstance(content, list):
        return "coco", _coco(content, path), facts
    if isinstance(content, dict) and isinstance(content.get("frames"), list):
        _read_facts(content, path, facts)
        return "json", _records(content["frames"], path, facts), facts
    raise Fault.at(Place(path), shown(content), "a list of COCO results, or an object with `frames`")


def _read_facts(content: dict, path: Path, facts: Facts) -> None:
    """What a file of `vod2 detect --json` says before its frames."""
    names = content.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Fault.at(Place(path, entry="class_names"), shown(names), "a list of names")
    facts.names.update(enumerate(names))
    if isinstance(content.get("video"), str):
        facts.video = content["video"]
    if "fps" in content:
        facts.fps = number(content["fps"], Place(path), "fps")
        if facts.fps <= 0:
            raise Fault.at(Place(path), f"fps is {shown(content['fps'])}", "a number above 0")
    if "width" in content and "height" in content:
        height, width = (
            whole(content[name], Place(path), name, least=1, most=MAX_SIDE) for name in ("height", "width")
        )
        facts.size = height, width


def _parsed(text: str, place: Place) -> Any:
    try:
        return load_json(text)
    except ValueError as error:
        raise Fault.at(place, f"no JSON ({error})", "detections") from error


def _mot(path: Path) -> Rows:
    for place, fields in fields_of(path, "the detections", _MOT_FIELDS, range(7, 11), refuse, ","):
        frame = whole(fields[0], place, "frame")
        left, top, width, height, score = (number(text, place, "a box or score") for text in fields[2:7])
        # -1 stands for what a program does not know.
        label = whole(fields[7], place, "class") if len(fields) > 7 else -1
        if label != -1 and label < 1:
            raise Fault.at(place, f"class {label}", "a class from 1 on, or -1 where it is not known")
        box = (left, top, left + width, top + height)
        yield place, frame, _found(place, box, score, 0 if label == -1 else label - 1)


def _coco(entries: list, path: Path) -> Rows:
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
        yield place, frame, _found(place, (left, top, left + width, top + height), score, label)


def _json_lines(path: Path, facts: Facts) -> Rows:
    videos = set()
    # Not by `splitlines`: it also cuts at characters that JSON permits in a text.
    for row, line in enumerate(read_text(path, "the file of detections").split("\n"), start=1):
        if not line.strip():
            continue
        place = Place(path, row)
        record = _parsed(line, place)
        if isinstance(record, dict):
            videos.add(str(record.get("video")))  # those of an archive have it
        if len(videos) > 1:
            video = shown(record.get("video"))
            raise Fault.at(place, f"a frame of {video}", "those of one video", remedy="split the file")
        if isinstance(record, dict) and isinstance(record.get("video"), str):
            facts.video = record["video"]
        yield from _record(record, place, facts)


def _records(records: list, path: Path, facts: Facts) -> Rows:
    for row, record in enumerate(records):
        yield from _record(record, Place(path, entry=f"frames[{row}]"), facts)


def _record(record: object, place: Place, facts: Facts) -> Rows:
    """The detections of one frame: a list of them, or a list of each column."""
    if not isinstance(record, dict):
        raise Fault.at(place, shown(record), "a frame with `index` and `detections`, or `boxes`, `scores` and `labels`")
    name = next((name for name in _NUMBERS if name in record), "frame")
    frame = whole(_field(record, name, place), place, "the number of the frame")
    if record.get("time") is not None:
        facts.times[frame] = number(record["time"], place, "time")
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
    yield place, frame, None
    for row in rows:
        box = _numbers(row, "box", 4, place)
        score = number(_field(row, "score", place), place, "score")
        label = whole(_field(row, "label", place), place, "label")
        # A name that only says the number is none.
        if isinstance(row.get("class"), str) and row["class"] != f"class {label}" and label < _MOST_NAMES:
            facts.names.setdefault(label, row["class"])
        yield place, frame, _found(place, box, score, label)


def _found(place: Place, box: tuple, score: float, label: int) -> Found:
    if box[2] < box[0] or box[3] < box[1]:
        raise Fault.at(place, f"the box {list(box)} (xyxy) ends before it begins", "a width and a height of at least 0")
    if label < 0:
        raise Fault.at(place, f"label {label}", "a whole number of at least 0")
    return Found(box, score, label)


def _field(entry: dict, name: str, place: Place) -> Any:
    if name not in entry:
        raise Fault.at(place, f"no {name!r} in {shown(entry)}", f"a detection with {name!r}")
    return entry[name]


def _numbers(entry: dict, name: str, count: int, place: Place) -> tuple[float, ...]:
    values = _field(entry, name, place)
    if not isinstance(values, list) or len(values) != count:
        raise Fault.at(place, f"{name} is {shown(values)}", f"{count} numbers")
    return tuple(number(value, place, name) for value in values)
