"""Writing files so that a reader sees the old file or the whole new one, never a part."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def temporary_path(path: str | os.PathLike, folder: str | os.PathLike | None = None) -> Path:
    """Create an empty file beside `path` (folders included), with the same suffix, and return where it is.

    Being in the same folder, it can be renamed to `path` in one step. It has the permissions of any new file.

    Args:
        path: what it stands for.
        folder: where to create it instead: one that exists, on the same file system.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=folder or path.parent)
    os.close(handle)
    _open_to_all(name)  # mkstemp makes files that only their owner may read
    return Path(name)


def _open_to_all(path: str | os.PathLike) -> None:
    """Everyone may read and write whom the umask lets, as any new file."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, folder: str | os.PathLike | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` if the block succeeds and is deleted if it raises.

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
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as JSON, atomically. NaN is refused (JSON has none): pass None instead.

    Raises:
        ValueError: `value` holds NaN or an infinity.
    """
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, allow_nan=False)
