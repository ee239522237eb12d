"""Memory that a process gives back and asks for again."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt, malloc.h
_LARGEST = 2**30  # bytes; a block above it is still mapped by itself
_SETTINGS = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory() -> bool:
    """Let the C library keep the memory that tensors give back, for those that follow.

    glibc maps each block of some size anew and unmaps it when it is freed, so that the kernel fills its pages with
    zeros every time: a twentieth to a tenth of a frame's time on a CPU. A process that does so holds what it once
    held, and somewhat more, as blocks of other sizes do not fit into gaps exactly. It is for the main function of a
    program, which every command of vod2 has; a library that is imported changes nothing.

    Returns:
        Whether it is so now: not with another C library than glibc, and not where the user has chosen settings of
        malloc by an environment variable.

    Example:
        >>> from vod2.engine import keep_freed_memory
        >>> keep_freed_memory() in (True, False)
        True
    """
    library = _glibc()
    if library is None or any(name in os.environ for name in _SETTINGS):
        return False
    # Older versions allow 32 MiB at most.
    if not library.mallopt(_M_MMAP_THRESHOLD, _LARGEST) and not library.mallopt(_M_MMAP_THRESHOLD, 2**25):
        return False
    return bool(library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def release_freed_memory() -> None:
    """Give it back to the system now, also where it is kept, so that resident memory says what is in use."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """None where the C library is another one."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
