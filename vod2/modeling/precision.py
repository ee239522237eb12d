"""Half precision in inference."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from vod2.errors import UserError

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Values of TEST.PRECISION, and what autocast computes in."""


def check_precision(precision: str) -> str:
    """`precision`, if it is one of PRECISIONS.

    Raises:
        UserError: otherwise.
    """
    if precision not in PRECISIONS:
        raise UserError(f"TEST.PRECISION is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    return precision


def in_precision(model: nn.Module, precision: str) -> AbstractContextManager:
    """Within it, the heavy layers of a model compute in `precision`; boxes, geometry and scores stay in float32.

    Example:
        >>> import torch
        >>> from vod2.modeling.precision import in_precision
        >>> layer = torch.nn.Linear(4, 2)
        >>> with in_precision(layer, "bfloat16"):
        ...     layer(torch.ones(1, 4)).dtype
        torch.bfloat16
    """
    dtype = PRECISIONS[check_precision(precision)]
    if dtype is None:
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype=dtype)
