"""Region proposal network (Ren et al., NeurIPS 2015).

Letters: L levels, B images, C channels, H W height and width of a level, A anchors per location, R = H * W * A anchors.
Names: ``gt_`` ground truth, ``pred_`` prediction, ``_logits`` before the sigmoid, ``_deltas`` see `Box2BoxTransform`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vod2._d2lite.config import configurable
from vod2._d2lite.layers import Conv2d, ShapeSpec, at_least_float32, batched_nms, cat
from vod2._d2lite.modeling.anchor_generator import build_anchor_generator
from vod2._d2lite.modeling.box_regression import Box2BoxTransform, box_regression_loss
from vod2._d2lite.modeling.matcher import Matcher
from vod2._d2lite.modeling.sampling import subsample_labels
from vod2._d2lite.structures import Boxes, ImageList, Instances, pairwise_iou
from vod2._d2lite.utils.events import get_event_storage
from vod2._d2lite.utils.registry import Registry

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
PROPOSAL_GENERATOR_REGISTRY.__doc__ = """Modules built with ``(cfg, input_shape: dict[str, ShapeSpec])`` and called with
``(images, features, gt_instances)`` -> (proposals, losses)."""

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")
RPN_HEAD_REGISTRY.__doc__ = """Modules built with ``(cfg, input_shape: list[ShapeSpec])`` and called with L feature maps
-> (L objectness logits (B, A, H, W), L deltas (B, A * 4, H, W))."""


def build_proposal_generator(cfg, input_shape: dict[str, ShapeSpec]) -> nn.Module | None:
    """``cfg.MODEL.PROPOSAL_GENERATOR.NAME``; None for "PrecomputedProposals"."""
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    return None if name == "PrecomputedProposals" else PROPOSAL_GENERATOR_REGISTRY.get(name)(cfg, input_shape)


def build_rpn_head(cfg, input_shape: list[ShapeSpec]) -> nn.Module:
    """``cfg.MODEL.RPN.HEAD_NAME``."""
    return RPN_HEAD_REGISTRY.get(cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions shared by two 1x1 ones, for objectness and for deltas.

    Args:
        conv_dims: output channels of each 3x3 convolution; -1: as many as its input.
    """

    @configurable
    def __init__(self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims=(-1,)):
        super().__init__()
        convs, channels = nn.Sequential(), in_channels
        for index, dim in enumerate(conv_dims):
            dim = channels if dim == -1 else dim
            convs.add_module(f"conv{index}", Conv2d(channels, dim, 3, padding=1, activation=nn.ReLU()))
            channels = dim
        # Checkpoints have "conv.weight" for one convolution, "conv.conv0.weight" and so on for several
        self.conv = convs[0] if len(convs) == 1 else convs
        self.objectness_logits = nn.Conv2d(channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * box_dim, kernel_size=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]):
        channels = {shape.channels for shape in input_shape}
        # Built only to read its numbers; it has no weights
        anchor_generator: Any = build_anchor_generator(cfg, input_shape)
        num_anchors = set(anchor_generator.num_anchors)
        if len(channels) != 1 or len(num_anchors) != 1:
            raise ValueError(f"all levels must have equal channels and anchors per location: {channels}, {num_anchors}")
        return {
            "in_channels": channels.pop(),
            "num_anchors": num_anchors.pop(),
            "box_dim": anchor_generator.box_dim,
            "conv_dims": cfg.MODEL.RPN.CONV_DIMS,
        }

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """L maps (B, C, H, W) -> L logits (B, A, H, W), L deltas (B, A * 4, H, W)."""
        hidden = [self.conv(feature) for feature in features]
        return [self.objectness_logits(h) for h in hidden], [self.anchor_deltas(h) for h in hidden]


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Scores anchors and moves them; trained by the overlap of anchors with the ground truth.

    Args:
        head, anchor_generator: see `RPN_HEAD_REGISTRY` and `ANCHOR_GENERATOR_REGISTRY`.
        batch_size_per_image, positive_fraction: anchors sampled for training, and the limit of positive ones.
        pre_nms_topk, post_nms_topk: (training, test), proposals kept of each level and of all.
        min_box_size: proposals with a side of at most that many pixels are dropped.
        anchor_boundary_thresh: anchors that leave the image by that many pixels are not trained; negative: all are.
        loss_weight: factor of all losses, or of each by name.
        box_reg_loss_type, smooth_l1_beta: see `box_regression_loss`.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ):
        super().__init__()
        self.in_features = in_features
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        # Keys are values of `self.training`
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        self.anchor_boundary_thresh = anchor_boundary_thresh
        names = ("loss_rpn_cls", "loss_rpn_loc")
        self.loss_weight = loss_weight if isinstance(loss_weight, dict) else dict.fromkeys(names, loss_weight)
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        options = cfg.MODEL.RPN
        shapes = [input_shape[name] for name in options.IN_FEATURES]
        loc_weight = options.BBOX_REG_LOSS_WEIGHT * options.LOSS_WEIGHT
        return {
            "in_features": options.IN_FEATURES,
            "head": build_rpn_head(cfg, shapes),
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "anchor_matcher": Matcher(options.IOU_THRESHOLDS, options.IOU_LABELS, allow_low_quality_matches=True),
            "box2box_transform": Box2BoxTransform(weights=options.BBOX_REG_WEIGHTS),
            "batch_size_per_image": options.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": options.POSITIVE_FRACTION,
            "pre_nms_topk": (options.PRE_NMS_TOPK_TRAIN, options.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (options.POST_NMS_TOPK_TRAIN, options.POST_NMS_TOPK_TEST),
            "nms_thresh": options.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "anchor_boundary_thresh": options.BOUNDARY_THRESH,
            "loss_weight": {"loss_rpn_cls": options.LOSS_WEIGHT, "loss_rpn_loc": loc_weight},
            "box_reg_loss_type": options.BBOX_REG_LOSS_TYPE,
            "smooth_l1_beta": options.SMOOTH_L1_BETA,
        }

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """For each image "proposal_boxes" and "objectness_logits" (both detached, in descending order), and the losses.

        Args: gt_instances have "gt_boxes"; needed in training. Without training there are no losses.
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps)
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]  # (B, R)
        deltas = [x.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas]  # (B, R, 4)
        losses = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("RPN in training needs gt_instances")
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label anchors 1 (object), 0 (background) or -1 (ignored or not sampled).

        Returns:
            For each image the labels (R of all levels,) int8 and the matched boxes (R of all levels, 4), which mean
            something where the label is 1 only.
        """
        all_anchors = Boxes.cat(anchors)
        gt_labels, matched_gt_boxes = [], []
        for targets in gt_instances:
            matches, labels = self.anchor_matcher(pairwise_iou(targets.gt_boxes, all_anchors))
            # After matching: an anchor outside is ignored even if it is the best match of a ground truth
            if self.anchor_boundary_thresh >= 0:
                labels[~all_anchors.inside_box(targets.image_size, self.anchor_boundary_thresh)] = -1
            positive, negative = subsample_labels(labels, self.batch_size_per_image, self.positive_fraction, 0)
            sampled = torch.full_like(labels, -1)
            sampled[positive] = 1
            sampled[negative] = 0
            gt_labels.append(sampled)
            boxes = targets.gt_boxes.tensor
            # Without ground truth no anchor is positive, and there is nothing to index
            matched_gt_boxes.append(boxes[matches] if len(targets) > 0 else torch.zeros_like(all_anchors.tensor))
        return gt_labels, matched_gt_boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Sums over the sampled anchors, divided by the number of anchors that should be sampled.

        Args:
            anchors: L boxes (R, 4).
            pred_objectness_logits: L tensors (B, R).
            gt_labels, gt_boxes: of `label_and_sample_anchors`.
            pred_anchor_deltas: L tensors (B, R, 4).
        """
        labels = torch.stack(gt_labels)  # (B, R of all levels)
        num_images = len(gt_labels)
        positive, sampled = labels == 1, labels >= 0
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", positive.sum().item() / num_images)
        storage.put_scalar("rpn/num_neg_anchors", (labels == 0).sum().item() / num_images)

        loss_loc = box_regression_loss(
            self.box2box_transform,
            Boxes.cat(anchors).tensor.expand(num_images, -1, -1)[positive],
            cat(pred_anchor_deltas, dim=1)[positive],
            torch.stack(gt_boxes)[positive],
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        logits = at_least_float32(cat(pred_objectness_logits, dim=1)[sampled])
        loss_cls = F.binary_cross_entropy_with_logits(logits, labels[sampled].to(logits.dtype), reduction="sum")
        losses = {"loss_rpn_cls": loss_cls, "loss_rpn_loc": loss_loc}
        # As in Detectron2, not the number actually sampled: an image with few anchors counts less
        normalizer = self.batch_size_per_image * num_images
        return {name: value / normalizer * self.loss_weight.get(name, 1.0) for name, value in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """The best of each level, decoded and clipped, suppressed within each level, and the best of all of these.

        Args:
            anchors, pred_objectness_logits, pred_anchor_deltas: as in `losses`.

        Raises:
            FloatingPointError: in training, a box or logit is infinite or NaN; in inference such boxes are dropped.
        """
        all_boxes, all_logits, levels = [], [], []
        predictions = zip(anchors, pred_objectness_logits, pred_anchor_deltas, strict=True)
        for level, (anchor, logits, deltas) in enumerate(predictions):
            count = min(logits.shape[1], self.pre_nms_topk[self.training])
            # Only the best are decoded: on a feature pyramid there are some 250,000 anchors
            best, index = at_least_float32(logits).topk(count, dim=1)  # (B, count)
            chosen = deltas.gather(1, index[..., None].expand(-1, -1, 4)).flatten(0, 1)  # (B * count, 4)
            boxes = self.box2box_transform.apply_deltas(chosen, anchor.tensor[index.flatten()])
            all_boxes.append(boxes.view(*index.shape, 4))
            all_logits.append(best)
            levels.append(torch.full_like(index[0], level))
        images = zip(cat(all_boxes, dim=1), cat(all_logits, dim=1), image_sizes, strict=True)
        return [self._select(boxes, logits, cat(levels), size) for boxes, logits, size in images]

    def _select(self, boxes: Tensor, logits: Tensor, levels: Tensor, image_size: tuple[int, int]) -> Instances:
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(logits)
        # In inference, in half precision for example, only the broken boxes are dropped
        if self.training and not finite.all():
            raise FloatingPointError("the predicted proposals contain infinite values or NaN: training has diverged")
        proposals = Instances(image_size, proposal_boxes=Boxes(boxes[finite]), objectness_logits=logits[finite])
        proposals.proposal_boxes.clip(image_size)
        large = proposals.proposal_boxes.nonempty(threshold=self.min_box_size)
        proposals, levels = proposals[large], levels[finite][large]
        keep = batched_nms(proposals.proposal_boxes.tensor, proposals.objectness_logits, levels, self.nms_thresh)
        # `keep` is sorted by logit across all levels
        return proposals[keep[: self.post_nms_topk[self.training]]]
