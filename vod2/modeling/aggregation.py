"""What the three levels of aggregation return.

An aggregator holds weights and no state: it is a pure function of (key frame, context). There is no batch axis inside;
one clip at a time, T support frames are the only extra axis.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor

Value = TypeVar("Value")


@dataclass(frozen=True)
class Aggregated(Generic[Value]):
    """The result of an aggregator.

    Args:
        value: {level: (1, C, H, W)} of a pixel aggregator, (N, D) of a proposal aggregator.
        losses: {name: scalar} to be added in training.
        carry: {name: tensor} to be found in the context of the next frame of the stream.
    """

    value: Value
    losses: dict[str, Tensor] = field(default_factory=dict)
    carry: dict[str, Tensor] = field(default_factory=dict)


def mean_losses(results: Sequence[Aggregated]) -> dict[str, Tensor]:
    """{name: scalar}: the mean over the clips; a clip without that loss counts as 0."""
    names = {name for one in results for name in one.losses}
    return {name: sum(one.losses.get(name, 0) for one in results) / len(results) for name in sorted(names)}


def merged(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One dictionary of all; what levels carry must have different names.

    Raises:
        ValueError: if two parts have the same name.
    """
    joined: dict[str, Tensor] = {}
    for part in parts:
        if shared := joined.keys() & part.keys():
            raise ValueError(f"two levels of aggregation carry {sorted(shared)}: give them different names")
        joined.update(part)
    return joined
