"""BDD100K's tracks, and other files in its format, Scalabel: a list of frames, each with its labels.

    <root>/<video>.json ..., or one file for all videos
    [{"videoName", "name", "frameIndex": from 0, "labels": [
        {"id", "category", "attributes": {"crowd", "occluded"}, "box2d": {"x1", "y1", "x2", "y2"}}]}]

Also {"frames": [...], "config": {"categories": [...]}}; in old files "videoName" is "video_name" and "frameIndex"
"frame_index" or "index". Images are <image_root>/<video>/<name>.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vod2.bounded import shown
from vod2.data.datasets.common import VideoDataset, read_json
from vod2.data.datasets.faults import MAX_FRAMES, Fault, Place, Report, number, refuse, whole
from vod2.data.datasets.files import files_in, leads_out
from vod2.data.datasets.images import image_size
from vod2.data.datasets.labelled import (
    Box,
    LabelledFrame,
    LabelledObject,
    LabelledSet,
    LabelledVideo,
    names_met,
    register_labelled,
    report_of_frame,
    to_dataset,
)
from vod2.errors import UserError

BDD_CLASSES: tuple[str, ...] = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
"""Those of the box tracks that are evaluated."""

_IGNORED = ("other person", "other vehicle", "trailer")
_SIDES = ("x1", "y1", "x2", "y2")
_EXPECTED = "a list of frames, or an object with 'frames'"


def register_bdd(name: str, path: str | os.PathLike, class_names: Sequence[str] | None = None, **options: Any) -> None:
    """Register the dataset `name`; nothing is read before it is used.

    Args:
        name: in the DatasetCatalog.
        path, class_names, options: see `load_bdd`. Without `class_names`, the metadata gets `thing_classes` when the
            dataset is first used.
    """
    register_labelled(name, load_bdd, "bdd", path, class_names, options)


def load_bdd(
    path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    list_file: str | os.PathLike | None = None,
) -> VideoDataset:
    """Read tracks in the format of BDD100K.

    Its frames are images, five of each second of its videos, so that the numbers are not those of the video files.

    Args:
        path: a JSON file, or a folder of them; packed, if a name ends in .gz.
        image_root: folder of the videos' folders of images; None for that of the file, or the folder itself.
        class_names: names of the classes to keep, by category id; None for `BDD_CLASSES`, or where there are others,
            those of the "config", or all that occur in alphabetical order.
        list_file: JSON list of the image ids to take; None for all.

    Returns:
        The dicts of all frames, and the class names. Labels with the attribute crowd have iscrowd 1. Other persons,
        other vehicles and trailers, which the benchmark does not evaluate, are `ignore_regions` of their frame, unless
        `class_names` or the "config" have them. The first image of a video tells the size of all.

    Raises:
        UserError: a file is missing or not as above; names the file, the entry and the value.
    """
    labelled = read_bdd(path, refuse, image_root=image_root, class_names=class_names)
    return to_dataset(labelled, path, class_names, list_file)


def read_bdd(
    path: str | os.PathLike,
    report: Report,
    *,
    image_root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
) -> LabelledSet:
    """What the files hold; arguments as of `load_bdd`, and `report`, which takes the faults."""
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted([*files_in(path, ".json"), *files_in(path, ".json.gz")])
    root = Path(image_root) if image_root is not None else path if path.is_dir() else path.parent
    videos: dict[str, LabelledVideo] = {}
    config: list[str] = []
    for file in files:
        try:
            entries, names = _read(file)
        except Fault as fault:
            report(fault)
            continue
        config = list(dict.fromkeys([*config, *names]))
        for position, entry in enumerate(entries):
            _add_frame(videos, entry, Place(file, entry=f"[{position}]"), root, report)
    # Any of the files may name a class that the others' objects are of, so all of them have to be read before.
    ignored = set(_IGNORED) - set(config) - set(class_names or ())
    for video in videos.values():
        for frame in video.frames.values():
            _ignore(frame, ignored)
        video.find_unlisted()
    found = [video for video in videos.values() if video.frames]
    met = names_met(found)
    names = list(BDD_CLASSES) if set(met) <= set(BDD_CLASSES) else config or met
    return LabelledSet(names, found)


def _read(file: Path) -> tuple[list, list[str]]:
    """The frames of a file, and the names of its "config"."""
    data = read_json(file, "the JSON of labels", _EXPECTED)
    frames = data.get("frames") if isinstance(data, dict) else data
    if not isinstance(frames, list):
        raise Fault.at(Place(file), f"the JSON is {shown(data)}", _EXPECTED)
    config = data.get("config") if isinstance(data, dict) else None
    categories = config.get("categories") if isinstance(config, dict) else None
    return frames, list(_leaves(categories))


def _leaves(categories: object) -> Iterator[str]:
    """The names of categories, which may have others below them."""
    for entry in categories if isinstance(categories, list) else ():
        if isinstance(entry, dict) and entry.get("subcategories"):
            yield from _leaves(entry["subcategories"])
        elif isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield entry["name"]


def _first(entry: dict, *keys: str) -> Any:
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _add_frame(videos: dict[str, LabelledVideo], entry: object, place: Place, root: Path, report: Report) -> None:
    try:
        if not isinstance(entry, dict):
            raise Fault.at(place, f"it is {shown(entry)}", "a frame")
        name, image = _first(entry, "videoName", "video_name"), entry.get("name")
        for key, value in (("videoName", name), ("name", image)):
            if not isinstance(value, str) or not value or leads_out(value):
                raise Fault.at(place, f"{key} is {shown(value)}", f"a name below {root}")
        index = whole(_first(entry, "frameIndex", "frame_index", "index"), place, "frameIndex", 0, MAX_FRAMES)
        labels = entry.get("labels") or []
        if not isinstance(labels, list):
            raise Fault.at(place, f"labels is {shown(labels)}", "a list")
        video = videos.get(name) or LabelledVideo(name, str(place.file))
        if index in video.frames:
            raise Fault.at(place, f"video {name!r} has another frame {index}", "each frame once", "duplicate_line")
        file = root / name / image
        if not video.frames:
            # Only the head of one image: opening each would take long.
            size = _size(file, place)
        else:
            size = next(iter(video.frames.values())).size
    except Fault as fault:
        report(fault)
        return
    videos[name] = video
    frame = video.frames[index] = LabelledFrame(str(file), size)
    for position, label in enumerate(labels):
        try:
            _add_label(frame, label, place._replace(entry=f"{place.entry}: labels[{position}]"))
        except Fault as fault:
            report_of_frame(report, fault, name, index)


def _size(file: Path, place: Place) -> tuple[int, int]:
    if not os.path.isfile(file):
        raise Fault.at(place, f"its image {file} is not there", "it", "missing_frame", "give image_root")
    try:
        return image_size(file)
    except UserError as error:
        raise Fault.at(place, str(error), "an image", "unreadable_image", "get the image again") from error


def _add_label(frame: LabelledFrame, label: object, place: Place) -> None:
    if not isinstance(label, dict) or not isinstance(label.get("category"), str):
        raise Fault.at(place, f"it is {shown(label)}", "a label with a 'category'")
    box2d = label.get("box2d")
    if box2d is None:  # lanes and areas have others
        return
    if not isinstance(box2d, dict):
        raise Fault.at(place, f"box2d is {shown(box2d)}", "an object with x1, y1, x2, y2")
    x1, y1, x2, y2 = (number(box2d.get(side), place, f"{side} of box2d") for side in _SIDES)
    box: Box = (x1, y1, x2, y2)
    attributes = label.get("attributes")
    flags = attributes if isinstance(attributes, dict) else {}
    track = None if label.get("id") is None else whole(label["id"], place, "id")
    occluded, crowd = (int(bool(flags.get(flag))) for flag in ("occluded", "crowd"))
    frame.objects.append(LabelledObject(place, label["category"], box, track, occluded, crowd))


def _ignore(frame: LabelledFrame, names: set[str]) -> None:
    """Make ignored regions of the objects of these names."""
    frame.ignored = [thing.box for thing in frame.objects if thing.name in names]
    frame.objects = [thing for thing in frame.objects if thing.name not in names]
