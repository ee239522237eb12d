"""Identities for boxes that were annotated frame by frame without any.

Shape alphabet: n boxes of a frame. Boxes are xyxy pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import generalized_box_iou

from vod2.errors import UserError


class _Track(NamedTuple):
    number: int
    box: np.ndarray  # (4,), the latest
    label: int
    frame: int


def link_tracks(
    boxes: Sequence[np.ndarray], labels: Sequence[np.ndarray], min_giou: float = -0.5, max_gap: int = 5
) -> list[np.ndarray]:
    """Number the objects of a video: boxes of one class in following frames that match best are one object.

    Frame after frame, the boxes are assigned to the latest boxes of the tracks so that the sum of the generalised IoUs
    is greatest (the Hungarian method), among pairs of one class from `min_giou` on. Unlike the IoU, it tells near from
    far where two boxes do not meet, as those of small and fast objects do not: two equal boxes are linked as long as
    they are less than three widths or heights apart. Nothing is predicted, and appearance is not looked at: two
    objects that cross may swap their numbers.

    Args:
        boxes: for each frame (n, 4).
        labels: for each frame (n,) integer.
        min_giou: in [-1, 1]; a box without such a partner begins a track.
        max_gap: a track may miss so many frames in a row.

    Returns:
        For each frame (n,) int64, numbers from 0 in the order in which tracks begin.

    Raises:
        UserError: SciPy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise UserError("linking boxes needs SciPy: pip install scipy (or vod2[matlab])") from error
    tracks: list[_Track] = []
    numbers, count = [], 0
    for frame, (frame_boxes, frame_labels) in enumerate(zip(boxes, labels, strict=True)):
        # Consecutive frames are 1 apart, with no frame missed.
        tracks = [track for track in tracks if frame - track.frame <= max_gap + 1]
        similarity = _similarity(tracks, frame_boxes, frame_labels)
        track_numbers = np.full(len(frame_boxes), -1, dtype=np.int64)
        # Pairs that may not be linked must not outweigh those that may: they count as little as the limit.
        for row, column in zip(*linear_sum_assignment(similarity.clip(min=min_giou), maximize=True), strict=True):
            if similarity[row, column] >= min_giou:
                track_numbers[column] = tracks[row].number
        new = track_numbers < 0
        track_numbers[new] = np.arange(count, count + new.sum())
        count += int(new.sum())
        continued = set(track_numbers.tolist())
        tracks = [track for track in tracks if track.number not in continued]
        for number, box, label in zip(track_numbers.tolist(), frame_boxes, frame_labels.tolist(), strict=True):
            tracks.append(_Track(number, box, label, frame))
        numbers.append(track_numbers)
    return numbers


def _similarity(tracks: Sequence[_Track], boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(tracks, n) generalised IoU, minus infinity between classes."""
    latest = np.array([track.box for track in tracks]).reshape(-1, 4)
    # Without tracks `latest` is float64 whatever the boxes are, and torch wants one dtype.
    similarity = generalized_box_iou(torch.as_tensor(latest), torch.as_tensor(np.asarray(boxes, latest.dtype))).numpy()
    same_class = np.array([track.label for track in tracks])[:, None] == np.asarray(labels)[None]
    return np.where(same_class.reshape(similarity.shape), similarity, -np.inf)
