"""What the three levels of aggregation return.

An aggregator holds weights and no state: it is a pure function of (key frame, context). There is no batch axis inside;
one clip at a time, T support frames are the only extra axis.
"""

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from vod2.moved import moved
from vod2.structures import TemporalContext

Value = TypeVar("Value")

__getattr__ = moved(__name__, {"merged": f"{__name__}:merge_disjoint"})


@dataclass(frozen=True)
class Aggregated(Generic[Value]):
    """The result of an aggregator.

    Args:
        value: {level: (1, C, H, W)} of a pixel aggregator, (N, D) of a proposal aggregator.
        losses: {name: scalar} to be added in training.
        carry: {name: tensor} to be found in the context of the next frame of the stream.
        relations: (N, M) of a proposal aggregator that was asked to keep them: how much each proposal of the key frame
            takes from each of the context's support proposals, `context.proposals(SUPPORT_TOPK)`.
    """

    value: Value
    losses: dict[str, Tensor] = field(default_factory=dict)
    carry: dict[str, Tensor] = field(default_factory=dict)
    relations: Tensor | None = None


def mean_losses(results: Sequence[Aggregated]) -> dict[str, Tensor]:
    """{name: scalar}: the mean over the clips; a clip without that loss counts as 0."""
    # Divided by all clips, not by those that have the loss: its weight must not depend on what a batch happens to hold.
    losses_by_name: dict[str, list[Tensor]] = {}
    for result in results:
        for name, loss in result.losses.items():
            losses_by_name.setdefault(name, []).append(loss)
    return {name: total(losses) / len(results) for name, losses in sorted(losses_by_name.items())}


def total(losses: Sequence[Tensor]) -> Tensor:
    """The sum of at least one."""
    return functools.reduce(operator.add, losses)


def merge_disjoint(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """All parts in one dictionary; what levels carry must have different names.

    Raises:
        ValueError: if two parts have the same name.
    """
    joined: dict[str, Tensor] = {}
    for part in parts:
        if shared := joined.keys() & part.keys():
            raise ValueError(f"two aggregators return {sorted(shared)}: give them different names")
        joined.update(part)
    return joined


def next_relations(relations: Tensor, context: TemporalContext, t: int, topk: int) -> Tensor:
    """The relations of frame t's proposals to those of frame t + 1.

    Args:
        relations: (N, M) to `context.proposals(topk)`.
        topk: K.

    Returns:
        (N, K): column k belongs to row k of the proposals of frame t + 1. It is 0 where that frame has fewer, or is not
        in the context; where the frame stands in the context more than once, its weights add up.
    """
    # A table of K columns in any case: BLR reads the same shape of every frame.
    table = relations.new_zeros(len(relations), topk)
    if (support := context.proposals(topk)) is None:
        return table
    # `support.frame` counts only the frames that have proposals.
    framed = [frame for frame in context.frames if frame.proposals is not None]
    following = torch.tensor([frame.index == t + 1 for frame in framed], device=relations.device)[support.frame]
    return table.index_add(1, support.rank()[following], relations[:, following])
