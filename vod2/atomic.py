"""Writing files so that a reader sees the old file or the whole new one, never a part.

A file is written under a temporary name beside its place, forced to the disk, and renamed. What a killed process leaves
behind is a temporary file, which `remove_leftovers` finds by its name.
"""

import contextlib
import errno
import json
import os
import re
import socket
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_DAY = 24 * 3600.0
_UMASK = threading.Lock()


def _host() -> str:
    """A short name of this machine: several may write to one folder."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


# .vod2-<machine>-<process>-<name>-<random letters><suffix>
_TEMPORARY = re.compile(r"\.vod2-([0-9a-f]{8})-(\d+)-")


def temporary_path(path: str | os.PathLike, folder: str | os.PathLike | None = None) -> Path:
    """Create an empty file beside `path` (folders included), with the same suffix, and return where it is.

    Being in the same folder, it can be renamed to `path` in one step. It has the permissions of any new file. Its name
    says which process made it, for `remove_leftovers`.

    Args:
        path: what it stands for.
        folder: where to create it instead: one that exists, on the same file system.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".vod2-{_host()}-{os.getpid()}-{path.stem}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=folder or path.parent)
    os.close(handle)
    _open_to_all(name)  # mkstemp makes files that only their owner may read
    return Path(name)


def _open_to_all(path: str | os.PathLike) -> None:
    """Everyone may read and write whom the umask lets, as any new file."""
    # Of the whole process, and it can only be read by setting it.
    with _UMASK:
        umask = os.umask(0)
        os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def _flush(path: str | os.PathLike, flags: int) -> None:
    """Force a file, or the list of files of a folder, to the disk."""
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _complete(temporary: Path) -> None:
    """What has been written to a temporary file is on the disk, and everyone may read it."""
    _open_to_all(temporary)  # some libraries put a file of their own in its place
    _flush(temporary, os.O_RDWR)


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a complete temporary file its name, for what cannot be written in one block (`replacing`)."""
    with _naming_full_disk([path], [temporary]):
        _complete(temporary)
        os.replace(temporary, path)
    _flush_folder(path.parent)


def _flush_folder(path: Path) -> None:
    # Some network file systems refuse to open or to flush a folder: the rename is as safe as they make it.
    with contextlib.suppress(OSError):
        _flush(path, os.O_RDONLY)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, folder: str | os.PathLike | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` if the block succeeds and is deleted if it raises.

    The new file is on the disk before it has the name, so that neither a kill nor a power failure leaves a part of it.

    Args:
        path: the file.
        folder: of the temporary file, see `temporary_path`.

    Raises:
        OSError: what the block raises because the disk is full, from whatever library, is this, with errno and `path`.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    with replacing_all([path], folder) as temporaries:
        yield temporaries[0]


@contextlib.contextmanager
def replacing_all(paths: Sequence[str | os.PathLike], folder: str | os.PathLike | None = None) -> Iterator[list[Path]]:
    """As `replacing`, for files that belong together: none is replaced before all are on the disk.

    They are then renamed in the order of `paths`.
    """
    temporaries: list[Path] = []
    try:
        with _naming_full_disk(paths, temporaries):
            for path in paths:
                temporaries.append(temporary_path(path, folder))
            yield temporaries
            for temporary in temporaries:
                _complete(temporary)
            for temporary, path in zip(temporaries, paths, strict=True):
                os.replace(temporary, path)
        for parent in {Path(path).parent for path in paths}:
            _flush_folder(parent)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming_full_disk(paths: Sequence[str | os.PathLike], temporaries: Sequence[Path]) -> Iterator[None]:
    """Turns an exception caused by a full disk into an OSError with errno and the first of the paths."""
    try:
        yield
    except Exception as error:
        number = full_disk_errno(error)
        # PyTorch's writer does not say why, so the disk is asked
        if number is None and isinstance(error, RuntimeError):
            number = _errno_of_growing(temporaries)
        if number is None:
            raise
        file = full_disk_file(error)
        if file and not _TEMPORARY.match(os.path.basename(file)):
            raise  # of another file
        raise OSError(number, os.strerror(number), os.fspath(paths[0])) from error


# No space, none left to this user, a larger file than this process may write.
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries that raise no OSError, and processes that pass it on as text, report it.
_FULL_DISK_TEXT = re.compile(r"\b(?:os error|errno) (\d+)\b|database or disk is full", re.IGNORECASE)


def full_disk_errno(error: BaseException) -> int | None:
    """The number of the operating system's error if an exception of any library says that a disk is full, else None.

    Example:
        >>> full_disk_errno(OSError(errno.ENOSPC, "No space left on device")) == errno.ENOSPC
        True
        >>> full_disk_errno(ValueError("disk")) is None
        True
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _FULL_DISK else None
    for match in _FULL_DISK_TEXT.finditer(str(error)):
        number = int(match[1]) if match[1] else errno.ENOSPC
        if number in _FULL_DISK:
            return number
    return None


def full_disk_file(error: BaseException) -> str | None:
    """The name of the file that was too large: of the exceptions that led to this one, the first of a full disk."""
    cause: BaseException | None = error
    while cause is not None:
        # A number is the descriptor of a file without a name
        if isinstance(cause, OSError) and isinstance(cause.filename, str | bytes) and full_disk_errno(cause):
            return os.fsdecode(cause.filename)
        cause = cause.__cause__ or cause.__context__
    return None


def _errno_of_growing(files: Sequence[Path]) -> int | None:
    """The error that one of these files cannot be longer for, if it is that of a full disk."""
    for file in files:
        try:
            with open(file, "ab") as handle:
                # More than the rest of a block that the file has already
                handle.write(bytes(2**16))
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            if error.errno in _FULL_DISK:
                return error.errno
    return None


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as JSON, atomically. NaN is refused (JSON has none): pass None instead.

    Raises:
        ValueError: `value` holds NaN or an infinity.
    """
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, allow_nan=False)


def remove_leftovers(folder: str | os.PathLike) -> list[Path]:
    """Delete the temporary files that killed processes left in a folder, not in those below it; returns which.

    A file of a process that still runs on this machine stays, and so does one of another machine that is less than a
    day old: its process cannot be asked for.
    """
    removed = []
    for path in sorted(Path(folder).glob(".vod2-*")):
        match = _TEMPORARY.match(path.name)
        if match is None:
            continue
        machine, process = match[1], int(match[2])
        # Another process may have finished, and renamed, the file in the meantime.
        with contextlib.suppress(FileNotFoundError):
            is_old = time.time() - path.stat().st_mtime > _DAY
            if is_old or (machine == _host() and not _runs(process)):
                path.unlink()
                removed.append(path)
    return removed


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 is not delivered: it only asks whether it could be
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
