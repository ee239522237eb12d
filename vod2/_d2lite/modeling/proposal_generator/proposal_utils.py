"""Choice of the best proposals, and ground truth among them.

Letters: L levels, B images, R anchors of a level, N proposals of an image.
"""

import math

import torch
from torch import Tensor

from vod2._d2lite.layers import at_least_float32, batched_nms, cat
from vod2._d2lite.structures import Boxes, Instances

# A ground-truth box is a proposal of which the network is nearly sure: the logit of probability 1 - 1e-10
_GT_OBJECTNESS_LOGIT = math.log((1.0 - 1e-10) / 1e-10)


def find_top_rpn_proposals(
    proposals: list[Tensor],
    pred_objectness_logits: list[Tensor],
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """Take the `pre_nms_topk` best of each level, suppress within each level, keep the `post_nms_topk` best of all.

    Args:
        proposals: L tensors (B, R, 4), xyxy.
        pred_objectness_logits: L tensors (B, R).
        image_sizes: (height, width) of each image, to which boxes are clipped.
        min_box_size: proposals with a side of at most that many pixels are dropped.
        training: values that are not finite raise FloatingPointError instead of being dropped.

    Returns:
        For each image "proposal_boxes" and "objectness_logits" in descending order.
    """
    top_boxes, top_logits, levels = [], [], []
    for level, (boxes, logits) in enumerate(zip(proposals, pred_objectness_logits, strict=True)):
        count = min(logits.shape[1], pre_nms_topk)
        best, index = at_least_float32(logits).topk(count, dim=1)  # (B, count)
        top_boxes.append(boxes.gather(1, index[..., None].expand(-1, -1, 4)))
        top_logits.append(best)
        levels.append(torch.full((count,), level, dtype=torch.int64, device=boxes.device))
    boxes, logits, level = cat(top_boxes, dim=1), cat(top_logits, dim=1), cat(levels)

    results = []
    for image_boxes, image_logits, image_size in zip(boxes, logits, image_sizes, strict=True):
        finite = torch.isfinite(image_boxes).all(dim=1) & torch.isfinite(image_logits)
        if training and not finite.all():
            raise FloatingPointError("the predicted proposals contain infinite values or NaN: training has diverged")
        candidates = Instances(
            image_size,
            proposal_boxes=Boxes(image_boxes[finite]),
            objectness_logits=image_logits[finite],
            level=level[finite],
        )
        candidates.proposal_boxes.clip(image_size)
        candidates = candidates[candidates.proposal_boxes.nonempty(threshold=min_box_size)]
        keep = batched_nms(candidates.proposal_boxes.tensor, candidates.objectness_logits, candidates.level, nms_thresh)
        candidates.remove("level")
        results.append(candidates[keep[:post_nms_topk]])
    return results


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
