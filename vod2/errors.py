"""Errors whose message is meant for the person at the keyboard."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class UserError(Exception):
    """A mistake that the user can fix: a file that is missing, a key that does not exist, settings that disagree.

    Its message is one sentence that names the value, says what was expected and what to do. The command line tools
    print that sentence without a traceback (`vod2.engine.cli.run`).
    """


class VideoError(UserError):
    """A video, or a folder of frames, that cannot be read or written."""


def lookup(registry: Iterable[tuple[str, Any]], name: str, key: str) -> Any:
    """What a registry of the project holds under `name`, the value of the configuration key `key`.

    Raises:
        UserError: if there is no such name; tells those that there are.
    """
    known = dict(registry)
    if name not in known:
        raise UserError(f"{key} is {name!r}: expected one of {', '.join(sorted(known))}")
    return known[name]


@contextmanager
def settings(key: str) -> Iterator[None]:
    """Values of the configuration below `key` that a constructor refuses (ValueError) are the user's mistake."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
