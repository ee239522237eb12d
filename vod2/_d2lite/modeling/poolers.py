"""Pooling of boxes from one feature map or from the level of a pyramid that suits their size.

Letters: L levels, B images, M boxes of all images, C channels, P pooled side.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vod2._d2lite.layers import ROIAlign, cat, nonzero_tuple
from vod2._d2lite.structures import Boxes


class ROIPooler(nn.Module):
    """Pools boxes of several images.

    Args:
        output_size: side of the output, or (height, width).
        scales: 1 / stride of each level, each half of the one before.
        sampling_ratio: of `ROIAlign`.
        pooler_type: "ROIAlignV2" (aligned) or "ROIAlign" (older, off by half a pixel).
        canonical_box_size: side in pixels of the boxes that belong to `canonical_level`; with each doubling of the
            side, one level up (Lin et al., CVPR 2017, eq. 1).
    """

    def __init__(self, output_size, scales, sampling_ratio, pooler_type, canonical_box_size=224, canonical_level=4):
        super().__init__()
        if pooler_type not in ("ROIAlign", "ROIAlignV2"):
            raise ValueError(f"POOLER_TYPE {pooler_type!r}: expected 'ROIAlignV2' or 'ROIAlign'")
        levels = [-math.log2(scale) for scale in scales]
        if levels != list(range(int(levels[0]), int(levels[0]) + len(levels))):
            raise ValueError(f"scales {scales}: expected powers of 1/2, each half of the one before")
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        self.min_level, self.max_level = int(levels[0]), int(levels[-1])
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level
        self.level_poolers = nn.ModuleList(
            ROIAlign(self.output_size, scale, sampling_ratio, aligned=pooler_type == "ROIAlignV2") for scale in scales
        )

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pool from L maps (B, C, H, W) the boxes of B images: (M, C, P, P), image by image."""
        if len(x) != len(self.level_poolers) or len(box_lists) != x[0].shape[0]:
            raise ValueError(
                f"ROIPooler has {len(self.level_poolers)} levels, got {len(x)} feature maps of {x[0].shape[0]} images "
                f"and boxes of {len(box_lists)}"
            )
        if not box_lists:
            return x[0].new_zeros((0, x[0].shape[1], *self.output_size))
        rois = cat([F.pad(boxes.tensor, (1, 0), value=index) for index, boxes in enumerate(box_lists)])  # (M, 5)
        if len(x) == 1:
            return self.level_poolers[0](x[0], rois)
        levels = self._assign_levels(box_lists)
        output = x[0].new_zeros((rois.shape[0], x[0].shape[1], *self.output_size))
        for level, (feature, pooler) in enumerate(zip(x, self.level_poolers, strict=True)):
            chosen = nonzero_tuple(levels == level)[0]
            output = output.index_put((chosen,), pooler(feature, rois[chosen]))
        return output

    def _assign_levels(self, box_lists: list[Boxes]) -> Tensor:
        sides = cat([boxes.area() for boxes in box_lists]).sqrt()
        # Detectron2's 1e-8 keeps the logarithm finite for empty boxes
        levels = torch.floor(self.canonical_level + torch.log2(sides / self.canonical_box_size + 1e-8))
        return levels.clamp(self.min_level, self.max_level).to(torch.int64) - self.min_level
