"""ROI heads between whose embedding and prediction the proposals look at other frames.

B: frames, N: proposals of a frame, D: embedding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vod2.d2 import ROI_HEADS_REGISTRY, CfgNode, ImageList, Instances, ShapeSpec, StandardROIHeads, configurable
from vod2.errors import UserError
from vod2.modeling.aggregation import Aggregated, mean_losses
from vod2.modeling.roi_heads.base import ProposalAggregator, build_proposal_aggregator
from vod2.modeling.roi_heads.predictor import VideoBoxPredictor
from vod2.structures import Frame, PreciseBoxes, ProposalSet, TemporalContext


class HeadOutput(NamedTuple):
    """What `VideoROIHeads.detect` returns: instances in inference, losses in training, level 2's results in both."""

    instances: list[Instances]
    losses: dict[str, Tensor]
    aggregated: list[Aggregated[Tensor]]


@ROI_HEADS_REGISTRY.register()
class VideoROIHeads(StandardROIHeads):
    """`StandardROIHeads` (box head only) with level 2 between box_head and box_predictor.

    Without an aggregator it is the image detector with the same parameters. With one and an empty context it is an
    image detector, too: what the aggregator does to each proposal alone (RDN's fully connected h()) remains.
    """

    @configurable
    def __init__(self, *, aggregator: ProposalAggregator | None = None, support_topk: int = 75, **kwargs) -> None:
        """
        Args:
            aggregator: level 2, or None.
            support_topk: proposals that are embedded of a support frame in training.
            kwargs: those of `StandardROIHeads`.
        """
        super().__init__(**kwargs)
        self.aggregator = aggregator
        self.support_topk = support_topk

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        for key, value in (("MODEL.MASK_ON", cfg.MODEL.MASK_ON), ("MODEL.KEYPOINT_ON", cfg.MODEL.KEYPOINT_ON)):
            if value:
                raise UserError(f"VideoROIHeads predict boxes only: set {key} to False")
        if cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES:
            raise UserError("VideoROIHeads train on proposals: set MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES to False")
        ret = super().from_config(cfg, input_shape)
        shape = ret["box_head"].output_shape
        ret["box_predictor"] = VideoBoxPredictor(cfg, shape)
        ret["aggregator"] = build_proposal_aggregator(cfg, shape.channels)
        ret["support_topk"] = cfg.MODEL.VIDEO.SUPPORT_TOPK
        return ret

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Detectron2's contract: every image alone, with an empty context."""
        selected = self.select(proposals, targets if self.training else None)
        keys = [
            Frame("", 0, one.image_size, proposals=as_proposal_set(one, embedded), targets=one)
            for one, embedded in zip(selected, self.embed(features, selected), strict=True)
        ]
        found = self.detect(keys, [TemporalContext()] * len(keys))
        return (selected, found.losses) if self.training else (found.instances, {})

    def select(self, proposals: list[Instances], targets: Sequence[Instances | None] | None) -> list[Instances]:
        """Which proposals are embedded: in inference all.

        In training, of a frame with targets the sampled RoIs (with gt_classes and gt_boxes), of a support the best
        `support_topk`.
        """
        if targets is None:
            return proposals
        rows = [row for row, target in enumerate(targets) if target is not None]
        sampled = self.label_and_sample_proposals([proposals[row] for row in rows], [targets[row] for row in rows])
        selected = [proposal[: self.support_topk] for proposal in proposals]
        for row, sample in zip(rows, sampled, strict=True):
            selected[row] = sample
        return selected

    def embed(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """{level: (B, C, H, W)} and the proposal_boxes of B frames -> B tensors (N, D)."""
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(maps, [one.proposal_boxes for one in proposals])
        return list(self.box_head(pooled).split([len(one) for one in proposals]))

    def detect(self, keys: Sequence[Frame], contexts: Sequence[TemporalContext]) -> HeadOutput:
        """Level 2 and the prediction, in both modes.

        Args:
            keys: frames with embedded proposals, in training also with the sampled RoIs as targets.
            contexts: one for each key frame.
        """
        aggregated = [self._aggregate(key, context) for key, context in zip(keys, contexts, strict=True)]
        predictions = self.box_predictor(torch.cat([one.value for one in aggregated]))
        if self.training:
            losses = self.box_predictor.losses(predictions, [key.targets for key in keys])
            return HeadOutput([], losses | mean_losses(aggregated), aggregated)
        proposals = [Instances(key.image_size, proposal_boxes=PreciseBoxes(key.proposals.boxes)) for key in keys]
        instances, _ = self.box_predictor.inference(predictions, proposals)
        return HeadOutput(instances, {}, aggregated)

    def _aggregate(self, key: Frame, context: TemporalContext) -> Aggregated[Tensor]:
        if self.aggregator is None:
            return Aggregated(key.proposals.features)
        return self.aggregator(key.proposals, context)


def as_proposal_set(proposals: Instances, features: Tensor) -> ProposalSet:
    """Proposals of one frame (proposal_boxes, objectness_logits) with their embedding (N, D)."""
    return ProposalSet.of_frame(
        proposals.proposal_boxes.tensor, features, proposals.objectness_logits, proposals.image_size
    )
