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
        x1, y1, x2, y2 = boxes.to(dtype)[:, None].unbind(2)  # (N, 1) each
        width, height = x2 - x1, y2 - y1
        dx, dy, dw, dh = (
            delta / weight
            for delta, weight in zip(deltas.to(dtype).unflatten(1, (-1, 4)).unbind(2), self.weights, strict=True)
        )  # (N, k) each
        cx, cy = x1 + 0.5 * width + dx * width, y1 + 0.5 * height + dy * height
        half_width = 0.5 * width * dw.clamp(max=self.scale_clamp).exp()
        half_height = 0.5 * height * dh.clamp(max=self.scale_clamp).exp()
        corners = (cx - half_width, cy - half_height, cx + half_width, cy + half_height)
        return torch.stack(corners, dim=2).flatten(1)  # (N, k, 4) -> (N, k*4)
