"""The convolutions of LSTS: quality net and transform, section 4.2.

C: channels, H, W: cells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vod2.layers import init_he, init_normal


class Layers(NamedTuple):
    """Convolutions one after the other.

    Attributes:
        sizes: [kernel, channels] of each; 0 channels stand for those of the result.
        relu: whether there is a ReLU between two of them.
        init_std: standard deviation of the first weights; 0 for those of He et al. (ICCV 2015).
    """

    sizes: Sequence[tuple[int, int]]
    relu: bool = True
    init_std: float = 0.0


def convolutions(channels: int, layers: Layers, last: int = 0) -> nn.Sequential:
    """`layers` on maps of C = channels; `last` channels where they leave them open."""
    modules: list[nn.Module] = []
    before = channels
    for kernel, width in layers.sizes:
        width = width or last
        conv = nn.Conv2d(before, width, kernel, padding=kernel // 2)
        if layers.init_std > 0:
            init_normal(conv, std=layers.init_std)
        else:
            init_he(conv)
        # An Identity keeps the numbers of the layers, and so the names of their weights.
        modules += [conv, nn.ReLU() if layers.relu else nn.Identity()]
        before = width
    return nn.Sequential(*modules[:-1])


class Aggregation(nn.Module):
    """W F + (1 - W) F', equations 7 and 8.

    Args:
        channels: C.
        layers: of the quality net, which scores each map at each cell; W is the softmax over the two scores. None fixes
            W at .5.
    """

    def __init__(self, channels: int, layers: Layers | None) -> None:
        super().__init__()
        self.quality = None if layers is None else convolutions(channels, layers)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(1, C, H, W) twice -> (1, C, H, W)."""
        if self.quality is None:
            return (first + second) / 2
        scores = torch.cat([self.quality(first), self.quality(second)])  # (2, 1, H, W)
        # Over the two maps, cell by cell: the weights of equations 7 and 8 sum to 1.
        weights = scores.softmax(dim=0)
        return weights[:1] * first + weights[1:] * second
