"""Which boxes of a dense head are taken (YOLOV, Shi et al., AAAI 2023: feature selection).

R: boxes of a frame, N: those that are taken.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

from vod2.d2 import CfgNode
from vod2.errors import settings


@dataclass(frozen=True)
class BoxSelection:
    """The best boxes of each level; of these, for an aggregator, the best after a loose NMS over all classes.

    Args:
        per_level: the most boxes of a level, those of the highest score.
        nms_thresh: boxes with a higher IoU with a better one are dropped, whatever their class; None for no NMS.
        topk: the most boxes of a frame after NMS, YOLOV's a; None for all.

    Raises:
        ValueError: for a number out of range.

    Example:
        >>> import torch
        >>> from vod2.modeling.one_stage.selection import BoxSelection
        >>> boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 9.0], [9.0, 9.0, 12.0, 12.0]])
        >>> take = BoxSelection(per_level=10, nms_thresh=0.75, topk=2)
        >>> scores, levels, usable = torch.tensor([0.5, 0.9, 0.2]), torch.tensor([0, 0, 1]), torch.ones(3).bool()
        >>> take(boxes, scores, levels, usable).tolist()
        [1, 2]
    """

    per_level: int
    nms_thresh: float | None = None
    topk: int | None = None

    def __post_init__(self) -> None:
        if self.per_level < 1 or (self.topk is not None and self.topk < 1):
            raise ValueError(f"expected PRE_NMS_TOPK and TOPK of at least 1, got {self.per_level}, {self.topk}")
        if self.nms_thresh is not None and not 0 <= self.nms_thresh <= 1:
            raise ValueError(f"expected NMS_THRESH in [0, 1], got {self.nms_thresh}")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "BoxSelection":
        with settings("MODEL.FCOS and MODEL.RESCORING"):
            if not cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME:
                return cls(cfg.MODEL.FCOS.PRE_NMS_TOPK)
            node = cfg.MODEL.RESCORING
            return cls(cfg.MODEL.FCOS.PRE_NMS_TOPK, node.NMS_THRESH, node.TOPK)

    def __call__(self, boxes: Tensor, scores: Tensor, levels: Tensor, usable: Tensor) -> Tensor:
        """boxes (R, 4) xyxy, scores (R,), levels (R,), usable (R,) bool -> rows (N,) int64, the best first."""
        kept = []
        for level in levels.unique():
            rows = (usable & (levels == level)).nonzero()[:, 0]
            kept.append(rows[scores[rows].topk(min(self.per_level, len(rows))).indices])
        rows = torch.cat(kept) if kept else usable.nonzero()[:, 0]
        rows = rows[scores[rows].argsort(descending=True, stable=True)]
        if self.nms_thresh is not None:
            # It gives the rows by descending score.
            rows = rows[nms(boxes[rows], scores[rows], self.nms_thresh)]
        return rows if self.topk is None else rows[: self.topk]
