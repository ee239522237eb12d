"""Greedy linking of consecutive frames, after Sabater et al., REPP, IROS 2020.

n_t: boxes of frame t.
"""

from collections.abc import Sequence

import numpy as np

from vod2.modeling.linking.arrays import FrameBoxes
from vod2.modeling.linking.base import BOX_LINKER_REGISTRY, RESCORE, ClassLinker, Tracks
from vod2.modeling.linking.paths import Path

_SMALLEST_SIDE = 1e-6  # pixels; keeps two boxes without an extent from being compared by 0 / 0


@BOX_LINKER_REGISTRY.register()
class GreedyLinking(ClassLinker):
    """Link the most similar pair of boxes of two consecutive frames, then the next, each box once; a track gets the
    mean of its scores.

    REPP learns the similarity of two boxes from annotated tracks. This one needs no training: the shares of width and
    height that the smaller box has of the larger one, times exp(-d), where d is the distance of the centres over the
    mean of the boxes' diagonals. Unlike an IoU it is not 0 for a small object that moves by more than its size. Give it
    boxes after non-maximum suppression.

    Example:
        >>> import torch
        >>> from vod2.d2 import Boxes, Instances
        >>> from vod2.modeling import GreedyLinking
        >>> video = []
        >>> for left, score in ((0.0, 0.9), (6.0, 0.5)):
        ...     found = Instances((60, 60), pred_boxes=Boxes(torch.tensor([[left, 0.0, left + 5.0, 5.0]])))
        ...     found.scores, found.pred_classes = torch.tensor([score]), torch.tensor([0])
        ...     video.append(found)
        >>> [(frame.track_ids.item(), frame.scores.item()) for frame in GreedyLinking().link(video)]
        [(0, 0.699999988079071), (0, 0.699999988079071)]
    """

    reads = {"link_similarity": "LINK_SIMILARITY", "rescore": "RESCORE"}

    def __init__(self, *, link_similarity: float = 0.4, rescore: str = "mean") -> None:
        """
        Args:
            link_similarity: boxes of consecutive frames are linked from this similarity on, in (0, 1].
            rescore: "mean" or "max" of the scores of the track.

        Raises:
            ValueError: for other values.
        """
        if not 0 < link_similarity <= 1:
            raise ValueError(f"GreedyLinking: expected LINK_SIMILARITY in (0, 1], got {link_similarity}")
        if rescore not in RESCORE:
            raise ValueError(f"GreedyLinking: expected RESCORE to be one of {', '.join(RESCORE)}, got {rescore!r}")
        self.link_similarity, self.rescore = link_similarity, rescore

    def link_class(self, frames: Sequence[FrameBoxes]) -> Tracks:
        paths: list[tuple[int, list[int]]] = []  # (first frame, its rows)
        path_of_row: dict[int, int] = {}  # of the frame before
        before = None
        for t, boxes in enumerate(frames):
            predecessors: dict[int, int] = {} if before is None else self._pairs(before, boxes)
            path_of_this = {}
            for row in range(len(boxes.scores)):
                if row in predecessors:
                    number = path_of_row[predecessors[row]]
                    paths[number][1].append(row)
                else:
                    number = len(paths)
                    paths.append((t, [row]))
                path_of_this[row] = number
            path_of_row, before = path_of_this, boxes
        tracks = Tracks.of([Path(first, np.array(rows)) for first, rows in paths], frames)
        return tracks.rescored(self.rescore)

    def _pairs(self, before: FrameBoxes, after: FrameBoxes) -> dict[int, int]:
        """{row of the later frame: row of the earlier one} of the boxes that are linked."""
        similarity = pairwise_similarity(before.boxes, after.boxes)
        rows, later_rows = np.nonzero(similarity >= self.link_similarity)
        # Of equals, the pair of the boxes with the higher scores, which come first in a detector's output.
        order = np.lexsort((later_rows, rows, -similarity[rows, later_rows]))
        pairs: dict[int, int] = {}
        taken = set()
        for row, later_row in zip(rows[order].tolist(), later_rows[order].tolist(), strict=True):
            if row not in taken and later_row not in pairs:
                taken.add(row)
                pairs[later_row] = row
        return pairs


def pairwise_similarity(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """xyxy boxes (n, 4) and (m, 4) in pixels -> (n, m) in [0, 1], see `GreedyLinking`."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], _SMALLEST_SIDE)
    other_sides = np.maximum(others[:, 2:] - others[:, :2], _SMALLEST_SIDE)
    smaller = np.minimum(sides[:, None], other_sides)
    larger = np.maximum(sides[:, None], other_sides)
    shape = (smaller / larger).prod(axis=2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    other_centres = (others[:, :2] + others[:, 2:]) / 2
    distance = np.linalg.norm(centres[:, None] - other_centres, axis=2)
    diagonal = (np.linalg.norm(sides, axis=1)[:, None] + np.linalg.norm(other_sides, axis=1)) / 2
    return shape * np.exp(-distance / diagonal)
