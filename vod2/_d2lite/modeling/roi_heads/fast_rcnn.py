"""From the pooled features of proposals to their classes and boxes (Girshick, ICCV 2015).

Letters: R proposals of all images, N proposals of one image, K classes (background = K), C channels.
Names: ``gt_`` ground truth, ``pred_`` prediction, ``_deltas`` see `Box2BoxTransform`.
"""

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import Tensor, nn

from vod2._d2lite.config import check_supported, configurable
from vod2._d2lite.layers import Conv2d, ShapeSpec, at_least_float32, batched_nms, cat, get_norm, nonzero_tuple
from vod2._d2lite.modeling.box_regression import Box2BoxTransform, box_regression_loss
from vod2._d2lite.structures import Boxes, Instances
from vod2._d2lite.utils.events import get_event_storage
from vod2._d2lite.utils.registry import Registry

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")
ROI_BOX_HEAD_REGISTRY.__doc__ = """Modules built with ``(cfg, input_shape: ShapeSpec)``, called with (M, C, P, P); their
``output_shape`` is a `ShapeSpec`."""


def build_box_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """``cfg.MODEL.ROI_BOX_HEAD.NAME``."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions (biased where they have no norm), then fully connected layers, each followed by ReLU."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, conv_dims: list[int], fc_dims: list[int], conv_norm=""):
        super().__init__()
        if not conv_dims and not fc_dims:
            raise ValueError("FastRCNNConvFCHead needs at least one layer: set NUM_CONV or NUM_FC of ROI_BOX_HEAD")
        channels, height, width = input_shape.channels, input_shape.height, input_shape.width
        for number, dim in enumerate(conv_dims, start=1):
            norm = get_norm(conv_norm, dim)
            conv = Conv2d(channels, dim, 3, padding=1, bias=norm is None, norm=norm, activation=nn.ReLU())
            self.add_module(f"conv{number}", conv)
            channels = dim
        self.output_shape = ShapeSpec(channels=channels, height=height, width=width)
        if fc_dims:
            self.add_module("flatten", nn.Flatten())
            channels *= height * width
        for number, dim in enumerate(fc_dims, start=1):
            self.add_module(f"fc{number}", nn.Linear(channels, dim))
            self.add_module(f"fc_relu{number}", nn.ReLU())
            channels = dim
            self.output_shape = ShapeSpec(channels=dim)
        # Once all layers exist: with one seed, Detectron2 draws the same weights
        for layer in self:
            if isinstance(layer, Conv2d):
                weight_init.c2_msra_fill(layer)
            elif isinstance(layer, nn.Linear):
                weight_init.c2_xavier_fill(layer)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        options = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "conv_dims": [options.CONV_DIM] * options.NUM_CONV,
            "fc_dims": [options.FC_DIM] * options.NUM_FC,
            "conv_norm": options.NORM,
        }


def _log_accuracies(pred_logits: Tensor, gt_classes: Tensor) -> None:
    """Put the accuracy on all proposals and on the foreground, and its share taken for background, into the storage."""
    num_classes = pred_logits.shape[1] - 1
    predicted = pred_logits.argmax(dim=1)
    correct = predicted == gt_classes
    foreground = (gt_classes >= 0) & (gt_classes < num_classes)
    storage = get_event_storage()
    # The mean of no proposals is NaN
    if len(correct) > 0:
        storage.put_scalar("fast_rcnn/cls_accuracy", correct.float().mean().item())
    if foreground.any():
        storage.put_scalar("fast_rcnn/fg_cls_accuracy", correct[foreground].float().mean().item())
        missed = predicted[foreground] == num_classes
        storage.put_scalar("fast_rcnn/false_negative", missed.float().mean().item())


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers, for K + 1 scores and for the deltas of each class.

    Args:
        input_shape: channels (and height, width) of a proposal's features; an integer is a number of channels.
        test_score_thresh, test_topk_per_image: a detection's score is greater; negative: no limit of detections.
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
        # Fast R-CNN's choice: nearly equal scores and nearly unchanged boxes at the start
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
        names = ("loss_cls", "loss_box_reg")
        self.loss_weight = loss_weight if isinstance(loss_weight, dict) else dict.fromkeys(names, loss_weight)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        options = cfg.MODEL.ROI_BOX_HEAD
        check_supported(cfg, {"MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": False, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": False})
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
        logits, deltas = at_least_float32(predictions[0]), predictions[1]
        proposal_boxes = gt_boxes = deltas.new_zeros((0, 4))
        gt_classes = torch.zeros(0, dtype=torch.int64, device=logits.device)
        if proposals:
            gt_classes = torch.cat([p.gt_classes for p in proposals])
            proposal_boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
            # Without ground truth all are background, and the boxes are not used
            gt_boxes = torch.cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        _log_accuracies(logits, gt_classes)
        losses = {
            # Not reduction="mean", which is NaN for no proposals
            "loss_cls": F.cross_entropy(logits, gt_classes, reduction="sum") / max(gt_classes.numel(), 1),
            "loss_box_reg": self.box_reg_loss(proposal_boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: value * self.loss_weight.get(name, 1.0) for name, value in losses.items()}

    def box_reg_loss(self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor) -> Tensor:
        """Sum over the foreground, divided by the number of all R proposals: each sample counts the same.

        Args: boxes (R, 4) xyxy; deltas (R, K * 4) or (R, 4); classes (R,) in [0, K].
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
        """For each image "pred_boxes", "scores" (descending), "pred_classes", and the proposal of each detection."""
        boxes, probs = self.predict_boxes(predictions, proposals), self.predict_probs(predictions, proposals)
        images = zip(boxes, probs, [p.image_size for p in proposals], strict=True)
        results = [self._select(*image) for image in images]
        return [instances for instances, _ in results], [kept_indices for _, kept_indices in results]

    def _select(self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]) -> tuple[Instances, Tensor]:
        """Threshold on scores (N, K + 1), suppression within each class, the best of all classes."""
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        # The last column is the background
        boxes, scores = boxes[finite].unflatten(1, (-1, 4)), scores[finite, :-1]  # (N, K or 1, 4), (N, K)
        proposal, category = nonzero_tuple(scores > self.test_score_thresh)
        chosen = Boxes(boxes[proposal, category if boxes.shape[1] > 1 else torch.zeros_like(category)])
        chosen.clip(image_size)
        scores = scores[proposal, category]
        keep = batched_nms(chosen.tensor, scores, category, self.test_nms_thresh)
        keep = keep if self.test_topk_per_image < 0 else keep[: self.test_topk_per_image]
        instances = Instances(image_size, pred_boxes=chosen[keep], scores=scores[keep], pred_classes=category[keep])
        # `proposal` indexes the finite rows; the caller's index includes the others
        return instances, nonzero_tuple(finite)[0][proposal[keep]]

    def predict_boxes(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """Boxes (N, K * 4) or (N, 4) of each image, not clipped."""
        if not proposals:
            return []
        proposal_boxes = cat([p.proposal_boxes.tensor for p in proposals])
        boxes = self.box2box_transform.apply_deltas(predictions[1], proposal_boxes)
        return list(boxes.split([len(p) for p in proposals]))

    def predict_probs(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """Probabilities (N, K + 1) of each image, at least in float32."""
        probs = F.softmax(at_least_float32(predictions[0]), dim=-1)
        return list(probs.split([len(p) for p in proposals]))
