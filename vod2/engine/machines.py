"""What programs that run many processes share: the lock of their folder, the cores, the cluster."""

import contextlib
import errno
import logging
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vod2.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

_LOGGER = logging.getLogger("vod2.engine")
_locked: set[Path] = set()  # folders that this process trains into
_PATIENCE = 10.0  # seconds that the workers of a killed process need to notice that it is gone


@contextlib.contextmanager
def locked_file(path: Path, children: str, patience: float = 0.0, remedy: str = "--output") -> Iterator[int]:
    """Hold the lock `path` of the folder that it lies in; yields its descriptor, which child processes may inherit.

    The lock is the operating system's: it ends with the last process that has the descriptor, however that ends, so a
    file that a killed process left behind locks nothing. Its content, host and process, is for the message. Where the
    file system has no locks, as some of clusters, a warning says so, and nothing is locked.

    Args:
        path: the file; folders are made.
        children: what may be left running with the lock, such as "trainings"; for the message.
        patience: seconds to wait for another process that has it.
        remedy: the option or key that names another folder; for the message.

    Raises:
        UserError: another process has it.

    Example:
        >>> import tempfile
        >>> with locked_file(Path(tempfile.mkdtemp()) / "my.lock", "workers") as descriptor:
        ...     descriptor > 0
        True
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    give_up = time.monotonic() + patience
    # "a+" creates the file but keeps its content, which names the holder
    with open(path, "a+", encoding="utf-8") as file:
        while True:
            try:
                _lock(file.fileno())
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):  # what "another has it" is on all systems
                    _LOGGER.warning(
                        "%s: file locking is not supported here (%s): do not start another run in this folder",
                        path,
                        error.strerror,
                    )
                    break
                if time.monotonic() < give_up:
                    time.sleep(0.05)
                    continue
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise UserError(
                    f"{path.parent} is in use by {holder}, or by {children} that it has left running: wait for them, "
                    f"stop them, or give another {remedy}"
                ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        # At once, so that the message to others can name this process
        file.flush()
        yield file.fileno()


def _lock(descriptor: int) -> None:
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(descriptor: int) -> None:
    """Also where child processes still have the descriptor, such as the workers of a loader that is kept."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # there was no lock
            fcntl.flock(descriptor, fcntl.LOCK_UN)


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
            _unlock(descriptor)


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
