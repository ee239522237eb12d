"""Tubelets by Viterbi, and with RDN's relations: Deng et al., Relation Distillation Networks, section 3.4.

n_t: boxes of frame t, K: support proposals of a frame that relations are kept of.
"""

from collections.abc import Sequence

import numpy as np

from vod2.errors import UserError
from vod2.modeling.linking.arrays import FrameBoxes, pairwise_iou
from vod2.modeling.linking.base import BOX_LINKER_REGISTRY, ClassLinker, Tracks
from vod2.modeling.linking.paths import HeaviestPaths


@BOX_LINKER_REGISTRY.register()
class TubeletLinking(ClassLinker):
    """Repeat until no box is left: take the path of the highest sum of linking scores S (equation 9, whose 1 / L does
    not change which path that is), add the mean of the best half of its scores to its boxes.

    S(i, j) = s_i + s_j + iou(i, j), equation 8 without the exponential, for all pairs of consecutive frames. No S is
    negative, so a path spans the whole video, or the frames around it that still have boxes. Every box ends on a path,
    a lone one on its own, where it gains its own score: scores are in [0, 2], and stay comparable. The best half of L
    boxes are ceil(L / 2). Give it boxes after non-maximum suppression.
    """

    reads = {"top_share": "TOP_SHARE"}
    highest_score = 2.0

    def __init__(self, *, top_share: float = 0.5) -> None:
        """
        Args:
            top_share: share in (0, 1] of a path's scores, the best ones, whose mean is added.

        Raises:
            ValueError: for another value.
        """
        if not 0 < top_share <= 1:
            raise ValueError(f"expected TOP_SHARE in (0, 1], got {top_share}")
        self.top_share = top_share

    def link_class(self, frames: Sequence[FrameBoxes]) -> Tracks:
        links = [self.linking_scores(now, after) for now, after in zip(frames[:-1], frames[1:], strict=True)]
        # Boxes weigh nothing by themselves: S has the scores of both ends of a link.
        heaviest = HeaviestPaths([np.zeros(len(of_frame.scores)) for of_frame in frames], links)
        paths = []
        while (path := heaviest.best()) is not None:
            paths.append(path)
            # The path alone: what overlaps it has been through NMS, and is an object of its own.
            heaviest.remove(path.first, list(path.rows[:, None]))
        tracks = Tracks.of(paths, frames)
        return tracks._replace(scores=tracks.scores + tracks.top_mean(self.top_share))

    def linking_scores(self, frame: FrameBoxes, after: FrameBoxes) -> np.ndarray:
        """S (n_t, n_{t+1}) of the boxes of two consecutive frames."""
        return frame.scores[:, None] + after.scores + pairwise_iou(frame.boxes, after.boxes)


@BOX_LINKER_REGISTRY.register()
class BLR(TubeletLinking):
    """Box linking with relations: `TubeletLinking` with the whole of equation 8, S(i, j) exp(w_ij).

    w_ij is the mean over the heads of the relation weights of the last basic relation module, from the proposal that
    box i came from to that of box j. Detections bring it as `next_relation` (n, K) and `proposal_index`
    (MODEL.VIDEO.KEEP_RELATIONS); it is 0 for a proposal that was not among the K of its frame.
    """

    def linking_scores(self, frame: FrameBoxes, after: FrameBoxes) -> np.ndarray:
        """S (n_t, n_{t+1}) of the boxes of two consecutive frames.

        Raises:
            UserError: if the detections bring no relations.
        """
        if not len(frame.scores) or not len(after.scores):
            return np.zeros((len(frame.scores), len(after.scores)))
        if frame.relations is None or after.proposal is None:
            raise UserError(
                "BLR links by relations, and these detections have none: set MODEL.VIDEO.KEEP_RELATIONS True with an "
                "aggregator that keeps them, or link with TubeletLinking"
            )
        # Relations are kept of the K best proposals of a frame; 0 to all others leaves S as it is.
        kept = after.proposal < frame.relations.shape[1]
        weights = np.zeros((len(frame.scores), len(after.scores)))
        weights[:, kept] = frame.relations[:, after.proposal[kept]]
        return super().linking_scores(frame, after) * np.exp(weights)
