"""Boxes to regression deltas and back, in the precision of the input, and boxes of an older convention.

N: boxes, k: boxes regressed from each (1, or one for each class).

The weights of the public code of RDN, MEGA, FGFA and DFF know boxes [x1, y1, x2, y2] that include their last pixel:
their width is x2 - x1 + 1. Kept as [x1, y1, x2 + 1, y2 + 1] their width, area, IoU and regression deltas are computed
as those of any other box. The difference shows in clipping, in pooling, and in what goes in and comes out.
"""

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from vod2.d2 import Box2BoxTransform


class PreciseBoxTransform(Box2BoxTransform):
    """`Box2BoxTransform` that decodes in the dtype of its input, at least float32; Detectron2's rounds to float32."""

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """deltas (N, k*4) in the order dx, dy, dw, dh, boxes (N, 4) xyxy pixels -> (N, k*4) xyxy pixels."""
        dtype = torch.promote_types(torch.promote_types(deltas.dtype, boxes.dtype), torch.float32)
        x1, y1, x2, y2 = boxes.to(dtype)[:, None].unbind(2)  # (N, 1) each
        width, height = x2 - x1, y2 - y1
        deltas = deltas.to(dtype).unflatten(1, (-1, 4))  # (N, k*4) -> (N, k, 4)
        dx, dy, dw, dh = (  # (N, k) each
            delta / weight for delta, weight in zip(deltas.unbind(2), self.weights, strict=True)
        )
        # As in Detectron2, the exponent is clamped: a wild delta must not make an infinite box.
        cx, cy = x1 + 0.5 * width + dx * width, y1 + 0.5 * height + dy * height
        half_width = 0.5 * width * dw.clamp(max=self.scale_clamp).exp()
        half_height = 0.5 * height * dh.clamp(max=self.scale_clamp).exp()
        corners = (cx - half_width, cy - half_height, cx + half_width, cy + half_height)
        return torch.stack(corners, dim=2).flatten(1)  # (N, k, 4) -> (N, k*4)


def half_open(boxes: Tensor, pixel: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Boxes (N, 4) xyxy that include their last pixel -> the same with x2 and y2 one pixel (width, height) further."""
    return boxes + boxes.new_tensor([0.0, 0.0, *pixel])


def inclusive(boxes: Tensor, pixel: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """The inverse of `half_open`.

    Example:
        >>> import torch
        >>> from vod2.layers import half_open, inclusive
        >>> boxes = torch.tensor([[0.0, 0.0, 15.0, 15.0]])  # 16 pixels on a side
        >>> half_open(boxes).tolist(), inclusive(half_open(boxes)).tolist()
        ([[0.0, 0.0, 16.0, 16.0]], [[0.0, 0.0, 15.0, 15.0]])
    """
    return boxes - boxes.new_tensor([0.0, 0.0, *pixel])


def clip_boxes(boxes: Tensor, size: tuple[int, int], inclusive_boxes: bool = False) -> Tensor:
    """Boxes (..., 4) xyxy clipped to an image of `size` (height, width).

    Args:
        inclusive_boxes: they come from `half_open`: one that lies outside keeps a pixel at the edge, as in the older
            convention, where coordinates are clipped to width - 1 and height - 1.
    """
    if not inclusive_boxes:
        return clip_boxes_to_image(boxes, size)
    height, width = size
    # With x2 and y2 a pixel further, [0, width - 1] of the older convention is [1, width] for them.
    first, last = boxes[..., :2], boxes[..., 2:]
    limit = boxes.new_tensor([width, height])
    return torch.cat([first.clamp(min=0).minimum(limit - 1), last.clamp(min=1).minimum(limit)], dim=-1)


def poolable(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) xyxy pixels as an operator can pool them that makes indices of coordinates, and samples of sizes.

    A coordinate that is further from an image of `size` (height, width) than that is long becomes that far, and NaN 0;
    a box that ends before it begins becomes empty. All others stay as they are.

    Example:
        >>> import torch
        >>> from vod2.layers import poolable
        >>> poolable(torch.tensor([[-5.0, torch.nan, torch.inf, 1e30]]), (60, 100)).tolist()
        [[-5.0, 0.0, 200.0, 120.0]]
    """
    height, width = size
    # Clamping alone would keep NaN. Infinities become the largest numbers, and are then clamped, too.
    x, y = boxes.nan_to_num(nan=0.0).unflatten(1, (2, 2)).unbind(dim=2)  # (N, 2) each
    first, last = torch.stack([x.clamp(-width, 2 * width), y.clamp(-height, 2 * height)], dim=2).unbind(dim=1)
    return torch.cat([first, last.maximum(first)], dim=1)
