"""The processes of a training or an evaluation: one for each GPU, or several on a CPU."""

import atexit
import logging
import os
import signal
import socket
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vod2.atomic import full_disk_errno, full_disk_file
from vod2.d2 import comm
from vod2.engine.allocator import keep_freed_memory
from vod2.engine.interruption import EXIT_CODE, TrainingInterrupted
from vod2.engine.machines import end_with_parent
from vod2.errors import UserError

_TIMEOUT = timedelta(minutes=30)  # of a collective operation
_MOST_TOLD = 4000  # characters of a message and of a traceback
_GRACE = 10.0  # seconds that the others have, after one process has failed, to fail by themselves


class WorkerError(UserError):
    """A process of several has failed; the message is its own."""


class _Failure(NamedTuple):
    """What a process failed of.

    Attributes:
        seconds: when, by a clock that all processes of a machine share.
        rank: of the process.
        is_mistake: whether it was a UserError, whose message is enough.
        message: of the exception.
        trace: its traceback.
        full_disk: the number of the operating system's error and the file, where a disk was full.
    """

    seconds: float
    rank: int
    is_mistake: bool
    message: str
    trace: str
    full_disk: tuple[int, str | None] | None


def launch_processes(work: Callable[[Any, Namespace], Any], cfg: Any, args: Namespace) -> None:
    """Call `work(cfg, args)` in every process of the job.

    - Under torchrun (its RANK and WORLD_SIZE are set) this process is one of the job: it joins the others.
    - Else --num-gpus processes of this machine are started, and those of --num-machines machines meet at --dist-url;
      "auto" takes a free port, so that two jobs of one machine do not meet. A single process is this one.

    The first process to fail ends the job; its error is the last that is printed. SIGTERM and Ctrl-C, also to the
    parent alone, reach every process; where all of them have saved, the exit code is `EXIT_CODE`.

    Args:
        args: those of `default_argument_parser`; num_gpus are processes where there is no GPU.

    Raises:
        UserError: more processes than GPUs; --num-gpus under torchrun; or that of the process that failed.
        OSError: the process that failed found a disk full.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        _join(work, cfg, args)
        return
    world_size = args.num_machines * args.num_gpus
    if world_size <= 1:
        work(cfg, args)
        return
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise UserError(f"--num-gpus is {args.num_gpus}, but this machine has {torch.cuda.device_count()}")
    url = args.dist_url
    if url == "auto":
        if args.num_machines > 1:
            raise UserError("--num-machines needs --dist-url tcp://HOST:PORT, where HOST is that of --machine-rank 0")
        url = f"tcp://127.0.0.1:{_free_port()}"
    failures = mp.get_context("spawn").SimpleQueue()
    # Not `mp.spawn`, which tells the failure of the process with the lowest rank, whoever failed first.
    context = mp.start_processes(
        _work_in_process,
        args=(work, cfg, args, url, failures),
        nprocs=args.num_gpus,
        join=False,
        start_method="spawn",
    )
    with _Forwarding(context.processes):
        ended = _wait(context.processes)
    _raise_failure(context.processes, ended, failures)


def _free_port() -> int:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _join(work: Callable[[Any, Namespace], Any], cfg: Any, args: Namespace) -> None:
    """Be one of the processes that torchrun has started."""
    if args.num_gpus != 1 or args.num_machines != 1:
        raise UserError(
            "torchrun starts the processes: leave out --num-gpus and --num-machines, or start the tool with python"
        )
    local_rank = int(os.environ["LOCAL_RANK"])
    local_size = int(os.environ["LOCAL_WORLD_SIZE"])
    _begin(local_rank, local_size, {"init_method": "env://"})
    _run(work, cfg, args)
    if not torch.cuda.is_available():
        atexit.register(_end, 0)


def _work_in_process(
    local_rank: int, work: Callable[[Any, Namespace], Any], cfg: Any, args: Namespace, url: str, failures: Any
) -> None:
    end_with_parent()
    keep_freed_memory()
    rank = args.machine_rank * args.num_gpus + local_rank
    try:
        group = {"init_method": url, "rank": rank, "world_size": args.num_machines * args.num_gpus}
        _begin(local_rank, args.num_gpus, group)
        _run(work, cfg, args)
    except TrainingInterrupted:
        _end(EXIT_CODE)
    except KeyboardInterrupt:
        _end(130)
    except Exception as error:
        # Cut, for a pipe takes 64 KiB before somebody reads it.
        message, trace = str(error)[:_MOST_TOLD], traceback.format_exc()[-_MOST_TOLD:]
        number = full_disk_errno(error)
        full_disk = None if number is None else (number, full_disk_file(error))
        failures.put(_Failure(time.monotonic(), rank, isinstance(error, UserError), message, trace, full_disk))
        _end(1)
    _end(0)


def _begin(local_rank: int, local_size: int, group: dict[str, Any]) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_TIMEOUT, **group)
    comm.create_local_process_group(local_size)
    comm.synchronize()


def _run(work: Callable[[Any, Namespace], Any], cfg: Any, args: Namespace) -> None:
    work(cfg, args)
    comm.synchronize()
    if torch.cuda.is_available():
        dist.destroy_process_group()


def _end(code: int) -> None:
    """End this process without the interpreter's shutdown.

    A thread of gloo that asks for the interpreter during its shutdown, or a group that is destroyed while a model still
    refers to it, now and then aborts the process; and after a failure a group waits for processes that are gone.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Forwarding:
    """While it is entered, SIGTERM and SIGINT to this process go to `processes`, too, which decide what they do."""

    def __init__(self, processes: list[BaseProcess]) -> None:
        self._processes = processes
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._forward) for number in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _forward(self, number: int, _: object) -> None:
        for process in self._processes:
            if process.is_alive():
                os.kill(process.pid or 0, number)


def _wait(processes: list[BaseProcess]) -> set[int]:
    """Until all have ended. Where one has failed, the others are ended after a while, for they may wait for it.

    Returns:
        The numbers of those that were ended.
    """
    failed_at: float | None = None
    ended: set[int] = set()
    while any(process.is_alive() for process in processes):
        for process in processes:
            process.join(0.1)
        if failed_at is None and any(process.exitcode not in (None, 0, EXIT_CODE) for process in processes):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > _GRACE:
            for number, process in enumerate(processes):
                if process.is_alive():
                    ended.add(number)
                    process.kill()
    return ended


def _raise_failure(processes: list[BaseProcess], ended: set[int], failures: Any) -> None:
    """The failure that all others follow from, or the interruption that all processes agreed on."""
    codes = [process.exitcode or 0 for process in processes]
    # A process that a signal ended tells nothing; what the others tell is that they have lost it.
    for number, code in enumerate(codes):
        if code < 0 and number not in ended:
            name = signal.Signals(-code).name
            why = " (by the system where memory ran out, or by somebody)" if -code == signal.SIGKILL else ""
            raise WorkerError(
                f"process {number} of {len(codes)} was ended by {name}{why}; --resume goes on from the last checkpoint"
            )
    told: list[_Failure] = []
    while not failures.empty():
        told.append(failures.get())
    if told:
        first = min(told, key=lambda failure: failure.seconds)
        if first.full_disk:
            number, file = first.full_disk
            raise OSError(number, os.strerror(number), file)
        if not first.is_mistake:
            print(first.trace, file=sys.stderr)
        raise WorkerError(f"process {first.rank} of {len(codes)} failed: {first.message}")
    if EXIT_CODE in codes:
        raise TrainingInterrupted
    if any(codes):
        raise WorkerError(f"processes ended with the exit codes {codes}, without a message")
