"""A disk that is full, without one: files that may not grow beyond a size, or a real one that VOD2_SMALL_DISK names."""

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Iterator

SMALL_DISK = "VOD2_SMALL_DISK"  # a folder on a file system of a few hundred KiB


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process can have more than `size` bytes: writing raises EFBIG, as a full disk ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # which would end the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def little_space() -> Iterator[int]:
    """Yields the errno that writing 1 MB ends with."""
    if os.environ.get(SMALL_DISK):
        yield errno.ENOSPC
    else:
        with largest_file(2**17):
            yield errno.EFBIG
