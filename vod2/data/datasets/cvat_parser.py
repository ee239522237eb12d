"""The parser of `vod2.data.datasets.cvat`: tasks, tracks and images of one XML file, as written."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from vod2.bounded import stream_xml
from vod2.data.datasets.faults import MAX_FRAMES, MAX_SIDE, Fault, Place, Report, number, refuse, whole
from vod2.data.datasets.keyframes import Keyframe
from vod2.data.datasets.labelled import Counted, LabelledObject

_SIDES = ("xtl", "ytl", "xbr", "ybr")
_REMEDY = 'export it again as "CVAT for video 1.1"'
_OTHER_SHAPES = ("polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton", "tag")


@dataclass
class ParsedTrack:
    """A track: number in the file, label, and its boxes in the order of their frames, `outside` ones not shown."""

    place: Place
    id: int
    label: str
    keys: list[Keyframe]


@dataclass
class ParsedImage:
    """An image of "CVAT for images": its file name, size (height, width) and objects, which have no tracks."""

    place: Place
    file_name: str
    size: tuple[int, int]
    objects: list[LabelledObject] = field(default_factory=list)


@dataclass
class ParsedTask:
    """A task of CVAT: one video.

    Args:
        place: of its description.
        name: of the task.
        source: name of the video file that it was made of; "" for images.
        numbers: of its frames, as many as CVAT shows; None where the file does not say.
        size: (height, width) in pixels; None where the file does not say.
        tracks, images: by number, in the order of the file; there are images only in "CVAT for images".
    """

    place: Place
    name: str
    source: str = ""
    numbers: range | None = None
    size: tuple[int, int] | None = None
    tracks: dict[int, ParsedTrack] = field(default_factory=dict)
    images: dict[int, ParsedImage] = field(default_factory=dict)


@dataclass
class ParsedCvat:
    """A file: the labels of all its tasks, each once, and the tasks."""

    labels: list[str]
    tasks: list[ParsedTask]


def parse_cvat(path: str | os.PathLike, report: Report = refuse, counted: Counted | None = None) -> ParsedCvat:
    """Parse an XML file of CVAT 1.1, of a task, a job or a project.

    Args:
        path: the file. It is read element by element; one with a DOCTYPE is refused.
        report: takes the faults; what has one is left out.
        counted: counts what is left out because it is no box.
    """
    return _Parser(path, report, counted or Counted()).parse()


class _Parser:
    def __init__(self, path: str | os.PathLike, report: Report, counted: Counted) -> None:
        self._path, self._report, self._counted = path, report, counted
        self._labels: dict[str, None] = {}
        self._tasks: dict[str, ParsedTask] = {}  # by id
        self._tracks = self._images = 0

    def parse(self) -> ParsedCvat:
        place = Place(self._path)
        try:
            with open(self._path, "rb") as file:
                for element in stream_xml(file, "annotations"):
                    self._read(element)
        except OSError as error:
            kind = "missing_annotation" if isinstance(error, FileNotFoundError) else "broken_annotation"
            value = f"the annotations cannot be read ({error.strerror or error})"
            self._report(Fault.at(place, value, "an XML file of CVAT", kind, "give another one"))
        except Fault:  # of a Report that stops
            raise
        except ValueError as error:
            reason = error if Path(self._path).stat().st_size else "an empty file"
            self._report(Fault.at(place, f"broken XML ({reason})", "an XML file of CVAT", remedy=_REMEDY))
        return ParsedCvat(list(self._labels), list(self._tasks.values()))

    def _read(self, element: ElementTree.Element) -> None:
        if element.tag == "meta":
            self._read_meta(element)
        elif element.tag == "track":
            place = Place(self._path, entry=f"track[{self._tracks}]")
            self._tracks += 1
            self._read_track(element, place)
        elif element.tag == "image":
            place = Place(self._path, entry=f"image[{self._images}]")
            self._images += 1
            self._read_image(element, place)

    def _read_meta(self, meta: ElementTree.Element) -> None:
        for label in meta.iter("label"):
            # Parts of a skeleton are labels, too, which no box has.
            name = (label.findtext("name") or "").strip()
            if name and label.findtext("parent") is None:
                self._labels[name] = None
        descriptions = [*meta.iter("task"), *meta.iter("job")]
        for position, element in enumerate(descriptions):
            place = Place(self._path, entry=f"task[{position}]")
            try:
                key = _text(element, "id") or str(position)
                if key in self._tasks:
                    raise Fault.at(place, f"another task has the id {key!r:.40}", "each id once", "duplicate_line")
                self._tasks[key] = _task(element, key, place)
            except Fault as fault:
                self._report(fault)

    def _task_of(self, element: ElementTree.Element, place: Place) -> ParsedTask:
        key = element.get("task_id")
        if key is None and len(self._tasks) <= 1:
            # Without <meta>, as other programs write it, there is one task without a name.
            if not self._tasks:
                self._tasks[""] = ParsedTask(Place(self._path), Path(self._path).stem)
            return next(iter(self._tasks.values()))
        if key not in self._tasks:
            value, expected = f"task_id is {key!r:.40}", f"one of {', '.join(self._tasks)}"
            raise Fault.at(place, value, expected, remedy=_REMEDY)
        return self._tasks[key]

    def _read_track(self, element: ElementTree.Element, place: Place) -> None:
        try:
            task = self._task_of(element, place)
            # Tracks count from 0 in each file; their numbers mean nothing else.
            track = whole(element.get("id", self._tracks - 1), place, "id", 0)
            if track in task.tracks:
                raise Fault.at(place, f"another track has the id {track}", "each id once", "duplicate_line")
        except Fault as fault:
            self._report(fault)
            return
        keys: dict[int, Keyframe] = {}
        for position, box in enumerate(self._boxes(element, place)):
            try:
                key = _keyframe(box, place._replace(entry=f"{place.entry}: box[{position}]"))
                if key.frame in keys:
                    raise Fault.at(key.place, f"a second box in frame {key.frame}", "one", "duplicate_line")
                keys[key.frame] = key
            except Fault as fault:
                self._report(fault)
        if keys:
            ordered = _unwound([keys[frame] for frame in sorted(keys)])
            task.tracks[track] = ParsedTrack(place, track, element.get("label", ""), ordered)

    def _read_image(self, element: ElementTree.Element, place: Place) -> None:
        try:
            task = self._task_of(element, place)
            index = whole(element.get("id"), place, "id", 0, MAX_FRAMES)
            name = element.get("name", "")
            if not name:
                raise Fault.at(place, "it has no name", "the name of its file", remedy=_REMEDY)
            if index in task.images:
                raise Fault.at(place, f"another image has the id {index}", "each id once", "duplicate_line")
            height, width = (whole(element.get(side), place, side, 1, MAX_SIDE) for side in ("height", "width"))
        except Fault as fault:
            self._report(fault)
            return
        image = task.images[index] = ParsedImage(place, name, (height, width))
        for position, box in enumerate(self._boxes(element, place)):
            try:
                key = _keyframe(box, place._replace(entry=f"{place.entry}: box[{position}]"), index)
            except Fault as fault:
                self._report(fault)
                continue
            image.objects.append(LabelledObject(key.place, box.get("label", ""), key.box, None, key.occluded))

    def _boxes(self, element: ElementTree.Element, place: Place) -> Iterator[ElementTree.Element]:
        for child in element:
            if child.tag == "box":
                yield child
            elif child.tag in _OTHER_SHAPES:
                self._counted.add(f"shapes of the kind {child.tag} left out, as only boxes are read", place)


def _text(element: ElementTree.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _task(element: ElementTree.Element, key: str, place: Place) -> ParsedTask:
    name = _text(element, "name") or f"{element.tag}_{key}"
    task = ParsedTask(place, name, _text(element, "source"))
    size = element.find("original_size")
    if size is not None:
        height, width = (whole(size.findtext(side), place, side, 1, MAX_SIDE) for side in ("height", "width"))
        task.size = height, width
    step = _text(element, "frame_filter")
    # frame_filter is "step=5", or nothing.
    every = whole(step.removeprefix("step="), place, "frame_filter", 1, MAX_FRAMES) if step else 1
    start = whole(_text(element, "start_frame") or 0, place, "start_frame", 0, MAX_FRAMES)
    if _text(element, "size"):
        count = whole(_text(element, "size"), place, "size", 0, MAX_FRAMES)
        task.numbers = range(start, start + every * count, every)
    return task


def _keyframe(box: ElementTree.Element, place: Place, frame: int | None = None) -> Keyframe:
    """A box of a track, or of image `frame`."""
    if frame is None:
        frame = whole(box.get("frame"), place, "frame", 0, MAX_FRAMES)
    x1, y1, x2, y2 = (number(box.get(side), place, side) for side in _SIDES)
    rotation = number(box.get("rotation", "0"), place, "rotation")
    outside, occluded = (whole(box.get(flag, "0"), place, flag, 0, 1) for flag in ("outside", "occluded"))
    return Keyframe(place, frame, (x1, y1, x2, y2), rotation, not outside, not outside, occluded)


def _unwound(keys: Sequence[Keyframe]) -> list[Keyframe]:
    """Keyframes whose rotations differ by at most half a turn from one to the next: CVAT turns the shorter way."""
    unwound: list[Keyframe] = []
    for key in keys:
        if unwound:
            before = unwound[-1].rotation
            key = key._replace(rotation=before + (key.rotation - before + 180) % 360 - 180)
        unwound.append(key)
    return unwound
