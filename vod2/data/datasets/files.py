"""Files of a dataset, without those that systems and editors leave among them."""

import os
from collections.abc import Iterator
from pathlib import Path

from vod2.video import images_in

# macOS in its archives, a Synology in every folder that it shares.
_FOREIGN = frozenset({"__MACOSX", "@eaDir"})


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is none of a dataset: hidden, as ._img.png and .ipynb_checkpoints are.

    Example:
        >>> is_foreign("._000001.jpg"), is_foreign("000001.jpg")
        (True, False)
    """
    return name.startswith(".") or name in _FOREIGN


def folders_in(root: Path) -> list[Path]:
    """The folders in a folder, in the order of their names."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not is_foreign(path.name))


def image_files_in(folder: Path) -> list[Path]:
    """The images in a folder, in natural order; see `vod2.video.images_in`."""
    return [path for path in images_in(folder) if not is_foreign(path.name)]


def files_in(folder: Path, suffix: str) -> Iterator[Path]:
    """The files in a folder whose names end in `suffix`, in no order; none where there is no such folder."""
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.name.endswith(suffix) and not is_foreign(path.name))


def leads_out(name: str | os.PathLike) -> bool:
    """Whether a path that a file of a dataset names leads out of the folder that it is relative to.

    Links inside that folder are not examined: the owner of the folder made them, not the author of the file.

    Example:
        >>> leads_out("a/../b.jpg"), leads_out("../b.jpg"), leads_out("/etc/passwd")
        (False, True, True)
    """
    normal = os.path.normpath(name)
    return os.path.isabs(normal) or normal.split(os.sep)[0] == os.pardir
