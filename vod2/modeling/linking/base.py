"""The contract of level 3, and what linkers of one class at a time share.

F: frames of a video, n: boxes of a frame, m: boxes on all paths.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from vod2.d2 import CfgNode, Instances, Registry
from vod2.keys import BuiltOfKeys, build_of_keys
from vod2.modeling.linking.arrays import FrameBoxes
from vod2.modeling.linking.paths import Path

BOX_LINKER_REGISTRY = Registry("BOX_LINKER")
BOX_LINKER_REGISTRY.__doc__ = """
Subclasses of `BoxLinker`, chosen by MODEL.VIDEO.LINKER.NAME. Each declares in `reads` the keys of MODEL.VIDEO.LINKER
that it is built of, see `vod2.keys.BuiltOfKeys`.
"""


def build_box_linker(cfg: CfgNode) -> "BoxLinker | None":
    """The linker that MODEL.VIDEO.LINKER describes, or None.

    Raises:
        UserError: for an unknown name, a value that the linker refuses, or a key that is not at its default and that
            the linker does not read.
    """
    node = cfg.MODEL.VIDEO.LINKER
    if not node.NAME:
        return None
    (linker,) = build_of_keys(BOX_LINKER_REGISTRY, cfg, BoxLinker.node, [node.NAME])
    return linker


class BoxLinker(BuiltOfKeys, ABC):
    """Links the boxes of one video over time and rescores them; plain arrays, no gradient, no state.

    Attributes:
        highest_score: that the linker gives to boxes whose scores are in [0, 1].
    """

    node = "MODEL.VIDEO.LINKER"
    highest_score = 1.0

    @abstractmethod
    def link(self, video: Sequence[Instances]) -> list[Instances]:
        """One `Instances` (pred_boxes, scores, pred_classes) for each frame, in order -> the same frames, rescored.

        A linker may leave boxes out. Those that stay keep all their fields, are sorted by descending score, and get
        `track_ids` (n,) int64: boxes of one number are one object. Every box has a number, one that was linked to no
        other a number of its own; they count from 0 in the order in which tracks appear, and belong to this video.
        """


RESCORE = ("mean", "max")
"""What MODEL.VIDEO.LINKER.RESCORE may be."""


class Tracks(NamedTuple):
    """Boxes on paths: `frame`, `row` in it and `track` (m,) integer, path after path, and their new `scores` (m,)."""

    frame: np.ndarray
    row: np.ndarray
    track: np.ndarray
    scores: np.ndarray

    @staticmethod
    def of(paths: Sequence[Path], frames: Sequence[FrameBoxes]) -> "Tracks":
        """The boxes of the paths with their own scores."""
        frame = np.concatenate([path.frames for path in paths])
        row = np.concatenate([path.rows for path in paths])
        track = np.repeat(np.arange(len(paths)), [len(path.rows) for path in paths])
        scores = np.concatenate([boxes.scores for boxes in frames])  # of all boxes, frame after frame
        first = _first_rows([len(boxes.scores) for boxes in frames])
        return Tracks(frame, row, track, scores[first[frame] + row])

    def top_mean(self, share: float) -> np.ndarray:
        """For each box the mean of the best ceil(share * L) of the L scores of its path: (m,)."""
        length = np.bincount(self.track)
        order = np.lexsort((-self.scores, self.track))  # track after track, each with its best box first
        rank = np.arange(len(order)) - np.repeat(_first_rows(length), length)  # of a box in its track, from 0
        # Boxes come track after track, so that row k of `order` and box k belong to the same track.
        best = order[rank < np.ceil(share * length)[self.track]]
        mean = np.bincount(self.track[best], self.scores[best]) / np.bincount(self.track[best])
        return mean[self.track]

    def rescored(self, rescore: str) -> "Tracks":
        """The boxes with the mean or the highest score of their path, as `RESCORE` names them."""
        return self._replace(scores=self.top_mean(1.0) if rescore == "mean" else self._highest())

    def _highest(self) -> np.ndarray:
        """For each box the highest score of its path: (m,)."""
        # Boxes come path after path, so the last one has the highest number.
        highest = np.zeros(self.track[-1] + 1)
        np.maximum.at(highest, self.track, self.scores)
        return highest[self.track]


class ClassLinker(BoxLinker):
    """Links every class by itself."""

    @abstractmethod
    def link_class(self, frames: Sequence[FrameBoxes]) -> Tracks:
        """The boxes of one class in F frames (there are some) -> those that stay, with new scores."""

    @torch.no_grad()
    def link(self, video: Sequence[Instances]) -> list[Instances]:
        if not video:
            return []
        frames = [FrameBoxes.of(instances) for instances in video]
        tracks_of_classes = []
        for label in np.unique(np.concatenate([boxes.labels for boxes in frames])):
            rows_of_frames = [(boxes.labels == label).nonzero()[0] for boxes in frames]
            of_class = [boxes.take(rows) for boxes, rows in zip(frames, rows_of_frames, strict=True)]
            tracks = self.link_class(of_class)
            # Rows count the boxes of this class; turn them back into rows of all boxes of their frame.
            first = _first_rows([len(rows) for rows in rows_of_frames])
            original = np.concatenate(rows_of_frames)[first[tracks.frame] + tracks.row]
            tracks_of_classes.append(tracks._replace(row=original))
        return _instances(video, _joined(tracks_of_classes))


def _first_rows(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each of several arrays of so many rows begins, when they are joined into one."""
    lengths = np.asarray(counts, dtype=np.int64)
    return np.cumsum(lengths) - lengths


def _joined(classes: Sequence[Tracks]) -> Tracks:
    """All classes in one, sorted by frame and descending score, tracks numbered in the order in which they appear."""
    if not classes:
        empty = np.empty(0, np.int64)
        return Tracks(empty, empty, empty, np.empty(0))
    # The tracks of each class count from 0: each class goes on where the one before has ended.
    begin = _first_rows([tracks.track.max() + 1 for tracks in classes])
    track = np.concatenate([tracks.track + number for tracks, number in zip(classes, begin, strict=True)])
    frame = np.concatenate([tracks.frame for tracks in classes])
    row = np.concatenate([tracks.row for tracks in classes])
    scores = np.concatenate([tracks.scores for tracks in classes])

    order = np.lexsort((row, -scores, frame))
    # `unique` numbers tracks by their old number; the first `argsort` lists them by where they first appear, the second
    # says the place of each in that list.
    _, first, sorted_number = np.unique(track[order], return_index=True, return_inverse=True)
    number = first.argsort().argsort()[sorted_number]
    return Tracks(frame[order], row[order], number, scores[order])


def _instances(video: Sequence[Instances], tracks: Tracks) -> list[Instances]:
    """The boxes of each frame that are in `tracks`, which are sorted by frame."""
    linked = []
    ends = np.searchsorted(tracks.frame, np.arange(len(video) + 1))
    for instances, first, last in zip(video, ends[:-1], ends[1:], strict=True):
        device = instances.scores.device
        kept = instances[torch.from_numpy(tracks.row[first:last]).to(device)]
        kept.scores = torch.from_numpy(tracks.scores[first:last]).to(instances.scores)
        kept.track_ids = torch.from_numpy(tracks.track[first:last]).to(device)
        linked.append(kept)
    return linked
