"""Boxes to regression deltas and back, in the precision of the input.

N: boxes, k: boxes regressed from each (1, or one for each class).
"""

import torch
from torch import Tensor

from vod2.d2 import Box2BoxTransform


class PreciseBoxTransform(Box2BoxTransform):
    """`Box2BoxTransform` that decodes in the dtype of its input, at least float32; Detectron2's rounds to float32."""

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """deltas (N, k*4) in the order dx, dy, dw, dh, boxes (N, 4) xyxy pixels -> (N, k*4) xyxy pixels."""
        dtype = torch.promote_types(torch.promote_types(deltas.dtype, boxes.dtype), torch.float32)
        boxes = boxes.to(dtype)
        scaled = deltas.to(dtype).unflatten(1, (-1, 4)) / torch.as_tensor(self.weights, dtype=dtype, device=deltas.device)
        size = (boxes[:, 2:] - boxes[:, :2])[:, None]  # (N, 1, 2): width and height
        centre = boxes[:, None, :2] + 0.5 * size + scaled[..., :2] * size
        half = 0.5 * size * scaled[..., 2:].clamp(max=self.scale_clamp).exp()
        return torch.cat([centre - half, centre + half], dim=2).flatten(1)  # (N, k, 4) -> (N, k*4)
