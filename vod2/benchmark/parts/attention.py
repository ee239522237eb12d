"""Attention in tiles against one table of all pairs."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vod2.benchmark.comparing import Comparison, steps
from vod2.layers import PatchAttention, PixelAttention
from vod2.layers.patch_attention import cut_patches, standardised


def patch_attention(device: torch.device) -> list[Comparison]:
    """SPFA of 300 proposals against 6300 supports (21 frames), 16 patches of 256 x 2 x 2: tiles against one table."""
    attention, generator = PatchAttention(4, temperature=1.0), torch.Generator().manual_seed(0)
    target, support = (torch.randn(count, 256, 7, 7, generator=generator).to(device) for count in (300, 6300))
    values = torch.randn(6300, 2048, generator=generator).to(device)

    def plain(target: Tensor, support: Tensor, values: Tensor) -> Tensor:
        target, support = (standardised(cut_patches(maps, 4)) for maps in (target, support))
        table = target.flatten(0, 1) @ support.flatten(0, 1).T  # (N*16, M*16)
        weights = table.unflatten(1, (-1, 16)).amax(dim=2).softmax(dim=1)
        return (weights @ values).unflatten(0, (-1, 16))

    few = target, support[:1260], values[:1260]
    return steps("16 patches", plain, attention, (target, support, values), few, "300 x 1260")


def pixel_attention(device: torch.device) -> list[Comparison]:
    """stCIE of 38 x 63 cells against 21 such frames, 2048 channels, relation features of 256: against one table."""
    torch.manual_seed(0)
    frames = torch.randn(21, 2048, 38, 63).to(device)
    return [row for normaliser in ("count", "softmax") for row in _pixel_attention(normaliser, frames)]


def _pixel_attention(normaliser: str, frames: Tensor) -> list[Comparison]:
    attention = PixelAttention(2048, 256, normaliser).to(frames.device)
    torch.nn.init.normal_(attention.source_content.weight, std=0.02)

    def plain(frames: Tensor) -> Tensor:
        query = normalize(attention.target_relation(frames[:1])[0].flatten(1), dim=0)  # (d, L)
        key = normalize(attention.source_relation(frames).transpose(0, 1).flatten(1), dim=0)  # (d, S)
        content = attention.source_content(frames).transpose(0, 1).flatten(1)  # (C, S)
        cosines = query.T @ key
        weights = cosines / key.shape[1] if attention.normaliser == "count" else cosines.softmax(dim=1)
        return attention.target_content(frames[:1]) + (content @ weights.T).reshape(frames[:1].shape)

    def ours(frames: Tensor) -> Tensor:
        return attention(frames[:1], frames.split(1))

    return steps(normaliser, plain, ours, (frames,), (frames[:3],), "3 frames")
