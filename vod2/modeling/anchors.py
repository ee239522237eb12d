"""Anchors in the precision of the feature maps.

A: anchors of a cell.
"""

import math

import torch
from torch import Tensor

from vod2.d2 import ANCHOR_GENERATOR_REGISTRY, Boxes, DefaultAnchorGenerator
from vod2.errors import UserError
from vod2.structures import PreciseBoxes


@ANCHOR_GENERATOR_REGISTRY.register()
class PreciseAnchorGenerator(DefaultAnchorGenerator):
    """`DefaultAnchorGenerator` whose anchors have the dtype of the feature maps, at least float32.

    Same keys, same order (row, column, size, ratio), same values.
    """

    def forward(self, features: list[Tensor]) -> list[Boxes]:
        """L maps (B, A_l, H, W) -> L sets of H*W*A boxes, xyxy pixels of the padded image."""
        return [
            PreciseBoxes(self._anchors(cells, strides, feature))
            for cells, strides, feature in zip(self.cell_anchors, self._strides_of(features), features, strict=True)
        ]

    def _strides_of(self, features: list[Tensor]) -> list[tuple[int, int]]:
        """(vertical, horizontal) distance of two cells of each map, in pixels."""
        return [(stride, stride) for stride in self.strides]

    def _anchors(self, cells: Tensor, strides: tuple[int, int], feature: Tensor) -> Tensor:
        # Under autocast maps are in half precision, which cannot tell the pixels of an image apart.
        dtype = torch.promote_types(feature.dtype, torch.float32)
        rows, columns = (
            (torch.arange(size, dtype=dtype, device=feature.device) + self.offset) * stride
            for size, stride in zip(feature.shape[-2:], strides, strict=True)
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        shift = torch.stack([x, y, x, y], dim=-1)  # (H, W, 4)
        return (shift[:, :, None] + cells.to(shift)).flatten(0, 2)  # (H, W, A, 4) -> (H*W*A, 4)


@ANCHOR_GENERATOR_REGISTRY.register()
class RoundedAnchorGenerator(PreciseAnchorGenerator):
    """Anchors as the first Faster R-CNN made them, on a single map, for weights that were trained with these.

    A window of the stride's side is given each aspect ratio in whole pixels, and then scaled to each size. The old code
    puts the window at [0, 0, stride - 1, stride - 1]: use MODEL.ANCHOR_GENERATOR.OFFSET 0.5. Same keys and order.
    """

    def generate_cell_anchors(
        self, sizes: tuple[float, ...] = (32, 64, 128, 256, 512), aspect_ratios: tuple[float, ...] = (0.5, 1, 2)
    ) -> Tensor:
        """(A, 4) anchors centred at (0, 0), size by size, ratio (height / width) by ratio."""
        if len(set(self.strides)) > 1:
            raise UserError(
                f"RoundedAnchorGenerator has one map, MODEL.RPN.IN_FEATURES names {len(self.strides)}: set "
                "MODEL.ANCHOR_GENERATOR.NAME to 'PreciseAnchorGenerator'"
            )
        stride = self.strides[0]
        anchors = []
        for size in sizes:
            for ratio in aspect_ratios:
                # Rounded at the size of the stride, as the old code does, and not at that of the anchor.
                width = round(math.sqrt(stride**2 / ratio))
                height = round(width * ratio)
                x, y = width * size / stride / 2, height * size / stride / 2
                anchors.append([-x, -y, x, y])
        return torch.tensor(anchors)


@ANCHOR_GENERATOR_REGISTRY.register()
class TorchvisionAnchorGenerator(PreciseAnchorGenerator):
    """Anchors as torchvision's detectors make them, for weights that were trained with these. Same keys and order.

    Their corners are rounded to whole pixels around (0, 0). The distance of two cells is that of the padded image
    divided by the number of cells, in whole pixels: where a level has a cell for a rest (p6 of 800 pixels: 13 cells,
    one for each 61 pixels, not 64), its anchors are closer together.

    Example:
        >>> import torch
        >>> from vod2.modeling.anchors import TorchvisionAnchorGenerator
        >>> generator = TorchvisionAnchorGenerator(sizes=[[32]], aspect_ratios=[[0.5]], strides=[4], offset=0.0)
        >>> generator([torch.zeros(1, 1, 1, 2)])[0].tensor.tolist()
        [[-23.0, -11.0, 23.0, 11.0], [-19.0, -11.0, 27.0, 11.0]]
    """

    def generate_cell_anchors(
        self, sizes: tuple[float, ...] = (32, 64, 128, 256, 512), aspect_ratios: tuple[float, ...] = (0.5, 1, 2)
    ) -> Tensor:
        """(A, 4) anchors centred at (0, 0), size by size, ratio (height / width) by ratio."""
        return super().generate_cell_anchors(sizes, aspect_ratios).round()

    def _strides_of(self, features: list[Tensor]) -> list[tuple[int, int]]:
        # The image is padded to whole cells of all levels but p6, so the finest map tells its size.
        height, width = (int(size) * self.strides[0] for size in features[0].shape[-2:])
        return [
            (height // max(int(feature.shape[-2]), 1), width // max(int(feature.shape[-1]), 1)) for feature in features
        ]
