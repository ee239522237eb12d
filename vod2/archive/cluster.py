"""Workers that are actors of Ray, each with one GPU or one core of its cluster."""

import os
import socket
from typing import Any

from vod2.archive.tasks import Ended, Failed, MakeRunner, Reply, Runner, Task
from vod2.archive.workers import Readiness, Ready, Refused
from vod2.engine.machines import connect_to_ray
from vod2.errors import UserError


class _Actor:
    """Lives in a process of the cluster."""

    def __init__(self, make_runner: MakeRunner, device: str) -> None:
        self._make_runner, self._device = make_runner, device
        self._runner: Runner | None = None

    def prepare(self) -> tuple[Ready | Refused, str]:
        """Make the runner; returns how that went, and host:process. Not in the constructor, whose errors Ray wraps."""
        name = f"{socket.gethostname()}:{os.getpid()}"
        try:
            self._runner = self._make_runner(self._device)
        except UserError as error:
            return Refused(str(error)), name
        return Ready(), name

    def run(self, task: Task) -> Reply:
        assert self._runner is not None
        return self._runner.run(task)


class _Worker:
    """What the coordinator knows of an actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.name = ""
        self.task: Task | None = None


class RayWorkers:
    """See `Workers`; the cluster is that of RAY_ADDRESS, or one of this machine alone.

    Paths must be the same on all of its machines, and vod2 installed there. An actor that dies, with its machine or
    alone, is replaced; Ray itself repeats nothing, so that failures are counted in one place.

    Args:
        make_runner: called in each actor with its device.
        device: "cpu" or "cuda"; Ray shows an actor its own GPU alone.
        count: actors; None for one for each GPU or core.

    Raises:
        UserError: Ray is not installed, its cluster has no GPU, or fewer than `count`.
    """

    def __init__(self, make_runner: MakeRunner, device: str, count: int | None = None) -> None:
        self._ray, available = connect_to_ray(device)
        if count is not None and not 1 <= count <= available:
            raise UserError(f"--workers is {count}, expected 1 to {available}, which the cluster of Ray has")
        self.count = count or available
        share = {"num_gpus": 1, "num_cpus": 0} if device == "cuda" else {"num_cpus": 1}
        kind = self._ray.remote(**share, max_restarts=0, max_task_retries=0)(_Actor)
        place = "cuda:0" if device == "cuda" else device  # the only GPU that an actor sees
        self._new = lambda: _Worker(kind.remote(make_runner, place))
        self._readiness = Readiness("see Ray's log of the actors")
        self._free: list[_Worker] = []
        self._calls: dict[Any, _Worker] = {}  # {reference of a call that runs: its actor}
        for _ in range(self.count):
            self._prepare()

    @property
    def free(self) -> int:
        """See `Workers`."""
        return len(self._free)

    def submit(self, task: Task) -> str:
        """See `Workers`."""
        worker = self._free.pop()
        worker.task = task
        self._calls[worker.actor.run.remote(task)] = worker
        return worker.name

    def wait(self, seconds: float) -> list[Ended]:
        """See `Workers`."""
        if not self._calls:
            return []
        ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=seconds)
        if ready:  # and what else has ended by now
            ready, _ = self._ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        ended = []
        for call in ready:
            worker = self._calls.pop(call)
            ended += self._prepared(worker, call) if worker.task is None else self._ended(worker, call)
        return ended

    def close(self) -> None:
        """See `Workers`."""
        self._ray.shutdown()

    def _prepare(self) -> None:
        worker = self._new()
        self._calls[worker.actor.prepare.remote()] = worker

    def _prepared(self, worker: _Worker, call: Any) -> list[Ended]:
        try:
            answer, worker.name = self._ray.get(call)
        except self._ray.exceptions.RayActorError as error:
            self._readiness.died(_first_line(error))
            self._prepare()
            return []
        if isinstance(answer, Refused):
            raise UserError(answer.reason)
        self._readiness.ready()
        self._free.append(worker)
        return []

    def _ended(self, worker: _Worker, call: Any) -> list[Ended]:
        task, worker.task = worker.task, None
        assert task is not None
        try:
            reply = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            self._prepare()
            return [Ended(task, Failed(f"its worker died ({_first_line(error)})"), worker.name)]
        self._free.append(worker)
        return [Ended(task, reply, worker.name)]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
