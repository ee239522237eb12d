"""Anchors: the boxes from which the region proposal network starts.

Letters: L levels, H W height and width of a level, A anchors per location.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vod2._d2lite.config import configurable
from vod2._d2lite.layers import ShapeSpec
from vod2._d2lite.structures import Boxes
from vod2._d2lite.utils.registry import Registry

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")
ANCHOR_GENERATOR_REGISTRY.__doc__ = """Modules built with ``(cfg, input_shape: list[ShapeSpec])``, called with L feature
maps, that give L `Boxes`; ``num_anchors`` is the number per location of each level."""


def build_anchor_generator(cfg, input_shape: list[ShapeSpec]) -> nn.Module:
    """The anchor generator ``cfg.MODEL.ANCHOR_GENERATOR.NAME``."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Every size with every aspect ratio at every location.

    Args:
        sizes: square roots of the anchors' areas, in pixels of the input image: a list for each level, or one for all.
        aspect_ratios: height / width, in the same form.
        strides: stride of each level.
        offset: place of the center within its cell, in strides, [0, 1). 0: the top left corner; 0.5: the middle.
    """

    box_dim = 4

    @configurable
    def __init__(self, *, sizes, aspect_ratios, strides: list[int], offset: float = 0.5):
        super().__init__()
        if not 0.0 <= offset < 1.0:
            raise ValueError(f"anchor offset {offset}: expected 0 <= offset < 1")
        self.strides = list(strides)
        self.offset = offset
        sizes = _per_level(sizes, len(self.strides), "sizes")
        aspect_ratios = _per_level(aspect_ratios, len(self.strides), "aspect_ratios")
        # float64 and no buffers: no precision is lost however the model is cast, and no checkpoint holds them
        self.cell_anchors = [self.generate_cell_anchors(s, r) for s, r in zip(sizes, aspect_ratios, strict=True)]
        self.num_anchors = self.num_cell_anchors = [len(cell) for cell in self.cell_anchors]  # A of each level

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]):
        options = cfg.MODEL.ANCHOR_GENERATOR
        return {
            "sizes": options.SIZES,
            "aspect_ratios": options.ASPECT_RATIOS,
            "strides": [shape.stride for shape in input_shape],
            "offset": options.OFFSET,
        }

    def generate_cell_anchors(self, sizes=(32, 64, 128, 256, 512), aspect_ratios=(0.5, 1, 2)) -> Tensor:
        """(A, 4) float64: the anchors centered at (0, 0), size by size, ratio by ratio."""
        size = torch.tensor(sizes, dtype=torch.float64)[:, None]
        ratio = torch.tensor(aspect_ratios, dtype=torch.float64)
        width, height = size / ratio.sqrt() / 2, size * ratio.sqrt() / 2  # halves; (sizes, ratios)
        # Checkpoints depend on this order: the output channels of the RPN follow it
        return torch.stack((-width, -height, width, height), dim=-1).view(-1, 4)

    def forward(self, features: list[Tensor]) -> list[Boxes]:
        """Anchors (H * W * A, 4) of each level, row by row; float64 for float64 features, else float32."""
        levels = zip(features, self.strides, self.cell_anchors, strict=True)
        return [Boxes(self._level(feature, stride, cell)) for feature, stride, cell in levels]

    def _level(self, feature: Tensor, stride: int, cell: Tensor) -> Tensor:
        # Half precision cannot represent all pixel coordinates
        options: dict[str, Any] = {"dtype": torch.promote_types(feature.dtype, torch.float32), "device": feature.device}
        shifts_y, shifts_x = ((torch.arange(side, **options) + self.offset) * stride for side in feature.shape[-2:])
        y, x = torch.meshgrid(shifts_y, shifts_x, indexing="ij")
        shifts = torch.stack((x, y, x, y), dim=-1).view(-1, 1, 4)  # (H * W, 1, 4)
        return (shifts + cell.to(**options)).reshape(-1, 4)


def _per_level(values, num_levels: int, name: str) -> list:
    values = list(values) if isinstance(values[0], list | tuple) else [values]
    values = values * num_levels if len(values) == 1 else values
    if len(values) != num_levels:
        raise ValueError(f"anchor {name} are given for {len(values)} levels, there are {num_levels}")
    return values
