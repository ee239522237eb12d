"""The dense head of FCOS: two towers of convolutions that all levels of a pyramid share (Figure 2 of the paper).

B: frames, K: classes, C: channels, R: cells of all levels, N: some of them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vod2.d2 import Conv2d, get_norm
from vod2.layers import init_normal

_LARGEST_EXPONENT = math.log(1000.0 / 16)  # as in Detectron2's decoding of boxes: a wild value makes no infinite box


class Dense(NamedTuple):
    """What the head says of every cell, level after level, row after row.

    Attributes:
        logits: (B, R, K) of the classes.
        distances: (B, R, 4) pixels to the left, top, right and bottom side of the box, positive.
        centerness: (B, R) logits.
        towers: of the tower of the classes, and of that of the boxes, the last map (B, C, H, W) of each level.
    """

    logits: Tensor
    distances: Tensor
    centerness: Tensor
    towers: tuple[list[Tensor], list[Tensor]]


class FCOSHead(nn.Module):
    """Class scores, distances to the sides of the box, and centerness, of every cell.

    Args:
        channels: C of the maps and of the towers.
        strides: of the levels, in pixels.
        num_classes: K.
        num_convs: layers of a tower.
        norm: their normalisation; "" for none.
        prior: the score, in (0, 1), that every class has in every cell before training.

    Raises:
        ValueError: a number of layers or a prior out of range.
    """

    def __init__(
        self, channels: int, strides: Sequence[int], num_classes: int, num_convs: int, norm: str, prior: float
    ) -> None:
        super().__init__()
        if num_convs < 1 or not 0 < prior < 1:
            raise ValueError(
                f"expected NUM_CONVS of at least 1 and PRIOR between 0 and 1 (exclusive), got {num_convs}, {prior}"
            )
        if norm == "GN" and channels % 32:
            raise ValueError(f"NORM 'GN' has 32 groups: expected maps of a multiple of 32 channels, got {channels}")
        self.strides = list(strides)
        self.cls_tower, self.box_tower = (_tower(channels, num_convs, norm) for _ in range(2))
        self.cls_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(channels, 4, 3, padding=1)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1)
        init_normal(self.cls_logits, self.bbox_pred, self.centerness, std=0.01)
        nn.init.constant_(self.cls_logits.bias, math.log(prior / (1 - prior)))  # type: ignore[arg-type]
        # s_i of exp(s_i x), section 3.2: levels share the layer, not the range of its values.
        self.scales = nn.Parameter(torch.ones(len(self.strides)))

    def forward(self, maps: Sequence[Tensor]) -> Dense:
        """One map (B, C, H, W) of each level."""
        logits, distances, centerness = [], [], []
        towers: tuple[list[Tensor], list[Tensor]] = ([], [])
        for x, stride, scale in zip(maps, self.strides, self.scales, strict=True):
            of_classes, of_boxes = self.cls_tower(x), self.box_tower(x)
            logits.append(_cells(self.cls_logits(of_classes)))
            exponent = (scale * _cells(self.bbox_pred(of_boxes))).clamp(max=_LARGEST_EXPONENT)
            distances.append(stride * exponent.exp())
            centerness.append(_cells(self.centerness(of_boxes))[..., 0])
            towers[0].append(of_classes)
            towers[1].append(of_boxes)
        return Dense(torch.cat(logits, dim=1), torch.cat(distances, dim=1), torch.cat(centerness, dim=1), towers)


def features_at(towers: Sequence[Tensor], rows: Tensor) -> Tensor:
    """What the maps of one frame hold in some cells.

    Args:
        towers: (C, H, W) of each level.
        rows: (N,) int64 in [0, R), in any order.

    Returns:
        (N, C).
    """
    parts, places, first = [], [], 0
    for tower in towers:
        count = tower[0].numel()
        here = ((rows >= first) & (rows < first + count)).nonzero()[:, 0]
        parts.append(tower.flatten(1)[:, rows[here] - first].T)
        places.append(here)
        first += count
    # Sorted by level so far: back to the order of `rows`.
    return torch.cat(parts)[torch.cat(places).argsort()]


def _tower(channels: int, num_convs: int, norm: str) -> nn.Sequential:
    layers = []
    for _ in range(num_convs):
        conv = Conv2d(
            channels, channels, 3, padding=1, bias=not norm, norm=get_norm(norm, channels), activation=nn.ReLU()
        )
        nn.init.normal_(conv.weight, std=0.01)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        layers.append(conv)
    return nn.Sequential(*layers)


def _cells(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C), in single precision also under autocast, as all boxes and losses."""
    return x.flatten(2).transpose(1, 2).to(torch.promote_types(x.dtype, torch.float32))
