"""Workers that are processes of this machine, each with a pipe of its own to the coordinator."""

import contextlib
import multiprocessing
import signal
import socket
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from vod2.archive.tasks import Ended, Failed, MakeRunner, Task
from vod2.engine.allocator import keep_freed_memory
from vod2.engine.machines import end_with_parent
from vod2.errors import UserError

# Workers that die one after the other before they are ready will go on dying.
_LAST_WORDS = 5.0  # seconds
_MOST_STILLBORN = 3


class Ready(NamedTuple):
    """The worker has made its runner."""


class Refused(NamedTuple):
    """It cannot, for a reason that is the user's to change."""

    reason: str


class Readiness:
    """Counts workers that die before they are ready, one after the other.

    Args:
        remedy: what to do about it, for the message.
    """

    def __init__(self, remedy: str) -> None:
        self._stillborn, self._remedy = 0, remedy

    def ready(self) -> None:
        """One is ready."""
        self._stillborn = 0

    def died(self, how: str) -> None:
        """One has died before; raises UserError if it is one too many."""
        self._stillborn += 1
        if self._stillborn >= _MOST_STILLBORN:
            raise UserError(f"{self._stillborn} workers have died while they loaded the model ({how}): {self._remedy}")


class _Worker:
    """One process; `task` is what it is at, None while it has nothing to do or is not ready."""

    def __init__(self, make_runner: MakeRunner, device: str, inherited: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self.device, self.is_ready, self.task = device, False, None  # type: tuple[str, bool, Task | None]
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make_runner, device, _Inherited(inherited)))
        self.process.start()
        theirs.close()  # so that the pipe ends with the process
        self.name = f"{socket.gethostname()}:{self.process.pid}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class LocalWorkers:
    """See `Workers`. A worker ends with the coordinator, however that ends.

    Args:
        make_runner: called in each process with its device; it and what it holds must be picklable.
        devices: one for each worker, such as ["cuda:0", "cuda:1"].
        inherited: descriptors that the processes keep open: that of the lock, so that it holds as long as they run.
    """

    def __init__(self, make_runner: MakeRunner, devices: Sequence[str], inherited: Sequence[int] = ()) -> None:
        self.count = len(devices)
        self._new: Callable[[str], _Worker] = lambda device: _Worker(make_runner, device, inherited)
        self._readiness = Readiness("give fewer --workers if memory has run out")
        self._workers: list[_Worker] = []
        for device in devices:
            self._workers.append(self._new(device))

    @property
    def free(self) -> int:
        """See `Workers`."""
        return sum(worker.is_ready and worker.task is None for worker in self._workers)

    def submit(self, task: Task) -> str:
        """See `Workers`."""
        worker = next(worker for worker in self._workers if worker.is_ready and worker.task is None)
        worker.task = task
        with contextlib.suppress(OSError):  # it has died since: `wait` finds that out
            worker.connection.send(task)
        return worker.name

    def wait(self, seconds: float) -> list[Ended]:
        """See `Workers`."""
        places: dict[Any, int] = {}
        for number, worker in enumerate(self._workers):
            places[worker.connection] = places[worker.process.sentinel] = number
        ended = []
        for number in sorted({places[place] for place in wait(list(places), seconds)}):
            ended += self._heard_of(number)
        return ended

    def close(self) -> None:
        """See `Workers`."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _heard_of(self, number: int) -> list[Ended]:
        worker = self._workers[number]
        try:
            # What it has sent counts, even if it has died since.
            message = worker.connection.recv() if worker.connection.poll() else None
        except (EOFError, OSError):
            message = None
        if isinstance(message, Ready):
            worker.is_ready = True
            self._readiness.ready()
            return []
        if isinstance(message, Refused):
            raise UserError(message.reason)
        if message is not None:
            assert worker.task is not None
            task, worker.task = worker.task, None
            return [Ended(task, message, worker.name)]
        return self._replace(number)

    def _replace(self, number: int) -> list[Ended]:
        worker = self._workers[number]
        # One whose pipe has ended is on its way out, perhaps writing why: its own exit code tells more than a kill.
        worker.process.join(_LAST_WORDS)
        worker.end()
        how = _how(worker.process.exitcode)
        if not worker.is_ready:
            self._readiness.died(how)
        self._workers[number] = self._new(worker.device)
        return [] if worker.task is None else [Ended(worker.task, Failed(f"its worker died ({how})"), worker.name)]


class _Inherited:
    """Descriptors that are the child's, too, when it is unpickled there."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._descriptors = tuple(descriptors)

    def __reduce__(self) -> Any:
        from multiprocessing.reduction import DupFd

        return _as_inherited, tuple(DupFd(descriptor) for descriptor in self._descriptors)


def _as_inherited(*descriptors: Any) -> list[int]:
    return [descriptor.detach() for descriptor in descriptors]


def _serve(connection: Connection, make_runner: MakeRunner, device: str, inherited: object) -> None:
    """The life of a worker."""
    # Ctrl-C and a service manager's SIGTERM reach all processes; the coordinator decides what becomes of the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    keep_freed_memory()
    try:
        runner = make_runner(device)
    except UserError as error:
        connection.send(Refused(str(error)))
        return
    connection.send(Ready())
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(runner.run(connection.recv()))


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {-exitcode}"
    return f"exit code {exitcode}"
