"""ROI heads between whose embedding and prediction the proposals look at other frames.

B: frames, N: proposals of a frame, D: embedding.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vod2.d2 import (
    ROI_HEADS_REGISTRY,
    CfgNode,
    ImageList,
    Instances,
    ShapeSpec,
    StandardROIHeads,
    configurable,
    pairwise_iou,
)
from vod2.errors import UserError
from vod2.layers import covered, poolable, zero_bias
from vod2.modeling.aggregation import Aggregated, mean_losses
from vod2.modeling.draws import Draw, drawing_from
from vod2.modeling.legacy import CURRENT_CONVENTIONS, LegacyConventions
from vod2.modeling.roi_heads.base import ProposalAggregator, build_proposal_aggregator
from vod2.modeling.roi_heads.pooler import build_pooler
from vod2.modeling.roi_heads.predictor import VideoBoxPredictor
from vod2.modeling.roi_heads.video_heads import VideoHeads
from vod2.structures import POOLED_MAPS, Clip, Frame, PreciseBoxes, ProposalSet


@ROI_HEADS_REGISTRY.register()
class VideoROIHeads(StandardROIHeads, VideoHeads):
    """`StandardROIHeads` (box head only) with level 2 between box_head and box_predictor.

    Without an aggregator it is the image detector with the same parameters. With one and an empty context it is an
    image detector, too: what the aggregator does to each proposal alone (RDN's fully connected h()) remains.
    """

    @configurable
    def __init__(
        self,
        *,
        aggregator: ProposalAggregator | None = None,
        reduce: nn.ModuleDict | None = None,
        support_topk: int = 75,
        conventions: LegacyConventions = CURRENT_CONVENTIONS,
        ignore_overlap: float = 0.5,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            aggregator: level 2, or None.
            reduce: {level: layers} that a feature map goes through before pooling, or None.
            support_topk: proposals that are embedded of a support frame in training.
            conventions: of the code that trained the weights.
            ignore_overlap: background RoIs that have more of their area in an ignore region are not sampled.
            kwargs: those of `StandardROIHeads`.
        """
        super().__init__(**kwargs)
        self.host(aggregator, support_topk)
        self.reduce = reduce
        self.conventions = conventions
        self.ignore_overlap = ignore_overlap

    @classmethod
    def from_config(  # type: ignore[override]  # as StandardROIHeads in Detectron2
        cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]
    ) -> dict:
        for key, value in (("MODEL.MASK_ON", cfg.MODEL.MASK_ON), ("MODEL.KEYPOINT_ON", cfg.MODEL.KEYPOINT_ON)):
            if value:
                raise UserError(f"VideoROIHeads predict boxes only: set {key} to False")
        if cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES:
            raise UserError("VideoROIHeads train on proposals: set MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES to False")
        reduce = cfg.MODEL.VIDEO.REDUCE_CHANNELS
        reduced = input_shape
        if reduce > 0:
            reduced = input_shape | {
                name: ShapeSpec(channels=reduce, stride=input_shape[name].stride)
                for name in cfg.MODEL.ROI_HEADS.IN_FEATURES
            }
        ret = super().from_config(cfg, reduced)
        # In the places of what StandardROIHeads has built: the same parameters, in any precision.
        ret["box_pooler"] = build_pooler(cfg, reduced)
        ret["reduce"] = _reduction(cfg, input_shape) if reduce > 0 else None
        shape = ret["box_head"].output_shape
        ret["box_predictor"] = VideoBoxPredictor(cfg, shape)
        ret["aggregator"] = build_proposal_aggregator(cfg, shape.channels)
        ret["support_topk"] = cfg.MODEL.VIDEO.SUPPORT_TOPK
        ret["conventions"] = LegacyConventions.from_config(cfg)
        ret["ignore_overlap"] = cfg.MODEL.VIDEO.IGNORE_OVERLAP
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
        clips = []
        for rois, embedded in zip(selected, self.embed(features, selected), strict=True):
            clips.append(Clip(Frame("", 0, rois.image_size, proposals=embedded, targets=rois)))
        output = self.detect(clips)
        return (selected, output.losses) if self.training else (output.instances, {})

    def select(
        self,
        proposals: list[Instances],
        targets: Sequence[Instances | None] | None,
        ignored: Sequence[Tensor | None] | None = None,
        seeds: Sequence[int | None] | None = None,
    ) -> list[Instances]:
        """Which proposals are embedded: in inference all.

        In training, of a frame with targets the sampled RoIs (with gt_classes and gt_boxes), of a support the best
        `support_topk`, or more where the aggregator asks for them. `ignored` are ignore regions (G, 4) of each frame,
        or None; see `ignore_overlap`. `seeds` are what the RoIs of each frame are drawn from, or None for the global
        generator.
        """
        if targets is None:
            return proposals
        trained = {row: target for row, target in enumerate(targets) if target is not None}
        candidates = []
        for row, target in trained.items():
            regions = None if ignored is None else ignored[row]
            candidates.append(self._outside_regions(proposals[row], target, regions))
        drawn = [None if seeds is None else seeds[row] for row in trained]
        sampled = self._sample(candidates, list(trained.values()), drawn)
        selected = self.top_of_supports(proposals)
        for row, sample in zip(trained, sampled, strict=True):
            selected[row] = sample
        return selected

    def _sample(
        self, candidates: list[Instances], targets: list[Instances], seeds: Sequence[int | None]
    ) -> list[Instances]:
        """The sampled RoIs of frames with targets."""
        if all(seed is None for seed in seeds):  # all at once, as Detectron2 does
            return self.label_and_sample_proposals(candidates, targets)
        sampled = []
        for of_frame, target, seed in zip(candidates, targets, seeds, strict=True):
            with drawing_from(seed, Draw.ROIS, of_frame.objectness_logits.device):
                sampled += self.label_and_sample_proposals([of_frame], [target])
        return sampled

    def _outside_regions(self, proposals: Instances, targets: Instances, regions: Tensor | None) -> Instances:
        """The proposals without those in ignore regions that show no object."""
        if regions is None or len(regions) == 0 or self.ignore_overlap == 0:
            return proposals
        # What shows an object stays, also in a region. Before sampling, so that other background is drawn instead.
        boxes = proposals.proposal_boxes
        _, labels = self.proposal_matcher(pairwise_iou(targets.gt_boxes, boxes))
        return proposals[~((labels == 0) & covered(boxes.tensor, regions, self.ignore_overlap))]

    def embed(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[ProposalSet]:
        """{level: (B, C, H, W)} and B times proposal_boxes, objectness_logits -> B sets with features (N, D).

        What is pooled of a box ends an image's size beyond the image; the features of one with a NaN are NaN.
        """
        boxes = [of_frame.proposal_boxes.tensor for of_frame in proposals]
        pooled = self.pool(self.maps_to_pool(features), boxes, [of_frame.image_size for of_frame in proposals])
        embedded = self.embed_pooled(pooled, torch.cat(boxes))

        # All frames have been embedded at once; take them apart.
        counts = [len(of_frame) for of_frame in proposals]
        sets = []
        for of_frame, vectors, rois in zip(proposals, embedded.split(counts), pooled.split(counts), strict=True):
            sets.append(
                ProposalSet.of_frame(
                    of_frame.proposal_boxes.tensor,
                    vectors,
                    of_frame.objectness_logits,
                    of_frame.image_size,
                    {POOLED_MAPS: rois} if self.needs.pooled_maps else None,
                )
            )
        return sets

    def maps_to_pool(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """{level: (B, C, H, W)} of a backbone -> the maps that boxes are pooled from, with reduced channels."""
        levels = [(level, features[level]) for level in self.box_in_features]
        return [value if self.reduce is None else self.reduce[level](value) for level, value in levels]

    def pool(self, maps: list[Tensor], boxes: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """`maps_to_pool` of B frames, the boxes (N, 4) and (height, width) of each -> (M, C, P, P), frame after frame.

        Boxes are xyxy in pixels of the resized image.
        """
        # RoIAlign makes indices of coordinates: what is pooled of a box ends an image's size beyond the image.
        bounded = []
        for of_frame, size in zip(boxes, image_sizes, strict=True):
            bounded.append(PreciseBoxes(poolable(self.conventions.pooled(of_frame), size)))
        return self.box_pooler(maps, bounded)

    def embed_pooled(self, pooled: Tensor, boxes: Tensor) -> Tensor:
        """What was pooled (M, C, P, P) from boxes (M, 4) -> (M, D); NaN for a box with a NaN, pooled from somewhere."""
        return self.box_head(pooled).masked_fill(boxes.isnan().any(dim=1)[:, None], torch.nan)

    def predict(
        self, clips: Sequence[Clip], aggregated: Sequence[Aggregated[Tensor]]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """What `aggregate` returned for each clip -> instances and no losses, or in training the other way round."""
        predictions = self.box_predictor(torch.cat([result.value for result in aggregated]))
        if self.training:
            losses = self.box_predictor.losses(predictions, [clip.key.targets for clip in clips])
            return [], losses | mean_losses(aggregated)
        proposals = [
            Instances(clip.key.image_size, proposal_boxes=PreciseBoxes(clip.key.require_proposals().boxes))
            for clip in clips
        ]
        instances, _ = self.box_predictor.inference(predictions, proposals)
        self.add_relations(instances, clips, aggregated)
        return instances, {}


def _reduction(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.ModuleDict:
    """{level: 1x1 convolution to REDUCE_CHANNELS and ReLU} for what the heads pool from."""

    def layers(channels: int) -> nn.Sequential:
        conv = nn.Conv2d(channels, cfg.MODEL.VIDEO.REDUCE_CHANNELS, 1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        zero_bias(conv)
        return nn.Sequential(conv, nn.ReLU())

    return nn.ModuleDict({name: layers(input_shape[name].channels) for name in cfg.MODEL.ROI_HEADS.IN_FEATURES})
