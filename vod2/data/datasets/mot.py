"""MOTChallenge folders (MOT16, MOT17, MOT20, DanceTrack, SportsMOT, what CVAT exports as MOT).

<root>/<split>/<sequence>/seqinfo.ini       optional, as CVAT writes none
<root>/<split>/<sequence>/img1/000001.jpg ...
<root>/<split>/<sequence>/gt/gt.txt         frame,id,left,top,width,height,confidence,class,visibility
<root>/<split>/<sequence>/gt/labels.txt     optional: the names of classes 1, 2 ...
"""

import configparser
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vod2.data.datasets.common import (
    BoxCheck,
    VideoDataset,
    annotation_dict,
    class_ids,
    fields_of,
    keep_listed,
    lines_of,
    read_text,
    register_dataset,
    video_file,
    without_list,
)
from vod2.data.datasets.faults import MAX_FRAMES, MAX_SIDE, Fault, Place, Report, number, refuse, track_number, whole
from vod2.data.datasets.files import folders_in, image_files_in, leads_out
from vod2.data.datasets.frame_annotations import LoadedAnnotations
from vod2.data.datasets.ilsvrc import require_folder
from vod2.data.datasets.images import image_size
from vod2.errors import UserError
from vod2.video import VideoReader

logger = logging.getLogger(__name__)

MOT17_CLASSES: dict[int, str] = {
    1: "pedestrian",
    2: "person_on_vehicle",
    3: "car",
    4: "bicycle",
    5: "motorbike",
    6: "non_motorized_vehicle",
    7: "static_person",
    8: "distractor",
    9: "occluder",
    10: "occluder_on_the_ground",
    11: "occluder_full",
    12: "reflection",
    13: "crowd",
}
"""Number in gt.txt -> name, as in MOT16 and MOT17; 13 comes with MOT20."""

_COLUMNS = ("frame", "id", "left", "top", "width", "height", "confidence", "class", "visibility")
_IMAGES = "img1"
_OCCLUDED_BELOW = 0.5  # visibility of an object that counts as occluded


def register_mot(
    name: str,
    root: str | os.PathLike,
    split: str = "train",
    sequences: Sequence[str] | None = None,
    classes: Mapping[int, str] | None = None,
    keep_classes: Sequence[str] | None = None,
    **options: Any,
) -> None:
    """Register the dataset `name`; nothing is read before it is used.

    Args:
        name: in the DatasetCatalog.
        root, split, sequences, classes, keep_classes, options: see `load_mot`. With neither `classes` nor
            `keep_classes` the metadata gets `thing_classes` when the dataset is first used.
    """
    names: list[str] | None = None
    if keep_classes is not None:
        names = list(keep_classes)
    elif classes is not None:
        names = list(classes.values())
    source = {"root": str(root), "split": split, "classes": classes, "keep_classes": keep_classes}
    register_dataset(
        name,
        lambda: load_mot(root, split, sequences, classes, keep_classes, **options),
        names,
        image_root=str(root),
        frame_annotations=LoadedAnnotations(load_mot, source | without_list(options), "sequences"),
        check_source={
            "format": "mot",
            "path": str(root),
            "split": split,
            "sequences": sequences,
            "classes": classes,
            "keep_classes": keep_classes,
            **options,
        },
    )


def load_mot(
    root: str | os.PathLike,
    split: str = "train",
    sequences: Sequence[str] | None = None,
    classes: Mapping[int, str] | None = None,
    keep_classes: Sequence[str] | None = None,
    video_root: str | os.PathLike | None = None,
    video_suffix: str = ".mp4",
    list_file: str | os.PathLike | None = None,
) -> VideoDataset:
    """Read sequences as video dataset dicts, one for each frame.

    Args:
        root: folder of the splits.
        split: folder below it with the sequences; "" if they lie in `root` itself.
        sequences: their folders; None for all, see `find_sequences`.
        classes: {number in gt.txt: name}; None for what gt/labels.txt says, or where there is none, for MOT17's.
        keep_classes: names of the classes to keep, by category id; None for all, in the order of `classes`. Objects of
            others are left out. In MOT17 all but pedestrians have confidence 0.
        video_root: take the frames from video files, <video_root>/<sequence><video_suffix>, rather than from images.
        video_suffix: of the video files.
        list_file: JSON list of the image ids to take; None for all.

    Returns:
        The dicts and the class names. Rows of confidence 0 are ignored. Boxes are taken as they stand in gt.txt,
        clipped to the image, those without area dropped, and a warning counts both. Less than half visible is occluded.
        A negative id is none: the object has no `track_id`. Images are named with as many digits as the files are.

    Raises:
        UserError: a folder or file is missing, or not as above; names file, line and value.
    """
    folder = Path(root, split)
    require_folder(folder, "of MOT sequences", "see datasets/README.md for how to lay it out")
    folders = find_sequences(folder) if sequences is None else [folder / sequence for sequence in sequences]
    classes = classes_of(folders, classes)
    # The numbers in gt.txt may have gaps; category ids have none.
    ids = class_ids(list(classes.values()) if keep_classes is None else keep_classes, "the classes")
    unknown = set(ids) - set(classes.values())
    if unknown:
        raise UserError(f"keep_classes has {min(unknown)!r}, expected some of {', '.join(classes.values())}")
    boxes = BoxCheck()
    dicts = []
    for path in folders:
        video = None if video_root is None else video_file(video_root, path.name, video_suffix)
        frames = _frames(path, read_sequence(path, video), video)
        _annotate(frames, path / "gt" / "gt.txt", classes, ids, boxes)
        dicts += frames
    boxes.warn()
    if not dicts:
        raise UserError(
            f"{folder}: expected folders with a seqinfo.ini, or with gt/gt.txt or img1, found none: check root and "
            "split"
        )
    return VideoDataset(keep_listed(dicts, list_file), list(ids))


def find_sequences(folder: Path) -> list[Path]:
    """The folders of sequences: those with a seqinfo.ini, a gt/gt.txt or a folder img1, in the order of their names."""
    marks = ("seqinfo.ini", os.path.join("gt", "gt.txt"), _IMAGES)
    return [path for path in folders_in(folder) if any((path / mark).exists() for mark in marks)]


def classes_of(folders: Sequence[Path], classes: Mapping[int, str] | None) -> dict[int, str]:
    """{number in gt.txt: name} of sequences: `classes`, or what their gt/labels.txt say, or those of MOT17.

    Raises:
        UserError: two files differ, or one gives a name of `classes` another number.
    """
    files = [path / "gt" / "labels.txt" for path in folders]
    files = [file for file in files if file.is_file()]
    found = dict(MOT17_CLASSES) if classes is None else dict(classes)
    for file in files:
        lines = (line.strip() for line in lines_of(file, "the names of the classes", refuse))
        labels = dict(enumerate((line for line in lines if line), start=1))
        if classes is None and file == files[0]:
            found = labels
        numbers = {name.casefold(): label for label, name in found.items()}
        for label, name in labels.items():
            if numbers.get(name.casefold(), label) != label:
                raise UserError(
                    f"{file}, line {label}: class {label} is {name!r}, but {name!r} is {numbers[name.casefold()]} in "
                    f"{found}: give register_mot classes={labels}, or fix the file"
                )
        if differing := [label for label, name in labels.items() if found.get(label, name) != name]:
            logger.warning(
                "%s calls class %d %r, taken as %r", file, differing[0], labels[differing[0]], found[differing[0]]
            )
    return found


class SequenceInfo(NamedTuple):
    """What a sequence is: sizes in pixels, folder and suffix of its images, digits and first number in their names."""

    length: int
    height: int
    width: int
    folder: str
    suffix: str
    digits: int = 6
    first: int = 1

    def image_name(self, index: int) -> str:
        """The image of frame `index`, from 0."""
        return f"{index + self.first:0{self.digits}d}{self.suffix}"


def read_sequence(folder: Path, video: str | None = None) -> SequenceInfo:
    """What seqinfo.ini says, with the names that the images have; where there is none, what images or video say.

    Args:
        folder: of the sequence.
        video: its video file; None for images.

    Raises:
        Fault: seqinfo.ini is broken (see `read_seqinfo`), or there is neither one nor an image.
        UserError: the first image or the video cannot be read.
    """
    path = folder / "seqinfo.ini"
    if path.is_file():
        info = read_seqinfo(path)
        return info if video is not None else _named_as_the_files(folder, info)
    if video is not None:
        reader = VideoReader(video)
        width, height = reader.size
        return SequenceInfo(reader.frame_count(), height, width, _IMAGES, ".jpg")
    images = image_files_in(folder / _IMAGES) if (folder / _IMAGES).is_dir() else []
    numbered = [image for image in images if re.fullmatch("[0-9]+", image.stem)]
    if not numbered:
        remedy = "complete the sequence, or leave it out of `sequences`"
        raise Fault.at(
            Place(path), "there is no such file, nor an image img1/000001.jpg", "one", "missing_frame", remedy
        )
    height, width = image_size(numbered[0])
    info = _named_as_the_files(folder, SequenceInfo(len(numbered), height, width, _IMAGES, numbered[0].suffix))
    return info._replace(length=int(numbered[-1].stem) - info.first + 1)


def _named_as_the_files(folder: Path, info: SequenceInfo) -> SequenceInfo:
    """How the images are named: DanceTrack's have eight digits, and imExt is not always right."""
    images = folder / info.folder
    names = [image for image in image_files_in(images) if image.stem.isdecimal()] if os.path.isdir(images) else []
    suffixes = Counter(image.suffix for image in names)
    if not names:
        return info
    suffix = info.suffix if info.suffix in suffixes else suffixes.most_common(1)[0][0]
    stems = [image.stem for image in names if image.suffix == suffix]
    # Names without leading zeros differ in length; the shortest then tells it.
    digits = min(len(stem) for stem in stems)
    lowest, highest = (int(bound) for bound in (min(stems, key=int), max(stems, key=int)))
    # Names from 0 are told from those whose first image is missing by their last one.
    first = 0 if lowest == 0 and highest < info.length else 1
    return info._replace(suffix=suffix, digits=digits, first=first)


def read_seqinfo(path: str | os.PathLike) -> SequenceInfo:
    """Read a seqinfo.ini.

    Raises:
        Fault: it is missing or broken, or a value is missing or no number.
    """
    place = Place(path)
    # A percent sign in a value, such as the name of a folder, stands for itself.
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path, "the description of a sequence"))
    except configparser.Error as error:
        raise Fault.at(place, " ".join(str(error).split()), "the description of a sequence") from error
    if not parser.has_section("Sequence"):
        raise Fault.at(place, f"its sections are {parser.sections()!r:.80}", "a section [Sequence]")
    section = parser["Sequence"]
    length = whole(section.get("seqLength"), place, "seqLength", 1, MAX_FRAMES)
    height, width = (whole(section.get(key), place, key, 1, MAX_SIDE) for key in ("imHeight", "imWidth"))
    folder, suffix = section.get("imDir", _IMAGES), section.get("imExt", ".jpg")
    if leads_out(folder):
        raise Fault.at(place, f"imDir is {folder!r:.80}", "a folder in that of the sequence")
    if "/" in suffix or os.sep in suffix:
        raise Fault.at(place, f"imExt is {suffix!r:.80}", "a suffix such as .jpg")
    return SequenceInfo(length, height, width, folder, suffix)


def _frames(folder: Path, info: SequenceInfo, video: str | None) -> list[dict]:
    sequence = folder.name
    # A percent sign in the folders' names is not a format.
    images = os.path.join(folder, info.folder).replace("%", "%%")
    template = f"{images}/%0{info.digits}d{info.suffix.replace('%', '%%')}"
    frames = []
    # seqinfo.ini is taken at its word: a frame that is missing shows when it is read, or in the check.
    for index in range(info.length):
        if video is None:
            file_name = template % (index + info.first)
            source = {"file_name": file_name, "frame_template": template, "frame_offset": info.first}
        else:
            source = {"video_file": video}
        record = {
            "image_id": f"{sequence}/{index:06d}",
            "height": info.height,
            "width": info.width,
            "video_id": sequence,
            "frame_index": index,
            "video_length": info.length,
            "annotations": [],
        }
        frames.append(source | record)
    return frames


class MotObject(NamedTuple):
    """An object as it stands in a gt.txt.

    Args:
        line: its line, from 1.
        frame: from 0.
        track: its id; None where it is negative, which says that there is none.
        box: xyxy in pixels.
        label: the number of its class.
        visibility: the share that is seen, in [0, 1].
    """

    line: int
    frame: int
    track: int | None
    box: tuple[float, float, float, float]
    label: int
    visibility: float


def parse_ground_truth(path: str | os.PathLike, length: int, report: Report = refuse) -> Iterator[MotObject]:
    """The objects of a gt.txt, line by line; those of confidence 0 are left out, whatever else they say.

    Args:
        path: the file.
        length: frames of the sequence.
        report: takes the faults; lines with one are left out.
    """
    for place, fields in fields_of(path, "the ground truth", ",".join(_COLUMNS), {len(_COLUMNS)}, report, ","):
        try:
            thing = _parse_object(fields, place, length)
        except Fault as fault:
            report(fault)
            continue
        if thing is not None:
            yield thing


def _parse_object(fields: Sequence[str], place: Place, length: int) -> MotObject | None:
    """An object, None for one of confidence 0."""
    values = [number(text, place, column, "bad_line") for text, column in zip(fields, _COLUMNS, strict=True)]
    # Such rows take no part in MOTChallenge's evaluation; what else they say need not make sense.
    if values[6] == 0:
        return None
    # Whole numbers, also where they are written as 1.0.
    frame, label = (whole(values[i], place, _COLUMNS[i], kind="bad_line") for i in (0, 7))
    track = track_number(values[1], place, _COLUMNS[1], kind="bad_line")
    if not 1 <= frame <= length:
        raise Fault.at(place, f"frame {frame}", f"1 to {length}", "video_length", "fix it, or seqLength in seqinfo.ini")
    left, top, width, height = values[2:6]
    assert place.line is not None
    return MotObject(place.line, frame - 1, track, (left, top, left + width, top + height), label, values[8])


def _annotate(frames: list[dict], path: Path, classes: Mapping[int, str], ids: dict[str, int], boxes: BoxCheck) -> None:
    """Add the objects of a gt.txt to the frames."""
    for thing in parse_ground_truth(path, len(frames)):
        place = Place(path, thing.line)
        if thing.label not in classes:
            expected = f"one of {', '.join(map(str, classes))}"
            raise Fault.at(place, f"class {thing.label} is unknown", expected, "unknown_class")
        # A class that the dataset has but `keep_classes` does not name.
        if classes[thing.label] not in ids:
            continue
        record = frames[thing.frame]
        box = boxes.clip(thing.box, record["height"], record["width"], place)
        if box is not None:
            occluded = int(thing.visibility < _OCCLUDED_BELOW)
            record["annotations"].append(annotation_dict(box, ids[classes[thing.label]], thing.track, occluded))
