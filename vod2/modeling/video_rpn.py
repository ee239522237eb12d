"""Proposals for the frames of clips: those with ground truth are trained, all are proposed for.

B: frames, L: levels, A: anchors of a cell, R: all anchors of a frame.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from vod2.d2 import (
    PROPOSAL_GENERATOR_REGISTRY,
    RPN,
    Boxes,
    CfgNode,
    ImageList,
    Instances,
    ShapeSpec,
    configurable,
    pairwise_iou,
    subsample_labels,
)
from vod2.layers import PreciseBoxTransform, covered, first_rows
from vod2.modeling.box_source import BoxSource
from vod2.modeling.draws import Draw, drawing_from
from vod2.modeling.legacy import CURRENT_CONVENTIONS, LegacyConventions
from vod2.ops import is_portable
from vod2.structures import PreciseBoxes


@PROPOSAL_GENERATOR_REGISTRY.register()
class VideoRPN(RPN, BoxSource):
    """Detectron2's RPN with its keys and parameters, in any precision, where only key frames have targets."""

    @configurable
    def __init__(
        self, *, conventions: LegacyConventions = CURRENT_CONVENTIONS, ignore_overlap: float = 0.5, **kwargs: Any
    ) -> None:
        """
        Args:
            conventions: of the code that trained the weights.
            ignore_overlap: background anchors that have more of their area in an ignore region are not sampled.
            kwargs: those of `RPN`.
        """
        super().__init__(**kwargs)
        self.conventions = conventions
        self.ignore_overlap = ignore_overlap

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        ret = super().from_config(cfg, input_shape)
        ret["box2box_transform"] = PreciseBoxTransform(weights=cfg.MODEL.RPN.BBOX_REG_WEIGHTS)
        ret["conventions"] = conventions = LegacyConventions.from_config(cfg)
        ret["anchor_boundary_thresh"] = conventions.anchor_margin(ret["anchor_boundary_thresh"])
        ret["ignore_overlap"] = cfg.MODEL.VIDEO.IGNORE_OVERLAP
        return ret

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Detectron2's contract: every image has targets in training, none in inference."""
        return self.propose(images.image_sizes, features, gt_instances if self.training else None)

    def propose(
        self,
        image_sizes: list[tuple[int, int]],
        features: dict[str, Tensor],
        targets: Sequence[Instances | None] | None = None,
        ignored: Sequence[Tensor | None] | None = None,
        seeds: Sequence[int | None] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose for B frames, and train on those with targets.

        Args:
            image_sizes: B pairs (height, width).
            features: {level: (B, C, H, W)}.
            targets: for each frame `Instances` with gt_boxes, or None for a frame without loss.
            ignored: for each frame its ignore regions (G, 4) xyxy, or None.
            seeds: for each frame what its anchors are drawn from, or None for the global generator.

        Returns:
            B `Instances` with proposal_boxes and objectness_logits (descending); losses loss_rpn_cls and loss_rpn_loc.
            Within `vod2.ops.portable` all frames have as many: what one lacks is padding, boxes of 0 with logit -inf.
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps)
        logits = [score.permute(0, 2, 3, 1).flatten(1) for score in logits]  # (B, A, H, W) -> (B, H*W*A)
        deltas = [
            delta.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)  # (B, A*4, H, W) -> (B, H*W*A, 4)
            for delta in deltas
        ]
        # Supports go through the head with the key frames, but only frames with targets enter the losses.
        losses = {}
        trained = {row: target for row, target in enumerate(targets or []) if target is not None}
        if rows := list(trained):
            regions = [None if ignored is None else ignored[row] for row in rows]
            drawn = [None if seeds is None else seeds[row] for row in rows]
            # Two arguments where there is nothing else to say, as Detectron2 calls it: a subclass may know no others.
            is_plain = all(entry is None for entry in (*regions, *drawn))
            more = () if is_plain else (regions, drawn)
            labels, boxes = self.label_and_sample_anchors(anchors, list(trained.values()), *more)
            losses = self.losses(anchors, [x[rows] for x in logits], labels, [x[rows] for x in deltas], boxes)
        return self.predict_proposals(anchors, logits, deltas, image_sizes), losses

    @torch.no_grad()
    def label_and_sample_anchors(
        self,
        anchors: list[Boxes],
        gt_instances: list[Instances],
        ignored: list[Tensor | None] | None = None,
        seeds: list[int | None] | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Detectron2's, for which anchors in ignore regions are neither object nor background.

        Args:
            anchors: L boxes.
            gt_instances: of each frame, with gt_boxes.
            ignored: of each frame its ignore regions (G, 4) xyxy, or None.
            seeds: of each frame what its anchors are drawn from, or None for the global generator.

        Returns:
            For each frame the labels (R,), 1 object, 0 background, -1 not sampled; and the matched boxes (R, 4).
        """
        labels, boxes = [], []
        regions_of = [None] * len(gt_instances) if ignored is None else ignored
        seed_of = [None] * len(gt_instances) if seeds is None else seeds
        # Frame by frame, as Detectron2 samples: without seeds, the order of its random draws stays the same.
        for target, regions, seed in zip(gt_instances, regions_of, seed_of, strict=True):
            with drawing_from(seed, Draw.ANCHORS, anchors[0].device):
                if regions is None or len(regions) == 0 or self.ignore_overlap == 0:
                    (label,), (box,) = super().label_and_sample_anchors(anchors, [target])
                else:
                    label, box = self._label_and_sample_outside(PreciseBoxes.cat(anchors), target, regions)
            labels.append(label)
            boxes.append(box)
        return labels, boxes

    def _label_and_sample_outside(
        self, anchors: PreciseBoxes, target: Instances, regions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Labels (R,) and matched boxes (R, 4) of one frame."""
        # Detectron2's steps, with the regions between matching and sampling: other background is drawn instead.
        matches, labels = self.anchor_matcher(pairwise_iou(target.gt_boxes, anchors))
        if self.anchor_boundary_thresh >= 0:
            labels[~anchors.inside_box(target.image_size, self.anchor_boundary_thresh)] = -1
        # Only background: an anchor that matches an object is trained as that, in a region or not.
        labels[(labels == 0) & covered(anchors.tensor, regions, self.ignore_overlap)] = -1
        objects, background = subsample_labels(labels, self.batch_size_per_image, self.positive_fraction, 0)
        sampled = torch.full_like(labels, -1)
        sampled[objects], sampled[background] = 1, 0
        boxes = target.gt_boxes.tensor
        return sampled, boxes[matches] if len(target) > 0 else torch.zeros_like(anchors.tensor)

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """The best boxes of each frame: top by objectness on each level, clipped, then NMS within levels."""
        limit = self.pre_nms_topk[self.training]
        boxes, scores, levels = [], [], []
        for level, (anchor, logit, delta) in enumerate(
            zip(anchors, pred_objectness_logits, pred_anchor_deltas, strict=True)
        ):
            # Only the best of a level are decoded: most of its anchors never become proposals.
            best, index = logit.topk(min(limit, logit.shape[1]), dim=1)  # (B, k)
            chosen = delta.gather(1, index[..., None].expand(-1, -1, 4))  # (B, k, 4)
            decoded = self.box2box_transform.apply_deltas(chosen.flatten(0, 1), anchor.tensor[index.flatten()])
            boxes.append(decoded.unflatten(0, index.shape))
            scores.append(best)
            levels.append(torch.full_like(index[0], level))
        frames = zip(torch.cat(boxes, dim=1), torch.cat(scores, dim=1), image_sizes, strict=True)
        level_of_box = torch.cat(levels)
        return [self._select(box, score, level_of_box, size) for box, score, size in frames]

    def _select(self, boxes: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int]) -> Instances:
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        # As in Detectron2: at test such boxes are dropped, in training the losses would take them into the weights.
        if self.training and not finite.all():
            raise FloatingPointError("the RPN predicted boxes or scores that are not finite: training has diverged")
        boxes = self.conventions.clip(boxes, size)
        keep = finite & ((boxes[:, 2:] - boxes[:, :2]) > self.min_box_size).all(dim=1)
        if is_portable():
            return self._padded(boxes, scores.to(boxes.dtype), levels, keep, size)
        boxes, scores, levels = boxes[keep], scores[keep], levels[keep]
        kept = self._best(boxes, scores.to(boxes.dtype), levels, self.post_nms_topk[self.training])
        return Instances(size, proposal_boxes=PreciseBoxes(boxes[kept]), objectness_logits=scores[kept])

    def _best(self, boxes: Tensor, scores: Tensor, levels: Tensor, limit: int) -> Tensor:
        """Rows of the best `limit` boxes after NMS within levels.

        What suppresses a box has a higher score: if enough of the best boxes remain, nobody needs to look at the rest.
        """
        # NMS compares pairs of boxes: a part of them is much cheaper, and nearly always enough.
        order = scores.argsort(descending=True, stable=True)
        for rows in (order[: 4 * limit], order):
            kept = rows[batched_nms(boxes[rows], scores[rows], levels[rows], self.nms_thresh)]
            if len(kept) >= limit or len(rows) == len(order):
                break
        return kept[:limit]

    def _padded(self, boxes: Tensor, scores: Tensor, levels: Tensor, keep: Tensor, size: tuple[int, int]) -> Instances:
        """The best of the boxes (R, 4) to `keep` (R,) after NMS within levels, and padding: as many for every frame.

        What is not kept gets the score -inf: it comes after all others, and so suppresses none of them.
        """
        boxes = boxes.masked_fill(~keep[:, None], 0.0)
        scores, order = scores.masked_fill(~keep, -torch.inf).topk(len(scores))
        boxes = boxes[order]
        # Boxes of different levels must not meet: each level has a place of its own.
        apart = boxes + (levels[order].to(boxes.dtype) * (max(size) + 1))[:, None]
        count = len(boxes)
        # A mask and not the rows: how many NMS leaves depends on the boxes.
        kept = torch.zeros(count, dtype=torch.bool, device=boxes.device)
        kept = kept.index_put((nms(apart, scores, self.nms_thresh),), kept.new_ones(()))
        kept = kept & (scores > -torch.inf)
        rows, is_padding = first_rows(kept, min(self.post_nms_topk[False], count))
        return Instances(
            size,
            proposal_boxes=PreciseBoxes(boxes[rows].masked_fill(is_padding[:, None], 0.0)),
            objectness_logits=scores[rows].masked_fill(is_padding, -torch.inf),
        )
