"""Starting one process per GPU, or several on a CPU."""

import atexit
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vod2._d2lite.utils import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call ``main_func(*args)`` in every process of the job; call this on every machine.

    A single process is not spawned. Without CUDA the processes share the CPU and communicate by gloo.

    Args:
        num_gpus_per_machine: processes on each machine.
        dist_url: where the processes meet, "tcp://host:port"; "auto" or None picks a free port of this machine.
        timeout: how long a collective operation may take.

    Raises:
        ValueError: "auto" over several machines, or more processes than GPUs.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url in (None, "auto"):
        if num_machines != 1:
            raise ValueError(f"dist_url={dist_url!r} with {num_machines} machines: give tcp://<host of rank 0>:<port>")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    if not torch.cuda.is_available():
        logger = logging.getLogger(__name__)
        logger.warning(f"No GPU is available: starting {num_gpus_per_machine} processes on the CPU (gloo).")
    elif num_gpus_per_machine > torch.cuda.device_count():
        raise ValueError(f"{num_gpus_per_machine} GPUs per machine were asked for, found {torch.cuda.device_count()}")
    group = {"init_method": dist_url, "world_size": world_size, "timeout": timeout}
    mp.spawn(_worker, (main_func, args, num_gpus_per_machine, machine_rank, group), num_gpus_per_machine)


def _worker(local_rank: int, main_func: Callable, args: tuple, local_size: int, machine_rank: int, group: dict) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    succeeded = threading.Event()
    atexit.register(_leave, succeeded)
    rank = machine_rank * local_size + local_rank
    dist.init_process_group("nccl" if on_gpu else "gloo", rank=rank, **group)
    comm.create_local_process_group(local_size)
    comm.synchronize()
    main_func(*args)
    comm.synchronize()
    if on_gpu:
        dist.destroy_process_group()
    else:
        succeeded.set()


def _leave(succeeded: threading.Event) -> None:
    """End a process of gloo, whose work is done, before the interpreter shuts down.

    A thread of gloo that asks for the interpreter during its shutdown, or a group that is destroyed while a model still
    refers to it, now and then aborts the process.
    """
    if succeeded.is_set():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
