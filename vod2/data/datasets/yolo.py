"""YOLO labels of videos: a folder of frames for each video, and a text file for each frame.

    <root>/images/<video>/<frame>.jpg  and  <root>/labels/<video>/<frame>.txt,   or side by side:
    <root>/<video>/<frame>.jpg, <frame>.txt

A line is an object: `class center_x center_y width height [track]`, class from 0, the sides relative to the image. A
frame without a file has no objects.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vod2.bounded import load_yaml, shown
from vod2.data.datasets.common import (
    BoxCheck,
    VideoDataset,
    annotation_dict,
    class_ids,
    fields_of,
    keep_listed,
    read_text,
    register_dataset,
    video_file,
    without_list,
)
from vod2.data.datasets.faults import Fault, Place, Report, number, refuse, track_number, whole
from vod2.data.datasets.files import files_in, folders_in, image_files_in
from vod2.data.datasets.frame_annotations import LoadedAnnotations
from vod2.data.datasets.ilsvrc import require_folder
from vod2.data.datasets.images import image_size
from vod2.errors import UserError
from vod2.video import VideoReader

_SIDES = ("center_x", "center_y", "width", "height")
_LINE = "'class cx cy w h' or 'class cx cy w h track'"
_TOLERANCE = 0.01  # by which a relative number may leave [0, 1] through rounding

ClassNames = Sequence[str] | str | os.PathLike
"""The names by category id, or the path of a data.yaml with the key `names`."""


def register_yolo_video(name: str, root: str | os.PathLike, class_names: ClassNames, **options: Any) -> None:
    """Register the dataset `name`; nothing is read before it is used.

    Args:
        name: in the DatasetCatalog.
        root, class_names, options: see `load_yolo_video`. If `class_names` is a path, the metadata gets
            `thing_classes` when the dataset is first used.
    """
    names = None if isinstance(class_names, str | os.PathLike) else class_names
    source = {"format": "yolo", "path": str(root), "class_names": class_names, **options}
    register_dataset(
        name,
        lambda: load_yolo_video(root, class_names, **options),
        names,
        image_root=str(root),
        frame_annotations=LoadedAnnotations(
            load_yolo_video, {"root": str(root), "class_names": class_names} | without_list(options)
        ),
        check_source=source,
    )


def load_yolo_video(
    root: str | os.PathLike,
    class_names: ClassNames,
    split: str = "",
    video_root: str | os.PathLike | None = None,
    video_suffix: str = ".mp4",
    first_frame: int = 0,
    list_file: str | os.PathLike | None = None,
) -> VideoDataset:
    """Read every frame of every video, in natural order (frame 9 before frame 10).

    Args:
        root: folder with `images` and `labels`, or with the videos' folders.
        class_names: the names, or the path of a data.yaml that has them.
        split: folder below images and labels (or below root), such as "train"; "" for none.
        video_root: take the frames from video files, <video_root>/<video><video_suffix>, rather than from images. The
            last number in the name of a label file is then the number of the frame.
        video_suffix: of the video files.
        first_frame: what the numbers in the names of label files count from, 0 or 1; only with `video_root`.
        list_file: JSON list of the image ids to take; None for all.

    Returns:
        The dicts and the class names. The first frame of a video tells the size of all. `track_id` is absent where a
        line has none. Boxes are clipped to the image, those without area dropped, and a warning counts both.

    Raises:
        UserError: a folder is missing, or a file is not as above; names file, line and value.
    """
    names = read_class_names(class_names) if isinstance(class_names, str | os.PathLike) else list(class_names)
    # Called for its check alone: the ids of YOLO's classes are their places in the list.
    class_ids(names, "the classes")
    # A folder of either name tells the two layouts apart.
    separate = Path(root, "images").is_dir() or Path(root, "labels").is_dir()
    images, labels = (Path(root, part if separate else "", split) for part in ("images", "labels"))
    remedy = "see datasets/README.md for how to lay it out"
    boxes = BoxCheck()
    dicts: list[dict] = []
    if video_root is None:
        require_folder(images, "of YOLO videos", remedy)
        for folder in folders_in(images):
            dicts += _read_folder(images, labels, folder.name, len(names), boxes)
    else:
        require_folder(labels, "of YOLO labels", remedy)
        for folder in folders_in(labels):
            file = video_file(video_root, folder.name, video_suffix)
            dicts += _read_video(file, labels, folder.name, len(names), boxes, first_frame)
    boxes.warn()
    if not dicts:
        raise UserError(f"{images if video_root is None else labels}: expected folders of videos, found none: {remedy}")
    return VideoDataset(keep_listed(dicts, list_file), names)


def read_class_names(path: str | os.PathLike) -> list[str]:
    """The `names` of a data.yaml: a list, or a mapping from 0, 1, 2 ...

    Raises:
        UserError: the file is missing or broken, or has no such key; names it.
    """
    try:
        data = load_yaml(read_text(path, "the list of classes"))
    except ValueError as error:
        raise UserError(f"{path}: broken YAML ({' '.join(str(error).split())}): fix the file") from error
    names = data.get("names") if isinstance(data, dict) else None
    # Newer files have {0: name, 1: name}.
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[category] for category in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: names is {shown(names)}, expected a list, or a mapping from 0, 1, 2 ... to names")
    return [str(name) for name in names]


def _read_folder(images: Path, labels: Path, video: str, classes: int, boxes: BoxCheck) -> Iterator[dict]:
    files = image_files_in(images / video)
    # The head of one image tells the size of all: opening each would take long.
    height, width = image_size(files[0]) if files else (0, 0)
    for index, file in enumerate(files):
        label = labels / video / f"{file.stem}.txt"
        objects = _read_labels(label, height, width, classes, boxes) if label.is_file() else []
        yield _to_dict({"file_name": str(file)}, video, index, len(files), height, width, objects)


def _read_video(file: str, labels: Path, video: str, classes: int, boxes: BoxCheck, first_frame: int) -> Iterator[dict]:
    reader = VideoReader(file)
    # Counted from the packets: the length that a container states is often wrong.
    length, (width, height) = reader.frame_count(), reader.size
    objects = {
        index: _read_labels(label, height, width, classes, boxes)
        for index, label in find_label_files(labels / video, length, first_frame).items()
    }
    for index in range(length):
        yield _to_dict({"video_file": file}, video, index, length, height, width, objects.get(index, []))


def _to_dict(
    source: dict, video: str, index: int, length: int, height: int, width: int, annotations: list[dict]
) -> dict:
    return source | {
        "image_id": f"{video}/{index:06d}",
        "height": height,
        "width": width,
        "video_id": video,
        "frame_index": index,
        "video_length": length,
        "annotations": annotations,
    }


def find_label_files(folder: Path, length: int, first_frame: int, report: Report = refuse) -> dict[int, Path]:
    """{frame, from 0: its file of labels} of a video file; the last number in a file's name is that of the frame.

    Args:
        folder: of the labels of one video.
        length: frames of the video.
        first_frame: what the names count from.
        report: takes the faults; files with one are left out.
    """
    files: dict[int, Path] = {}
    for label in sorted(files_in(folder, ".txt")):
        digits = re.findall(r"[0-9]+", label.stem)
        index = int(digits[-1]) - first_frame if digits else -1
        # Of two files of one frame, as 3.txt and 03.txt, the second is a fault.
        if 0 <= index < length and index not in files:
            files[index] = label
            continue
        expected = f"a name that ends in the number of a frame, {first_frame} to {length - 1 + first_frame}, each once"
        remedy = "rename it, or check the video and first_frame"
        report(Fault.at(Place(label), f"labels of a video of {length} frames", expected, "missing_frame", remedy))
    return files


class YoloObject(NamedTuple):
    """An object as it stands in a file of labels.

    Args:
        line: its line, from 1.
        category: from 0.
        box: xyxy relative to the image.
        track: its id, None where the line has none, or a negative one.
    """

    line: int
    category: int
    box: tuple[float, float, float, float]
    track: int | None

    def in_pixels(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The box, xyxy in pixels."""
        left, top, right, bottom = self.box
        return left * width, top * height, right * width, bottom * height


def parse_labels(path: str | os.PathLike, report: Report = refuse) -> Iterator[YoloObject]:
    """The objects of a file of labels, line by line.

    Args:
        path: the file.
        report: takes the faults; lines with one are left out.
    """
    for place, fields in fields_of(path, "the labels of a frame", _LINE, {5, 6}, report, None):
        try:
            thing = _parse_object(fields, place)
        except Fault as fault:
            report(fault)
            continue
        yield thing


def _parse_object(fields: Sequence[str], place: Place) -> YoloObject:
    category = whole(fields[0], place, "class", 0, kind="bad_line")
    # Whatever is wrong with a number, the fault is of its line.
    x, y, w, h = sides = [number(text, place, side, "bad_line") for text, side in zip(fields[1:5], _SIDES, strict=True)]
    if not all(-_TOLERANCE <= side <= 1 + _TOLERANCE for side in sides):
        raise Fault.at(place, f"{' '.join(fields)!r:.80}", "a box relative to the image, in [0, 1]", "box_outside")
    track = track_number(fields[5], place, "track", kind="bad_line") if len(fields) == 6 else None
    assert place.line is not None
    return YoloObject(place.line, category, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), track)


def _read_labels(path: Path, height: int, width: int, classes: int, boxes: BoxCheck) -> list[dict]:
    """The annotations of one file, in pixels."""
    annotations = []
    for thing in parse_labels(path):
        place = Place(path, thing.line)
        # Only here, as a check may know no names and then takes any class.
        if thing.category >= classes:
            expected = f"one of the {classes} classes 0 to {classes - 1}"
            raise Fault.at(place, f"class {thing.category}", expected, "unknown_class")
        box = boxes.clip(thing.in_pixels(height, width), height, width, place)
        if box is not None:
            annotations.append(annotation_dict(box, thing.category, thing.track))
    return annotations
