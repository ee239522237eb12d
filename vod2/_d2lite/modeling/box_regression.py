"""Boxes as differences from other boxes, and the loss of such a prediction.

Letters: N boxes, k predictions for each box.
"""

import math

import torch
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor

from vod2._d2lite.layers import at_least_float32

# A box grows at most from 16 to 1000 pixels
_SCALE_CLAMP = math.log(1000.0 / 16)


class Box2BoxTransform:
    """Deltas (dx, dy, dw, dh): the center moves by (dx * width, dy * height), the sides scale by exp(dw) and exp(dh).

    Args:
        weights: factors by which the deltas are multiplied, so that their variance is near one.
        scale_clamp: limit of dw and dh.
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = _SCALE_CLAMP):
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Deltas (N, 4) from `src_boxes` (N, 4) to `target_boxes` (N, 4); ValueError where a source has no area."""
        src_center, src_size = _center_and_size(src_boxes)
        target_center, target_size = _center_and_size(target_boxes)
        if not (src_size > 0).all():
            raise ValueError("Box2BoxTransform.get_deltas: a source box has no width or no height")
        deltas = torch.cat(((target_center - src_center) / src_size, torch.log(target_size / src_size)), dim=1)
        return deltas * deltas.new_tensor(self.weights)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (N, k * 4) which deltas (N, k * 4) make of boxes (N, 4); at least float32."""
        deltas = at_least_float32(deltas)
        center, size = _center_and_size(boxes.to(deltas.dtype)[:, None])  # (N, 1, 2)
        per_box = deltas.reshape(deltas.shape[0], deltas.shape[1] // 4, 4) / deltas.new_tensor(self.weights)
        new_center = per_box[..., :2] * size + center
        # Early in training, exp() of a prediction may be infinite
        half = torch.exp(per_box[..., 2:].clamp(max=self.scale_clamp)) * size / 2
        return torch.cat((new_center - half, new_center + half), dim=-1).reshape(deltas.shape)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


def box_regression_loss(
    transform: Box2BoxTransform,
    src_boxes: Tensor,
    pred_deltas: Tensor,
    gt_boxes: Tensor,
    loss_type: str,
    smooth_l1_beta: float,
) -> Tensor:
    """Sum of the losses of N predictions, at least in float32.

    Args:
        src_boxes, gt_boxes, pred_deltas: (N, 4).
        loss_type: "smooth_l1" (of the deltas) or "giou" (of the boxes).
        smooth_l1_beta: where the loss turns from L2 to L1; 0 is L1.
    """
    pred_deltas = at_least_float32(pred_deltas)
    if loss_type == "smooth_l1":
        gt_deltas = transform.get_deltas(src_boxes, gt_boxes).to(pred_deltas.dtype)
        return smooth_l1_loss(pred_deltas, gt_deltas, beta=smooth_l1_beta, reduction="sum")
    if loss_type != "giou":
        raise ValueError(f"BBOX_REG_LOSS_TYPE {loss_type!r}: expected 'smooth_l1' or 'giou'")
    pred_boxes = transform.apply_deltas(pred_deltas, src_boxes)
    return giou_loss(pred_boxes, gt_boxes.to(pred_boxes.dtype), reduction="sum")
