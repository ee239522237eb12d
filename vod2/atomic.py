"""Writing files so that a reader sees the old file or the whole new one, never a part.

A file is written under a temporary name beside its place, forced to the disk, and renamed. What a killed process leaves
behind is a temporary file, which `remove_leftovers` finds by its name.
"""

import contextlib
import json
import os
import re
import socket
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DAY = 24 * 3600.0


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

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    temporary = temporary_path(path, folder)
    try:
        yield temporary
        _open_to_all(temporary)  # some libraries put a file of their own in its place
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, path)
        _flush_folder(Path(path).parent)
    finally:
        temporary.unlink(missing_ok=True)


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
