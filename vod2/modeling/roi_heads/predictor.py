"""From aggregated features to detections.

N: proposals of a frame, K: classes, k: boxes regressed from a proposal (1 or K).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn import smooth_l1_loss
from torch import Tensor
from torch.nn import functional
from torchvision.ops import batched_nms

from vod2.d2 import Box2BoxTransform, CfgNode, FastRCNNOutputLayers, Instances, ShapeSpec, configurable
from vod2.layers import PreciseBoxTransform
from vod2.modeling.legacy import CURRENT_CONVENTIONS, LegacyConventions
from vod2.structures import PreciseBoxes


@dataclass(frozen=True)
class DetectionSelection:
    """Which of the scored boxes of a frame are its detections.

    Args:
        score_thresh: scores that are not above it are dropped.
        nms_thresh: boxes of a class with a higher IoU with a better one are dropped.
        topk: the most detections; negative for all.
        conventions: of the code that trained the weights.
    """

    score_thresh: float
    nms_thresh: float
    topk: int
    conventions: LegacyConventions = CURRENT_CONVENTIONS

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "DetectionSelection":
        heads, conventions = cfg.MODEL.ROI_HEADS, LegacyConventions.from_config(cfg)
        return cls(heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE, conventions)

    def __call__(self, boxes: Tensor, probs: Tensor, size: tuple[int, int]) -> Instances:
        """boxes (N, k*4) xyxy in pixels of an image of `size` (height, width), probs (N, K + 1), the last background.

        Returns pred_boxes, scores (descending), pred_classes and proposal_index, the row that each came from.
        """
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(probs).all(dim=1)
        # A row that is not finite gets 0 or NaN, which no threshold lets pass.
        scores = probs[:, :-1] * finite[:, None]
        boxes = self.conventions.clip(boxes.unflatten(1, (-1, 4)), size)  # (N, k, 4)
        rows, classes = (scores > self.score_thresh).nonzero(as_tuple=True)
        # Class-agnostic regression has one box for all classes.
        boxes = boxes[rows, classes if boxes.shape[1] > 1 else torch.zeros_like(classes)]
        scores = scores[rows, classes]
        # NMS wants one dtype: under autocast scores are in half precision, boxes never.
        kept = batched_nms(boxes, scores.to(boxes.dtype), classes, self.nms_thresh)
        count = self.topk
        if self.conventions.keep_ties and 0 < count < len(kept):
            # `kept` descends by score, so those that tie with the last one follow it.
            count = int((scores[kept] >= scores[kept[count - 1]]).sum())
        if count >= 0:
            kept = kept[:count]
        return Instances(
            size,
            pred_boxes=PreciseBoxes(boxes[kept]),
            scores=scores[kept],
            pred_classes=classes[kept],
            proposal_index=rows[kept],
        )


class VideoBoxPredictor(FastRCNNOutputLayers):
    """Detectron2's output layers with its keys and parameters, in any precision.

    Detections also carry `proposal_index`, the row of the proposal that each came from (linking by relations needs it).
    """

    @configurable
    def __init__(
        self, *args: Any, ohem: int = 0, conventions: LegacyConventions = CURRENT_CONVENTIONS, **kwargs: Any
    ) -> None:
        """
        Args:
            ohem: number of RoIs of a frame, those of the highest loss, that its loss is computed on; 0 for all.
            conventions: of the code that trained the weights.
            args, kwargs: those of `FastRCNNOutputLayers`.
        """
        super().__init__(*args, **kwargs)
        self.ohem = ohem
        self.conventions = conventions

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        ret = super().from_config(cfg, input_shape)
        ret["ohem"] = cfg.MODEL.VIDEO.OHEM
        ret["conventions"] = LegacyConventions.from_config(cfg)
        ret["box2box_transform"] = PreciseBoxTransform(weights=cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS)
        return ret

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """Scores and deltas of the RoIs of all frames, and the RoIs with gt_boxes and gt_classes -> {name: loss}."""
        if self.ohem > 0:
            predictions, proposals = self._hardest(predictions, proposals)
        return super().losses(predictions, proposals)

    @torch.no_grad()
    def _losses_of_each(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> Tensor:
        """(N,): classification and smooth L1 regression of each RoI (OHEM, Shrivastava et al., section 4)."""
        scores, deltas = predictions
        labels = torch.cat([rois.gt_classes for rois in proposals])
        loss = functional.cross_entropy(scores, labels, reduction="none")
        rows, regression = foreground_box_losses(
            deltas, proposals, self.box2box_transform, self.num_classes, self.smooth_l1_beta
        )
        # Background has no regression: `rows` are those of the foreground.
        return loss.index_add(0, rows, regression.to(loss.dtype))

    def _hardest(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[tuple[Tensor, Tensor], list[Instances]]:
        """The RoIs of each frame with the highest loss, in their order."""
        # Within each frame, so that a hard frame does not take the RoIs of an easy one.
        losses = self._losses_of_each(predictions, proposals).split([len(rois) for rois in proposals])
        rows_of_frames, hardest = [], []
        first = 0  # row of the frame's first RoI in the predictions of all frames
        for rois, loss in zip(proposals, losses, strict=True):
            rows = loss.topk(min(self.ohem, len(loss))).indices.sort().values
            rows_of_frames.append(first + rows)
            hardest.append(rois[rows])
            first += len(rois)
        rows = torch.cat(rows_of_frames)
        scores, deltas = predictions
        return (scores[rows], deltas[rows]), hardest

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Scores and deltas of all proposals -> for each frame the detections and their proposals' rows.

        `Instances` come out with pred_boxes, scores (descending), pred_classes and proposal_index.
        """
        boxes = self.predict_boxes(predictions, proposals)
        probs = self.predict_probs(predictions, proposals)
        results = [
            self._select_detections(box, prob, proposal.image_size)
            for box, prob, proposal in zip(boxes, probs, proposals, strict=True)
        ]
        return results, [result.proposal_index for result in results]

    def _select_detections(self, boxes: Tensor, probs: Tensor, size: tuple[int, int]) -> Instances:
        """boxes (N, k*4), probs (N, K+1) -> score threshold, NMS within classes, best `test_topk_per_image`."""
        # Made here: a caller may change the thresholds of a predictor that is built.
        thresholds = self.test_score_thresh, self.test_nms_thresh
        return DetectionSelection(*thresholds, self.test_topk_per_image, self.conventions)(boxes, probs, size)


def foreground_box_losses(
    deltas: Tensor, rois: Sequence[Instances], transform: Box2BoxTransform, num_classes: int, beta: float
) -> tuple[Tensor, Tensor]:
    """Smooth L1 of the regression of each RoI that shows an object.

    Args:
        deltas: (N, k * 4) of the RoIs of all frames.
        rois: of each frame, with proposal_boxes, gt_classes and, where it has objects, gt_boxes.
        transform: from pairs of boxes to deltas.
        num_classes: K.
        beta: where smooth L1 turns from a square to a line.

    Returns:
        Rows (n,) of the RoIs whose label is in [0, K), and the loss (n,) of each, the sum over its four numbers.
    """
    labels = torch.cat([of_frame.gt_classes for of_frame in rois])
    rows = ((labels >= 0) & (labels < num_classes)).nonzero()[:, 0]
    boxes, matched = [], []
    for of_frame in rois:
        boxes.append(of_frame.proposal_boxes.tensor)
        # A frame without objects has no gt_boxes, and no row that would need them: its proposals fill the place.
        matched.append(of_frame.gt_boxes.tensor if of_frame.has("gt_boxes") else of_frame.proposal_boxes.tensor)
    wanted = transform.get_deltas(torch.cat(boxes)[rows], torch.cat(matched)[rows])
    deltas = deltas.unflatten(1, (-1, 4))[rows]  # (n, k, 4)
    column = labels[rows] if deltas.shape[1] > 1 else torch.zeros_like(rows)
    deltas = deltas[torch.arange(len(rows), device=rows.device), column]
    return rows, smooth_l1_loss(deltas, wanted.to(deltas.dtype), beta, reduction="none").sum(dim=1)
