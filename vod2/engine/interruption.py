"""SIGTERM and Ctrl-C during a training: the iteration is finished, a checkpoint is written, the process ends."""

import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from vod2.d2 import comm

_LOGGER = logging.getLogger("vod2.engine")

EXIT_CODE = 75
"""Of a training that was interrupted and saved: EX_TEMPFAIL, "try again later". --resume goes on."""

_SAME = 2.0  # seconds in which signals count as one: a terminal sends Ctrl-C to the parent and to every process


class TrainingInterrupted(SystemExit):
    """The training was asked to stop, and has saved its state. Ends the process with `EXIT_CODE`."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class StopSignals:
    """Notes SIGTERM and SIGINT while it is installed. A second one, a while after the first, ends the process at once.

    Attributes:
        requested: whether one has come in this process.
    """

    def __init__(self) -> None:
        self.requested = False
        self._first = 0.0
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """In the main thread; elsewhere Python delivers no signals, and nothing is done."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}

    def remove(self) -> None:
        """Put back what was installed before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a worker of the loader, forked with this handler: its parent decides
            return
        now = time.monotonic()
        if not self.requested:
            self.requested, self._first = True, now
            name = signal.Signals(number).name
            _LOGGER.warning(
                "%s: this iteration is finished and a checkpoint written; once more to end at once, without", name
            )
        elif now - self._first > _SAME:
            self.remove()
            raise KeyboardInterrupt


def is_requested(signals: StopSignals) -> bool:
    """Whether any process has been asked to stop: all of them must stop after the same iteration.

    With several processes all of them must call it.
    """
    if comm.get_world_size() == 1:
        return signals.requested
    return any(comm.all_gather(signals.requested))
