"""Heads on proposals: labels and samples for training, pooled features, detections.

Letters: B images, N proposals of one image, G ground truths of one image, K classes (background = K).
"""

import torch
from torch import Tensor, nn

from vod2._d2lite.config import configurable
from vod2._d2lite.layers import ShapeSpec
from vod2._d2lite.modeling.backbone.resnet import BottleneckBlock, make_stage
from vod2._d2lite.modeling.matcher import Matcher
from vod2._d2lite.modeling.poolers import ROIPooler
from vod2._d2lite.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from vod2._d2lite.modeling.roi_heads.box_head import build_box_head
from vod2._d2lite.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from vod2._d2lite.modeling.sampling import subsample_labels
from vod2._d2lite.structures import Boxes, ImageList, Instances, pairwise_iou
from vod2._d2lite.utils.events import get_event_storage
from vod2._d2lite.utils.registry import Registry

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")
ROI_HEADS_REGISTRY.__doc__ = (
    """Modules built with ``(cfg, input_shape: dict[str, ShapeSpec])``: see `ROIHeads.forward`."""
)


def build_roi_heads(cfg, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """``cfg.MODEL.ROI_HEADS.NAME``."""
    return ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


class ROIHeads(nn.Module):
    """The base of heads: matches proposals with ground truth and samples them.

    Args:
        num_classes: K.
        batch_size_per_image: proposals sampled in each image for training.
        positive_fraction: limit of the share of foreground among them.
        proposal_matcher: labels proposals by overlap.
        proposal_append_gt: also sample from the ground-truth boxes.
    """

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
        if cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON:
            raise NotImplementedError(
                "MODEL.MASK_ON or MODEL.KEYPOINT_ON is True: only boxes are predicted without Detectron2. Set both to "
                "False, or install Detectron2"
            )
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
        sampled_proposals, num_foreground, num_background = [], [], []
        for image_proposals, image_targets in zip(proposals, targets, strict=True):
            overlap = pairwise_iou(image_targets.gt_boxes, image_proposals.proposal_boxes)  # (G, N)
            matches, labels = self.proposal_matcher(overlap)
            chosen, gt_classes = self._sample_proposals(matches, labels, image_targets.gt_classes)
            sampled = image_proposals[chosen]
            sampled.gt_classes = gt_classes
            if len(image_targets) > 0:
                for name, value in image_targets.get_fields().items():
                    if name.startswith("gt_") and not sampled.has(name):
                        sampled.set(name, value[matches[chosen]])
            background = (gt_classes == self.num_classes).sum().item()
            num_background.append(background)
            num_foreground.append(gt_classes.numel() - background)
            sampled_proposals.append(sampled)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", sum(num_foreground) / max(len(num_foreground), 1))
        storage.put_scalar("roi_head/num_bg_samples", sum(num_background) / max(len(num_background), 1))
        return sampled_proposals

    def _sample_proposals(self, matches: Tensor, labels: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of sampled proposals and their classes in [0, K]."""
        if gt_classes.numel() > 0:
            classes = gt_classes[matches]
            classes[labels == 0] = self.num_classes
            classes[labels == -1] = -1
        else:
            classes = torch.full_like(matches, self.num_classes)
        foreground, background = subsample_labels(
            classes, self.batch_size_per_image, self.positive_fraction, self.num_classes
        )
        chosen = torch.cat((foreground, background))
        return chosen, classes[chosen]

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Detect.

        Args:
            proposals: for each image "proposal_boxes" and "objectness_logits".
            targets: for each image "gt_boxes" and "gt_classes"; needed in training.

        Returns:
            In inference for each image "pred_boxes", "scores", "pred_classes", and no losses; in training the sampled
            proposals and the losses.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement forward")


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """Pooling, a box head and a box predictor.

    Args:
        box_in_features: names of the feature maps that are pooled.
        box_pooler: pools boxes from them.
        box_head: see `ROI_BOX_HEAD_REGISTRY`.
        box_predictor: has the interface of `FastRCNNOutputLayers`.
        train_on_pred_boxes: replace the proposals' boxes by the predicted ones after the losses.
    """

    @configurable
    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        train_on_pred_boxes: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.train_on_pred_boxes = train_on_pred_boxes

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        arguments = super().from_config(cfg)
        arguments["train_on_pred_boxes"] = cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES
        return {**arguments, **cls._init_box_head(cfg, input_shape)}

    @classmethod
    def _init_box_head(cls, cfg, input_shape: dict[str, ShapeSpec]):
        in_features, pooler = _pooler_from_config(cfg, input_shape)
        channels = {input_shape[name].channels for name in in_features}
        if len(channels) != 1:
            raise ValueError(f"MODEL.ROI_HEADS.IN_FEATURES {in_features} have different channels: {sorted(channels)}")
        height, width = pooler.output_size
        box_head = build_box_head(cfg, ShapeSpec(channels=channels.pop(), height=height, width=width))
        return {
            "box_in_features": in_features,
            "box_pooler": pooler,
            "box_head": box_head,
            "box_predictor": FastRCNNOutputLayers(cfg, box_head.output_shape),
        }

    def forward(self, images, features, proposals, targets=None):
        """See `ROIHeads.forward`."""
        if not self.training:
            return self._forward_box(features, proposals), {}
        if targets is None:
            raise ValueError("ROI heads in training need targets")
        proposals = self.label_and_sample_proposals(proposals, targets)
        return proposals, self._forward_box(features, proposals)

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]):
        """Losses in training, detections in inference."""
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        predictions = self.box_predictor(self.box_head(pooled))
        if not self.training:
            return self.box_predictor.inference(predictions, proposals)[0]
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                boxes = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
                for image_proposals, image_boxes in zip(proposals, boxes, strict=True):
                    image_proposals.proposal_boxes = Boxes(image_boxes)
        return losses


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeads(ROIHeads):
    """The last stage of the ResNet runs on each pooled box: the head of the "C4" detectors.

    Args:
        in_features: the one feature map that is pooled.
        pooler: pools boxes from it.
        res5: the stage.
        box_predictor: has the interface of `FastRCNNOutputLayers`.
    """

    @configurable
    def __init__(self, *, in_features: list[str], pooler: ROIPooler, res5: nn.Module, box_predictor, **kwargs):
        super().__init__(**kwargs)
        self.in_features = in_features
        self.pooler = pooler
        self.res5 = res5
        self.box_predictor = box_predictor

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        in_features, pooler = _pooler_from_config(cfg, input_shape)
        if len(in_features) != 1:
            raise ValueError(f"Res5ROIHeads pools one feature map, MODEL.ROI_HEADS.IN_FEATURES is {in_features}")
        res5, out_channels = cls._build_res5_block(cfg)
        return {
            **super().from_config(cfg),
            "in_features": in_features,
            "pooler": pooler,
            "res5": res5,
            "box_predictor": FastRCNNOutputLayers(cfg, ShapeSpec(channels=out_channels, height=1, width=1)),
        }

    @classmethod
    def _build_res5_block(cls, cfg) -> tuple[nn.Sequential, int]:
        options = cfg.MODEL.RESNETS
        if options.DEFORM_ON_PER_STAGE[-1]:
            raise ValueError("MODEL.RESNETS.DEFORM_ON_PER_STAGE: Res5ROIHeads has no deformable convolution")
        out_channels = options.RES2_OUT_CHANNELS * 8
        blocks = make_stage(
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
        return nn.Sequential(*blocks), out_channels

    def forward(self, images, features, proposals, targets=None):
        """See `ROIHeads.forward`."""
        if self.training:
            if targets is None:
                raise ValueError("ROI heads in training need targets")
            proposals = self.label_and_sample_proposals(proposals, targets)
        maps = [features[name] for name in self.in_features]
        pooled = self.res5(self.pooler(maps, [p.proposal_boxes for p in proposals]))
        predictions = self.box_predictor(pooled.mean(dim=(2, 3)))
        if self.training:
            return proposals, self.box_predictor.losses(predictions, proposals)
        return self.box_predictor.inference(predictions, proposals)[0], {}


def _pooler_from_config(cfg, input_shape: dict[str, ShapeSpec]) -> tuple[list[str], ROIPooler]:
    in_features, options = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_BOX_HEAD
    pooler = ROIPooler(
        output_size=options.POOLER_RESOLUTION,
        scales=tuple(1.0 / input_shape[name].stride for name in in_features),
        sampling_ratio=options.POOLER_SAMPLING_RATIO,
        pooler_type=options.POOLER_TYPE,
    )
    return in_features, pooler
