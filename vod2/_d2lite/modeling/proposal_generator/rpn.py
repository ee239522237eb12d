"""Region proposal network (Ren et al., NeurIPS 2015).

Letters: L levels, B images, C channels, H W height and width of a level, A anchors per location, R = H * W * A anchors.
Names: ``gt_`` ground truth, ``pred_`` prediction, ``_logits`` before the sigmoid, ``_deltas`` see `Box2BoxTransform`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vod2._d2lite.config import configurable
from vod2._d2lite.layers import Conv2d, ShapeSpec, at_least_float32, cat
from vod2._d2lite.modeling.anchor_generator import build_anchor_generator
from vod2._d2lite.modeling.box_regression import Box2BoxTransform, box_regression_loss
from vod2._d2lite.modeling.matcher import Matcher
from vod2._d2lite.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
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
        in_channels: channels of every level.
        num_anchors: A.
        conv_dims: output channels of each 3x3 convolution; -1: as many as its input.
    """

    @configurable
    def __init__(self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims=(-1,)):
        super().__init__()
        convs, channels = [], in_channels
        for dim in conv_dims:
            out_channels = channels if dim == -1 else dim
            convs.append(Conv2d(channels, out_channels, kernel_size=3, padding=1, activation=nn.ReLU()))
            channels = out_channels
        if len(convs) == 1:
            self.conv = convs[0]
        else:
            self.conv = nn.Sequential()
            for index, conv in enumerate(convs):
                self.conv.add_module(f"conv{index}", conv)
        self.objectness_logits = nn.Conv2d(channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * box_dim, kernel_size=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]):
        channels = {shape.channels for shape in input_shape}
        anchor_generator = build_anchor_generator(cfg, input_shape)
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
        in_features: names of the L feature maps.
        head: see `RPN_HEAD_REGISTRY`.
        anchor_generator: see `ANCHOR_GENERATOR_REGISTRY`.
        anchor_matcher: labels anchors by overlap.
        box2box_transform: from anchors to proposals.
        batch_size_per_image: anchors sampled in each image for training.
        positive_fraction: limit of the share of positive anchors among them.
        pre_nms_topk, post_nms_topk: (training, test) see `find_top_rpn_proposals`.
        nms_thresh: overlap from which the weaker proposal is suppressed.
        min_box_size: pixels.
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
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        self.anchor_boundary_thresh = anchor_boundary_thresh
        if not isinstance(loss_weight, dict):
            loss_weight = {"loss_rpn_cls": loss_weight, "loss_rpn_loc": loss_weight}
        self.loss_weight = loss_weight
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        options = cfg.MODEL.RPN
        shapes = [input_shape[name] for name in options.IN_FEATURES]
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
            "loss_weight": {
                "loss_rpn_cls": options.LOSS_WEIGHT,
                "loss_rpn_loc": options.BBOX_REG_LOSS_WEIGHT * options.LOSS_WEIGHT,
            },
            "box_reg_loss_type": options.BBOX_REG_LOSS_TYPE,
            "smooth_l1_beta": options.SMOOTH_L1_BETA,
        }

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose boxes, in training also compute losses.

        Args:
            gt_instances: with "gt_boxes"; needed in training.

        Returns:
            For each image "proposal_boxes" and "objectness_logits" (both detached, in descending order), and the losses
            "loss_rpn_cls" and "loss_rpn_loc", which are absent in inference.
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
            if self.anchor_boundary_thresh >= 0:
                inside = all_anchors.inside_box(targets.image_size, self.anchor_boundary_thresh)
                labels[~inside] = -1
            positive, negative = subsample_labels(labels, self.batch_size_per_image, self.positive_fraction, 0)
            sampled = torch.full_like(labels, -1)
            sampled[positive] = 1
            sampled[negative] = 0
            gt_labels.append(sampled)
            has_gt = len(targets) > 0
            matched_gt_boxes.append(
                targets.gt_boxes.tensor[matches] if has_gt else torch.zeros_like(all_anchors.tensor)
            )
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
        positive = labels == 1
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", positive.sum().item() / num_images)
        storage.put_scalar("rpn/num_neg_anchors", (labels == 0).sum().item() / num_images)

        source = Boxes.cat(anchors).tensor.expand(num_images, -1, -1)
        loss_loc = box_regression_loss(
            self.box2box_transform,
            source[positive],
            cat(pred_anchor_deltas, dim=1)[positive],
            torch.stack(gt_boxes)[positive],
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        sampled = labels >= 0
        logits = at_least_float32(cat(pred_objectness_logits, dim=1)[sampled])
        loss_cls = F.binary_cross_entropy_with_logits(logits, labels[sampled].to(logits.dtype), reduction="sum")
        normalizer = self.batch_size_per_image * num_images
        losses = {"loss_rpn_cls": loss_cls / normalizer, "loss_rpn_loc": loss_loc / normalizer}
        return {name: value * self.loss_weight.get(name, 1.0) for name, value in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Decode and choose proposals, without gradient: see `find_top_rpn_proposals`."""
        return find_top_rpn_proposals(
            [self._decode(level, deltas) for level, deltas in zip(anchors, pred_anchor_deltas, strict=True)],
            pred_objectness_logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )

    def _decode(self, anchors: Boxes, deltas: Tensor) -> Tensor:
        source = anchors.tensor.expand(deltas.shape[0], -1, -1).reshape(-1, 4)
        return self.box2box_transform.apply_deltas(deltas.reshape(-1, 4), source).view(deltas.shape)
