"""Proposals for the frames of clips: those with ground truth are trained, all are proposed for.

B: frames, L: levels, A: anchors of a cell, R: all anchors of a frame.
"""

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from vod2.d2 import PROPOSAL_GENERATOR_REGISTRY, RPN, CfgNode, ImageList, Instances, ShapeSpec, configurable
from vod2.layers import PreciseBoxTransform, clip_boxes
from vod2.structures import PreciseBoxes


@PROPOSAL_GENERATOR_REGISTRY.register()
class VideoRPN(RPN):
    """Detectron2's RPN with its keys and parameters, in any precision, where only key frames have targets."""

    @configurable
    def __init__(self, *, inclusive_boxes: bool = False, **kwargs) -> None:
        """
        Args:
            inclusive_boxes: boxes, also those of targets, come from `vod2.layers.half_open`, see `clip_boxes`.
            kwargs: those of `RPN`.
        """
        super().__init__(**kwargs)
        self.inclusive_boxes = inclusive_boxes

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        ret = super().from_config(cfg, input_shape)
        ret["box2box_transform"] = PreciseBoxTransform(weights=cfg.MODEL.RPN.BBOX_REG_WEIGHTS)
        ret["inclusive_boxes"] = cfg.MODEL.LEGACY.INCLUSIVE_BOXES
        if ret["inclusive_boxes"] and ret["anchor_boundary_thresh"] >= 0:
            # Half-open anchors end a pixel later: half of it keeps those inside, of whole pixels, that were inside.
            ret["anchor_boundary_thresh"] += 0.5
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
        targets: list[Instances | None] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose for B frames, and train on those with targets.

        Args:
            image_sizes: B pairs (height, width).
            features: {level: (B, C, H, W)}.
            targets: for each frame `Instances` with gt_boxes, or None for a frame without loss.

        Returns:
            B `Instances` with proposal_boxes and objectness_logits (descending); losses loss_rpn_cls and loss_rpn_loc.
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps)
        logits = [score.permute(0, 2, 3, 1).flatten(1) for score in logits]  # (B, A, H, W) -> (B, H*W*A)
        deltas = [
            delta.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)  # (B, A*4, H, W) -> (B, H*W*A, 4)
            for delta in deltas
        ]
        losses = {}
        rows = [row for row, target in enumerate(targets or []) if target is not None]
        if rows:
            labels, boxes = self.label_and_sample_anchors(anchors, [targets[row] for row in rows])
            losses = self.losses(anchors, [x[rows] for x in logits], labels, [x[rows] for x in deltas], boxes)
        return self.predict_proposals(anchors, logits, deltas, image_sizes), losses

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[PreciseBoxes],
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
            best, index = logit.topk(min(limit, logit.shape[1]), dim=1)  # (B, k)
            chosen = delta.gather(1, index[..., None].expand(-1, -1, 4))  # (B, k, 4)
            decoded = self.box2box_transform.apply_deltas(chosen.flatten(0, 1), anchor.tensor[index.flatten()])
            boxes.append(decoded.unflatten(0, index.shape))
            scores.append(best)
            levels.append(torch.full_like(index[0], level))
        boxes, scores, levels = torch.cat(boxes, dim=1), torch.cat(scores, dim=1), torch.cat(levels)
        return [self._select(*frame, levels, size) for *frame, size in zip(boxes, scores, image_sizes, strict=True)]

    def _select(self, boxes: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int]) -> Instances:
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        if self.training and not finite.all():
            raise FloatingPointError("the RPN predicted boxes or scores that are not finite: training has diverged")
        boxes = clip_boxes(boxes, size, self.inclusive_boxes)
        keep = finite & ((boxes[:, 2:] - boxes[:, :2]) > self.min_box_size).all(dim=1)
        boxes, scores, levels = boxes[keep], scores[keep], levels[keep]
        kept = self._best(boxes, scores.to(boxes.dtype), levels, self.post_nms_topk[self.training])
        return Instances(size, proposal_boxes=PreciseBoxes(boxes[kept]), objectness_logits=scores[kept])

    def _best(self, boxes: Tensor, scores: Tensor, levels: Tensor, limit: int) -> Tensor:
        """Rows of the best `limit` boxes after NMS within levels.

        What suppresses a box has a higher score: if enough of the best boxes remain, nobody needs to look at the rest.
        """
        order = scores.argsort(descending=True, stable=True)
        for rows in (order[: 4 * limit], order):
            kept = rows[batched_nms(boxes[rows], scores[rows], levels[rows], self.nms_thresh)]
            if len(kept) >= limit or len(rows) == len(order):
                break
        return kept[:limit]
