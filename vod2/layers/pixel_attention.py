"""Attention between the cells of feature maps: what a cell takes from all cells of a video.

L: cells of the target map, S: source cells in all, C: channels, d: length of the relation features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vod2.layers.initialisation import zero_bias

ATTENTION_NORMALISERS = ("count", "softmax")

_EPS = 1e-6  # least length of a relation feature; shorter ones count as less similar to all


class PixelAttention(nn.Module):
    """Context of stCIE (Han et al., CSMN): y_t = g_t(x_t) + sum_s w_ts g_s(x_s) over all cells s of all source maps.

    r_ts = cos(theta(x_t), phi(x_s)); w = r / S ("count") or softmax over s of r ("softmax"). g_t, g_s, theta and phi
    are 1x1 convolutions. A new module is the identity: g_t is, and g_s is 0.

    "count" needs no pair of cells: a cosine is the dot product of normalised features, so sum_s r_ts x_s is one (C, d)
    matrix, sum_s x_s phi_s^T, times theta_t. "softmax" visits the pairs in tiles, and again in the backward; since
    cosines are bounded, its exponentials need no maximum and are simply added up.

    Args:
        channels: C.
        relation_dim: d.
        normaliser: "count" or "softmax".
        tile: "softmax": target cells whose weights on one source map are held at once.

    Raises:
        ValueError: on another normaliser, or numbers below 1.

    Example:
        >>> import torch
        >>> from vod2.layers import PixelAttention
        >>> attention = PixelAttention(channels=8, relation_dim=4)
        >>> target, sources = torch.rand(1, 8, 3, 5), [torch.rand(1, 8, 3, 5), torch.rand(1, 8, 2, 4)]
        >>> attention(target, sources).equal(target)
        True
    """

    def __init__(self, channels: int, relation_dim: int, normaliser: str = "count", tile: int = 1024) -> None:
        super().__init__()
        if normaliser not in ATTENTION_NORMALISERS:
            raise ValueError(
                f"PixelAttention: NORMALISER is {normaliser!r}, expected one of {', '.join(ATTENTION_NORMALISERS)}"
            )
        if relation_dim < 1 or tile < 1:
            raise ValueError(
                f"PixelAttention: expected RELATION_DIM and tile of at least 1, got {relation_dim}, {tile}"
            )
        self.normaliser, self.tile = normaliser, tile
        self.target_content = nn.Conv2d(channels, channels, 1)  # g_t
        self.source_content = nn.Conv2d(channels, channels, 1)  # g_s
        self.target_relation = nn.Conv2d(channels, relation_dim, 1)  # theta
        self.source_relation = nn.Conv2d(channels, relation_dim, 1)  # phi
        # The identity: a detector that gets the module begins as it was.
        nn.init.dirac_(self.target_content.weight)
        nn.init.zeros_(self.source_content.weight)
        for layer in (self.target_relation, self.source_relation):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")
        for layer in (self.target_relation, self.source_relation, self.target_content, self.source_content):
            zero_bias(layer)

    def forward(self, target: Tensor, sources: Sequence[Tensor]) -> Tensor:
        """target (1, C, H, W), sources (1, C, H_s, W_s) of any sizes -> (1, C, H, W); without source cells, the target.

        Sums are computed in the dtype of the target, at least float32, also under autocast.
        """
        return self.encode([target], sources)[0]

    def encode(self, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> list[Tensor]:
        """What `forward` makes of each target (1, C, H, W); what the sources give to all of them is computed once."""
        sources = [source for source in sources if source.numel() > 0]
        if not sources or not targets:
            return list(targets)
        # Sums over all cells of all frames leave the range and precision of half floats.
        dtype = torch.promote_types(targets[0].dtype, torch.float32)
        with torch.autocast(targets[0].device.type, enabled=False):
            keys = [self._key(source, dtype) for source in sources]
            summed = self._summed(keys, sources) if self.normaliser == "count" else None
        encoded = []
        for target in targets:
            content = self.target_content(target)
            query = _directions(self.target_relation(target))  # (d, L)
            with torch.autocast(target.device.type, enabled=False):
                context = self._by_softmax(query, keys, sources) if summed is None else summed @ query  # (C, L)
            encoded.append(content + context.reshape(target.shape).to(content.dtype))
        return encoded

    def _summed(self, keys: Sequence[Tensor], sources: Sequence[Tensor]) -> Tensor:
        """(1/S) sum_s g_s(x_s) phi_s^T (C, d); keys are phi of each source, (d, s)."""
        summed: Any = 0  # a number until the first source has come
        directions: Any = 0
        cells = 0
        for key, source in zip(keys, sources, strict=True):
            summed = summed + _cells(source, key.dtype) @ key.T  # (C, d)
            directions = directions + key.sum(dim=1)  # g_s has a bias, which every cell adds with its weight
            cells += key.shape[1]
        # g_s is linear: once, on the sum (C, d), instead of on every cell.
        return self._content(summed, directions) / cells

    def _by_softmax(self, query: Tensor, keys: Sequence[Tensor], sources: Sequence[Tensor]) -> Tensor:
        """(d, L) -> (C, L): sum_s softmax_s(cos) g_s(x_s)."""
        columns = []
        for part in query.split(self.tile, dim=1):
            summed: Any = 0  # a number until the first source has come
            total: Any = 0
            for key, source in zip(keys, sources, strict=True):
                # (s, l) weights of each tile are too many to keep: the backward computes them again.
                more = checkpoint(_weighted_sum, part, key, source, use_reentrant=False, preserve_rng_state=False)
                summed, total = summed + more[0], total + more[1]
            columns.append(summed / total)
        # The weights of a softmax sum to 1, and so does what the bias of g_s counts.
        mean = torch.cat(columns, dim=1)
        return self._content(mean, mean.new_ones(mean.shape[1]))

    def _key(self, source: Tensor, dtype: torch.dtype) -> Tensor:
        """phi of a map, of length 1: (d, s)."""
        weight, bias = _matrix(self.source_relation, dtype)
        return F.normalize(weight @ _cells(source, dtype) + bias, dim=0, eps=_EPS)

    def _content(self, summed: Tensor, total: Tensor) -> Tensor:
        """g_s of a weighted sum of cells (C, n), where the weights add up to `total` (n,)."""
        weight, bias = _matrix(self.source_content, summed.dtype)
        return weight @ summed + bias * total


def _matrix(layer: nn.Conv2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The weight (C', C) and the bias (C', 1) of a 1x1 convolution."""
    assert layer.bias is not None
    return layer.weight.flatten(1).to(dtype), layer.bias[:, None].to(dtype)


def _weighted_sum(query: Tensor, key: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """What a source adds to the numerators (C, l) and denominators (l,) of the softmax; query (d, l), key (d, s)."""
    weights = (key.T @ query).exp()  # (s, l)
    return _cells(source, query.dtype) @ weights, weights.sum(dim=0)


def _cells(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x[0].flatten(1).to(dtype)  # (1, C, H, W) -> (C, H*W)


def _directions(x: Tensor) -> Tensor:
    """(1, d, H, W) -> (d, H*W) of length 1, at least float32."""
    return F.normalize(_cells(x, torch.promote_types(x.dtype, torch.float32)), dim=0, eps=_EPS)
