"""What datasets have read, kept for a while.

Before a training starts its datasets are asked for many times: for classes, a split, checks, the loader. A file of
annotations may have a gigabyte.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

MOST_KEPT = 4
"""Datasets whose content is kept at the same time, those that were read last: a training mostly has two."""

_Content = TypeVar("_Content")

_kept: OrderedDict[Callable[[], Any], Any] | None = None  # {what reads it: the content}; None outside of `reading_once`


@contextmanager
def reading_once() -> Iterator[None]:
    """Inside, a dataset of `register_dataset` is read once, however often it is used; at the end all is forgotten.

    It is for a time in which no file changes and memory is not short. One in another ends with the outer one.

    Example:
        >>> from vod2.data.datasets.readings import content_of, reading_once
        >>> read = iter(["first", "second", "third"])
        >>> def load():
        ...     return next(read)
        >>> with reading_once():
        ...     print(content_of(load), content_of(load))
        first first
        >>> content_of(load), content_of(load)
        ('second', 'third')
    """
    global _kept
    if _kept is not None:
        yield
        return
    _kept = OrderedDict()
    try:
        yield
    finally:
        _kept = None


def content_of(load: Callable[[], _Content]) -> _Content:
    """What `load` returns, or inside of `reading_once` has returned; nobody may change it."""
    if _kept is None:
        return load()
    if load not in _kept:
        _kept[load] = load()
    _kept.move_to_end(load)
    while len(_kept) > MOST_KEPT:
        _kept.popitem(last=False)
    return _kept[load]


def forget_readings() -> None:
    """Free what `reading_once` keeps; what is read afterwards is kept again."""
    if _kept is not None:
        _kept.clear()
