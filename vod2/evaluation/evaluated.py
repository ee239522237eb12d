"""What detections of a dataset are held against, as arrays, and the file of it that an evaluation leaves behind.

Shape alphabet: F frames, V videos, m ground truths, G groups.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vod2 import atomic
from vod2.bounded import load_json, read_npz
from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog
from vod2.errors import UserError
from vod2.evaluation.arrays import GroundTruth
from vod2.evaluation.frame_kinds import read_frame_kinds
from vod2.evaluation.groups import Group, build_groups
from vod2.evaluation.matching import get_protocol
from vod2.evaluation.stability import TrackIndex, index_tracks

TRUTH_FILE = "truth.npz"
"""Its name, beside detections.npz."""


@dataclass(frozen=True)
class EvaluatedDataset:
    """The ground truth of a dataset, and by which rule it is evaluated.

    Attributes:
        name: of the dataset.
        class_names: K names.
        image_ids: F, in the order of the dataset.
        video: (F,) int64: the number in [0, V) of each frame's video; an image that is of no video is one by itself.
        truth: `image` is a row of `image_ids`.
        tracks: of the m ground truths.
        groups: by name, see `build_groups`.
        protocol: name of the rule of matching, see `vod2.evaluation.matching`.
        groups_by: "frames" or "objects".
        linked_identities: the tracks come from linking boxes, not from annotation.
        counts_empty_frames: the dataset's published table of motions has entries for frames without objects, see
            `vod2.evaluation.groups.entries_of_empty_frames`.
    """

    name: str
    class_names: list[str]
    image_ids: list
    video: np.ndarray
    truth: GroundTruth
    tracks: TrackIndex
    groups: dict[str, Group]
    protocol: str
    groups_by: str
    linked_identities: bool
    counts_empty_frames: bool = False

    @property
    def num_videos(self) -> int:
        """V."""
        return int(self.video.max(initial=-1)) + 1

    @property
    def empty_frames(self) -> np.ndarray:
        """(E,) the frames without objects that count as entries of the table of motions; none for most datasets."""
        if not self.counts_empty_frames:
            return np.empty(0, dtype=np.int64)
        return np.setdiff1d(np.arange(len(self.image_ids)), self.truth.image)


def load_evaluated_dataset(
    name: str,
    protocol: str = "imagenet",
    groups_by: str = "frames",
    frame_kinds: str | os.PathLike | None = None,
    dataset: Sequence[dict] | None = None,
    without_kinds: bool = False,
) -> EvaluatedDataset:
    """The arrays of a registered dataset.

    Args:
        name: its metadata has `thing_classes`, and perhaps `frame_kinds` (a file), `linked_identities` and
            `counts_empty_frames`.
        protocol, groups_by: see `EvaluatedDataset`.
        frame_kinds: a file in the format of `read_frame_kinds`; by default that of the metadata, if it names one.
        dataset: its dicts, if they have been loaded already; or some of them.
        without_kinds: read no file of deteriorated frames, which would name frames that are not among these dicts.

    Raises:
        ValueError: an unknown protocol or kind of groups, a category_id that is no class, or a class with the name of
            a group.
        UserError: a bad file of deteriorated frames.
    """
    metadata = MetadataCatalog.get(name)
    # Loaded first: the names of some sets stand in their files.
    dataset = DatasetCatalog.get(name) if dataset is None else dataset
    class_names = list(metadata.thing_classes)
    truth, tracks = ground_truth_arrays(dataset), index_tracks(dataset)
    # Found here, rather than as an index out of range at the end of an evaluation.
    if (highest := truth.labels.max(initial=-1)) >= len(class_names):
        raise ValueError(f"Dataset {name!r}: category_id {highest}, but {len(class_names)} classes")
    # What is said for this evaluation comes before what the dataset says.
    file = frame_kinds or metadata.get("frame_kinds")
    kinds = read_frame_kinds(file, dataset) if file and not without_kinds else None
    groups = build_groups(dataset, truth, tracks, get_protocol(protocol), groups_by, kinds, class_names)
    # Both would give their name to the same metric, AP50-<name>.
    if ambiguous := set(class_names) & {*groups, "any-class"}:
        raise ValueError(f"Dataset {name!r}: {ambiguous} names both a class and a group of objects, rename one")
    return EvaluatedDataset(
        name,
        class_names,
        [record["image_id"] for record in dataset],
        _number_videos(dataset),
        truth,
        tracks,
        groups,
        protocol,
        groups_by,
        bool(metadata.get("linked_identities", False)),
        bool(metadata.get("counts_empty_frames", False)),
    )


def ground_truth_arrays(dataset: Sequence[dict]) -> GroundTruth:
    """The annotations of all frames, frame by frame; `image` is the row in `dataset`, crowds (iscrowd) are ignored."""
    image, boxes, labels, ignore = [], [], [], []
    for frame, record in enumerate(dataset):
        for annotation in record.get("annotations", ()):
            image.append(frame)
            boxes.append(BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS))
            labels.append(annotation["category_id"])
            ignore.append(annotation.get("iscrowd", 0))
    return GroundTruth(
        image=np.array(image, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int32),
        ignore=np.array(ignore, dtype=bool),
    )


def _number_videos(dataset: Sequence[dict]) -> np.ndarray:
    numbers: dict[tuple, int] = {}
    video = []
    for record in dataset:
        video_id = record.get("video_id")
        # An image may have the id that a video has.
        key = ("image", record["image_id"]) if video_id is None else ("video", video_id)
        video.append(numbers.setdefault(key, len(numbers)))
    return np.array(video, dtype=np.int64)


def save_evaluated_dataset(path: str | os.PathLike, data: EvaluatedDataset) -> None:
    """Write a compressed npz of the arrays, with the names and settings as JSON in `header`."""
    header = {
        "name": data.name,
        "class_names": data.class_names,
        "groups": list(data.groups),
        "protocol": data.protocol,
        "groups_by": data.groups_by,
        "linked_identities": data.linked_identities,
        "counts_empty_frames": data.counts_empty_frames,
    }
    by_frame, frames, objects = [], [], []
    for group in data.groups.values():
        by_frame.append(group.frames is not None)
        # A row of an array cannot be missing: a group of objects is written with all frames.
        frames.append(np.ones(len(data.video), dtype=bool) if group.frames is None else group.frames)
        objects.append(group.objects)
    with atomic.replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            # As one text: an npz of names as objects could only be read with pickle.
            header=np.array(json.dumps(header)),
            image_ids=np.array(data.image_ids),
            video=data.video,
            **{f"truth_{name}": values for name, values in vars(data.truth).items()},
            track=data.tracks.track,
            frame=data.tracks.frame,
            group_by_frame=np.array(by_frame, dtype=bool),
            group_frames=np.array(frames, dtype=bool).reshape(len(frames), len(data.video)),
            group_objects=np.array(objects, dtype=bool).reshape(len(objects), len(data.truth)),
        )


def read_evaluated_dataset(path: str | os.PathLike) -> EvaluatedDataset:
    """Read what `save_evaluated_dataset` wrote.

    Raises:
        UserError: there is no such file, or it is another one.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: the folder holds no evaluation, or one by an older version: evaluate again, or "
            "name the registered dataset (--dataset) to take the ground truth from it"
        )
    try:
        arrays = read_npz(path)
        header = load_json(str(arrays["header"]))
        groups = {}
        for row, name in enumerate(header.pop("groups")):
            # The reverse of what `save_evaluated_dataset` does for groups of objects.
            frames = arrays["group_frames"][row] if arrays["group_by_frame"][row] else None
            groups[name] = Group(arrays["group_objects"][row], frames)
        return EvaluatedDataset(
            image_ids=arrays["image_ids"].tolist(),
            video=arrays["video"],
            truth=GroundTruth(*(arrays[f"truth_{name}"] for name in ("image", "boxes", "labels", "ignore"))),
            tracks=TrackIndex(arrays["track"], arrays["frame"]),
            groups=groups,
            **header,
        )
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged file
        raise UserError(f"{path} is not the ground truth of an evaluation ({error}): evaluate again") from error
