"""The parser of `vod2.data.datasets.coco_video`: what one JSON file holds of videos, frames and objects, as written."""

import os
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vod2.data.datasets.common import read_json
from vod2.data.datasets.faults import MAX_FRAMES, MAX_SIDE, Fault, Place, Report, number, refuse, track_number, whole
from vod2.data.datasets.files import leads_out


@dataclass(frozen=True, slots=True)
class ParsedObject:
    """An object in a frame.

    Args:
        place: of its box.
        annotation: place of its annotation in the list, from 0.
        id: of its annotation, as it stands there.
        category: `category_id`, as it stands there.
        name: of the category; None for one that the file does not have.
        box: xyxy in pixels.
        track: None where the annotation has none.
        occluded, iscrowd: 0 or 1.
    """

    place: Place
    annotation: int
    id: object
    category: object
    name: str | None
    box: tuple[float, float, float, float]
    track: int | None
    occluded: int
    iscrowd: int


@dataclass
class ParsedFrame:
    """A frame of a video.

    Args:
        file_name: of its image, as written; None for a frame of a video file.
        size: (height, width) in pixels; None where there is none that can be read.
        groups: that it and its video belong to, in lower case.
        objects: in the order of the file.
        is_key: what the key `key_flag` says; true where nobody asks for one.
    """

    file_name: str | None
    size: tuple[int, int] | None
    groups: tuple[str, ...] = ()
    is_key: bool = True
    objects: list[ParsedObject] = field(default_factory=list)


@dataclass
class ParsedVideo:
    """A video: its name, which is unique, its frames by number from 0, and how many it has."""

    name: str
    frames: dict[int, ParsedFrame] = field(default_factory=dict)
    length: int = 0


@dataclass
class ParsedFile:
    """A file.

    Args:
        categories: {id: name}.
        videos: in the order of the file.
        annotated: whether there are annotations; a test set has none.
    """

    categories: dict[Hashable, str]
    videos: list[ParsedVideo]
    annotated: bool


def parse_coco_video(
    path: str | os.PathLike,
    report: Report = refuse,
    *,
    keep: Collection[str] | None = None,
    in_files: bool = False,
    first_frame: int = 0,
    group_keys: Sequence[str] = (),
    image_root: str | os.PathLike | None = None,
    key_flag: str | None = None,
) -> ParsedFile:
    """Parse a JSON file of either kind, COCO-style or YouTube-VIS, told apart by its keys.

    Args:
        path: the file; packed, if its name ends in .gz.
        report: takes the faults; entries with one are left out, as far as they cannot be read.
        keep: names of the categories whose objects are read; None for all.
        in_files: the frames are in video files, and need no names of images.
        first_frame: what "frame_id" counts from.
        group_keys: keys of videos and images whose values name groups.
        image_root: folder that the names of images are relative to. They may lead to any place in it, and in the folder
            above that of the file, as "../images/0.jpg" does; a name that leads elsewhere is a fault.
        key_flag: key of images that says whether they are key frames (true or false); None for all.
    """
    return _Parser(path, report, keep, in_files, first_frame, group_keys, image_root, key_flag).parse()


@dataclass
class _Video:
    place: Place
    entry: dict
    parsed: ParsedVideo


class _Parser:
    def __init__(
        self,
        path: str | os.PathLike,
        report: Report,
        keep: Collection[str] | None,
        in_files: bool,
        first_frame: int,
        group_keys: Sequence[str],
        image_root: str | os.PathLike | None,
        key_flag: str | None,
    ) -> None:
        self._path, self._report, self._keep, self._key_flag = path, report, keep, key_flag
        self._in_files, self._first, self._group_keys = in_files, first_frame, group_keys
        beside = os.path.dirname(os.path.abspath(path))
        self._start = beside if image_root is None else os.path.abspath(image_root)
        # Images may also lie beside the folder of the JSON, as in annotations/ and images/.
        above = os.path.dirname(beside)
        self._roots = (above,) if image_root is None else (self._start, above)

    def parse(self) -> ParsedFile:
        try:
            self._data = self._read()
            self._refuse_stills()
        except Fault as fault:
            self._report(fault)
            return ParsedFile({}, [], False)
        self._categories = self._read_categories()
        videos = self._read_videos()
        # An empty list says that there are no objects; a test set has none at all.
        annotated = self._data.get("annotations") is not None
        if self._data.get("images"):
            images = self._read_images(videos)
            if annotated:
                self._annotate_images(images)
        else:
            self._read_frames(videos)
            if annotated:
                self._annotate_videos(videos)
        return ParsedFile(self._categories, [video.parsed for video in videos.values()], annotated)

    def _read(self) -> dict:
        expected = "an object with 'videos' and 'categories'"
        data = read_json(self._path, "the JSON of a dataset", expected)
        if not isinstance(data, dict):
            raise Fault.at(Place(self._path), f"the JSON is {data!r:.80}", expected)
        return data

    def _entries(self, key: str) -> Iterator[tuple[int, Place, dict]]:
        """The objects of a list: position, place, entry."""
        entries = self._data.get(key)
        if not isinstance(entries, list):
            place, value = Place(self._path), f"{key!r} is {entries!r:.80}"
            self._report(Fault.at(place, value, "a list", remedy="check the file's format"))
            return
        for position, entry in enumerate(entries):
            place = Place(self._path, entry=f"{key}[{position}]")
            # One broken entry is a fault of its own, and the others are read.
            if isinstance(entry, dict):
                yield position, place, entry
            else:
                self._report(Fault.at(place, f"it is {entry!r:.80}", "an object"))

    def _refuse_stills(self) -> None:
        """A plain COCO file has everything but the videos; "'videos' is None" would not say what to do about it."""
        if "videos" in self._data or not isinstance(self._data.get("images"), list):
            return
        value = "there are no 'videos': it is COCO's JSON of still images"
        expected = "'videos' [{id, name}], and video_id and frame_id in each of the images"
        remedy = (
            "add them (tracks are instance_id or track_id of the annotations, or CVAT's attribute track_id), export as "
            "MOT or YOLO, or register still images with Detectron2's register_coco_instances"
        )
        raise Fault.at(Place(self._path), value, expected, remedy=remedy)

    def _read_categories(self) -> dict[Hashable, str]:
        categories: dict[Hashable, str] = {}
        for _, place, entry in self._entries("categories"):
            try:
                categories[_new_id(entry, categories, place)] = _text(entry, "name", place)
            except Fault as fault:
                self._report(fault)
        return categories

    def _read_videos(self) -> dict[Hashable, _Video]:
        videos: dict[Hashable, _Video] = {}
        names: set[str] = set()
        for _, place, entry in self._entries("videos"):
            try:
                key = _new_id(entry, videos, place)
                name = _text(entry, "name", place) if "name" in entry else _folder(entry) or str(key)
                if self._in_files and leads_out(name):
                    value, expected = f"name is {name!r:.80}", "a file in video_root"
                    raise Fault.at(place, value, expected, remedy="rename the video")
                if name in names:
                    value = f"another video is called {name!r}, too"
                    raise Fault.at(place, value, "each video with its own name", "duplicate_line")
            except Fault as fault:
                self._report(fault)
                continue
            names.add(name)
            videos[key] = _Video(place, entry, ParsedVideo(name))
        return videos

    def _read_images(self, videos: dict[Hashable, _Video]) -> dict[Hashable, tuple[ParsedVideo, int] | None]:
        """Fill in the frames of the videos; returns {image id: its video and number}, None for one with a fault."""
        images: dict[Hashable, tuple[ParsedVideo, int] | None] = {}
        for _, place, entry in self._entries("images"):
            key = entry.get("id")
            try:
                key = _new_id(entry, images, place)
                # From here on the id is known: annotations of this image are not reported for the fault of the image.
                images[key] = None
                video = _lookup(videos, entry, "video_id", place, "videos")
                # Not joined by `or`: the number may be 0.
                frame = entry["frame_id"] if "frame_id" in entry else entry.get("frame_index")
                index = whole(frame, place, "frame_id", self._first, MAX_FRAMES) - self._first
                self._add_frame(video, index, entry, entry.get("file_name"), place)
                images[key] = (video.parsed, index)
            except Fault as fault:
                self._report(fault)
        for video in videos.values():
            length = 0
            if "length" in video.entry:
                try:
                    length = whole(video.entry["length"], video.place, "length", most=MAX_FRAMES)
                except Fault as fault:
                    self._report(fault)
            # A length may count frames that the file does not list; it must not cut off any that it does.
            video.parsed.length = max(length, max(video.parsed.frames, default=-1) + 1)
        return images

    def _read_frames(self, videos: dict[Hashable, _Video]) -> None:
        for video in videos.values():
            names = video.entry.get("file_names")
            try:
                if isinstance(names, list):
                    video.parsed.length = len(names)
                elif self._in_files:
                    video.parsed.length = whole(video.entry.get("length"), video.place, "length", 0, MAX_FRAMES)
                    # Frames of a video file have no names of their own.
                    names = [None] * video.parsed.length
                else:
                    value, expected = f"file_names is {names!r:.80}", "a list, as the file has no 'images'"
                    raise Fault.at(video.place, value, expected, remedy="check the file's format")
            except Fault as fault:
                self._report(fault)
                continue
            for index, name in enumerate(names):
                place = video.place._replace(entry=f"{video.place.entry}: frame {index}")
                try:
                    self._add_frame(video, index, {}, name, place)
                except Fault as fault:
                    self._report(fault)

    def _add_frame(self, video: _Video, index: int, image: dict, file_name: object, place: Place) -> None:
        parsed = video.parsed
        if index in parsed.frames:
            value = f"video {parsed.name!r} has another frame {index}"
            raise Fault.at(place, value, "each frame once", "duplicate_line")
        if self._in_files:
            frame = ParsedFrame(None, None)
        elif isinstance(file_name, str) and "\\" in file_name:
            # Windows takes both slashes, and all others take it as a letter of a name that no file has.
            value, expected = f"file name {file_name!r:.80}", "slashes instead of backslashes"
            raise Fault.at(place, value, expected, remedy="replace them")
        elif isinstance(file_name, str) and file_name:
            self._require_inside(file_name, place)
            frame = ParsedFrame(file_name, None)
        else:
            raise Fault.at(place, f"file name {file_name!r:.80}", "a text")
        parsed.frames[index] = frame
        # The frame stands, whatever is wrong with what follows.
        try:
            height, width = (
                # YouTube-VIS gives one size for the whole video.
                whole(image[side] if side in image else video.entry.get(side), place, side, 1, MAX_SIDE)
                for side in ("height", "width")
            )
            frame.size = (height, width)
            frame.groups = self._groups(video.entry, video.place) + self._groups(image, place)
            frame.is_key = self._key_flag is None or self._is_key(image, place)
        except Fault as fault:
            self._report_of_frame(fault, parsed, index)

    def _is_key(self, image: dict, place: Place) -> bool:
        value = image.get(self._key_flag)
        if not isinstance(value, bool):
            expected, remedy = "true or false", "fix the file, or leave key_flag out"
            raise Fault.at(place, f"{self._key_flag} is {value!r:.40}", expected, remedy=remedy)
        return value

    def _require_inside(self, file_name: str, place: Place) -> None:
        # Most names have neither, and there may be millions of them.
        if ".." not in file_name and not os.path.isabs(file_name):
            return
        # Links are not followed: whoever has the folder may link to another disk.
        target = os.path.normpath(os.path.join(self._start, file_name))
        if all(leads_out(os.path.relpath(target, root)) for root in self._roots):
            value, expected = f"file name {file_name!r:.80}", f"a file below {' or '.join(self._roots)}"
            raise Fault.at(place, value, expected, remedy="correct it, or give image_root='/' if it is right")

    def _groups(self, entry: dict, place: Place) -> tuple[str, ...]:
        """The groups that an entry names; none where it lacks a key or has null there."""
        names = [(key, entry[key]) for key in self._group_keys if entry.get(key) is not None]
        for key, name in names:
            if not isinstance(name, str) or not name:
                raise Fault.at(place, f"{key} is {name!r:.80}", "the name of a group", remedy="fix it or group_keys")
        return tuple(name.lower() for _, name in names)

    def _annotate_images(self, images: dict[Hashable, tuple[ParsedVideo, int] | None]) -> None:
        for position, place, entry in self._entries("annotations"):
            try:
                frame = _lookup(images, entry, "image_id", place, "images")
            except Fault as fault:
                self._report(fault)
                continue
            if frame is None:  # the image has its own fault
                continue
            video, index = frame
            try:
                track = _track(entry, place)
                self._add_object(video, index, entry.get("bbox"), track, entry, position, place, "bbox")
            except Fault as fault:
                self._report_of_frame(fault, video, index)

    def _annotate_videos(self, videos: dict[Hashable, _Video]) -> None:
        for position, place, entry in self._entries("annotations"):
            try:
                video = _lookup(videos, entry, "video_id", place, "videos").parsed
                # An annotation of YouTube-VIS is one object in the whole video: its id is the track.
                track = whole(entry.get("id"), place, "id")
                boxes = entry.get("bboxes")
                if not isinstance(boxes, list) or len(boxes) != video.length:
                    content = f"{len(boxes)} boxes" if isinstance(boxes, list) else f"{boxes!r:.80}"
                    expected = f"one box or null for each of the {video.length} frames of video {video.name!r}"
                    raise Fault.at(place, f"bboxes has {content}", expected)
            except Fault as fault:
                self._report(fault)
                continue
            for index, box in enumerate(boxes):
                # null: the object is not in the frame. A frame that is not there has had its own fault reported.
                if box is None or index not in video.frames:
                    continue
                try:
                    self._add_object(video, index, box, track, entry, position, place, f"bboxes[{index}]")
                except Fault as fault:
                    self._report_of_frame(fault, video, index)

    def _add_object(
        self,
        video: ParsedVideo,
        index: int,
        box: object,
        track: int | None,
        entry: dict,
        position: int,
        place: Place,
        name_of_box: str,
    ) -> None:
        category = entry.get("category_id")
        # What JSON has as a list or an object cannot be looked up.
        name = self._categories.get(category) if isinstance(category, Hashable) else None
        # An unknown category is no class that was left out on purpose: whoever uses the object reports it.
        if self._keep is not None and name is not None and name not in self._keep:
            return
        if not isinstance(box, list) or len(box) != 4:
            raise Fault.at(place, f"{name_of_box} is {box!r:.80}", "[x, y, width, height]")
        x, y, width, height = (number(side, place, name_of_box) for side in box)
        occluded, iscrowd = (int(bool(entry.get(flag))) for flag in ("occluded", "iscrowd"))
        # As Detectron2's own reader of COCO does: an evaluation would count it as an ordinary object.
        if entry.get("ignore") and not iscrowd:
            value, remedy = f"ignore is {entry['ignore']!r:.40}", "remove the annotation, or mark it with iscrowd: 1"
            raise Fault.at(place, value, "0, or iscrowd: 1 for a region that is ignored", remedy=remedy)
        occluded = occluded or int(bool(_attributes(entry).get("occluded")))
        video.frames[index].objects.append(
            ParsedObject(
                place._replace(entry=f"{place.entry}: {name_of_box}"),
                position,
                entry.get("id"),
                category,
                name,
                (x, y, x + width, y + height),
                track,
                occluded,
                iscrowd,
            )
        )

    def _report_of_frame(self, fault: Fault, video: ParsedVideo, index: int) -> None:
        # With the frame, a check can leave out that frame alone.
        fault.frame = (video.name, index)
        self._report(fault)


def _attributes(entry: dict) -> dict:
    """What CVAT writes of a box beside COCO's keys."""
    attributes = entry.get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def _track(entry: dict, place: Place) -> int | None:
    """The track of an annotation: instance_id, track_id, or CVAT's attribute track_id."""
    for key, values in (("instance_id", entry), ("track_id", entry), ("track_id", _attributes(entry))):
        if values.get(key) is not None:
            return track_number(values[key], place, key)
    return None


def _new_id(entry: dict, entries: dict, place: Place) -> Hashable:
    key = entry.get("id")
    # null, a list or an object tells no entry from another.
    if not isinstance(key, int | float | str):
        raise Fault.at(place, f"id is {key!r:.80}", "a number or a text")
    if key in entries:
        raise Fault.at(place, f"another entry has the id {key!r:.80}, too", "each id once", "duplicate_line")
    return key


def _lookup(table: dict, entry: dict, key: str, place: Place, of: str) -> Any:
    value = entry.get(key)
    if not isinstance(value, Hashable) or value not in table:
        raise Fault.at(place, f"{key} is {value!r:.80}, which is not in the file", f"the id of an entry of {of!r}")
    return table[value]


def _text(entry: dict, key: str, place: Place) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise Fault.at(place, f"{key} is {value!r:.80}", "a text")
    return value


def _folder(video: dict) -> str:
    """The folder of a video's frames, which names it."""
    names = video.get("file_names")
    first = names[0] if isinstance(names, list) and names else ""
    return os.path.dirname(first) if isinstance(first, str) else ""
