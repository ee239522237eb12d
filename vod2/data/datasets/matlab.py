"""Boxes that were drawn with MATLAB's Video Labeler: `groundTruth` objects in .mat files, without MATLAB.

A .mat file of version 5 keeps the properties of objects in a part of its own, which SciPy hands out as the bytes of
`__function_workspace__`: the head of another .mat file, and one nameless matrix in it. That is a struct whose field
MCOS holds a cell array with the properties of all objects of the file. Of a groundTruth one cell is a plain struct:

    DataSource.Source       path of the video
    LabelData               struct array, one element for each frame; fields Time and the names of the labels
    LabelData(i).DRONE      (n, 4) [x, y, width, height], or a struct array with such a Position; empty for no box
"""

import faulthandler
import io
import math
import multiprocessing
import os
import zlib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vod2.bounded import LimitError, require_unpacked
from vod2.errors import UserError

_FILE_HEAD = 128  # bytes: text (116), offset (8), version, byte order
_INT32, _MATRIX, _COMPRESSED = 5, 14, 15  # kinds of elements
_WITHOUT_SIDES = (17,)  # an opaque object has none
_MATRIX_HEAD = 256  # bytes of a matrix that its sides are among
_HEAD = 8  # bytes of the workspace: version, byte order, padding; a file has 116 of text and 8 of offset before them
# Of the matrix, behind its tag (8), flags (16) and size (16): an empty name, and in its place one of a letter, which
# SciPy needs to hand the matrix out.
_NAME = slice(_HEAD + 40, _HEAD + 48)
_NO_NAME, _A_NAME = b"\x01\0\0\0\0\0\0\0", b"\x01\0\x01\0w\0\0\0"
_REMEDY = "expected a groundTruth of MATLAB's Video Labeler (R2019b), saved as version 7 or older"


class VideoLabels(NamedTuple):
    """The boxes of a video, as they were drawn.

    Attributes:
        source: path of the video on the computer of those who drew them.
        frames: for each frame {label: (n, 4) float64 [x, y, width, height]} of the labels that it has; MATLAB's pixels,
            the first of which is 1.
    """

    source: str
    frames: list[dict[str, np.ndarray]]


def read_video_labels(path: str | os.PathLike) -> VideoLabels:
    """Read the labels of one video from a .mat file, in a separate process: SciPy crashes on some damaged files.

    In this process where no other can be started: without fork, and in a worker of a loader.

    Raises:
        UserError: SciPy is not installed; the file is missing, is no such file, or has boxes of another shape.
    """
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    if not can_fork or multiprocessing.current_process().daemon:
        return parse_video_labels(path)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    reader = context.Process(target=_send_labels, args=(path, sender), daemon=True)
    reader.start()
    sender.close()  # so that the end of the reader is the end of the pipe
    try:
        result = receiver.recv()
    except EOFError as error:
        raise UserError(f"{path}: SciPy crashes on it, so it is damaged: copy it again, {_REMEDY}") from error
    finally:
        receiver.close()
        reader.join()
    if isinstance(result, Exception):
        raise result
    return result


def _send_labels(path: str | os.PathLike, sender: Connection) -> None:
    faulthandler.disable()  # the parent reports a crash in one sentence
    try:
        sender.send(parse_video_labels(path))
    except Exception as error:
        sender.send(error)


def parse_video_labels(path: str | os.PathLike) -> VideoLabels:
    """`read_video_labels`, in this process."""
    try:
        return _labels(_object_properties(path), path)
    # These name the file and the remedy already.
    except UserError:
        raise
    except Exception as error:  # SciPy raises whatever it likes on damaged files
        raise UserError(f"{path}: cannot be read as a .mat file ({error!r:.80}), {_REMEDY}") from error


def _labels(cells: np.ndarray, path: str | os.PathLike) -> VideoLabels:
    label_sets = [cell for cell in cells if {"LabelData", "DataSource"} <= set(_fields(cell)) and cell.size == 1]
    if len(label_sets) != 1:
        raise UserError(f"{path}: has {len(label_sets)} sets of labels, {_REMEDY}")
    properties = label_sets[0].reshape(-1)[0]
    elements, source = properties["LabelData"], _single(properties["DataSource"])
    if "Time" not in _fields(elements):
        raise UserError(f"{path}: its LabelData has the fields {_fields(elements)}, {_REMEDY}")
    names = [name for name in elements.dtype.names if name != "Time"]
    frames = []
    for index, element in enumerate(elements.reshape(-1)):
        boxes = {name: _boxes(element[name], f"{path}: frame {index}, {name}") for name in names}
        # A label that is not in a frame is an empty array there.
        frames.append({name: boxes[name] for name in names if len(boxes[name])})
    return VideoLabels(str(_single(_single(source["Source"]))), frames)


def _object_properties(path: str | os.PathLike) -> np.ndarray:
    """The cells with the properties of the objects in a .mat file."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(f"{path}: reading MATLAB's labels needs SciPy: pip install scipy (or vod2[matlab])") from error
    try:
        require_moderate(Path(path).read_bytes())
        workspace = bytearray(loadmat(path)["__function_workspace__"].tobytes())
    except OSError as error:
        raise UserError(f"{path}: the labels cannot be read ({error}): complete the clone") from error
    except KeyError as error:
        raise UserError(f"{path}: holds no object ({error} is missing), {_REMEDY}") from error
    if workspace[_NAME] != _NO_NAME:
        raise ValueError("its objects begin in an unknown way")
    workspace[_NAME] = _A_NAME
    # SciPy reads the workspace as a file of its own once it has the text and the offset that a file begins with.
    file = io.BytesIO(b" " * 116 + bytes(8) + workspace[:4] + workspace[_HEAD:])
    require_moderate(file.getvalue())
    return loadmat(file)["w"]["MCOS"][0, 0][0]["arr"].reshape(-1)


def require_moderate(content: bytes) -> None:
    """Raises LimitError if a .mat file of version 5 unpacks to too much, or states a matrix that it has no bytes for.

    Only the variables themselves are looked at, not what they contain: SciPy stops where the bytes of those end.
    """
    order: Literal["little", "big"] = "little" if content[126:128] == b"IM" else "big"
    start, unpacked = _FILE_HEAD, 0
    while start + 8 <= len(content):
        kind = int.from_bytes(content[start : start + 4], order)
        size = int.from_bytes(content[start + 4 : start + 8], order)
        element = content[start + 8 : start + 8 + size]
        if kind == _COMPRESSED:
            head, length = _unpack_head(element, len(content), unpacked)
            unpacked += length
            _require_elements(head[8:], length, order)
        elif kind == _MATRIX:
            _require_elements(element[:_MATRIX_HEAD], size, order)
        else:
            return  # SciPy refuses the file here
        start += 8 + size


def _unpack_head(element: bytes, packed: int, before: int) -> tuple[bytes, int]:
    """The first bytes of a packed element, and how many there are; `before` of those that precede it."""
    unpacker, head, length = zlib.decompressobj(), b"", 0
    rest = element
    while rest and not unpacker.eof:
        part = unpacker.decompress(rest, 2**20)
        rest = unpacker.unconsumed_tail
        length += len(part)
        head = head if len(head) >= _MATRIX_HEAD + 8 else (head + part)[: _MATRIX_HEAD + 8]
        require_unpacked(before + length, packed)
    return head, length


def _require_elements(head: bytes, size: int, order: Literal["little", "big"]) -> None:
    """A matrix of `size` bytes has a byte or more for each of its elements; `head` is flags (16), tag (8) and sides."""
    if len(head) < 24 or int.from_bytes(head[16:20], order) != _INT32 or head[8] in _WITHOUT_SIDES:
        return
    count = int.from_bytes(head[20:24], order) // 4
    sides = [int.from_bytes(head[24 + 4 * k : 28 + 4 * k], order, signed=True) for k in range(min(count, 32))]
    if math.prod(sides) > size or min(sides, default=0) < 0:
        raise LimitError(f"a matrix states the sides {sides}, the limit is an element for each of its {size} bytes")


def _fields(value: Any) -> tuple[str, ...]:
    return getattr(getattr(value, "dtype", None), "names", None) or ()


def _single(value: np.ndarray) -> Any:
    # MATLAB's empty text is an array without elements.
    return value.reshape(-1)[0] if value.size else ""


def _boxes(value: np.ndarray, where: str) -> np.ndarray:
    """(n, 4) float64 of one label in one frame."""
    if "Position" in _fields(value):
        parts = [_boxes(part, where) for part in value["Position"].reshape(-1)]
        return np.concatenate(parts) if parts else np.zeros((0, 4))
    if not value.size:
        return np.zeros((0, 4))
    if value.ndim != 2 or value.shape[1] != 4 or value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise UserError(f"{where}: {value.dtype} of the shape {value.shape}, expected finite numbers (n, 4)")
    return value.astype(np.float64)
