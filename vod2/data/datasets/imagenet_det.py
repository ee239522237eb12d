"""The images of ImageNet DET that show VID's 30 classes: training data beside the videos.

<root>/Data/DET/train/.../<image>.JPEG
<root>/Annotations/DET/train/.../<image>.xml
<root>/ImageSets/DET_train_30classes.txt        (or in ImageSets/DET; optional)
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vod2.data.datasets.common import annotation_dict, lines_of, register_frames
from vod2.data.datasets.det_selection import derive_images
from vod2.data.datasets.faults import Fault, Place, Report, refuse
from vod2.data.datasets.files import leads_out
from vod2.data.datasets.ilsvrc import (
    VID_CLASSES,
    cached_annotations,
    category_ids,
    read_annotations,
    require_folder,
)
from vod2.errors import UserError

_LIST = "DET_train_30classes.txt"
_REMEDY = "see datasets/README.md for how to lay it out"


def register_imagenet_det(name: str, root: str | os.PathLike, list_file: str | os.PathLike | None = None) -> None:
    """Register the dataset `name`; nothing is read before it is used. Arguments as in `load_imagenet_det`."""
    register_frames(
        name,
        lambda: load_imagenet_det(root, list_file, name=name),
        thing_classes=list(VID_CLASSES),
        evaluator_type="vid",
        image_root=str(root),
        check_source={"format": "imagenet_det", "path": str(root)} | ({"list_file": list_file} if list_file else {}),
    )


def load_imagenet_det(
    root: str | os.PathLike,
    list_file: str | os.PathLike | None = None,
    name: str = "ImageNet DET",
    class_names: Sequence[str] = VID_CLASSES,
    remedy: str = _REMEDY,
) -> list[dict]:
    """Read the images of the 30 classes as videos of one frame; objects of other classes are left out.

    Args:
        root: folder with Data, Annotations and perhaps ImageSets.
        list_file: lines `path 1`, the path below Data/DET without suffix, each taken as it is: a path that comes twice
            is two dicts. None looks for DET_train_30classes.txt, and without one takes `derive_images`.
        name: of the dataset, for messages.
        class_names: readable names by category id.
        remedy: what to do if the dataset is not there, for messages.

    Returns:
        Dicts as of `load_imagenet_vid`, without frame_template; track_id is the object's number in its image.

    Raises:
        UserError: a folder or annotation is missing, or a file is broken; names it.
    """
    for part in ("Data", "Annotations"):
        require_folder(Path(root, part, "DET", "train"), name, remedy)
    list_path = list_file or find_det_list(root)
    paths = [path for _, path in parse_det_list(list_path)] if list_path else derive_images(root, class_names)
    if not paths:
        raise UserError(f"{list_path or Path(root, 'Data', 'DET')}: expected images of {name}, found none: {remedy}")
    # A path that is listed twice is parsed twice, so that rows of the table stay those of the list.
    files = [os.path.join(root, "Annotations", "DET", f"{path}.xml") for path in paths]
    categories = category_ids(class_names)
    table = cached_annotations(
        root,
        f"det-{Path(list_path).stem if list_path else 'derived'}",
        files,
        categories,
        lambda: read_annotations(files, categories, ignore_other_classes=True, stills=True),
    )
    boxes, labels, tracks = table.boxes.tolist(), table.category.tolist(), table.track.tolist()
    dicts, end = [], 0
    for path, (height, width), count in zip(paths, table.sizes.tolist(), table.counts.tolist(), strict=True):
        begin, end = end, end + count
        # DET does not annotate occlusion, which leads_out it at 0.
        annotations = [annotation_dict(boxes[i], labels[i], tracks[i]) for i in range(begin, end)]
        dicts.append(_to_dict(root, path, height, width, annotations))
    return dicts


def _to_dict(root: str | os.PathLike, path: str, height: int, width: int, annotations: list[dict]) -> dict:
    return {
        "file_name": os.path.join(root, "Data", "DET", f"{path}.JPEG"),
        "image_id": f"DET/{path}",
        "height": height,
        "width": width,
        # The prefix keeps an image from having the id of a video.
        "video_id": f"DET/{path}",
        "frame_index": 0,
        "video_length": 1,
        "annotations": annotations,
    }


def find_det_list(root: str | os.PathLike) -> Path | None:
    """The usual list, None if there is none."""
    places = (Path(root, "ImageSets", _LIST), Path(root, "ImageSets", "DET", _LIST))
    return next((place for place in places if place.is_file()), None)


def parse_det_list(path: str | os.PathLike, report: Report = refuse) -> Iterator[tuple[int, str]]:
    """The lines of a list: number from 1, and path below Data/DET without suffix.

    Args:
        path: the list.
        report: takes the faults; lines with one are left out.

    Raises:
        Fault: the list cannot be read.
    """
    for number, line in enumerate(lines_of(path, "the list of images", refuse), start=1):
        words = line.split()
        if len(words) == 2 and not leads_out(words[0]):
            yield number, words[0]
        elif words:
            expected = "'path 1'" if len(words) != 2 else "a path in the dataset's folder"
            report(Fault.at(Place(path, number), f"{line!r}", expected, "bad_line", "fix the list"))
