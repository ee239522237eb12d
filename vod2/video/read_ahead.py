"""Frames that are decoded while the detector is busy with those before them."""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TypeVar

_Item = TypeVar("_Item")

_DEPTH = 4  # frames that wait at most: enough for a slow one, and few megabytes
_PATIENCE = 0.1  # seconds between two looks at whether somebody still wants frames
_FAREWELL = 5.0  # seconds that the end waits for the thread, which may be reading from a network


def read_ahead(items: Iterable[_Item], depth: int = _DEPTH) -> Generator[_Item, None, None]:
    """The same items in the same order, of which up to `depth` are made in a thread before they are asked for.

    An exception comes where it would have come. What is made beforehand has been taken from `items`: who stops early
    cannot go on with them. The thread ends with the generator, at its end, by `close()` or when nobody holds it.

    Args:
        items: only the thread touches them, from the first `next` on.
        depth: at least 1.

    Raises:
        ValueError: `depth` is below 1.

    Example:
        >>> from vod2.video import read_ahead
        >>> list(read_ahead(range(3)))
        [0, 1, 2]
    """
    if depth < 1:
        raise ValueError(f"read_ahead: expected a depth of at least 1, got {depth}")
    return _read_ahead(items, depth)


def _read_ahead(items: Iterable[_Item], depth: int) -> Generator[_Item, None, None]:
    made: queue.Queue[tuple[_Item] | BaseException | None] = queue.Queue(depth)
    is_over = threading.Event()

    def put(entry: tuple[_Item] | BaseException | None) -> None:
        while not is_over.is_set():
            try:
                made.put(entry, timeout=_PATIENCE)
                return
            except queue.Full:
                pass

    def work() -> None:
        try:
            with closing(_generator(items)) as taken:
                for item in taken:
                    put((item,))
                    if is_over.is_set():
                        return
            put(None)
        except BaseException as error:  # raised where the frame would have come
            put(error)

    thread = threading.Thread(target=work, name="read_ahead", daemon=True)
    thread.start()
    try:
        while (entry := made.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        is_over.set()
        thread.join(_FAREWELL)


def _generator(items: Iterable[_Item]) -> Generator[_Item, None, None]:
    """Closed in the thread that has run it, with what it holds open."""
    iterator: Iterator[_Item] = iter(items)
    try:
        yield from iterator
    finally:
        if isinstance(iterator, Generator):
            iterator.close()
