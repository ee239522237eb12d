"""Videos as an annotation tool or data set describes them, and their video dataset dicts; shared by several formats.

A format has one reader, which returns a `LabelledSet` and hands its faults to a `Report`. Its loader and its check take
the set from there. Boxes are xyxy pixels, frames count from 0.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vod2.data.datasets.coco_video import require_categories
from vod2.data.datasets.common import (
    BoxCheck,
    VideoDataset,
    annotation_dict,
    class_ids,
    keep_listed,
    register_dataset,
    without_list,
)
from vod2.data.datasets.faults import Fault, Place, Report
from vod2.data.datasets.frame_annotations import LoadedAnnotations
from vod2.data.datasets.frame_files import template_of
from vod2.errors import UserError

Box = tuple[float, float, float, float]
"""xyxy in pixels."""


class LabelledObject(NamedTuple):
    """An object in a frame.

    Args:
        place: where it stands.
        name: of its class, as it stands there.
        box: xyxy in pixels.
        track: None where it has none.
        occluded, iscrowd: 0 or 1.
    """

    place: Place
    name: str
    box: Box
    track: int | None = None
    occluded: int = 0
    iscrowd: int = 0


@dataclass
class LabelledFrame:
    """A frame that was annotated, perhaps without any object.

    Args:
        file: its image, or the video file that it is in.
        size: (height, width) in pixels.
        objects: in the order of the file.
        ignored: boxes of regions whose objects are not annotated.
    """

    file: str
    size: tuple[int, int]
    objects: list[LabelledObject] = field(default_factory=list)
    ignored: list[Box] = field(default_factory=list)


@dataclass
class LabelledVideo:
    """A video.

    Args:
        name: unique in its set.
        annotation: the file that annotates it.
        frames: those that were annotated, by number.
        length: how many it has, also such as were not annotated.
        in_file: it is a video file, no folder of images.
        template: names the images of frames, as `template % (number + first)`; None where they have no such names.
        first: what the template counts from.
    """

    name: str
    annotation: str
    frames: dict[int, LabelledFrame] = field(default_factory=dict)
    length: int = 0
    in_file: bool = False
    template: str | None = None
    first: int = 0

    def find_unlisted(self) -> None:
        """Of images: it ends with its last frame; others have files with names like those of `frames`, or none."""
        self.length = max(self.frames) + 1
        template = template_of({index: frame.file for index, frame in self.frames.items()})
        self.template, self.first = template or (None, 0)


class LabelledSet(NamedTuple):
    """What a reader returns: the names of all classes by category id, and the videos."""

    class_names: list[str]
    videos: list[LabelledVideo]


def names_met(videos: Sequence[LabelledVideo]) -> list[str]:
    """The classes that occur, in the order of their names: of a format that lists none."""
    return sorted({thing.name for video in videos for frame in video.frames.values() for thing in frame.objects})


def require_new_name(name: str, videos: Sequence[LabelledVideo], place: Place) -> None:
    """Raise a Fault if another video has the name."""
    if any(video.name == name for video in videos):
        value = f"another video is called {name!r}, too"
        raise Fault.at(place, value, "each video with its own name", "duplicate_line", "rename one")


def to_dataset(
    labelled: LabelledSet,
    source: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    list_file: str | os.PathLike | None = None,
) -> VideoDataset:
    """The dicts of all annotated frames, video after video.

    Args:
        labelled: what was read, without a fault.
        source: file or folder that it was read from, for messages.
        class_names: the classes to keep, by category id, see `load_coco_video`; None for all.
        list_file: JSON list of the image ids to take; None for all.

    Returns:
        The dicts and the class names. Boxes are clipped to the image, those without area dropped, and a warning counts
        both.

    Raises:
        UserError: there is no frame, an object is of an unknown class, or `class_names` are not those of the set.
    """
    if class_names is not None:
        require_categories(class_names, dict(enumerate(labelled.class_names)), source)
    names = labelled.class_names if class_names is None else class_names
    ids = class_ids(names, f"{source}: the classes")
    known = set(labelled.class_names) | set(names)
    boxes = BoxCheck()
    dicts = []
    for video in labelled.videos:
        for index in sorted(video.frames):
            record = _record(video, index)
            record["annotations"] = list(_annotations(video.frames[index], ids, known, boxes))
            dicts.append(record)
    boxes.warn()  # once for all
    if not dicts:
        raise UserError(f"{source}: expected annotated frames, found none: check that it is the right one")
    return VideoDataset(keep_listed(dicts, list_file), list(names))


def _record(video: LabelledVideo, index: int) -> dict:
    frame = video.frames[index]
    record = {
        "image_id": f"{video.name}/{index:06d}",
        "height": frame.size[0],
        "width": frame.size[1],
        "video_id": video.name,
        "frame_index": index,
        "video_length": video.length,
        "video_file" if video.in_file else "file_name": frame.file,
    }
    if video.template is not None:
        record |= {"frame_template": video.template, "frame_offset": video.first}
    if frame.ignored:
        record["ignore_regions"] = [list(box) for box in frame.ignored]
    return record


def _annotations(frame: LabelledFrame, ids: dict[str, int], known: set[str], boxes: BoxCheck) -> Iterator[dict]:
    for thing in frame.objects:
        if thing.name not in known:
            expected = f"one of {', '.join(sorted(known))}"
            raise Fault.at(thing.place, f"class {thing.name!r:.80} is unknown", expected, "unknown_class")
        if thing.name not in ids:  # left out on purpose
            continue
        box = boxes.clip(thing.box, *frame.size, thing.place)
        if box is not None:
            yield annotation_dict(box, ids[thing.name], thing.track, thing.occluded, thing.iscrowd)


def register_labelled(
    name: str,
    load: Callable[..., VideoDataset],
    layout: str,
    path: str | os.PathLike,
    class_names: Sequence[str] | None,
    options: dict[str, Any],
    **metadata: Any,
) -> None:
    """Register a dataset of one of these formats.

    Args:
        name: in the DatasetCatalog.
        load: the loader, whose first argument is `path`; it also takes `class_names` and the options.
        layout: name of its check, which takes the same options.
        path: what is loaded.
        class_names: None for those that `load` returns, when the dataset is first used.
        options: further keywords.
        metadata: further values of the metadata.
    """
    options = {"class_names": class_names} | options
    register_dataset(
        name,
        lambda: load(path, **options),
        class_names,
        frame_annotations=LoadedAnnotations(_load, {"load": load, "path": path} | without_list(options)),
        check_source={"format": layout, "path": str(path), **options},
        **metadata,
    )


def _load(load: Callable[..., VideoDataset], path: str | os.PathLike, **options: Any) -> VideoDataset:
    return load(path, **options)


class Counted:
    """Counts what a reader leaves out or makes up, for one warning of each kind."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._places: dict[str, Place] = {}

    def add(self, what: str, place: Place, count: int = 1) -> None:
        """Count `what`, a text such as "boxes interpolated between keyframes", first met at `place`."""
        if count:
            self._counts[what] += count
            self._places.setdefault(what, place)

    def texts(self) -> list[str]:
        """A sentence for each kind."""
        return [f"{count} {what}; the first at {self._places[what]}" for what, count in self._counts.items()]


def report_of_frame(report: Report, fault: Fault, video: str, index: int) -> None:
    """Report a fault of a frame; with it a check can leave out that frame alone."""
    fault.frame = (video, index)
    report(fault)
