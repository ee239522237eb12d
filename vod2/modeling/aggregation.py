"""What the three levels of aggregation return.

An aggregator holds weights and no state: it is a pure function of (key frame, context). There is no batch axis inside;
one clip at a time, T support frames are the only extra axis.
"""

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
