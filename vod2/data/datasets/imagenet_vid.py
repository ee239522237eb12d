"""ImageNet VID, and every set in its folder layout (the synthetic benchmark).

    <root>/Data/VID/<split>/.../<video>/000000.JPEG
    <root>/Annotations/VID/<split>/.../<video>/000000.xml
    <root>/ImageSets/VID_train_15frames.txt, VID_val_videos.txt     (or in ImageSets/VID; optional)

A video is named by its path below Data/VID, such as "val/ILSVRC2015_val_00000000".
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vod2.bounded import load_json, shown
from vod2.d2 import BoxMode
from vod2.data.datasets.common import register_frames
from vod2.data.datasets.faults import Fault, Place
from vod2.data.datasets.files import is_foreign
from vod2.data.datasets.frame_annotations import FrameAnnotations
from vod2.data.datasets.frame_list import parse_frame_list
from vod2.data.datasets.ilsvrc import (
    NO_TRACK,
    VID_CLASSES,
    AnnotationTable,
    cached_annotations,
    category_ids,
    read_annotations,
    require_folder,
)
from vod2.data.synthetic import read_deterioration
from vod2.errors import UserError

_LISTS = {"train": ("VID_train_15frames.txt",), "val": ("VID_val_videos.txt", "VID_val_frames.txt")}
_TRAIN_FRAMES = 15  # frames of a training video where there is no list
_REMEDY = "see datasets/README.md for how to lay it out"


class FrameRef(NamedTuple):
    """One frame: name of its video, number from 0, frames in the video."""

    video: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    length: int


def register_imagenet_vid(
    name: str, root: str | os.PathLike, split: str, class_names: Sequence[str] = VID_CLASSES, **options: Any
) -> None:
    """Register the dataset `name`; nothing is read before it is used.

    Args:
        name: in the DatasetCatalog.
        root, split, class_names, options: see `load_imagenet_vid`.
    """
    class_names = list(class_names)
    source = {"format": "imagenet_vid", "path": str(root), "split": split, "class_names": class_names}
    source |= {key: options[key] for key in ("list_file", "every_frame") if key in options}
    register_frames(
        name,
        lambda: load_imagenet_vid(root, split, class_names, name=name, **options),
        thing_classes=class_names,
        evaluator_type="vid",
        image_root=str(root),
        check_source=source,
        frame_annotations=XmlAnnotations(str(root), tuple(class_names)),
    )


@dataclass(frozen=True)
class XmlAnnotations(FrameAnnotations):
    """The annotation file of any frame of any split; a frame without one is not annotated.

    Args:
        root, class_names: see `load_imagenet_vid`.
    """

    root: str
    class_names: tuple[str, ...]

    def part(self, video_id: str, index: int) -> tuple[str, int]:
        return video_id, index

    def read(self, part: tuple[str, int]) -> Iterator[dict]:
        # Only the annotations are used: the length may be anything, and {} keeps the deterioration from being read.
        ref = FrameRef(*part, length=part[1] + 1)
        file = _annotation_file(self.root, ref)
        if os.path.isfile(file):
            table = read_annotations([file], category_ids(self.class_names), quiet=True)
            yield from _to_dicts(self.root, [ref], table, {ref.video: {}})


def load_imagenet_vid(
    root: str | os.PathLike,
    split: str,
    class_names: Sequence[str] | None = None,
    list_file: str | os.PathLike | None = None,
    every_frame: bool = False,
    name: str = "ImageNet VID",
    remedy: str = _REMEDY,
) -> list[dict]:
    """Read a split as video dataset dicts, one for each listed frame, in the order of the list.

    Without a list, the frames are those that the published lists name: of a training video the 15 frames
    floor((i + 0.5) L / 15) (all, if it has fewer), of any other video all.

    Args:
        root: folder with Data, Annotations and perhaps ImageSets.
        split: folder below Data/VID, such as "train" or "val".
        class_names: readable names by category id; None for those in <root>/synthetic.json if there is such a file,
            or else the 30 of VID. In the XML, VID's classes may also go by their WordNet ids.
        list_file: the list of frames in one of the formats of `read_frame_list`; None looks for the usual one.
        every_frame: take all frames of the folders, whatever lists there are.
        name: of the dataset, for messages.
        remedy: what to do if the dataset is not there, for messages.

    Returns:
        Detectron2's dicts (annotations: bbox xyxy in pixels, category_id, occluded, track_id where the XML has one, and
        deterioration {kind: strength} where the set records it) with video_id, frame_index, video_length,
        frame_template and frame_offset: the path of frame i of the same video is frame_template % (i + frame_offset).

    Raises:
        UserError: a folder or annotation is missing, or a file is broken; names it.
    """
    require_folder(Path(root, "Data", "VID", split), name, remedy)
    require_folder(Path(root, "Annotations", "VID", split), name, remedy)
    # A synthetic set brings its own names.
    if class_names is None:
        class_names = default_classes(root)
    list_path = None if every_frame else list_file or find_list(root, split)
    refs = read_frame_list(list_path, root, split) if list_path else derive_frames(root, split, every_frame)
    if not refs:
        source = list_path or Path(root, "Data", "VID", split)
        raise UserError(f"{source}: expected frames of {name}, found none: {remedy}")
    files = [_annotation_file(root, ref) for ref in refs]
    categories = category_ids(class_names)
    # Each choice of frames has a cache of its own, so that one does not replace another's.
    if every_frame:
        choice = "all"
    else:
        choice = Path(list_path).stem if list_path else "derived"
    table = cached_annotations(
        root, f"vid-{split}-{choice}", files, categories, lambda: read_annotations(files, categories)
    )
    return list(_to_dicts(root, refs, table))


def _annotation_file(root: str | os.PathLike, ref: FrameRef) -> str:
    return os.path.join(root, "Annotations", "VID", ref.video, f"{ref.index:06d}.xml")


def default_classes(root: str | os.PathLike) -> Sequence[str]:
    """Readable names by category id: those in <root>/synthetic.json if there is one, or else VID's."""
    manifest = Path(root, "synthetic.json")
    if not manifest.is_file():
        return VID_CLASSES
    try:
        names = load_json(manifest.read_text(encoding="utf-8"))["class_names"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{manifest}: expected JSON with the key 'class_names' ({error}): generate the set again"
        ) from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{manifest}: class_names is {shown(names)}, expected a list of names: generate the set again")
    return names


def find_list(root: str | os.PathLike, split: str) -> Path | None:
    """The usual list of a split, None if there is none."""
    for name in _LISTS.get(split, ()):
        for folder in (Path(root, "ImageSets"), Path(root, "ImageSets", "VID")):
            if (folder / name).is_file():
                return folder / name
    return None


def read_frame_list(path: str | os.PathLike, root: str | os.PathLike, split: str) -> list[FrameRef]:
    """Read a list of frames or videos.

    Lines are, all of one kind:
        video 1 frame length    one frame (VID_train_15frames.txt)
        video first 0 length    all frames of a video (VID_val_videos.txt); `first` counts frames from 1 over the list
        video/frame number      one frame (VID_val_frames.txt); the video's length is counted in its folder
    A video's name may lack its leading "<split>/", and may have spaces inside.

    Raises:
        UserError: no such file, or a line in no known format; names file and line.
    """
    lengths: dict[str, int] = {}
    refs = []
    for entry in parse_frame_list(path, split):
        length = entry.length
        if length is None:
            if entry.video not in lengths:
                folder = os.path.join(root, "Data", "VID", entry.video)
                require_folder(folder, str(path), "complete the dataset or fix the list")
                lengths[entry.video] = _video_length(folder, os.listdir(folder))
            length = lengths[entry.video]
        chosen = range(length) if entry.index is None else [entry.index]
        refs += [FrameRef(entry.video, index, length) for index in chosen]
    return refs


def derive_frames(root: str | os.PathLike, split: str, every_frame: bool = False) -> list[FrameRef]:
    """The frames that the published lists name, found in the folders; all of them if `every_frame` or not training."""
    data = os.path.join(root, "Data", "VID")
    refs = []
    for folder, subfolders, files in os.walk(os.path.join(data, split), followlinks=True):
        # os.walk goes on in the order of this list; links are followed because data sets are often made of them.
        subfolders[:] = sorted(name for name in subfolders if not is_foreign(name))
        # 0 for a folder that only holds others, which then adds nothing.
        length = _video_length(folder, files)
        video = Path(folder).relative_to(data).as_posix()
        refs += [FrameRef(video, index, length) for index in chosen_frames(length, every_frame or split != "train")]
    return refs


def chosen_frames(length: int, every_frame: bool) -> Iterable[int]:
    """The frames of a video of `length` frames that the published lists name, or all of them."""
    if every_frame or length < _TRAIN_FRAMES:
        return range(length)
    # floor((i + 0.5) L / 15) in integers, which do not round.
    return [(2 * i + 1) * length // (2 * _TRAIN_FRAMES) for i in range(_TRAIN_FRAMES)]


def _video_length(folder: str, files: Iterable[str]) -> int:
    """Frames among the `files` of a video's folder: 0, 1, 2 ... without a gap, or else a UserError."""
    frames = {file for file in files if file.endswith(".JPEG") and not is_foreign(file)}
    # As many files as there are, counted from 0: the first name that is not among them shows a gap.
    missing = next((name for name in map("{:06d}.JPEG".format, range(len(frames))) if name not in frames), None)
    if missing:
        raise UserError(
            f"{folder} holds {len(frames)} frames, but not {missing}: frames should count from 000000 without a gap: "
            "complete the video or remove its folder"
        )
    return len(frames)


def _to_dicts(
    root: str | os.PathLike,
    refs: Sequence[FrameRef],
    table: AnnotationTable,
    deterioration: dict[str, dict] | None = None,
) -> Iterator[dict]:
    """The dicts of frames; `deterioration` of a video is read where it does not say it."""
    data = os.path.join(root, "Data", "VID")
    boxes, categories, tracks = table.boxes.tolist(), table.category.tolist(), table.track.tolist()
    occluded, ends = table.occluded.tolist(), table.counts.cumsum().tolist()
    deterioration = dict(deterioration or {})
    for ref, (height, width), count, end in zip(refs, table.sizes.tolist(), table.counts.tolist(), ends, strict=True):
        # Once for a video, whose frames need not follow each other in the list.
        if ref.video not in deterioration:
            deterioration[ref.video] = read_sidecar(root, ref.video)
        kinds = deterioration[ref.video].get(ref.index, {})
        annotations = []
        for i in range(end - count, end):
            annotation = {
                "bbox": boxes[i],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": categories[i],
                "iscrowd": 0,
                "occluded": occluded[i],
            }
            # The order of the objects in a file says nothing of who they are in the next one.
            if tracks[i] != NO_TRACK:
                annotation["track_id"] = tracks[i]
            if tracks[i] in kinds:
                annotation["deterioration"] = kinds[tracks[i]]
            annotations.append(annotation)
        yield {
            "file_name": os.path.join(data, ref.video, f"{ref.index:06d}.JPEG"),
            "image_id": f"{ref.video}/{ref.index:06d}",
            "height": height,
            "width": width,
            "video_id": ref.video,
            "frame_index": ref.index,
            "video_length": ref.length,
            # A percent sign in the folders' names is not a format.
            "frame_template": os.path.join(data, ref.video).replace("%", "%%") + "/%06d.JPEG",
            "frame_offset": 0,
            "annotations": annotations,
        }


def read_sidecar(root: str | os.PathLike, video: str) -> dict[int, dict[int, dict[str, float]]]:
    """{frame: {track id: {kind: strength}}} of a video; nothing where there is no such file. Only synthetic sets have.

    Raises:
        Fault: the file is broken.
    """
    sidecar = Path(root, "Annotations", "VID", video, "deterioration.json")
    if not os.path.isfile(sidecar):
        return {}
    try:
        return read_deterioration(sidecar)
    except (ValueError, AttributeError, OSError) as error:
        value = f"broken deterioration file ({error})"
        expected, remedy = "{frame: {track: {kind: strength}}}", "generate the set again"
        raise Fault.at(Place(sidecar), value, expected, remedy=remedy) from error
