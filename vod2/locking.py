"""Locks that keep two programs from writing into one folder."""

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from vod2.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

_LOGGER = logging.getLogger("vod2.locking")


@contextlib.contextmanager
def locked_file(
    path: Path, children: str, patience: float = 0.0, remedy: str = "--output", passing: bool = False
) -> Iterator[int]:
    """Hold the lock `path` of the folder that it lies in; yields its descriptor, which child processes may inherit.

    The lock is the operating system's: it ends with the last process that has the descriptor, however that ends, so a
    file that a killed process left behind locks nothing. Its content, host and process, is for the message. Where the
    file system has no locks, as some of clusters, a warning says so, and nothing is locked.

    Args:
        path: the file; folders are made.
        children: what may be left running with the lock, such as "trainings"; for the message.
        patience: seconds to wait for another process that has it.
        remedy: the option or key that names another folder; for the message.
        passing: remove the file at the end, where it would be in the way of what the folder is for.

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
        try:
            yield file.fileno()
        finally:
            if passing:
                path.unlink(missing_ok=True)


def _lock(descriptor: int) -> None:
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(descriptor: int) -> None:
    """Let go of a lock, also where child processes still have the descriptor, such as the workers of a loader."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # there was no lock
            fcntl.flock(descriptor, fcntl.LOCK_UN)
