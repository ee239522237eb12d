"""Groups of frames and of objects that are evaluated beside all of them.

Shape alphabet: F frames of a dataset, m ground truths, n detections, G groups, K classes.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vod2.errors import UserError
from vod2.evaluation.arrays import Detections, GroundTruth, take_rows
from vod2.evaluation.curves import Curve
from vod2.evaluation.matching import MatchingProtocol, precision_recall
from vod2.evaluation.motion import SPEEDS, motion_iou, speed_groups
from vod2.evaluation.stability import TrackIndex

GROUPINGS = ("frames", "objects")
CLEAN, DETERIORATED = "clean", "deteriorated"
_RESERVED = {"all", "any-class", CLEAN, DETERIORATED, *SPEEDS}

FrameKinds = Mapping[Hashable, Sequence[str]]
"""image_id -> kinds of deterioration that its whole frame has."""


class Group(NamedTuple):
    """What belongs to a group.

    Attributes:
        objects: (m,) bool: the ground truth counts; crowds never do.
        frames: (F,) bool: only these frames are evaluated, with all of their detections. None evaluates all frames and
            ignores the objects that do not count.
    """

    objects: np.ndarray
    frames: np.ndarray | None = None


def build_groups(
    dataset: Sequence[dict],
    truth: GroundTruth,
    tracks: TrackIndex,
    protocol: MatchingProtocol,
    by: str = "frames",
    frame_kinds: FrameKinds | None = None,
    class_names: Sequence[str] = (),
) -> dict[str, Group]:
    """All groups of a dataset, by name and in the order in which they are reported.

    - "slow", "medium", "fast": objects by their motion, where there are tracks; whatever `by` says.
    - "clean" (no deterioration is recorded), "deteriorated" (any is; absent where none is recorded at all), and each
      kind. A frame has the kinds of its annotations (`deterioration` {kind: strength}), those of the record itself
      (`deterioration`, of the whole frame) and those in `frame_kinds`.
    - what the records name in `groups`, a sequence of names; where such a name is taken, "frames-<name>".

    Args:
        dataset: F dicts with image_id; `truth` and `tracks` are of their annotations.
        by: "frames": such a group is its frames, with all of their ground truth and detections; "objects": it is the
            objects with that deterioration, while the other objects are ignored and all detections count.
        frame_kinds: see `vod2.evaluation.frame_kinds`.
        class_names: these names are taken, too.

    Raises:
        ValueError: another value of `by`, or `groups` that are no sequence of names.
        UserError: a kind of deterioration with the name of another group.
    """
    if by not in GROUPINGS:
        raise ValueError(f"Groups by {by!r} are unknown: expected one of {', '.join(map(repr, GROUPINGS))}")
    groups = _speeds(truth, tracks, protocol)
    kinds_of_frames, kinds_of_objects = _kinds(dataset, frame_kinds or {})
    # Sorted, so that the report has the same order whatever comes first in the dataset.
    kinds = sorted(set().union(*kinds_of_frames))
    if reserved := _RESERVED.intersection(kinds):
        raise UserError(f"deterioration {min(reserved)!r} has the name of another group of the evaluation: rename it")
    recorded = [DETERIORATED, *kinds] if kinds else []
    kinds_of_members = kinds_of_frames if by == "frames" else kinds_of_objects
    for name in (CLEAN, *recorded):
        members = np.array([_is_member(name, present) for present in kinds_of_members], dtype=bool)
        groups[name] = _group_of_frames(members, truth) if by == "frames" else Group(members & ~truth.ignore)
    groups.update(_groups_of_records(dataset, truth, by, reserved=_RESERVED.union(kinds, class_names)))
    return groups


def _is_member(group: str, kinds: set[str]) -> bool:
    """Whether a frame or an object with these kinds of deterioration is one of the group."""
    if group == CLEAN:
        return not kinds
    if group == DETERIORATED:
        return bool(kinds)
    return group in kinds


def group_curves(
    detections: Detections,
    truth: GroundTruth,
    groups: Mapping[str, Group],
    num_classes: int,
    protocol: MatchingProtocol,
    empty_frames: int = 0,
) -> list[list[Curve]]:
    """The precision-recall curves of all objects, then of each group: 1 + G lists of K.

    A group of frames gets the curves that a dataset of these frames alone would have.

    Args:
        empty_frames: frames without objects that `entries_of_empty_frames` counts.
    """
    names, ignore = ignored_by_objects(truth, groups)
    # The share decides what a false detection counts in a frame without objects ("fgfa", "mega").
    counted = np.count_nonzero(~ignore, axis=1) + empty_frames * entries_of_empty_frames(names)
    share = counted / max(len(truth) + empty_frames, 1)
    matched_at_once = precision_recall(detections, truth, num_classes, protocol, ignore, share)
    curves = dict(zip(names, matched_at_once, strict=True))
    for name, group in groups.items():
        if group.frames is not None:
            group_detections = take_rows(detections, group.frames[detections.image])
            group_truth = take_rows(truth, group.frames[truth.image])
            (curves[name],) = precision_recall(group_detections, group_truth, num_classes, protocol)
    return [curves[name] for name in ("all", *groups)]


def ignored_by_objects(truth: GroundTruth, groups: Mapping[str, Group]) -> tuple[list[str], np.ndarray]:
    """What can be matched at once: "all" and the groups of objects, by name, and what each ignores, (1 + G, m)."""
    names, ignore = ["all"], [truth.ignore]
    for name, group in groups.items():
        if group.frames is None:
            names.append(name)
            ignore.append(~group.objects)
    return names, np.stack(ignore)


def entries_of_empty_frames(names: Sequence[str]) -> np.ndarray:
    """The entries (G,), 0 or 1, that a frame without objects has in groups of objects.

    The public table of motions of ImageNet VID's validation set holds one entry of motion 0, thus a fast one, for each
    of its 4,046 frames without objects. It enters the share of objects that count, by which the protocols "fgfa" and
    "mega" weigh false detections of frames without objects: fast .2724, slow .3738.
    """
    return np.array([name in ("all", SPEEDS[-1]) for name in names], dtype=np.int64)


def _group_of_frames(frames: np.ndarray, truth: GroundTruth) -> Group:
    return Group(frames[truth.image] & ~truth.ignore, frames)


def _speeds(truth: GroundTruth, tracks: TrackIndex, protocol: MatchingProtocol) -> dict[str, Group]:
    # -1 is no track: crowds move in no way that could be compared.
    motion = motion_iou(np.where(truth.ignore, -1, tracks.track), tracks.frame, truth.boxes)
    if np.isnan(motion).all():
        return {}
    members = speed_groups(motion, overlap=protocol.speeds_overlap)
    return {name: Group(member & ~truth.ignore) for name, member in members.items()}


def _kinds(dataset: Sequence[dict], frame_kinds: FrameKinds) -> tuple[list[set[str]], list[set[str]]]:
    """The kinds of deterioration of each frame, F sets, and of each object, m sets.

    What the whole frame has, each of its objects has, too. What a crowd has is not the frame's: it never counts.
    """
    frames, objects = [], []
    for record in dataset:
        record_kinds = {*(record.get("deterioration") or ()), *frame_kinds.get(record["image_id"], ())}
        kinds_of_frame = set(record_kinds)
        for note in record.get("annotations", ()):
            kinds = record_kinds.union(note.get("deterioration") or ())
            objects.append(kinds)
            if not note.get("iscrowd", 0):
                kinds_of_frame |= kinds
        frames.append(kinds_of_frame)
    return frames, objects


def _groups_of_records(dataset: Sequence[dict], truth: GroundTruth, by: str, reserved: set[str]) -> dict[str, Group]:
    members: dict[str, np.ndarray] = {}
    for row, record in enumerate(dataset):
        names = record.get("groups") or ()
        # A text is a sequence, too: of its letters.
        if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(
                f"Frame {record['image_id']!r}: groups is {names!r}, expected a sequence of names such as ('close',)"
            )
        for name in names:
            members.setdefault(name, np.zeros(len(dataset), dtype=bool))[row] = True
    groups = {}
    for name in sorted(members):
        group = _group_of_frames(members[name], truth)
        # By objects, the others of the dataset are ignored instead of leaving their frames out.
        groups[f"frames-{name}" if name in reserved else name] = group if by == "frames" else Group(group.objects)
    return groups
