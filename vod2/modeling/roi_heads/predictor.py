"""From aggregated features to detections.

N: proposals of a frame, K: classes, k: boxes regressed from a proposal (1 or K).
"""

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from vod2.d2 import CfgNode, FastRCNNOutputLayers, Instances, ShapeSpec
from vod2.layers import PreciseBoxTransform
from vod2.structures import PreciseBoxes


class VideoBoxPredictor(FastRCNNOutputLayers):
    """Detectron2's output layers with its keys and parameters, in any precision.

    Detections also carry `proposal_index`, the row of the proposal that each came from (linking by relations needs it).
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        ret = super().from_config(cfg, input_shape)
        ret["box2box_transform"] = PreciseBoxTransform(weights=cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS)
        return ret

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Scores and deltas of all proposals -> for each frame the detections and their proposals' rows.

        `Instances` come out with pred_boxes, scores (descending), pred_classes and proposal_index.
        """
        boxes = self.predict_boxes(predictions, proposals)
        probs = self.predict_probs(predictions, proposals)
        results = [
            self._select(box, prob, proposal.image_size)
            for box, prob, proposal in zip(boxes, probs, proposals, strict=True)
        ]
        return results, [result.proposal_index for result in results]

    def _select(self, boxes: Tensor, probs: Tensor, size: tuple[int, int]) -> Instances:
        """boxes (N, k*4), probs (N, K+1) -> score threshold, NMS within classes, best `test_topk_per_image`."""
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(probs).all(dim=1)
        scores = probs[:, :-1] * finite[:, None]
        boxes = clip_boxes_to_image(boxes.unflatten(1, (-1, 4)), size)  # (N, k, 4)
        rows, classes = (scores > self.test_score_thresh).nonzero(as_tuple=True)
        boxes = boxes[rows, classes if boxes.shape[1] > 1 else torch.zeros_like(classes)]
        scores = scores[rows, classes]
        kept = batched_nms(boxes, scores.to(boxes.dtype), classes, self.test_nms_thresh)
        if self.test_topk_per_image >= 0:
            kept = kept[: self.test_topk_per_image]
        return Instances(
            size,
            pred_boxes=PreciseBoxes(boxes[kept]),
            scores=scores[kept],
            pred_classes=classes[kept],
            proposal_index=rows[kept],
        )
