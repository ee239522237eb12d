"""Detections of frames, ordered by object: what the timeline of a report shows. F: frames of a track."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

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
        rows = _rows(detections[frame])
        free = [row for row in rows if row[3] < 0]
        for track, row in zip(chains.take(frame, free), free, strict=True):
            track.found.append(frame, row[0], row[1])
            owners.setdefault(frame, []).append((track, len(track.found.frames) - 1))
        for box, score, label, identity in rows:
            if identity >= 0:
                track = named.setdefault(identity, Track(label, str(identity)))
                track.found.append(frame, box, score)
                owners.setdefault(frame, []).append((track, len(track.found.frames) - 1))
    tracks = _numbered(chains.tracks, taken=named) + list(named.values())
    tracks += _numbered(_add_baseline(owners, baseline or {}), taken=named, start=len(chains.tracks))
    return sorted(tracks, key=lambda track: -sum(track.found.scores) - sum(track.baseline.scores))


def _rows(instances: Instances) -> list[tuple[list[float], float, int, int]]:
    """(box, score, class, track id or -1) of each detection, the surest first."""
    count = len(instances)
    identities = instances.track_ids.tolist() if instances.has("track_ids") else [-1] * count
    columns = (instances.pred_boxes.tensor.tolist(), instances.scores.tolist(), instances.pred_classes.tolist())
    return sorted(zip(*columns, identities, strict=True), key=lambda row: -row[1])


def _numbered(tracks: list[Track], taken: Mapping[int, Track], start: int = 0) -> list[Track]:
    offset = max(taken, default=0) + start
    for number, track in enumerate(tracks, 1):
        track.name = str(offset + number)
    return tracks


def _add_baseline(owners: dict, baseline: Mapping[int, Instances]) -> list[Track]:
    """Give the boxes of the baseline to the tracks that they overlap; returns tracks of those that are left over."""
    chains = _Chains()
    for frame in sorted(baseline):
        rows = _rows(baseline[frame])
        here = owners.get(frame, [])
        known = [(track.found.boxes[at], track.label) for track, at in here]
        partners = _match(known, [(row[0], row[2]) for row in rows], _SAME_IOU)
        free = []
        for row, partner in zip(rows, partners, strict=True):
            if partner is None:
                free.append(row)
            else:
                here[partner][0].baseline.append(frame, row[0], row[1])
        for track, row in zip(chains.take(frame, free), free, strict=True):
            track.baseline.append(frame, row[0], row[1])
    return chains.tracks


class _Chains:
    """Tracks that grow frame by frame."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self._latest: list[tuple[int, list[float], Track]] = []  # frame and box of the open chains

    def take(self, frame: int, rows: list[tuple[list[float], float, int, int]]) -> list[Track]:
        """The track of each detection, an open one or a new one."""
        self._latest = [entry for entry in self._latest if frame - entry[0] <= _PATIENCE + 1]
        known = [(box, track.label) for _, box, track in self._latest]
        partners = _match(known, [(row[0], row[2]) for row in rows], _CHAIN_IOU)
        taken = []
        for (box, _, label, _), partner in zip(rows, partners, strict=True):
            if partner is None:
                taken.append(Track(label, ""))
                self.tracks.append(taken[-1])
                self._latest.append((frame, box, taken[-1]))
            else:
                taken.append(self._latest[partner][2])
                self._latest[partner] = (frame, box, taken[-1])
        return taken


def _match(known: list[tuple[list[float], int]], new: list[tuple[list[float], int]], least: float) -> list[int | None]:
    """For each new (box, class) the known one that it is paired with: largest overlap first, each used once."""
    partners: list[int | None] = [None] * len(new)
    by_class: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, boxes in enumerate((known, new)):
        for number, (_, label) in enumerate(boxes):
            by_class[label][side].append(number)
    for olds, news in by_class.values():
        if not olds or not news:
            continue
        overlap = _iou([known[number][0] for number in olds], [new[number][0] for number in news])
        while overlap.max() >= least:
            row, column = np.unravel_index(overlap.argmax(), overlap.shape)
            partners[news[column]] = olds[row]
            overlap[row], overlap[:, column] = -1, -1
    return partners


def _iou(first: list[list[float]], second: list[list[float]]) -> np.ndarray:
    boxes = (torch.tensor(side, dtype=torch.float64) for side in (first, second))
    return box_iou(*boxes).numpy()
