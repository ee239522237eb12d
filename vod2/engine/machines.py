"""What programs that run many processes share: the lock of OUTPUT_DIR, the cores, the cluster."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vod2.errors import UserError
from vod2.locking import locked_file, unlock

_locked: set[Path] = set()  # folders that this process trains into
_PATIENCE = 10.0  # seconds that the workers of a killed process need to notice that it is gone


@contextlib.contextmanager
def output_for_training(folder: str) -> Iterator[None]:
    """Keep other trainings out of OUTPUT_DIR, whose checkpoints would replace those of this one.

    For the process that writes. It may be entered again within itself.

    Raises:
        UserError: another training is at work there.
    """
    path = Path(folder).resolve()
    if path in _locked:
        yield
        return
    lock = path / "training.lock"
    with locked_file(lock, "processes", patience=_PATIENCE, remedy="OUTPUT_DIR") as descriptor:
        _locked.add(path)
        try:
            yield
        finally:
            _locked.remove(path)
            unlock(descriptor)


def core_count() -> int:
    """The CPU cores that this process may use, which in a container are fewer than the machine's; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def connect_to_ray(device: str) -> tuple[Any, int]:
    """Ray's module, connected to the cluster of RAY_ADDRESS or to one of this machine alone, and its GPUs or cores.

    Args:
        device: "cpu" or "cuda".

    Raises:
        UserError: Ray is not installed, or its cluster has no GPU.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray, which is not installed: pip install 'vod2[ray]'") from error
    # The caller may have joined a cluster already
    ray.init(ignore_reinit_error=True)
    kind = "GPU" if device == "cuda" else "CPU"
    available = int(ray.cluster_resources().get(kind, 0))
    if available < 1:
        raise UserError(f"the cluster of Ray has no {kind}: give another --device, or add machines to it")
    return ray, available


def end_with_parent() -> None:
    """End this process at once when its parent has ended, however that ends; call it first in a child process.

    Nobody would know of a process that goes on alone, and one that takes the parent's place must not find it at work.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
