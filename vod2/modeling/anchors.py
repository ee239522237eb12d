"""Anchors in the precision of the feature maps.

A: anchors of a cell.
"""

import torch
from torch import Tensor

from vod2.d2 import ANCHOR_GENERATOR_REGISTRY, DefaultAnchorGenerator
from vod2.structures import PreciseBoxes


@ANCHOR_GENERATOR_REGISTRY.register()
class PreciseAnchorGenerator(DefaultAnchorGenerator):
    """`DefaultAnchorGenerator` whose anchors have the dtype of the feature maps, at least float32.

    Same keys, same order (row, column, size, ratio), same values.
    """

    def forward(self, features: list[Tensor]) -> list[PreciseBoxes]:
        """L maps (B, A_l, H, W) -> L sets of H*W*A boxes, xyxy pixels of the padded image."""
        return [
            PreciseBoxes(self._level(cells, stride, feature))
            for cells, stride, feature in zip(self.cell_anchors, self.strides, features, strict=True)
        ]

    def _level(self, cells: Tensor, stride: int, feature: Tensor) -> Tensor:
        dtype = torch.promote_types(feature.dtype, torch.float32)
        rows, columns = (
            (torch.arange(size, dtype=dtype, device=feature.device) + self.offset) * stride
            for size in feature.shape[-2:]
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        shift = torch.stack([x, y, x, y], dim=-1)  # (H, W, 4)
        return (shift[:, :, None] + cells.to(shift)).flatten(0, 2)  # (H, W, A, 4) -> (H*W*A, 4)
