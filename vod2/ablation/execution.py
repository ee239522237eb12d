"""Running jobs side by side, each in a process of its own, here or on a cluster."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from vod2.ablation.plan import Job, JobKey, Plan
from vod2.ablation.records import Records, provenance
from vod2.engine.machines import connect_to_ray, core_count
from vod2.errors import UserError


class Outcome(NamedTuple):
    """How a process ended: its exit code, how long it took, and what `provenance` says where it ran."""

    returncode: int
    seconds: float
    provenance: dict[str, Any]


class Executor(Protocol):
    """Runs commands.

    Attributes:
        slots: how many at once.
    """

    slots: int

    def submit(self, command: Sequence[str], log: str) -> "Future[Outcome]":
        """Begin a command whose output is appended to the file `log`."""

    def close(self) -> None:
        """End whatever still runs."""


def run_command(
    command: Sequence[str],
    log: str,
    folder: str,
    environment: Mapping[str, str] | None = None,
    begun: Callable[[subprocess.Popen], None] | None = None,
    inherited: Sequence[int] = (),
) -> Outcome:
    """Run a command to its end.

    Args:
        command: program and arguments.
        log: file that its output is appended to.
        folder: to run it in.
        environment: variables beside those of this process.
        begun: is told the process.
        inherited: descriptors that it keeps open.
    """
    # Before the process starts: a commit made meanwhile is not the one that ran
    start, origin = time.monotonic(), provenance()
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env={**os.environ, **(environment or {})},
            # A prompt would wait forever: nobody can answer it
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=inherited,
        )
        if begun is not None:
            begun(process)
        returncode = process.wait()
    return Outcome(returncode, time.monotonic() - start, origin)


class LocalExecutor:
    """Processes on this machine: one for each GPU, or as many as the CPU has cores, each with its share of threads.

    Args:
        device: "cpu" or "cuda".
        jobs: processes at once; None for one for each GPU or core.
        inherited: descriptors that the processes keep open: that of the lock, so that it holds as long as they run.

    Raises:
        UserError: no GPU, or more processes than GPUs.
    """

    def __init__(self, device: str, jobs: int | None = None, inherited: Sequence[int] = ()) -> None:
        places = _gpus() if device == "cuda" else _cpus(jobs)
        if jobs is not None and not 1 <= jobs <= len(places):
            raise UserError(f"--jobs is {jobs}, expected 1 to {len(places)}: one for each GPU")
        self.slots = len(places) if jobs is None else jobs
        # Each process takes its GPU from the queue and returns it, so that no two share one
        self._places: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for place in places[: self.slots]:
            self._places.put(place)
        self._inherited = tuple(inherited)
        self._threads = ThreadPoolExecutor(self.slots)
        self._processes: set[subprocess.Popen] = set()
        self._closing = threading.Event()

    def submit(self, command: Sequence[str], log: str) -> "Future[Outcome]":
        """See `Executor`."""
        return self._threads.submit(self._run, command, log)

    def close(self) -> None:
        """See `Executor`."""
        self._closing.set()
        # A copy: threads add to the set
        for process in list(self._processes):
            process.terminate()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, command: Sequence[str], log: str) -> Outcome:
        place = self._places.get()
        try:
            return run_command(command, log, os.getcwd(), place, self._begun, self._inherited)
        finally:
            self._places.put(place)

    def _begun(self, process: subprocess.Popen) -> None:
        self._processes.add(process)
        # Started while `close` was terminating the others
        if self._closing.is_set():
            process.terminate()


class RayExecutor:
    """Tasks of Ray, each with one GPU or one CPU core of its cluster; paths must be the same on all of its machines.

    The cluster is that of RAY_ADDRESS, or one of this machine alone.

    Args:
        device: "cpu" or "cuda".
        jobs: tasks at once; None for as many as the cluster has GPUs or cores.

    Raises:
        UserError: Ray is not installed, or its cluster has no GPU.
    """

    def __init__(self, device: str, jobs: int | None = None) -> None:
        self._ray, available = connect_to_ray(device)
        self.slots = min(jobs or available, available)
        # A task that is lost with its machine is resumed on another one.
        options = {"max_retries": 3} | ({"num_gpus": 1} if device == "cuda" else {"num_cpus": 1})
        # Ray sets CUDA_VISIBLE_DEVICES itself; a task of one core gets one thread
        self._environment = {} if device == "cuda" else _threads(1)
        self._run = self._ray.remote(**options)(run_command)

    def submit(self, command: Sequence[str], log: str) -> "Future[Outcome]":
        """See `Executor`."""
        return self._run.remote(list(command), log, os.getcwd(), self._environment).future()

    def close(self) -> None:
        """See `Executor`."""
        self._ray.shutdown()


def execute(
    plan: Plan,
    records: Records,
    executor: Executor,
    train_net: str,
    progress: Callable[[str], None] = print,
    changed: Callable[[], None] = lambda: None,
) -> dict[JobKey, str]:
    """Run what is left of the plan; a failure keeps only what needs it from being run.

    Args:
        plan: the jobs.
        records: where each job's end is kept.
        executor: runs them.
        train_net: `tools/train_net.py`.
        progress: gets a line for each job that ends.
        changed: called after each end.

    Returns:
        {job: reason} of those that have failed, or were left out because of one.
    """
    waiting = records.left()
    done = plan.wanted - waiting.keys()
    total, failed = len(waiting), {}
    running: dict[Future, Job] = {}
    while waiting or running:
        # A copy, because jobs are deleted in the loop
        for key, job in list(waiting.items()):
            if job.needs in failed:
                failed[key] = f"left out: {job.needs} has failed"
                progress(f"{key}: {failed[key]}")
                del waiting[key]
            elif len(running) < executor.slots and (job.needs is None or job.needs in done):
                records.start(job)
                running[executor.submit([sys.executable, train_net, *job.words], str(job.log))] = job
                del waiting[key]
        # Nothing runs where a failure has left out everything that was waiting
        ended = wait(running, return_when=FIRST_COMPLETED).done if running else set()
        for future in ended:
            job = running.pop(future)
            reason = _end(job, future, records)
            if reason:
                failed[job.key] = reason
            else:
                done.add(job.key)
            count = total - len(waiting) - len(running)
            progress(f"[{count}/{total}] {job.key}: {reason or _took(records.read(job)['seconds'])}")
            changed()
    return failed


def _end(job: Job, future: Future, records: Records) -> str:
    """Keep how a job has ended; returns why it has failed, or ""."""
    try:
        outcome = future.result()
        if not outcome.returncode:
            records.finish(job, outcome.seconds, outcome.provenance)
            return ""
        reason = f"failed with exit code {outcome.returncode}: {last_line(job.log)} (all of it: {job.log})"
    except Exception as error:  # of a cluster, or files that are not there: the other jobs go on
        reason = f"failed: {error}"
    records.fail(job, reason)
    return reason


def _took(seconds: float) -> str:
    return f"done in {seconds:.0f} s"


def last_line(log: Path) -> str:
    """What a process has printed last."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it has printed nothing")


def _gpus() -> list[dict[str, str]]:
    """The environment of a process for each visible GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()]
    count = torch.cuda.device_count()
    if not count:
        raise UserError("--device is cuda, but no GPU was found: give --device cpu")
    # A child counts the machine's GPUs, so it needs their names, not their numbers among the visible ones
    return [{"CUDA_VISIBLE_DEVICES": names[i] if names else str(i)} for i in range(count)]


def _cpus(jobs: int | None) -> list[dict[str, str]]:
    """The environment of `jobs` processes that share the cores."""
    cores = core_count()
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs is {jobs}, expected at least 1")
    count = jobs or cores
    # More threads than cores would slow all of them down
    return [_threads(max(cores // count, 1))] * count


def _threads(count: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}
