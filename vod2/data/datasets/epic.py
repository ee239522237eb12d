"""EPIC-KITCHENS-55: objects that are used in kitchens, boxes in some frames of each video and no tracks.

    <root>/EPIC_train_object_labels.csv     noun_class,noun,participant_id,video_id,frame,bounding_boxes
    <root>/EPIC_noun_classes.csv            noun_id,class_key,nouns: the names of the classes
    <image_root>/<participant>/<video>/0000000001.jpg, or frame_0000000001.jpg, or without <participant>

A row has the boxes of one class in a frame, "[(top, left, height, width), ...]" in pixels of 1920 x 1080, or "[]" where
the object is not to be seen. Frames count from 1 in the file, from 0 in dicts.
"""

import csv
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vod2.data.datasets.common import VideoDataset, lines_of
from vod2.data.datasets.faults import MAX_FRAMES, Fault, Place, Report, refuse, whole
from vod2.data.datasets.files import leads_out
from vod2.data.datasets.frame_files import FrameRoot
from vod2.data.datasets.images import image_size
from vod2.data.datasets.labelled import (
    Box,
    Counted,
    LabelledFrame,
    LabelledObject,
    LabelledSet,
    LabelledVideo,
    register_labelled,
    report_of_frame,
    to_dataset,
)
from vod2.errors import UserError

logger = logging.getLogger(__name__)

_COLUMNS = ("noun_class", "noun", "participant_id", "video_id", "frame", "bounding_boxes")
_NAMES = ("noun_id", "class_key", "nouns")
_SIZE = (1080, 1920)  # height, width of the pixels that boxes count
_WHOLE = r"\s*-?[0-9]{1,9}(?:\.0)?\s*"
_TUPLE = rf"\({_WHOLE},{_WHOLE},{_WHOLE},{_WHOLE}\)"
_BOXES = re.compile(rf"\[\s*(?:{_TUPLE}\s*(?:,\s*{_TUPLE}\s*)*)?\]")


def register_epic(
    name: str, csv_file: str | os.PathLike, class_names: Sequence[str] | None = None, **options: Any
) -> None:
    """Register the dataset `name`; nothing is read before it is used.

    Args:
        name: in the DatasetCatalog.
        csv_file, class_names, options: see `load_epic`. Without `class_names`, the metadata gets `thing_classes` when
            the dataset is first used.
    """
    register_labelled(name, load_epic, "epic", csv_file, class_names, options)


def load_epic(
    csv_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    video_root: str | os.PathLike | None = None,
    video_suffix: str = ".MP4",
    list_file: str | os.PathLike | None = None,
) -> VideoDataset:
    """Read the object labels of EPIC-KITCHENS-55.

    Args:
        csv_file: EPIC_train_object_labels.csv.
        image_root: folder of the participants' or videos' folders of images; None for that of the file.
        class_names: names of the classes to keep, by category id; None for those of EPIC_noun_classes.csv beside the
            file, by noun class, or where there is none, the first noun of each class that occurs.
        video_root: take the frames from video files, <video_root>/<video><video_suffix>, rather than from images.
        video_suffix: of the video files.
        list_file: JSON list of the image ids to take; None for all.

    Returns:
        The dicts of the frames that have a row, and the class names. Boxes are scaled to the size of the first image
        of their video, and a warning says so. Other frames are supports, where they are there. There are no tracks.

    Raises:
        UserError: a file is missing or not as above; names the file, the line and the value.
    """
    labelled = read_epic(csv_file, refuse, image_root=image_root, video_root=video_root, video_suffix=video_suffix)
    return to_dataset(labelled, csv_file, class_names, list_file)


def read_epic(
    csv_file: str | os.PathLike,
    report: Report,
    *,
    image_root: str | os.PathLike | None = None,
    video_root: str | os.PathLike | None = None,
    video_suffix: str = ".MP4",
) -> LabelledSet:
    """What the file holds; arguments as of `load_epic`, and `report`, which takes the faults."""
    counted = Counted()
    root = FrameRoot(Path(csv_file).parent if image_root is None else image_root, video_root, video_suffix)
    names = _class_names(Path(csv_file).parent / "EPIC_noun_classes.csv", report)
    reader = _Reader(csv_file, root, names, report, counted)
    for place, row in _rows(csv_file, _COLUMNS, report):
        reader.add(place, row)
    videos = [video for video in reader.videos.values() if video is not None and video.frames]
    for video in videos:
        if not video.in_file:
            video.find_unlisted()
    for text in counted.texts():
        logger.warning("%s: %s", csv_file, text)
    return LabelledSet([names[key] for key in sorted(names)], videos)


def _rows(path: str | os.PathLike, columns: Sequence[str], report: Report) -> Iterator[tuple[Place, dict[str, str]]]:
    """The rows of a CSV file with a header."""
    # No field of the files has a line break.
    lines = lines_of(path, "the table", report)
    header: list[str] | None = None
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        place = Place(path, line)
        try:
            fields = next(csv.reader([text], strict=True))
        except csv.Error as error:
            report(Fault.at(place, f"{text!r:.80} ({error})", ",".join(columns), "bad_line", "fix the line"))
            continue
        if header is None:
            header = fields
            if missing := [column for column in columns if column not in header]:
                report(Fault.at(place, f"no column {missing[0]}", ",".join(columns), "bad_line", "give the right file"))
                return
        elif len(fields) == len(header):
            yield place, dict(zip(header, fields, strict=True))
        else:
            report(Fault.at(place, f"{text!r:.80}", ",".join(header), "bad_line", "fix the line"))


def _class_names(path: Path, report: Report) -> dict[int, str]:
    """{noun class: name}; none without the file."""
    names: dict[int, str] = {}
    for place, row in _rows(path, _NAMES, report) if path.is_file() else ():
        try:
            noun = whole(row["noun_id"], place, "noun_id", 0, kind="bad_line")
            if noun in names or row["class_key"] in names.values():
                value = f"noun_id {noun}, class_key {row['class_key']!r:.40}"
                raise Fault.at(place, value, "each of them once", "duplicate_line", "get the file again")
            names[noun] = row["class_key"]
        except Fault as fault:
            report(fault)
    return names


class _Reader:
    """Collects rows as frames of videos; a video whose frames cannot be found is None in `videos`."""

    def __init__(
        self, path: str | os.PathLike, root: FrameRoot, names: dict[int, str], report: Report, counted: Counted
    ) -> None:
        self._path, self._root, self._names = path, root, names
        self._report, self._counted = report, counted
        # Where there is no table of names, the rows give them.
        self._has_names = bool(names)
        self.videos: dict[str, LabelledVideo | None] = {}
        self._files: dict[str, tuple[Path | str, tuple[int, int]]] = {}  # folder or video file, size

    def add(self, place: Place, row: dict[str, str]) -> None:
        try:
            noun = whole(row["noun_class"], place, "noun_class", 0, kind="bad_line")
            index = whole(row["frame"], place, "frame", 1, MAX_FRAMES, kind="bad_line") - 1
            boxes = _boxes(row["bounding_boxes"], place)
            name = self._name(noun, row["noun"], place)
            video = self._video(row["participant_id"], row["video_id"], index, place)
        except Fault as fault:
            self._report(fault)
            return
        if video is None:  # its fault was reported with its first row
            return
        where, size = self._files[video.name]
        if video.in_file and index >= video.length:
            beyond = Fault.at(
                place, f"frame {index + 1}", f"1 to {video.length}", "video_length", "give the right video"
            )
            report_of_frame(self._report, beyond, video.name, index)
            return
        if index not in video.frames:
            file = str(where) if video.in_file else str(_image(Path(where), index))
            video.frames[index] = LabelledFrame(file, size)
        vertical, horizontal = size[0] / _SIZE[0], size[1] / _SIZE[1]
        if size != _SIZE and boxes:
            self._counted.add(
                f"boxes scaled from {_SIZE[1]} x {_SIZE[0]} pixels to those of the frames", place, len(boxes)
            )
        for x1, y1, x2, y2 in boxes:
            box = (x1 * horizontal, y1 * vertical, x2 * horizontal, y2 * vertical)
            video.frames[index].objects.append(LabelledObject(place, name, box))

    def _name(self, noun: int, text: str, place: Place) -> str:
        if noun not in self._names:
            if self._has_names:
                expected = "one of EPIC_noun_classes.csv"
                raise Fault.at(
                    place, f"noun_class {noun} is unknown", expected, "unknown_class", "get both files again"
                )
            # Several classes may be called by one noun.
            self._names[noun] = f"{text} {noun}" if text in self._names.values() or not text else text
        return self._names[noun]

    def _video(self, participant: str, name: str, index: int, place: Place) -> LabelledVideo | None:
        """The video, whose frames are looked for when its first row comes."""
        if name in self.videos:
            return self.videos[name]
        self.videos[name] = None  # until it is found
        if not name or leads_out(name) or leads_out(participant):
            raise Fault.at(place, f"video_id is {name!r:.80}", "the name of a video", "bad_line")
        video = LabelledVideo(name, str(self._path))
        if self._root.videos is not None:
            found = self._root.frames([name, f"{participant}/{name}"], place)
            video.in_file, video.length = True, found.length
            self._files[name] = (found.files[0], found.size)
        else:
            images = Path(self._root.images)
            folder = next((f for f in (images / participant / name, images / name) if os.path.isdir(f)), images / name)
            file = _image(folder, index)
            try:
                self._files[name] = (folder, image_size(file))  # one head tells the size of all
            except (UserError, OSError, ValueError) as error:  # ValueError: a name that no file can have
                kind = "unreadable_image" if os.path.isfile(file) else "missing_frame"
                value, remedy = f"its image {file} cannot be read ({error})", "give image_root, or video_root"
                raise Fault.at(place, value, "an image", kind, remedy) from error
        self.videos[name] = video
        return video


def _image(folder: Path, index: int) -> Path:
    """The image of a frame: those of the object labels have plain numbers, those of the actions begin with frame_."""
    plain = folder / f"{index + 1:010d}.jpg"
    other = folder / f"frame_{index + 1:010d}.jpg"
    return other if os.path.isfile(other) and not os.path.isfile(plain) else plain


def _boxes(text: str, place: Place) -> list[Box]:
    """The boxes of a row, xyxy."""
    if not _BOXES.fullmatch(text.strip()):
        value, expected = f"bounding_boxes is {text!r:.80}", "[(top, left, height, width), ...]"
        raise Fault.at(place, value, expected, "bad_line", "fix the line")
    numbers = [float(word) for word in re.findall(r"-?[0-9]+(?:\.0)?", text)]
    rows = [numbers[start : start + 4] for start in range(0, len(numbers), 4)]
    return [(left, top, left + width, top + height) for top, left, height, width in rows]
