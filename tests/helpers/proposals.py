"""Random proposals and contexts for aggregators, on the tests' device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from helpers.device import device
from vod2.structures import POOLED_MAPS, Frame, ProposalSet, Role, TemporalContext

IMAGE_SIZE = (64, 96)
MAP_SHAPE = (24, 3, 3)  # what the detector of helpers/models.py pools from a box


def random_boxes(count: int, rng: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """(count, 4) xyxy boxes of at least 2 pixels inside the image, on the CPU."""
    height, width = IMAGE_SIZE
    extent = torch.tensor([width, height], dtype=dtype)
    first = torch.rand(count, 2, generator=rng, dtype=dtype) * (extent - 2)
    size = 2 + torch.rand(count, 2, generator=rng, dtype=dtype) * (extent - 2 - first)
    return torch.cat([first, first + size], dim=1)


def random_proposals(
    count: int, dim: int, rng: torch.Generator, dtype: torch.dtype = torch.float64, requires_grad: bool = False
) -> ProposalSet:
    """The proposals of one frame: features (count, dim), scores descending, maps (count, 24, 3, 3)."""
    features = torch.randn(count, dim, generator=rng, dtype=dtype).to(device()).requires_grad_(requires_grad)
    scores = torch.randn(count, generator=rng, dtype=dtype).to(device()).sort(descending=True).values
    boxes = random_boxes(count, rng, dtype).to(device())
    maps = torch.randn(count, *MAP_SHAPE, generator=rng, dtype=dtype).to(device()).requires_grad_(requires_grad)
    return ProposalSet.of_frame(boxes, features, scores, IMAGE_SIZE, None if maps is None else {POOLED_MAPS: maps})


def random_context(counts: Sequence[int], dim: int, rng: torch.Generator, **options) -> TemporalContext:
    """One support frame for each entry of `counts`, with so many proposals; `options` as in `random_proposals`."""
    frames = tuple(
        Frame("video", index, IMAGE_SIZE, proposals=random_proposals(count, dim, rng, **options))
        for index, count in enumerate(counts)
    )
    return TemporalContext(frames, (Role.LOCAL,) * len(frames))
