"""The best boxes of a dense head are scored anew, from features that have taken from other frames (YOLOV).

B: frames, N: boxes of a frame, n: boxes of all key frames, C: channels of a tower, D: embedding, K: classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou

from vod2.d2 import ROI_HEADS_REGISTRY, CfgNode, Instances, ShapeSpec, build_box_head, configurable
from vod2.errors import UserError
from vod2.layers import covered, init_normal
from vod2.modeling.aggregation import Aggregated, mean_losses
from vod2.modeling.roi_heads import (
    DetectionSelection,
    ProposalAggregator,
    VideoHeads,
    build_proposal_aggregator,
)
from vod2.structures import Clip, ProposalSet


class Rescoring(nn.Module):
    """The layers around level 2: from the features of both towers to its embedding, from its result to scores.

    Args:
        box_head: (N, 2 C, 1, 1) -> (N, D).
        dim: D.
        num_classes: K.
        prior: the score, in (0, 1), that every box has for every class, and as IoU, before training.
    """

    def __init__(self, box_head: nn.Module, dim: int, num_classes: int, prior: float = 0.01) -> None:
        super().__init__()
        self.box_head = box_head
        self.cls_score = nn.Linear(dim, num_classes)
        self.iou = nn.Linear(dim, 1)
        init_normal(self.cls_score, self.iou, std=0.01)
        for layer in (self.cls_score, self.iou):
            # Else the first losses would be those of all boxes that show nothing.
            nn.init.constant_(layer.bias, math.log(prior / (1 - prior)))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(n, D) -> logits of the classes (n, K), and of the IoU with the object (n,)."""
        return self.cls_score(features), self.iou(features)[:, 0]


@ROI_HEADS_REGISTRY.register()
class RescoringHeads(VideoHeads):
    """Heads without RoIs: the boxes stay those of the dense head, level 2 and two linear layers give new scores.

    Without an aggregator the scores are those of the dense head, too, and there are no parameters.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        selection: DetectionSelection,
        rescoring: Rescoring | None = None,
        aggregator: ProposalAggregator | None = None,
        support_topk: int = 75,
        match_iou: float = 0.5,
        ignore_overlap: float = 0.5,
    ) -> None:
        """
        Args:
            num_classes: K.
            selection: which of the scored boxes are detections.
            rescoring: the layers around level 2; None without one.
            aggregator: level 2, or None.
            support_topk: boxes that are embedded of a support frame in training.
            match_iou: least IoU, in (0, 1], of a box with the object that it is trained to show.
            ignore_overlap: boxes without object that have more of their area in an ignore region are not trained.
        """
        super().__init__()
        if (rescoring is None) != (aggregator is None):
            raise ValueError("expected the layers of Rescoring with an aggregator, and only with one")
        if not 0 < match_iou <= 1:
            raise UserError(f"MODEL.RESCORING.MATCH_IOU is {match_iou}: expected more than 0 and at most 1")
        self.num_classes = num_classes
        self.selection = selection
        self.rescoring = rescoring
        self.host(aggregator, support_topk)
        if self.needs.pooled_maps or self.needs.feature_maps:
            raise UserError(
                f"{type(aggregator).__name__} asks for maps that boxes are pooled from, and RescoringHeads pool "
                "nothing: take another MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME, or a VideoRCNN"
            )
        self.match_iou = match_iou
        self.ignore_overlap = ignore_overlap
        self.box_in_features = ()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        ret = {
            "num_classes": num_classes,
            "selection": DetectionSelection.from_config(cfg),
            "support_topk": cfg.MODEL.VIDEO.SUPPORT_TOPK,
            "match_iou": cfg.MODEL.RESCORING.MATCH_IOU,
            "ignore_overlap": cfg.MODEL.VIDEO.IGNORE_OVERLAP,
        }
        level = cfg.MODEL.FCOS.IN_FEATURES[0] if cfg.MODEL.FCOS.IN_FEATURES else ""
        if not cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME or level not in input_shape:  # else the dense head says so
            return ret
        # A box is one cell: the heads of pooled RoIs take it as a map of that size.
        shape = ShapeSpec(channels=2 * int(input_shape[level].channels or 0), height=1, width=1)
        box_head = build_box_head(cfg, shape)
        output: Any = box_head.output_shape
        dim = output.channels
        aggregator = build_proposal_aggregator(cfg, dim)
        rescoring = Rescoring(box_head, dim, num_classes, cfg.MODEL.FCOS.PRIOR)
        return ret | {"rescoring": rescoring, "aggregator": aggregator}

    def select(
        self,
        proposals: list[Instances],
        targets: Sequence[Instances | None] | None,
        ignored: Sequence[Tensor | None] | None = None,
        seeds: Sequence[int | None] | None = None,
    ) -> list[Instances]:
        """See `VideoHeads`; nothing is drawn at random.

        In training all boxes of a frame with targets are kept, with gt_classes (N,) in [0, K], K for background,
        gt_ious (N,) with the object, 0 for background, and judged (N,) bool, False in ignore regions.
        """
        if targets is None:
            return proposals
        selected = self.top_of_supports(proposals)
        for row, target in enumerate(targets):
            if target is not None:
                selected[row] = self._matched(proposals[row], target, None if ignored is None else ignored[row])
        return selected

    @torch.no_grad()
    def _matched(self, proposals: Instances, target: Instances, regions: Tensor | None) -> Instances:
        """The boxes of a frame with what they are trained to show."""
        boxes = proposals.proposal_boxes.tensor
        classes = torch.full((len(boxes),), self.num_classes, dtype=torch.int64, device=boxes.device)
        ious = boxes.new_zeros(len(boxes))
        if len(target) > 0 and len(boxes) > 0:
            overlap, best = box_iou(boxes, target.gt_boxes.tensor.to(boxes)).max(dim=1)
            shows = overlap >= self.match_iou
            classes = target.gt_classes[best].where(shows, classes)
            ious = overlap.where(shows, ious)
        judged = torch.ones_like(classes, dtype=torch.bool)
        if regions is not None and len(regions) > 0 and self.ignore_overlap > 0:
            judged = (classes < self.num_classes) | ~covered(boxes, regions, self.ignore_overlap)
        return Instances(
            proposals.image_size, **proposals.get_fields(), gt_classes=classes, gt_ious=ious, judged=judged
        )

    def embed(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[ProposalSet]:
        """B times proposal_boxes, objectness_logits, scores and, with level 2, tower_features -> sets (N, D).

        Without level 2 the features of a box are its scores, D = K.
        """
        if self.rescoring is None:
            embedded = [of_frame.scores for of_frame in proposals]
        else:
            cells = torch.cat([of_frame.tower_features for of_frame in proposals])
            vectors = self.rescoring.box_head(cells[:, :, None, None])
            embedded = list(vectors.split([len(of_frame) for of_frame in proposals]))
        sets = []
        for of_frame, rows in zip(proposals, embedded, strict=True):
            boxes = of_frame.proposal_boxes.tensor
            sets.append(ProposalSet.of_frame(boxes, rows, of_frame.objectness_logits, of_frame.image_size))
        return sets

    def predict(
        self, clips: Sequence[Clip], aggregated: Sequence[Aggregated[Tensor]]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """What `aggregate` returned for each clip -> instances and no losses, or in training the other way round."""
        features = torch.cat([result.value for result in aggregated])
        if self.training:
            return [], self._losses(features, clips) | mean_losses(aggregated)
        counts = [len(result.value) for result in aggregated]
        detected = []
        for clip, scores in zip(clips, self._scores(features).split(counts), strict=True):
            boxes = clip.key.require_proposals().boxes
            # The column of the background, which no threshold lets pass.
            probs = functional.pad(scores.to(boxes.dtype), (0, 1))
            detected.append(self.selection(boxes, probs, clip.key.image_size))
        self.add_relations(detected, clips, aggregated)
        return detected, {}

    def _scores(self, features: Tensor) -> Tensor:
        """(n, D) -> (n, K) in [0, 1]: the square root of the product of class and IoU, as FCOS has with centerness."""
        if self.rescoring is None:
            return features
        logits, iou = self.rescoring(features)
        return (logits.sigmoid() * iou.sigmoid()[:, None]).sqrt()

    def _losses(self, features: Tensor, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Binary cross entropy of the classes, whose target is the IoU with the object, and of that IoU itself.

        Both are sums over the boxes, divided by the number of those that show an object.
        """
        if self.rescoring is None:
            return {}
        targets = [clip.key.targets for clip in clips]
        classes, ious, judged = (
            torch.cat([of_frame.get(name) for of_frame in targets if of_frame is not None])
            for name in ("gt_classes", "gt_ious", "judged")
        )
        logits, iou = self.rescoring(features)
        wanted = functional.one_hot(classes, self.num_classes + 1)[:, :-1] * ious[:, None]
        count = (classes < self.num_classes).sum().clamp(min=1)
        # A sum of differences in half precision would be coarse.
        of_classes = functional.binary_cross_entropy_with_logits(logits.to(wanted.dtype), wanted, reduction="none")
        of_iou = functional.binary_cross_entropy_with_logits(iou.to(ious.dtype), ious, reduction="none")
        return {
            "loss_rescore_cls": of_classes[judged].sum() / count,
            "loss_rescore_iou": of_iou[judged].sum() / count,
        }
