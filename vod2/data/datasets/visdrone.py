"""VisDrone-VID and VisDrone-MOT: videos from drones, ten classes of people and vehicles.

    <root>/sequences/<video>/0000001.jpg ...
    <root>/annotations/<video>.txt      frame,target_id,left,top,width,height,score,category,truncation,occlusion

Frames count from 1 in the files, from 0 in dicts.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vod2.data.datasets.common import VideoDataset, fields_of
from vod2.data.datasets.faults import Fault, Place, Report, number, refuse, track_number, whole
from vod2.data.datasets.files import folders_in, image_files_in
from vod2.data.datasets.ilsvrc import require_folder
from vod2.data.datasets.images import image_size
from vod2.data.datasets.labelled import (
    Box,
    LabelledFrame,
    LabelledObject,
    LabelledSet,
    LabelledVideo,
    register_labelled,
    to_dataset,
)
from vod2.errors import UserError

VISDRONE_CLASSES: tuple[str, ...] = (
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
)
"""Categories 1 to 10 of the files; 0 are ignored regions, 11 others."""

_COLUMNS = ("frame", "target_id", "left", "top", "width", "height", "score", "category", "truncation", "occlusion")
_OTHERS = len(VISDRONE_CLASSES) + 1
_REMEDY = "see datasets/README.md for how to lay it out"


def register_visdrone(
    name: str, root: str | os.PathLike, class_names: Sequence[str] | None = None, **options: Any
) -> None:
    """Register the dataset `name`, evaluated as UAVDT is, whose evaluation knows ignore regions; nothing is read yet.

    Args:
        name: in the DatasetCatalog.
        root, class_names, options: see `load_visdrone`.
    """
    names = list(VISDRONE_CLASSES) if class_names is None else class_names
    register_labelled(
        name, load_visdrone, "visdrone", root, names, options, evaluator_type="uavdt", image_root=str(root)
    )


def load_visdrone(
    root: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    sequences: Sequence[str] | None = None,
    list_file: str | os.PathLike | None = None,
) -> VideoDataset:
    """Read every frame of a part of VisDrone-VID or -MOT.

    Args:
        root: folder of the part, with sequences and annotations, such as VisDrone2019-VID-train.
        class_names: names of the classes to keep, by category id; None for `VISDRONE_CLASSES`.
        sequences: names of the videos; None for all.
        list_file: JSON list of the image ids to take; None for all.

    Returns:
        The dicts and the class names. Ignored regions, others, and objects of score 0, which the benchmark does not
        evaluate, are `ignore_regions` of their frame. Occlusion 1 (partial) and 2 (heavy) are occluded.

    Raises:
        UserError: a folder, video or file is missing, or a line is not as above; names it.
    """
    labelled = read_visdrone(root, refuse, sequences=sequences)
    return to_dataset(labelled, root, class_names, list_file)


def read_visdrone(root: str | os.PathLike, report: Report, *, sequences: Sequence[str] | None = None) -> LabelledSet:
    """What a part holds; arguments as of `load_visdrone`, and `report`, which takes the faults."""
    images = Path(root, "sequences")
    require_folder(images, "of VisDrone", _REMEDY)
    folders = folders_in(images) if sequences is None else [images / name for name in sequences]
    videos = []
    for folder in folders:
        try:
            video = _video(folder, Path(root, "annotations", f"{folder.name}.txt"))
        except Fault as fault:
            report(fault)
            continue
        _annotate(video, report)
        videos.append(video)
    return LabelledSet(list(VISDRONE_CLASSES), videos)


def _video(folder: Path, annotation: Path) -> LabelledVideo:
    """A video with its frames, without objects."""
    images = image_files_in(folder) if folder.is_dir() else []
    numbered = {int(image.stem): image for image in images if re.fullmatch("[0-9]{1,9}", image.stem)}
    if not numbered:
        kind = "missing_frame" if folder.is_dir() else "missing_video"
        raise Fault.at(Place(folder), "no images", "0000001.jpg ...", kind, "complete the dataset")
    missing = next((frame for frame in range(1, max(numbered) + 1) if frame not in numbered), None)
    if missing is not None:
        value, expected = f"{len(numbered)} images without number {missing}", "0000001.jpg ... without a gap"
        raise Fault.at(Place(folder), value, expected, "missing_frame", "complete the video")
    try:
        size = image_size(numbered[1])  # one head tells the size of all
    except UserError as error:
        value, remedy = str(error), "get the image again"
        raise Fault.at(Place(numbered[1]), value, "an image", "unreadable_image", remedy) from error
    frames = {number - 1: LabelledFrame(str(numbered[number]), size) for number in sorted(numbered)}
    digits, suffix = len(numbered[1].stem), numbered[1].suffix
    template = f"{str(folder).replace('%', '%%')}{os.sep}%0{digits}d{suffix.replace('%', '%%')}"
    return LabelledVideo(folder.name, str(annotation), frames, len(frames), template=template, first=1)


class VisDroneRow(NamedTuple):
    """A line of an annotation file: `frame` from 0, `box` xyxy pixels, `category` 0 to 11."""

    place: Place
    frame: int
    track: int | None
    box: Box
    score: float
    category: int
    occlusion: int


def _annotate(video: LabelledVideo, report: Report) -> None:
    expected = ",".join(_COLUMNS)
    # Some files end their lines with a comma.
    counts = {len(_COLUMNS), len(_COLUMNS) + 1}
    for place, fields in fields_of(video.annotation, "the annotations", expected, counts, report, ","):
        try:
            row = _row(fields, place, video.length)
        except Fault as fault:
            report(fault)
            continue
        frame = video.frames[row.frame]
        if row.category in (0, _OTHERS) or row.score == 0:
            frame.ignored.append(row.box)
        else:
            name = VISDRONE_CLASSES[row.category - 1]
            frame.objects.append(LabelledObject(place, name, row.box, row.track, int(row.occlusion > 0)))


def _row(fields: Sequence[str], place: Place, length: int) -> VisDroneRow:
    if "".join(fields[len(_COLUMNS) :]).strip():
        raise Fault.at(place, f"{len(fields)} columns", ",".join(_COLUMNS), "bad_line", "fix the line")
    left, top, width, height, score = (number(fields[i], place, _COLUMNS[i], "bad_line") for i in range(2, 7))
    frame = whole(fields[0], place, "frame", 1, kind="bad_line")
    if frame > length:
        raise Fault.at(place, f"frame {frame}", f"1 to {length}", "video_length", "complete the video")
    track = track_number(fields[1], place, "target_id", kind="bad_line")
    category = whole(fields[7], place, "category", 0, _OTHERS, kind="bad_line")
    occlusion = whole(fields[9], place, "occlusion", kind="bad_line")
    return VisDroneRow(place, frame - 1, track, (left, top, left + width, top + height), score, category, occlusion)
