"""Temporal RoI Align as its equations say it: loops over RoIs, cells and heads.

Sources: Most Similar RoI Align and temporal attentional feature aggregation, section 3 of Gong et al. (AAAI 2021).
C: channels, P: pooled side.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def most_similar_roi(roi: Tensor, support: Tensor, count: int) -> Tensor:
    """A RoI (C, P, P) and a map (C, H, W) -> (C, P, P)."""
    cells = [support[:, y, x] for y in range(support.shape[1]) for x in range(support.shape[2])]
    rows = []
    for i in range(roi.shape[1]):
        row = []
        for j in range(roi.shape[2]):
            cosines = [cosine(roi[:, i, j], cell) for cell in cells]
            best = sorted(range(len(cells)), key=lambda k: -cosines[k].item())[:count]
            total = sum(cosines[k].exp() for k in best)
            row.append(sum(cosines[k].exp() / total * cells[k] for k in best))
        rows.append(torch.stack(row, dim=1))  # (C, P)
    return torch.stack(rows, dim=1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def aggregated_roi(frames: list[Tensor], weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """T + 1 times (C, P, P), the key frame's RoI first -> (C, P, P); the embedding's weight (C, C, 3, 3), bias (C,)."""
    embedded = [F.conv2d(frame[None], weight, bias, padding=1)[0] for frame in frames]
    channels, side, _ = frames[0].shape
    width = channels // heads
    columns = []
    for c in range(channels):
        of_head = slice(c // width * width, (c // width + 1) * width)
        for i in range(side):
            for j in range(side):
                logits = [one[of_head, i, j] @ embedded[0][of_head, i, j] / math.sqrt(width) for one in embedded]
                total = sum(value.exp() for value in logits)
                shares = [value.exp() / total for value in logits]
                columns.append(sum(share * frame[c, i, j] for share, frame in zip(shares, frames, strict=True)))
    return torch.stack(columns).reshape(channels, side, side)
