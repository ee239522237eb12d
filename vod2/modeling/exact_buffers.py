"""Constants of a module that are as exact in float64 as they were given."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class ExactBuffers(nn.Module):
    """A module whose buffers hold constants. A buffer is built in float32, and a cast to float64 keeps its rounding."""

    _given: dict[str, Sequence[float]] = {}

    def keep_exact(self, **values: Sequence[float]) -> None:
        """{buffer: the numbers that it was built from}, which it has again after a cast to float64."""
        self._given = values

    def _apply(self, *args: Any, **kwargs: Any) -> "ExactBuffers":
        # All casts of a module come through here: .double(), .to() and those of the modules around it.
        super()._apply(*args, **kwargs)
        for name, values in self._given.items():
            buffer = getattr(self, name)
            if buffer.dtype != torch.float64:
                continue
            exact = torch.tensor(values, dtype=torch.float64, device=buffer.device).view_as(buffer)
            if buffer.equal(exact.float().double()):  # not where somebody has given it other values
                buffer.copy_(exact)
        return self
