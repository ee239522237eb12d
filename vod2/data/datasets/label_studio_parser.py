"""The parser of `vod2.data.datasets.label_studio`: tasks and their tracks of one JSON file, as written."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from vod2.bounded import shown
from vod2.data.datasets.common import read_json
from vod2.data.datasets.faults import MAX_FRAMES, Fault, Place, Report, number, refuse, whole
from vod2.data.datasets.keyframes import Keyframe
from vod2.data.datasets.labelled import Counted

_SIDES = ("x", "y", "width", "height")
_EXPECTED = "a list of tasks with 'data' and 'annotations'"
_REMEDY = 'export it again as "JSON"'
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file
_VIDEO = re.compile(r".*\.(mp4|webm|mov|avi|mkv|m4v|ogg|ogv)", re.IGNORECASE)


@dataclass
class ParsedRegion:
    """A region through a video: its label, and keyframes whose boxes are xyxy in percent of the frame."""

    place: Place
    label: str
    keys: list[Keyframe]
    frames_count: int | None


@dataclass
class ParsedTask:
    """A task: `names` of its video without a suffix, the first one without what an upload has put before it."""

    place: Place
    names: list[str]
    regions: list[ParsedRegion] = field(default_factory=list)


def parse_label_studio(
    path: str | os.PathLike, report: Report = refuse, counted: Counted | None = None, predictions: bool = False
) -> list[ParsedTask]:
    """Parse a JSON export of tasks of videos; those that nobody has annotated are left out.

    Args:
        path: the file; packed, if its name ends in .gz.
        report: takes the faults; entries with one are left out.
        counted: counts what else is left out.
        predictions: take those of a model for tasks without an annotation.
    """
    return list(_Parser(path, report, counted or Counted(), predictions).tasks())


class _Parser:
    def __init__(self, path: str | os.PathLike, report: Report, counted: Counted, predictions: bool) -> None:
        self._path, self._report, self._counted, self._predictions = path, report, counted, predictions

    def tasks(self) -> Iterator[ParsedTask]:
        try:
            entries = self._read()
        except Fault as fault:
            self._report(fault)
            return
        for position, entry in enumerate(entries):
            place = Place(self._path, entry=f"[{position}]")
            try:
                results = self._results(entry, place)
                if results is None:
                    self._counted.add("tasks without an annotation left out", place)
                    continue
                task = ParsedTask(place, _names_of(entry["data"], place))
            except Fault as fault:
                self._report(fault)
                continue
            for row, result in enumerate(results):
                self._add(task, result, place._replace(entry=f"[{position}]: result[{row}]"))
            yield task

    def _read(self) -> list:
        data = read_json(self._path, "the JSON of Label Studio", _EXPECTED)
        # Through its API a single task comes alone.
        data = [data] if isinstance(data, dict) else data
        if not isinstance(data, list):
            raise Fault.at(Place(self._path), f"the JSON is {shown(data)}", _EXPECTED, remedy=_REMEDY)
        return data

    def _results(self, entry: object, place: Place) -> list | None:
        """The results of the annotation that counts; None where there is none."""
        if not isinstance(entry, dict) or not isinstance(entry.get("data"), dict):
            value = f"it is {shown(entry)}"
            raise Fault.at(place, value, "a task with 'data' and 'annotations', not JSON-MIN", remedy=_REMEDY)
        annotations = self._finished(entry, "annotations", place)
        if not annotations and self._predictions:
            annotations = self._finished(entry, "predictions", place)[-1:]  # of the latest model
        if not annotations:
            return None
        self._counted.add("further annotations of a task left out", place, len(annotations) - 1)
        chosen = next((note for note in annotations if note.get("ground_truth")), annotations[0])
        if not isinstance(chosen.get("result"), list):
            raise Fault.at(place, f"result is {shown(chosen.get('result'))}", "a list of regions", remedy=_REMEDY)
        return chosen["result"]

    def _finished(self, entry: dict, key: str, place: Place) -> list[dict]:
        notes = entry.get(key, [])
        if not isinstance(notes, list):
            raise Fault.at(place, f"{key} is {shown(notes)}", "a list", remedy=_REMEDY)
        # Some exports have the ids of predictions instead; a task that was skipped is cancelled.
        return [note for note in notes if isinstance(note, dict) and not note.get("was_cancelled")]

    def _add(self, task: ParsedTask, result: object, place: Place) -> None:
        try:
            if not isinstance(result, dict):
                raise Fault.at(place, f"it is {shown(result)}", "a region")
            kind = str(result.get("type", "")).lower()
            if kind != "videorectangle":
                self._counted.add(f"results of the type {kind!r:.40} left out, as only videorectangle is read", place)
                return
            value = result.get("value")
            if not isinstance(value, dict) or not isinstance(value.get("sequence"), list):
                raise Fault.at(place, f"value is {shown(value)}", "an object with 'sequence'", remedy=_REMEDY)
            region = self._region(value, place)
        except Fault as fault:
            self._report(fault)
            return
        if region is not None:
            task.regions.append(region)

    def _region(self, value: dict, place: Place) -> ParsedRegion | None:
        labels = value.get("labels")
        if not labels:
            self._counted.add("regions without a label left out", place)
            return None
        if not isinstance(labels, list) or not isinstance(labels[0], str):
            raise Fault.at(place, f"labels is {shown(labels)}", "a list of names", remedy=_REMEDY)
        self._counted.add("further labels of a region left out", place, len(labels) - 1)
        count = value.get("framesCount")
        keys: dict[int, Keyframe] = {}
        for row, item in enumerate(value["sequence"]):
            key = _keyframe(item, place._replace(entry=f"{place.entry}: sequence[{row}]"))
            if key.frame in keys:
                raise Fault.at(key.place, f"a second box in frame {key.frame + 1}", "one", "duplicate_line")
            keys[key.frame] = key
        if not keys:
            return None
        length = None if count is None else whole(count, place, "framesCount", 0, MAX_FRAMES)
        return ParsedRegion(place, labels[0], [keys[frame] for frame in sorted(keys)], length)


def _keyframe(item: Any, place: Place) -> Keyframe:
    if not isinstance(item, dict):
        raise Fault.at(place, f"it is {shown(item)}", "a keyframe")
    frame = whole(item.get("frame"), place, "frame", 1, MAX_FRAMES) - 1
    x, y, width, height = (number(item.get(side), place, side) for side in _SIDES)
    rotation = number(item.get("rotation", 0), place, "rotation")
    enabled = item.get("enabled", True)
    if not isinstance(enabled, bool):
        raise Fault.at(place, f"enabled is {shown(enabled)}", "true or false")
    # The last frame of a piece of a track is not enabled, but still has the box.
    return Keyframe(place, frame, (x, y, x + width, y + height), rotation, True, enabled)


def _names_of(data: dict, place: Place) -> list[str]:
    """The names that a task's video may have, from its address."""
    texts = [value for value in data.values() if isinstance(value, str)]
    address = data.get("video")
    if not isinstance(address, str):
        address = next((text for text in texts if _VIDEO.fullmatch(text)), texts[0] if len(texts) == 1 else None)
    if not address:
        raise Fault.at(place, f"data is {shown(data)}", "the address of a video under 'video'", remedy=_REMEDY)
    try:
        parts = urlsplit(address)
        # Files of the server's disk: /data/local-files/?d=folder/clip.mp4
        path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    except ValueError:  # no address, but perhaps the name of a file
        path = address
    name = PurePosixPath(path).stem
    if not name:
        raise Fault.at(place, f"the video is {shown(address)}", "an address that ends in the name of a file")
    plain = _UPLOADED.sub("", name, count=1) if "/upload/" in path and _UPLOADED.match(name) else name
    return list(dict.fromkeys((plain, name)))
