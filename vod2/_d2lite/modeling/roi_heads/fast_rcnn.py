"""Classification and regression of proposals (Girshick, ICCV 2015).

Letters: R proposals of all images, N proposals of one image, K classes (background = K), C channels.
Names: ``gt_`` ground truth, ``pred_`` prediction, ``_deltas`` see `Box2BoxTransform`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vod2._d2lite.config import configurable
from vod2._d2lite.layers import ShapeSpec, at_least_float32, batched_nms, cat, cross_entropy, nonzero_tuple
from vod2._d2lite.modeling.box_regression import Box2BoxTransform, box_regression_loss
from vod2._d2lite.structures import Boxes, Instances
from vod2._d2lite.utils.events import get_event_storage


def fast_rcnn_inference(
    boxes: list[Tensor],
    scores: list[Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """Detections of each image: threshold on scores, suppression within each class, the best of all classes.

    Args:
        boxes: for each image (N, K * 4), or (N, 4) where all classes share their box.
        scores: for each image (N, K + 1), probabilities.
        image_shapes: (height, width) of each image.
        score_thresh: a detection's score is greater.
        topk_per_image: at most that many detections; negative: all.

    Returns:
        For each image "pred_boxes", "scores" (descending), "pred_classes", and the proposal of each detection (int64).
    """
    results = [
        _single_image(*image, score_thresh, nms_thresh, topk_per_image)
        for image in zip(boxes, scores, image_shapes, strict=True)
    ]
    return [instances for instances, _ in results], [kept for _, kept in results]


def _single_image(boxes, scores, image_shape, score_thresh, nms_thresh, topk) -> tuple[Instances, Tensor]:
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
    boxes, scores = boxes[finite], scores[finite, :-1]
    clipped = Boxes(boxes.reshape(-1, 4))
    clipped.clip(image_shape)
    boxes = clipped.tensor.view(boxes.shape[0], boxes.shape[1] // 4, 4)  # (N, K or 1, 4)
    proposal, category = nonzero_tuple(scores > score_thresh)
    boxes = boxes[proposal, category if boxes.shape[1] > 1 else torch.zeros_like(category)]
    scores = scores[proposal, category]
    keep = batched_nms(boxes, scores, category, nms_thresh)
    if topk >= 0:
        keep = keep[:topk]
    instances = Instances(image_shape, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=category[keep])
    return instances, nonzero_tuple(finite)[0][proposal[keep]]


def _log_classification_stats(pred_logits: Tensor, gt_classes: Tensor, prefix: str = "fast_rcnn") -> None:
    """Put accuracies into the event storage."""
    num_boxes = gt_classes.numel()
    if num_boxes == 0:
        return
    background = pred_logits.shape[1] - 1
    predicted = pred_logits.argmax(dim=1)
    correct = predicted == gt_classes
    foreground = (gt_classes >= 0) & (gt_classes < background)
    num_foreground = foreground.sum().item()
    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/cls_accuracy", correct.sum().item() / num_boxes)
    if num_foreground > 0:
        missed = (predicted[foreground] == background).sum().item()
        storage.put_scalar(f"{prefix}/fg_cls_accuracy", correct[foreground].sum().item() / num_foreground)
        storage.put_scalar(f"{prefix}/false_negative", missed / num_foreground)


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers, for K + 1 scores and for the deltas of each class.

    Args:
        input_shape: channels (and height, width) of a proposal's features; an integer is a number of channels.
        box2box_transform: from proposals to detections.
        num_classes: K.
        test_score_thresh, test_nms_thresh, test_topk_per_image: see `fast_rcnn_inference`.
        cls_agnostic_bbox_reg: all classes share their deltas.
        smooth_l1_beta, box_reg_loss_type: see `box_regression_loss`.
        loss_weight: factor of all losses, or of each by name.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
    ):
        super().__init__()
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(channels=input_shape)
        channels = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        self.num_classes = num_classes
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, 4 * (1 if cls_agnostic_bbox_reg else num_classes))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)
        self.box2box_transform = box2box_transform
        self.smooth_l1_beta = smooth_l1_beta
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.box_reg_loss_type = box_reg_loss_type
        if not isinstance(loss_weight, dict):
            loss_weight = {"loss_cls": loss_weight, "loss_box_reg": loss_weight}
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        options = cfg.MODEL.ROI_BOX_HEAD
        if options.USE_SIGMOID_CE or options.USE_FED_LOSS:
            raise NotImplementedError("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE and USE_FED_LOSS need Detectron2 itself")
        return {
            "input_shape": input_shape,
            "box2box_transform": Box2BoxTransform(weights=options.BBOX_REG_WEIGHTS),
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "cls_agnostic_bbox_reg": options.CLS_AGNOSTIC_BBOX_REG,
            "smooth_l1_beta": options.SMOOTH_L1_BETA,
            "test_score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "test_nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "box_reg_loss_type": options.BBOX_REG_LOSS_TYPE,
            "loss_weight": {"loss_box_reg": options.BBOX_REG_LOSS_WEIGHT},
        }

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (R, C) or (R, C, H, W) -> logits (R, K + 1), deltas (R, K * 4) or (R, 4)."""
        x = torch.flatten(x, start_dim=1)
        return self.cls_score(x), self.bbox_pred(x)

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """Losses "loss_cls" and "loss_box_reg", both means over all R proposals.

        Args:
            predictions: of `forward`.
            proposals: with "proposal_boxes", "gt_classes" and, in images with ground truth, "gt_boxes".
        """
        logits, deltas = predictions
        logits = at_least_float32(logits)
        gt_classes = torch.cat([p.gt_classes for p in proposals]) if proposals else logits.new_zeros(0).long()
        _log_classification_stats(logits, gt_classes)
        if proposals:
            proposal_boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
            # Without ground truth all are background, and the boxes are not used
            gt_boxes = torch.cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        else:
            proposal_boxes = gt_boxes = deltas.new_zeros((0, 4))
        losses = {
            "loss_cls": cross_entropy(logits, gt_classes, reduction="mean"),
            "loss_box_reg": self.box_reg_loss(proposal_boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: value * self.loss_weight.get(name, 1.0) for name, value in losses.items()}

    def box_reg_loss(self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor) -> Tensor:
        """Sum over the foreground, divided by the number of all R proposals: each sample counts the same.

        Args:
            proposal_boxes, gt_boxes: (R, 4) xyxy.
            pred_deltas: (R, K * 4) or (R, 4).
            gt_classes: (R,) in [0, K].
        """
        foreground = nonzero_tuple((gt_classes >= 0) & (gt_classes < self.num_classes))[0]
        per_class = pred_deltas.unflatten(1, (-1, 4))  # (R, K or 1, 4)
        category = gt_classes[foreground] if per_class.shape[1] > 1 else torch.zeros_like(foreground)
        loss = box_regression_loss(
            self.box2box_transform,
            proposal_boxes[foreground],
            per_class[foreground, category],
            gt_boxes[foreground],
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        return loss / max(gt_classes.numel(), 1)

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detections of each image and the proposal of each detection: see `fast_rcnn_inference`."""
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def predict_boxes(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """Boxes (N, K * 4) or (N, 4) of each image, not clipped."""
        if not proposals:
            return []
        proposal_boxes = cat([p.proposal_boxes.tensor for p in proposals])
        boxes = self.box2box_transform.apply_deltas(predictions[1], proposal_boxes)
        return list(boxes.split([len(p) for p in proposals]))

    def predict_boxes_for_gt_classes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> list[Tensor]:
        """Boxes (N, 4) of each image, of the class "gt_classes"; background takes the last class."""
        chosen = []
        for boxes, image_proposals in zip(self.predict_boxes(predictions, proposals), proposals, strict=True):
            per_class = boxes.unflatten(1, (-1, 4))
            category = image_proposals.gt_classes.clamp(0, per_class.shape[1] - 1)
            chosen.append(per_class[torch.arange(len(boxes), device=boxes.device), category])
        return chosen

    def predict_probs(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """Probabilities (N, K + 1) of each image, at least in float32."""
        probs = F.softmax(at_least_float32(predictions[0]), dim=-1)
        return list(probs.split([len(p) for p in proposals]))
