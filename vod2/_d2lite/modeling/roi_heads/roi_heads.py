"""Heads on proposals: labels and samples for training, pooled features, detections.

Letters: B images, N proposals of one image, G ground truths of one image, K classes (background = K).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vod2._d2lite.config import check_supported, configurable
from vod2._d2lite.layers import ShapeSpec
from vod2._d2lite.modeling.backbone.resnet import BottleneckBlock, ResNet
from vod2._d2lite.modeling.matcher import Matcher
from vod2._d2lite.modeling.poolers import ROIPooler
from vod2._d2lite.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, build_box_head
from vod2._d2lite.modeling.sampling import subsample_labels
from vod2._d2lite.structures import ImageList, Instances, pairwise_iou
from vod2._d2lite.utils.events import get_event_storage
from vod2._d2lite.utils.registry import Registry

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")
ROI_HEADS_REGISTRY.__doc__ = "Modules built with (cfg, input_shape: dict[str, ShapeSpec]): see `ROIHeads.forward`."

_UNSUPPORTED = ("MODEL.MASK_ON", "MODEL.KEYPOINT_ON", "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES")

# A ground-truth box is a proposal of which the network is nearly sure: the logit of probability 1 - 1e-10
_GT_OBJECTNESS_LOGIT = math.log((1.0 - 1e-10) / 1e-10)


def build_roi_heads(cfg, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """``cfg.MODEL.ROI_HEADS.NAME``."""
    return ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


def add_ground_truth_to_proposals(gt: list[Instances], proposals: list[Instances]) -> list[Instances]:
    """Append the ground-truth boxes to the proposals of each image.

    Args:
        gt: with "gt_boxes", and with every field that the proposals have beyond boxes and logits.
        proposals: with "proposal_boxes" and "objectness_logits".
    """
    extended = []
    for targets, image_proposals in zip(gt, proposals, strict=True):
        fields = dict(targets.get_fields())
        fields["proposal_boxes"] = targets.gt_boxes
        fields["objectness_logits"] = image_proposals.objectness_logits.new_full((len(targets),), _GT_OBJECTNESS_LOGIT)
        if missing := set(image_proposals.get_fields()) - set(fields):
            raise ValueError(f"the proposals have fields {sorted(missing)} that the ground truth lacks")
        extended.append(Instances.cat([image_proposals, Instances(image_proposals.image_size, **fields)]))
    return extended


class ROIHeads(nn.Module):
    """The base of heads: samples proposals by their overlap with ground truth, and trains or runs `box_predictor`.

    `batch_size_per_image` proposals are sampled in each image, of them at most `positive_fraction` foreground.
    """

    box_predictor: Any  # what subclasses set has `losses` and `inference`

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @classmethod
    def from_config(cls, cfg):
        check_supported(cfg, dict.fromkeys(_UNSUPPORTED, False))
        options = cfg.MODEL.ROI_HEADS
        return {
            "num_classes": options.NUM_CLASSES,
            "batch_size_per_image": options.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": options.POSITIVE_FRACTION,
            "proposal_matcher": Matcher(options.IOU_THRESHOLDS, options.IOU_LABELS, allow_low_quality_matches=False),
            "proposal_append_gt": options.PROPOSAL_APPEND_GT,
        }

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Sample proposals of each image and label them.

        Args:
            proposals: with "proposal_boxes" and "objectness_logits".
            targets: with "gt_boxes", "gt_classes"; every other field called ``gt_...`` is carried over as well.

        Returns:
            Proposals with "gt_classes" (K for background) and, in images with ground truth, the ``gt_`` fields of the
            matched target, which mean something for the foreground only.
        """
        if self.proposal_append_gt:
            # Early proposals are poor: without the ground truth there would be next to no foreground to learn from
            proposals = add_ground_truth_to_proposals(targets, proposals)
        sampled_proposals, num_samples, num_background = [], 0, 0
        for image_proposals, image_targets in zip(proposals, targets, strict=True):
            overlap = pairwise_iou(image_targets.gt_boxes, image_proposals.proposal_boxes)  # (G, N)
            matches, labels = self.proposal_matcher(overlap)
            classes = torch.full_like(matches, self.num_classes)
            if len(image_targets) > 0:
                classes = torch.where(labels == 1, image_targets.gt_classes[matches], classes)
                # `subsample_labels` ignores -1
                classes[labels == -1] = -1
            samples = subsample_labels(classes, self.batch_size_per_image, self.positive_fraction, self.num_classes)
            chosen = torch.cat(samples)
            sampled = image_proposals[chosen]
            sampled.gt_classes = classes[chosen]
            # Without ground truth the matches are all 0, and there is nothing to index
            target_fields = image_targets.get_fields() if len(image_targets) > 0 else {}
            for name, value in target_fields.items():
                if name.startswith("gt_") and not sampled.has(name):
                    sampled.set(name, value[matches[chosen]])
            num_samples += len(sampled)
            num_background += len(samples[1])
            sampled_proposals.append(sampled)
        # At least 1: a batch may be empty
        storage, num_images = get_event_storage(), max(len(proposals), 1)
        storage.put_scalar("roi_head/num_fg_samples", (num_samples - num_background) / num_images)
        storage.put_scalar("roi_head/num_bg_samples", num_background / num_images)
        return sampled_proposals

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """In inference the detections (pred_boxes, scores, pred_classes) and {}; in training the samples and losses.

        Args: proposals and, in training, targets are those of `label_and_sample_proposals`.
        """
        if self.training:
            if targets is None:
                raise ValueError("ROI heads in training need targets")
            proposals = self.label_and_sample_proposals(proposals, targets)
            return proposals, self.box_predictor.losses(self._predict(features, proposals), proposals)
        return self.box_predictor.inference(self._predict(features, proposals), proposals)[0], {}

    def _predict(self, features: dict[str, Tensor], proposals: list[Instances]) -> tuple[Tensor, Tensor]:
        """What `self.box_predictor` predicts for the proposals."""
        raise NotImplementedError(f"{type(self).__name__} implements neither forward nor _predict")


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """Pooling of the maps `box_in_features`, a head of `ROI_BOX_HEAD_REGISTRY`, and `FastRCNNOutputLayers`."""

    @configurable
    def __init__(
        self, *, box_in_features: list[str], box_pooler: ROIPooler, box_head: nn.Module, box_predictor, **kwargs
    ):
        super().__init__(**kwargs)
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):  # type: ignore[override]  # as Detectron2's
        in_features, pooler = _pooler_from_config(cfg, input_shape)
        channels = {input_shape[name].channels for name in in_features}
        if len(channels) != 1:
            raise ValueError(f"MODEL.ROI_HEADS.IN_FEATURES {in_features} have different channels: {sorted(channels)}")
        height, width = pooler.output_size
        box_head = build_box_head(cfg, ShapeSpec(channels=channels.pop(), height=height, width=width))
        return {
            **super().from_config(cfg),
            "box_in_features": in_features,
            "box_pooler": pooler,
            "box_head": box_head,
            "box_predictor": FastRCNNOutputLayers(cfg, box_head.output_shape),
        }

    def _predict(self, features: dict[str, Tensor], proposals: list[Instances]) -> tuple[Tensor, Tensor]:
        maps = [features[name] for name in self.box_in_features]
        return self.box_predictor(self.box_head(self.box_pooler(maps, [p.proposal_boxes for p in proposals])))


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeads(ROIHeads):
    """The last stage of the ResNet on each box pooled from one map: the head of the "C4" detectors."""

    @configurable
    def __init__(self, *, in_features: list[str], pooler: ROIPooler, res5: nn.Module, box_predictor, **kwargs):
        super().__init__(**kwargs)
        self.in_features = in_features
        self.pooler = pooler
        self.res5 = res5
        self.box_predictor = box_predictor

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):  # type: ignore[override]  # as Detectron2's
        in_features, pooler = _pooler_from_config(cfg, input_shape)
        if len(in_features) != 1:
            raise ValueError(f"Res5ROIHeads pools one feature map, MODEL.ROI_HEADS.IN_FEATURES is {in_features}")
        options = cfg.MODEL.RESNETS
        # In C4 detectors the backbone ends at res4, and checkpoints have "roi_heads.res5"
        out_channels = options.RES2_OUT_CHANNELS * 8
        blocks = ResNet.make_stage(
            BottleneckBlock,
            3,
            in_channels=out_channels // 2,
            out_channels=out_channels,
            stride_per_block=[2, 1, 1],
            bottleneck_channels=options.NUM_GROUPS * options.WIDTH_PER_GROUP * 8,
            num_groups=options.NUM_GROUPS,
            norm=options.NORM,
            stride_in_1x1=options.STRIDE_IN_1X1,
        )
        return {
            **super().from_config(cfg),
            "in_features": in_features,
            "pooler": pooler,
            "res5": nn.Sequential(*blocks),
            "box_predictor": FastRCNNOutputLayers(cfg, ShapeSpec(channels=out_channels, height=1, width=1)),
        }

    def _predict(self, features: dict[str, Tensor], proposals: list[Instances]) -> tuple[Tensor, Tensor]:
        maps = [features[name] for name in self.in_features]
        pooled = self.res5(self.pooler(maps, [p.proposal_boxes for p in proposals]))
        return self.box_predictor(pooled.mean(dim=(2, 3)))


def _pooler_from_config(cfg, input_shape: dict[str, ShapeSpec]) -> tuple[list[str], ROIPooler]:
    in_features, options = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_BOX_HEAD
    pooler = ROIPooler(
        output_size=options.POOLER_RESOLUTION,
        scales=tuple(1.0 / input_shape[name].stride for name in in_features),
        sampling_ratio=options.POOLER_SAMPLING_RATIO,
        pooler_type=options.POOLER_TYPE,
    )
    return in_features, pooler
