"""Attention of RoIs that are compared patch by patch: SPFA of CSMN.

N: targets, M: supports, C: channels, P: pooled side, g: patches along a side, p = g * g: patches of a RoI, c: cells
along a side of a patch, d = C * c * c: numbers of a patch, V: length of a value.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def cut_patches(maps: Tensor, grid: int) -> Tensor:
    """(M, C, P, P) -> (M, p, d): g x g equal patches that do not overlap, row by row.

    Where g does not divide P, zeros are padded equally on both sides (3 x 3 patches: 7 cells and one at each side); of
    an odd number, one more at the end.

    Raises:
        ValueError: if there are not P >= g cells along a side.
    """
    m, channels, side, _ = maps.shape
    if not 1 <= grid <= side:
        raise ValueError(f"patches: a map of {side}x{side} cells cannot be cut into {grid}x{grid} patches")
    cells = math.ceil(side / grid)
    missing = cells * grid - side
    before = missing // 2
    after = missing - before
    padded = F.pad(maps, (before, after, before, after))
    patches = padded.reshape(m, channels, grid, cells, grid, cells).permute(0, 2, 4, 1, 3, 5)  # (M, g, g, C, c, c)
    return patches.flatten(3).flatten(1, 2)  # (M, p, d)


def standardised(patches: Tensor) -> Tensor:
    """(..., d) -> (..., d): (x - mean) / (sigma sqrt(d)), whose dot product is the normalised cross-correlation.

    At least float32. A patch without variation, but for rounding, becomes 0: it is like no other.
    """
    x = patches.to(torch.promote_types(patches.dtype, torch.float32))
    centred = x - x.mean(dim=-1, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)  # sigma sqrt(d)
    # What rounding leaves of a constant patch must not be blown up to length 1.
    rounding = 8 * torch.finfo(x.dtype).eps * torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True)
    varies = length > rounding
    # The outer `where` alone would not do: the gradient of a division by 0 is NaN also where it is not taken.
    return torch.where(varies, centred / length.where(varies, 1), 0)


class PatchAttention(nn.Module):
    """What each patch of a target RoI takes from the supports: a_i^p = sum_j w_ij^p v_j (SPFA of Han et al., CSMN).

    The similarity of support j to patch p of target i is the highest normalised cross-correlation of that patch with a
    patch of j; w is its softmax over j. No table of all pairs is held: supports are visited in tiles, and again in the
    backward if there is more than one. Exponentials are taken from the highest similarity so far, whatever the
    temperature.

    It has no parameters.

    Args:
        grid: g.
        temperature: similarities, which lie in [-1, 1], are divided by it before the softmax; None for 1 / sqrt(d), so
            that what enters the softmax is the dot product of two patches whose numbers have mean 0 and variance 1,
            divided by sqrt(d).
        tile: pairs of patches whose correlations are held at once, or those of a single support if that is more.

    Raises:
        ValueError: on numbers out of range.

    Example:
        >>> import torch
        >>> from vod2.layers import PatchAttention
        >>> attention = PatchAttention(grid=3)
        >>> attention(torch.rand(2, 8, 7, 7), torch.rand(5, 8, 7, 7), torch.rand(5, 32)).shape
        torch.Size([2, 9, 32])
    """

    def __init__(self, grid: int, temperature: float | None = None, tile: int = 2**23) -> None:
        super().__init__()
        if grid < 1 or tile < 1:
            raise ValueError(f"PatchAttention: expected grid and tile of at least 1, got {grid}, {tile}")
        if temperature is not None and temperature < torch.finfo(torch.float32).tiny:
            raise ValueError(f"PatchAttention: expected TEMPERATURE above 0, got {temperature}")
        self.grid, self.temperature, self.tile = grid, temperature, tile

    def forward(self, target_maps: Tensor, support_maps: Tensor, values: Tensor) -> Tensor:
        """target_maps (N, C, P, P), support_maps (M, C, P, P), values (M, V) -> (N, p, V); 0 without supports.

        Exponentials and sums are at least float32.
        """
        target = standardised(cut_patches(target_maps, self.grid))  # (N, p, d)
        n, patches, _ = target.shape
        if n == 0 or len(support_maps) == 0:
            # 0 times what there is of the inputs: they have a gradient, which is 0.
            inputs = target.sum() + support_maps.sum() + values.sum()
            return (values.new_zeros(n, patches, values.shape[1]) + 0 * inputs).to(values.dtype)
        target = target.flatten(0, 1)  # (N*p, d)
        count = max(1, self.tile // (len(target) * patches))  # supports of a tile
        if count >= len(support_maps):  # a single tile may stay for the backward
            summed, total, _ = self._weighted_sum(target, support_maps, values)
        else:
            summed, total = self._by_tiles(target, support_maps.split(count), values.split(count))
        return (summed / total).to(values.dtype).unflatten(0, (n, patches))

    def weights(self, target_maps: Tensor, support_maps: Tensor) -> Tensor:
        """w (N, p, M), which sum to 1 over the supports: all of them at once, to be looked at.

        target_maps (N, C, P, P), support_maps (M, C, P, P).
        """
        target = standardised(cut_patches(target_maps, self.grid))  # (N, p, d)
        similarity = self._similarity(target.flatten(0, 1), support_maps)
        # Before the division: at a small temperature the quotient itself may be infinite.
        highest = similarity.amax(dim=1, keepdim=True) if len(support_maps) else 0
        logits = (similarity - highest) / self._divisor(target.shape[2])
        return logits.softmax(dim=1).unflatten(0, target.shape[:2])

    def _by_tiles(
        self, target: Tensor, support_maps: tuple[Tensor, ...], values: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """`_weighted_sum` over all tiles, each of which the backward computes again."""
        divisor = self._divisor(target.shape[1])
        summed: Any = 0  # a number until the first tile has come
        total: Any = 0
        highest = target.new_full((len(target), 1), -torch.inf)
        for tile_maps, tile_values in zip(support_maps, values, strict=True):
            tile_summed, tile_total, tile_highest = checkpoint(
                self._weighted_sum, target, tile_maps, tile_values, use_reentrant=False, preserve_rng_state=False
            )
            # Both sums are relative to the highest similarity of what they were taken over. Each is scaled so that it
            # is relative to the highest of both, before they are added.
            peak = torch.maximum(highest, tile_highest)
            earlier = ((highest - peak) / divisor).exp()
            later = ((tile_highest - peak) / divisor).exp()
            summed = earlier * summed + later * tile_summed
            total = earlier * total + later * tile_total
            highest = peak
        return summed, total

    def _weighted_sum(self, target: Tensor, maps: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What some supports (m, C, P, P) and (m, V) add to numerators (N*p, V) and denominators (N*p, 1).

        Both are relative to the highest of their similarities, the third tensor (N*p, 1).
        """
        similarity = self._similarity(target, maps)
        # A constant: numerators and denominators are scaled alike, so their quotient has no gradient by it.
        highest = similarity.detach().amax(dim=1, keepdim=True)
        weights = ((similarity - highest) / self._divisor(target.shape[1])).exp()  # (N*p, m), at most 1
        summed = (weights @ values.to(weights.dtype)).to(weights.dtype)  # autocast multiplies in half precision
        return summed, weights.sum(dim=1, keepdim=True), highest

    def _divisor(self, numbers: int) -> float:
        """The temperature for patches of d = `numbers` numbers."""
        return numbers**-0.5 if self.temperature is None else self.temperature

    def _similarity(self, target: Tensor, maps: Tensor) -> Tensor:
        """(N*p, m): the highest correlation of each target patch (N*p, d) with a patch of each support."""
        support = standardised(cut_patches(maps, self.grid))  # (m, p, d)
        correlation = target @ support.flatten(0, 1).T  # (N*p, m*p)
        return correlation.unflatten(1, support.shape[:2]).amax(dim=2).to(target.dtype)


class PatchImportance(nn.Module):
    """alpha_i^p: how much each patch of a RoI counts, a softmax over its patches of a linear layer of the patch.

    A new module counts all alike. The linear layer has no bias: the softmax would not see it.

    Args:
        channels: C.
        side: P.
        grid: g.

    Example:
        >>> import torch
        >>> from vod2.layers import PatchImportance
        >>> PatchImportance(channels=8, side=3, grid=2)(torch.rand(1, 8, 3, 3)).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """

    def __init__(self, channels: int, side: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        cells = math.ceil(side / grid)
        self.score = nn.Linear(channels * cells**2, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, P, P) -> (N, p), rows sum to 1."""
        return self.score(cut_patches(maps, self.grid))[..., 0].softmax(dim=1)
