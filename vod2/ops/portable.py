"""A switch between the operators as they run here, and forms of them that other runtimes know (docs/export.md)."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PORTABLE = ContextVar("portable", default=False)


def is_portable() -> bool:
    """Whether `portable` is on: operators must have their plain form, and results a size that no value decides."""
    return _PORTABLE.get()


@contextmanager
def portable() -> Iterator[None]:
    """Within the block what is computed can be traced for another runtime, with the same results to rounding.

    The operators of the project take their plain PyTorch form or that of torchvision, and the RPN gives as many
    proposals of every frame, the last of which may be padding (`VideoRPN.propose`). For inference: there may be no
    gradients, and it is slower.

    Example:
        >>> from vod2.ops.portable import is_portable, portable
        >>> with portable():
        ...     is_portable()
        True
    """
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)
