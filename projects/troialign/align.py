"""Temporal RoI Align: what RoIAlign pools of a box in the key frame, with what is most like it in other frames.

N: RoIs of the key frame, C: channels, P: pooled side, T: supports, H, W: cells of a support's map, K: cells that are
taken, h: heads, d = C / h.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.layers import init_he

_TILE = 2**24  # similarities that are held at once


def most_similar_rois(rois: Tensor, support: Tensor, count: int) -> Tensor:
    """Most Similar RoIAlign: the RoIs as if they had been pooled from another frame, without knowing where.

    A cell x of a RoI becomes sum_k w_k F_k over the `count` cells F_k of the support that are most similar to it by the
    cosine s_k; w is the softmax of s over these. A cell that is all 0 is like no other, with a cosine of 0.

    Args:
        rois: (N, C, P, P); N may be 0.
        support: (1, C, H, W).
        count: K; all cells where the map has fewer.

    Returns:
        (N, C, P, P). The choice of the cells has no gradient; their weights and values have one.

    Example:
        >>> import torch
        >>> support = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).reshape(1, 2, 1, 2)  # the cells (1, 0) and (0, 2)
        >>> roi = torch.tensor([0.1, 3.0]).reshape(1, 2, 1, 1)
        >>> most_similar_rois(roi, support, count=1).flatten().tolist()
        [0.0, 2.0]
    """
    N, _, P, _ = rois.shape
    queries = F.normalize(rois.permute(0, 2, 3, 1).flatten(0, 2), dim=1)  # (N*P*P, C)
    cells = support[0].flatten(1).T  # (H*W, C)
    directions = F.normalize(cells, dim=1)
    chosen = _nearest(queries.detach(), directions.detach(), min(count, len(cells)))  # (N*P*P, K)
    # Only of the cells that were chosen: the backward never sees the (N*P*P, H*W) similarities.
    similarity = (queries[:, None] * directions[chosen]).sum(dim=2)
    taken = (similarity.softmax(dim=1)[..., None] * cells[chosen]).sum(dim=1)  # (N*P*P, C)
    return taken.unflatten(0, (N, P, P)).permute(0, 3, 1, 2)  # (N, C, P, P)


def _nearest(queries: Tensor, directions: Tensor, count: int) -> Tensor:
    """Unit vectors (Q, C) and (S, C) -> (Q, count) int64, the rows of `directions` with the highest products."""
    rows = max(1, _TILE // max(1, len(directions)))
    parts = [(part @ directions.T).topk(count, dim=1).indices for part in queries.split(rows)]
    return torch.cat(parts)


class TemporalAttention(nn.Module):
    """Temporal attentional feature aggregation: a weighted sum of the RoIs in all frames, cell by cell.

    In head m, of the channels m d ... (m + 1) d, frame i has the weight softmax_i (E(X_i) . E(X_0) / sqrt(d)), where
    X_0 is the RoI in the key frame and E a 3x3 convolution.

    Args:
        channels: C.
        num_heads: h.

    Raises:
        ValueError: h does not divide C.

    Example:
        >>> import torch
        >>> from vod2.projects.troialign import TemporalAttention
        >>> rois = torch.rand(2, 8, 7, 7)
        >>> TemporalAttention(channels=8, num_heads=4)([rois, rois]).shape
        torch.Size([2, 8, 7, 7])
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"temporal attention: NUM_HEADS {num_heads} does not divide {channels} channels")
        self.num_heads = num_heads
        self.embed = nn.Conv2d(channels, channels, 3, padding=1)
        init_he(self.embed)

    def forward(self, frames: Sequence[Tensor]) -> Tensor:
        """T + 1 times (N, C, P, P), the key frame's RoIs first -> (N, C, P, P)."""
        embedded = [self._in_heads(self.embed(frame)) for frame in frames]  # (N, h, d, P, P) each
        products = torch.stack([(one * embedded[0]).sum(dim=2) for one in embedded])  # (T + 1, N, h, P, P)
        weights = (products / math.sqrt(embedded[0].shape[2])).softmax(dim=0)
        summed = torch.zeros_like(embedded[0])
        for frame, weight in zip(frames, weights, strict=True):
            summed = summed + weight[:, :, None] * self._in_heads(frame)
        return summed.flatten(1, 2)  # (N, C, P, P)

    def _in_heads(self, maps: Tensor) -> Tensor:
        return maps.unflatten(1, (self.num_heads, -1))  # (N, C, P, P) -> (N, h, d, P, P)


class TemporalRoIAlign(nn.Module):
    """Most Similar RoIAlign in every support, then the temporal attention over them and the key frame.

    Args:
        channels: C.
        num_similar: K.
        num_heads: h; 0 for the mean over the T + 1 frames, without parameters.

    Raises:
        ValueError: on numbers out of range.

    Example:
        >>> import torch
        >>> from vod2.projects.troialign import TemporalRoIAlign
        >>> align = TemporalRoIAlign(channels=8)
        >>> align(torch.rand(2, 8, 7, 7), [torch.rand(1, 8, 20, 30), torch.rand(1, 8, 20, 30)]).shape
        torch.Size([2, 8, 7, 7])
    """

    def __init__(self, channels: int, num_similar: int = 2, num_heads: int = 4) -> None:
        super().__init__()
        if num_similar < 1 or num_heads < 0:
            raise ValueError(
                f"expected NUM_SIMILAR of at least 1 and NUM_HEADS of at least 0, got {num_similar}, {num_heads}"
            )
        self.num_similar = num_similar
        self.attention = TemporalAttention(channels, num_heads) if num_heads else None

    def forward(self, rois: Tensor, supports: Sequence[Tensor]) -> Tensor:
        """rois (N, C, P, P) and T maps (1, C, H, W), whose sizes may differ -> (N, C, P, P); the RoIs where T is 0."""
        if not supports:
            return rois
        frames = [rois, *(most_similar_rois(rois, support, self.num_similar) for support in supports)]
        if self.attention is None:
            return torch.stack(frames).mean(dim=0)
        return self.attention(frames)
