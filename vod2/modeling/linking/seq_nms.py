"""Seq-NMS: Han et al., Seq-NMS for Video Object Detection, 2016."""

from collections.abc import Sequence

import numpy as np

from vod2.modeling.linking.arrays import FrameBoxes, pairwise_iou
from vod2.modeling.linking.base import BOX_LINKER_REGISTRY, RESCORE, ClassLinker, Tracks
from vod2.modeling.linking.paths import HeaviestPaths


@BOX_LINKER_REGISTRY.register()
class SeqNMS(ClassLinker):
    """Repeat until no box is left: take the path of the highest sum of scores, give its boxes the mean of them,
    suppress what overlaps them in their frames.

    It takes the place of non-maximum suppression within frames: give it boxes before that
    (MODEL.ROI_HEADS.NMS_THRESH_TEST 1.0). A box that no link leads on from is a path of its own. The memory is 2 F n^2
    bytes for F frames of n boxes of one class.

    Example:
        >>> import torch
        >>> from vod2.d2 import Boxes, Instances
        >>> from vod2.modeling import SeqNMS
        >>> video = []
        >>> for score in (0.9, 0.5):
        ...     found = Instances((60, 60), pred_boxes=Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]])))
        ...     found.scores, found.pred_classes = torch.tensor([score]), torch.tensor([0])
        ...     video.append(found)
        >>> [frame.scores.item() for frame in SeqNMS().link(video)]
        [0.699999988079071, 0.699999988079071]
    """

    reads = {"link_iou": "LINK_IOU", "suppress_iou": "SUPPRESS_IOU", "rescore": "RESCORE"}

    def __init__(self, *, link_iou: float = 0.5, suppress_iou: float = 0.3, rescore: str = "mean") -> None:
        """
        Args:
            link_iou: boxes of consecutive frames are linked from this IoU on, in (0, 1].
            suppress_iou: boxes of the same frame are suppressed from this IoU on, in (0, 1].
            rescore: "mean" or "max" of the scores on the path.

        Raises:
            ValueError: for other values.
        """
        for name, value in (("LINK_IOU", link_iou), ("SUPPRESS_IOU", suppress_iou)):
            if not 0 < value <= 1:
                raise ValueError(f"Seq-NMS: expected {name} in (0, 1], got {value}")
        if rescore not in RESCORE:
            raise ValueError(f"Seq-NMS: expected RESCORE to be one of {', '.join(RESCORE)}, got {rescore!r}")
        self.link_iou, self.suppress_iou, self.rescore = link_iou, suppress_iou, rescore

    def link_class(self, frames: Sequence[FrameBoxes]) -> Tracks:
        boxes = [of_frame.boxes for of_frame in frames]
        links = [pairwise_iou(now, after) >= self.link_iou for now, after in zip(boxes[:-1], boxes[1:], strict=True)]
        overlaps = [pairwise_iou(of_frame, of_frame) >= self.suppress_iou for of_frame in boxes]
        for overlap in overlaps:
            # A box without an area has IoU 0 with itself. Every path must suppress its own boxes, or the loop would
            # not end.
            np.fill_diagonal(overlap, True)
        heaviest = HeaviestPaths([of_frame.scores for of_frame in frames], links)
        paths = []
        while (path := heaviest.best()) is not None:
            paths.append(path)
            suppressed = [overlaps[t][row].nonzero()[0] for t, row in enumerate(path.rows.tolist(), path.first)]
            heaviest.remove(path.first, suppressed)
        return Tracks.of(paths, frames).rescored(self.rescore)
