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
    """Links the boxes of one video over time and rescores them; plain arrays, no gradient, no state."""

    node = "MODEL.VIDEO.LINKER"

    @abstractmethod
    def link(self, video: Sequence[Instances]) -> list[Instances]:
        """One `Instances` (pred_boxes, scores, pred_classes) for each frame, in order -> the same frames, rescored.

        A linker may leave boxes out. Those that stay keep all their fields, are sorted by descending score, and get
        `track_ids` (n,) int64: boxes of one number are one object. Every box has a number, one that was linked to no
        other a number of its own; they count from 0 in the order in which tracks appear, and belong to this video.
        """


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
        first = np.cumsum([0, *(len(one.scores) for one in frames[:-1])])
        scores = np.concatenate([one.scores for one in frames])[first[frame] + row]
        return Tracks(frame, row, track, scores)

    def top_mean(self, share: float) -> np.ndarray:
        """For each box the mean of the best ceil(share * L) of the L scores of its path: (m,)."""
        length = np.bincount(self.track)
        order = np.lexsort((-self.scores, self.track))
        rank = np.arange(len(order)) - np.repeat(np.cumsum(length) - length, length)
        best = order[rank < np.ceil(share * length)[self.track]]
        mean = np.bincount(self.track[best], self.scores[best]) / np.bincount(self.track[best])
        return mean[self.track]


class ClassLinker(BoxLinker):
    """Links every class by itself."""

    @abstractmethod
    def link_class(self, frames: Sequence[FrameBoxes]) -> Tracks:
        """The boxes of one class in F frames (there are some) -> those that stay, with new scores."""

    @torch.no_grad()
    def link(self, video: Sequence[Instances]) -> list[Instances]:
        frames = [FrameBoxes.of(one) for one in video]
        found = []
        for label in np.unique(np.concatenate([one.labels for one in frames])) if frames else ():
            rows = [(one.labels == label).nonzero()[0] for one in frames]
            tracks = self.link_class([one.take(row) for one, row in zip(frames, rows, strict=True)])
            first = np.cumsum([0, *(len(row) for row in rows[:-1])])
            found.append(tracks._replace(row=np.concatenate(rows)[first[tracks.frame] + tracks.row]))
        return _instances(video, _joined(found))


def _joined(parts: Sequence[Tracks]) -> Tracks:
    """All classes in one, sorted by frame and descending score, tracks numbered in the order in which they appear."""
    if not parts:
        nothing = np.empty(0, np.int64)
        return Tracks(nothing, nothing, nothing, np.empty(0))
    counts = np.cumsum([0, *(part.track.max() + 1 for part in parts[:-1])])
    shifted = [part._replace(track=part.track + count) for part, count in zip(parts, counts, strict=True)]
    frame, row, track, scores = (np.concatenate(values) for values in zip(*shifted, strict=True))
    order = np.lexsort((row, -scores, frame))
    _, first, number = np.unique(track[order], return_index=True, return_inverse=True)
    number = first.argsort().argsort()[number]
    return Tracks(frame[order], row[order], number, scores[order])


def _instances(video: Sequence[Instances], tracks: Tracks) -> list[Instances]:
    linked = []
    ends = np.searchsorted(tracks.frame, np.arange(len(video) + 1))
    for instances, first, last in zip(video, ends[:-1], ends[1:], strict=True):
        device = instances.scores.device
        one = instances[torch.from_numpy(tracks.row[first:last]).to(device)]
        one.scores = torch.from_numpy(tracks.scores[first:last]).to(instances.scores)
        one.track_ids = torch.from_numpy(tracks.track[first:last]).to(device)
        linked.append(one)
    return linked
