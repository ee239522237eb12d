"""Detections of frames, ordered by object: what the timeline of a report shows. F: frames of a track."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

from vod2.d2 import Instances

# Two boxes of a class in neighbouring frames are one object from this overlap on; objects move, so it is below that
# of two detectors that look at the same frame.
_CHAIN_IOU, _SAME_IOU = 0.3, 0.5
# Detections that are missing in so many frames do not end a chain.
_PATIENCE = 5


@dataclass
class Curve:
    """One object as one detector found it: frame numbers, ascending, xyxy boxes in pixels and scores, each (F,)."""

    frames: list[int] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def append(self, frame: int, box: list[float], score: float) -> None:
        self.frames.append(frame)
        self.boxes.append(box)
        self.scores.append(score)


@dataclass
class Track:
    """An object: its class, what the detector found, and what the baseline found in the same places."""

    label: int
    name: str
    found: Curve = field(default_factory=Curve)
    baseline: Curve = field(default_factory=Curve)


def build_tracks(detections: Mapping[int, Instances], baseline: Mapping[int, Instances] | None = None) -> list[Track]:
    """Order detections by object.

    Objects are told apart by `track_ids` where there are any (-1: none). The other boxes are chained: a box continues
    the chain of its class whose latest box overlaps it most. A box of the baseline belongs to the box of the same
    frame and class that it overlaps; baseline boxes that are left over are chained among themselves.

    Args:
        detections, baseline: by frame number, with pred_boxes (xyxy pixels), scores, pred_classes, maybe track_ids.

    Returns:
        The tracks, those with the largest sum of scores first. They are named by their track ids, or else by numbers
        from 1 in the order of their first frames.
    """
    chains = _Chains()
    owners: dict[int, list[tuple[Track, int]]] = {}
    named: dict[int, Track] = {}
    for frame in sorted(detections):
        in_frame = _detections(detections[frame])
        # What has no track id is chained to one by its overlap.
        without_id = [detection for detection in in_frame if detection.identity < 0]
        assigned = list(zip(chains.take(frame, without_id), without_id, strict=True))
        for detection in in_frame:
            if detection.identity >= 0:
                track = named.setdefault(detection.identity, Track(detection.label, str(detection.identity)))
                assigned.append((track, detection))
        for track, detection in assigned:
            track.found.append(frame, detection.box, detection.score)
            owners.setdefault(frame, []).append((track, len(track.found.frames) - 1))
    tracks = _number_tracks(chains.tracks, named=named) + list(named.values())
    tracks += _number_tracks(_add_baseline(owners, baseline or {}), named=named, start=len(chains.tracks))
    return sorted(tracks, key=lambda track: -sum(track.found.scores) - sum(track.baseline.scores))


class _Detection(NamedTuple):
    """A box (xyxy) of a frame, its class and score; `identity` is its track id, -1 for none."""

    box: list[float]
    score: float
    label: int
    identity: int


def _detections(instances: Instances) -> list[_Detection]:
    """The detections of a frame, the surest first."""
    boxes, scores = instances.pred_boxes.tensor.tolist(), instances.scores.tolist()
    labels = instances.pred_classes.tolist()
    identities = instances.track_ids.tolist() if instances.has("track_ids") else [-1] * len(instances)
    detections = [_Detection(*values) for values in zip(boxes, scores, labels, identities, strict=True)]
    return sorted(detections, key=lambda detection: -detection.score)


def _number_tracks(tracks: list[Track], named: Mapping[int, Track], start: int = 0) -> list[Track]:
    # Above all track ids, so that no two objects get one name.
    offset = max(named, default=0) + start
    for number, track in enumerate(tracks, 1):
        track.name = str(offset + number)
    return tracks


def _add_baseline(owners: dict, baseline: Mapping[int, Instances]) -> list[Track]:
    """Give the boxes of the baseline to the tracks that they overlap; returns tracks of those that are left over."""
    chains = _Chains()
    for frame in sorted(baseline):
        in_frame = _detections(baseline[frame])
        candidates = owners.get(frame, [])
        candidate_boxes = [(track.found.boxes[place], track.label) for track, place in candidates]
        partners = _match(candidate_boxes, [(detection.box, detection.label) for detection in in_frame], _SAME_IOU)
        without_partner = []
        for detection, partner in zip(in_frame, partners, strict=True):
            if partner is None:
                without_partner.append(detection)
            else:
                track, _ = candidates[partner]
                track.baseline.append(frame, detection.box, detection.score)
        for track, detection in zip(chains.take(frame, without_partner), without_partner, strict=True):
            track.baseline.append(frame, detection.box, detection.score)
    return chains.tracks


class _Chains:
    """Tracks that grow frame by frame."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self._latest: list[tuple[int, list[float], Track]] = []  # frame and box of the open chains

    def take(self, frame: int, detections: Sequence[_Detection]) -> list[Track]:
        """The track of each detection, an open one or a new one."""
        # + 1: consecutive frames differ by 1, with none missing between them.
        self._latest = [entry for entry in self._latest if frame - entry[0] <= _PATIENCE + 1]
        latest_boxes = [(box, track.label) for _, box, track in self._latest]
        partners = _match(latest_boxes, [(detection.box, detection.label) for detection in detections], _CHAIN_IOU)
        tracks = []
        for detection, partner in zip(detections, partners, strict=True):
            if partner is None:
                track = Track(detection.label, "")
                self.tracks.append(track)
                self._latest.append((frame, detection.box, track))
            else:
                _, _, track = self._latest[partner]
                self._latest[partner] = frame, detection.box, track
            tracks.append(track)
        return tracks


def _match(old: list[tuple[list[float], int]], new: list[tuple[list[float], int]], least: float) -> list[int | None]:
    """For each new (box, class) the old one that it is paired with: largest overlap first, each used once."""
    partners: list[int | None] = [None] * len(new)
    # Boxes of different classes are never paired: {class: (numbers of the old ones, of the new ones)}.
    by_class: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for number, (_, label) in enumerate(old):
        by_class[label][0].append(number)
    for number, (_, label) in enumerate(new):
        by_class[label][1].append(number)
    for old_numbers, new_numbers in by_class.values():
        if not old_numbers or not new_numbers:
            continue
        overlap = _iou([old[number][0] for number in old_numbers], [new[number][0] for number in new_numbers])
        while overlap.max() >= least:
            row, column = np.unravel_index(overlap.argmax(), overlap.shape)
            partners[new_numbers[column]] = old_numbers[row]
            overlap[row] = -1  # both are used
            overlap[:, column] = -1
    return partners


def _iou(first: list[list[float]], second: list[list[float]]) -> np.ndarray:
    # float64 as in the evaluation: the same pairs whatever precision the detector has.
    first_boxes, second_boxes = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    return box_iou(first_boxes, second_boxes).numpy()
