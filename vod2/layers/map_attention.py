"""Attention from every cell of one feature map to the cells of several (MST, equations 4 to 6).

T: maps that are looked at, C: channels, H, W: size of the maps, h: heads, d = C / h, s: key stride.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.layers.initialisation import init_normal, zero_bias


class MapAttention(nn.Module):
    """A V of equation 6: multi-head attention with 1x1 projections; the sum with the query map is the caller's.

    Keys and values are projected from the maps averaged over s x s cells, those at the border over what there is of
    them: with s = 1 every cell is looked at. The matrix of all (query, key) pairs is never kept. The value projection
    begins with 0: a detector that it is put into begins as it was.

    Args:
        channels: C.
        num_heads: h, a divisor of C.
        key_stride: s.

    Raises:
        ValueError: if h does not divide C, or s is not positive.

    Example:
        >>> import torch
        >>> from vod2.layers import MapAttention
        >>> MapAttention(channels=32, num_heads=4)(torch.rand(1, 32, 6, 8), torch.rand(3, 32, 6, 8)).shape
        torch.Size([1, 32, 6, 8])
    """

    def __init__(self, channels: int, num_heads: int, key_stride: int = 4) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"MapAttention: {num_heads} heads do not divide {channels} channels")
        if key_stride < 1:
            raise ValueError(f"MapAttention: expected a key stride of at least 1, got {key_stride}")
        self.num_heads, self.key_stride = num_heads, key_stride
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        init_normal(self.query, self.key, std=0.32 / math.sqrt(channels))  # .01 at 1024, as in `RelationAttention`
        # Query and key get a gradient as soon as the values are not 0 any more, after the first step.
        nn.init.zeros_(self.value.weight)
        zero_bias(self.value)

    def forward(self, query: Tensor, maps: Tensor) -> Tensor:
        """query (1, C, H, W), maps (T, C, H, W) -> (1, C, H, W); 0 where T is 0."""
        if len(maps) == 0:
            return torch.zeros_like(query)
        # Before the projections: they are linear, so the means are the same for a part of the work.
        maps = F.avg_pool2d(maps, self.key_stride, ceil_mode=True, count_include_pad=False)
        q = self._heads(self.query(query))
        k = self._heads(self.key(maps))
        v = self._heads(self.value(maps))
        out = F.scaled_dot_product_attention(q, k, v)  # (1, h, H*W, d)
        return out.transpose(2, 3).reshape(query.shape)

    def _heads(self, x: Tensor) -> Tensor:
        """(T, C, H, W) -> (1, h, T*H*W, d): the cells of all maps in one sequence, channels dealt to the heads."""
        x = x.unflatten(1, (self.num_heads, -1)).flatten(3)  # (T, h, d, H*W)
        x = x.permute(1, 0, 3, 2).flatten(1, 2)[None]  # (1, h, T*H*W, d)
        return x.contiguous()  # otherwise the attention falls back to one that keeps the matrix of all pairs
