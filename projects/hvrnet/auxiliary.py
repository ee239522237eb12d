"""The branch that learns from b, the key frame's proposals after the second relation within the video.

n: RoIs of a key frame, D: embedding, K: classes (background is K).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from vod2.d2 import Box2BoxTransform, Instances
from vod2.layers import init_normal
from vod2.modeling.roi_heads.predictor import foreground_box_losses


class AuxiliaryHead(nn.Linear):
    """Classifies RoIs and, if asked, regresses their boxes; for training only (public code, no part of the paper).

    Its own weight and bias are the classifier's, those of `boxes` the regression's.

    Args:
        dim: D.
        num_classes: K.
        weight: factor of its losses.
        box_dim: numbers regressed from a RoI, 4 or 4 K; 0 for no regression.
        transform: from pairs of boxes to deltas; needed with a `box_dim`.
        beta: where smooth L1 turns from a square to a line.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        weight: float = 1.0,
        box_dim: int = 0,
        transform: Box2BoxTransform | None = None,
        beta: float = 1.0,
    ) -> None:
        super().__init__(dim, num_classes + 1)
        self.num_classes, self.loss_weight, self.transform, self.beta = num_classes, weight, transform, beta
        self.boxes = nn.Linear(dim, box_dim) if box_dim else None
        # As the layers of the box predictor begin.
        init_normal(self, std=0.01)
        if self.boxes is not None:
            init_normal(self.boxes, std=0.001)

    def losses(self, middle: Tensor, rois: Instances) -> dict[str, Tensor]:
        """b (n, D) and the RoIs with gt_classes, for the regression also proposal_boxes and gt_boxes -> {name: loss}.

        Both are means over all n RoIs, 0 without any; only the foreground has a regression.
        """
        # By all RoIs, background included, as the losses of Detectron2's box predictor.
        count = max(len(rois), 1)
        scores = F.cross_entropy(self(middle), rois.gt_classes, reduction="sum")
        losses = {"loss_cls_intra": self.loss_weight * scores / count}
        if self.boxes is not None:
            assert self.transform is not None  # see `transform`
            _, boxes = foreground_box_losses(self.boxes(middle), [rois], self.transform, self.num_classes, self.beta)
            losses["loss_box_reg_intra"] = self.loss_weight * boxes.sum() / count
        return losses
