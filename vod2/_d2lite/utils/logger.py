"""Logging: a coloured console on the main process, a file per process, and messages that do not repeat."""

import copy
import logging
import os
import sys
import time
from collections import Counter

from termcolor import colored

from vod2._d2lite.utils.file_io import PathManager

_PACKAGE = __name__.rsplit(".", 2)[0]  # the package whose modules play the part of the logger "detectron2"
# One open file per name: the loggers "detectron2" and "vod2" share it
_streams: dict[str, object] = {}


class _Formatter(logging.Formatter):
    """Shortens the root of the logger's name and marks warnings and errors."""

    def __init__(self, fmt: str, root: str, short: str, color: bool):
        super().__init__(fmt, datefmt="%m/%d %H:%M:%S")
        self._root, self._short, self._color = root, short, color

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.name.startswith(self._root + "."):
            record = copy.copy(record)  # other handlers see the full name
            record.name = self._short + record.name[len(self._root) :]
        line = super().formatMessage(record)
        if self._color and record.levelno >= logging.WARNING:
            return f"{colored(record.levelname, 'red')} {line}"
        return line


def _log_file(output: str, rank: int):
    """The open log file: ``output`` if it ends in .txt or .log, else ``output``/log.txt; with the rank if not 0."""
    name = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    if rank > 0:
        name += f".rank{rank}"
    if name not in _streams:
        PathManager.mkdirs(os.path.dirname(name) or ".")
        # Line-buffered: the log of a killed process is complete
        _streams[name] = PathManager.open(name, "a", buffering=1)
    return _streams[name]


def _add_handler(logger: logging.Logger, stream, formatter: _Formatter) -> None:
    for handler in logger.handlers:
        if isinstance(handler.formatter, _Formatter) and getattr(handler, "stream", None) is stream:
            return  # a second one would repeat every line
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Send the logger ``name`` to the console (rank 0 only) and, where ``output`` is given, to a file.

    Calling it again adds no second handler for the same console or file. The name "detectron2" also covers this
    package's own messages.

    Args:
        output: a folder (its log.txt is appended to) or a file ending in .txt or .log; other ranks append ".rank<N>".
        abbrev_name: what stands for ``name`` at the beginning of the names of its children; "d2" for "detectron2".
    """
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    # The modules of this package log under its name
    roots = (name, _PACKAGE) if name == "detectron2" else (name,)
    for root in roots:
        logger = logging.getLogger(root)
        logger.setLevel(logging.DEBUG)
        logger.propagate = enable_propagation
        if configure_stdout and distributed_rank == 0:
            prefix = "[%(asctime)s %(name)s]: "
            fmt = (colored(prefix, "green") if color else prefix) + "%(message)s"
            _add_handler(logger, sys.stdout, _Formatter(fmt, root, abbrev_name, color))
        if output is not None:
            fmt = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
            _add_handler(logger, _log_file(output, distributed_rank), _Formatter(fmt, root, abbrev_name, False))
    return logging.getLogger(name)


_count: Counter = Counter()
_last_time: dict[tuple, float] = {}


def _caller() -> tuple[str, tuple]:
    """The module that called a function of this file, and the place of the call (file, line)."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__:
        assert frame.f_back is not None  # a function of this file is called by one of another
        frame = frame.f_back
    return frame.f_globals.get("__name__", "__main__"), (frame.f_code.co_filename, frame.f_lineno)


def log_first_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple = "caller") -> None:
    """Log only the first ``n`` times.

    Args:
        name: the logger, by default the calling module.
        key: "caller", "message" or both: calls that agree in it are counted together.
    """
    module, place = _caller()
    key_parts = (key,) if isinstance(key, str) else tuple(key)
    count_key = tuple(place if part == "caller" else msg for part in key_parts)
    _count[count_key] += 1
    if _count[count_key] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log at most once in ``n`` seconds from the same place."""
    module, place = _caller()
    now = time.monotonic()
    if place not in _last_time or now - _last_time[place] >= n:
        logging.getLogger(name or module).log(lvl, msg)
        _last_time[place] = now
