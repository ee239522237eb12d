"""Which videos there are, and by what a changed one is known again."""

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vod2.errors import UserError
from vod2.video.reader import IMAGE_SUFFIXES

VIDEO_SUFFIXES = tuple(
    ".3gp .asf .avi .flv .m2ts .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()
)
"""What is taken for a video in a folder; lists and patterns may name any file."""

LIST_SUFFIXES = (".txt", ".lst", ".list")


class Signature(NamedTuple):
    """Of a file or folder; another one means that the video has changed.

    Args:
        size: bytes; of a folder, those of its images.
        mtime_ns: nanoseconds of its last change; of a folder, the latest of its own and those of its images.
    """

    size: int
    mtime_ns: int


def find_videos(inputs: Sequence[str]) -> Iterator[str]:
    """Absolute paths of all videos, one after the other as they are found; the same may come twice.

    Args:
        inputs: each a folder whose tree is searched (a folder with images and without video files is one video), a
            video, a pattern with *, ? or [] (** for any folders), or a text file (.txt, .lst, .list) with a path on
            each line, relative to the folder of the list; empty lines and those that begin with # are left out.

    Raises:
        UserError: there is no such file or folder, nothing fits a pattern, or a list cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "a.mp4").touch()
        >>> [Path(path).name for path in find_videos([str(folder)])]
        ['a.mp4']
    """
    for one in inputs:
        if os.path.isdir(one):
            yield from _walk(os.path.abspath(one))
        elif one.lower().endswith(LIST_SUFFIXES):
            yield from _lines(Path(one))
        elif os.path.exists(one):
            yield os.path.abspath(one)
        elif glob.has_magic(one):
            yield from _matching(one)
        else:
            raise UserError(
                f"--input {one!r} does not exist: expected a folder, a video, a pattern such as 'day/*.mp4', or a list "
                f"({', '.join(LIST_SUFFIXES)})"
            )


def video_id(path: str) -> str:
    """What a video is called in the manifest and its result file: 20 hexadecimal digits that follow from its path.

    Of ten million videos two share one with a probability of 4e-11.

    Example:
        >>> video_id("/videos/a.mp4")
        '9ec49090b225b812cdef'
    """
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:20]


def signature_of(path: str) -> Signature:
    """By which a changed video is known; (0, 0) of one that is not there."""
    try:
        own = os.stat(path)
        if not os.path.isdir(path):
            return Signature(own.st_size, own.st_mtime_ns)
        with os.scandir(path) as entries:
            images = [entry.stat() for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES)]
    except FileNotFoundError:
        return Signature(0, 0)
    latest = max([own.st_mtime_ns, *(image.st_mtime_ns for image in images)])
    return Signature(sum(image.st_size for image in images), latest)


def _walk(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        videos = [name for name in sorted(files) if name.lower().endswith(VIDEO_SUFFIXES)]
        yield from (os.path.join(place, name) for name in videos)
        if not videos and any(name.lower().endswith(IMAGE_SUFFIXES) for name in files):
            yield place


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                name = line.strip()
                if name and not name.startswith("#"):
                    yield os.path.abspath(path.parent / name)
    except OSError as error:
        raise UserError(f"the list {str(path)!r} of --input cannot be read ({error.strerror})") from error


def _matching(pattern: str) -> Iterator[str]:
    found = False
    for path in glob.iglob(pattern, recursive=True):
        found = True
        yield os.path.abspath(path)
    if not found:
        raise UserError(f"--input {pattern!r}: nothing fits this pattern")
