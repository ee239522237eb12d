"""The convolutions of LSTS: quality net and transform, section 4.2.

C: channels, H, W: cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def convolutions(channels: int, layers: Sequence[tuple[int, int]], last: int = 0) -> nn.Sequential:
    """[kernel, channels] of each convolution, with ReLU between them; 0 channels stand for `last`."""
    modules: list[nn.Module] = []
    before = channels
    for kernel, width in layers:
        width = width or last
        conv = nn.Conv2d(before, width, kernel, padding=kernel // 2)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
        modules += [conv, nn.ReLU()]
        before = width
    return nn.Sequential(*modules[:-1])


class Aggregation(nn.Module):
    """W F + (1 - W) F', equations 7 and 8.

    Args:
        channels: C.
        layers: of the quality net, which scores each map at each cell; W is the softmax over the two scores. None fixes
            W at .5.
    """

    def __init__(self, channels: int, layers: Sequence[tuple[int, int]] | None) -> None:
        super().__init__()
        self.quality = None if layers is None else convolutions(channels, layers)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(1, C, H, W) twice -> (1, C, H, W)."""
        if self.quality is None:
            return (first + second) / 2
        scores = torch.cat([self.quality(first), self.quality(second)])  # (2, 1, H, W)
        weights = scores.softmax(dim=0)
        return weights[:1] * first + weights[1:] * second
