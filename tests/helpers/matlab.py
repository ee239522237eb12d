"""MATLAB's groundTruth files, written as the Video Labeler does; needs SciPy."""

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_INT8, _UINT8, _INT32, _UINT32, _MATRIX = 1, 2, 5, 6, 14
_STRUCT, _UINT8_ARRAY, _OPAQUE = 2, 9, 17  # classes of arrays


def write_labels(
    path: str | Path,
    frames: Sequence[Mapping[str, Sequence[Sequence[float]]]],
    labels: Sequence[str] = ("AIRPLANE", "BIRD", "DRONE", "HELICOPTER"),
    nested: bool = False,
) -> None:
    """Write a .mat file.

    Args:
        path: of the file.
        frames: for each frame {label: boxes [x, y, width, height]} in MATLAB's pixels.
        labels: of the file.
        nested: boxes as structs with Position and LabelUIDs, as some files have them.
    """
    rows = np.zeros((len(frames), 1), dtype=[("Time", "O"), *((label, "O") for label in labels)])
    for row, frame in zip(rows[:, 0], frames, strict=True):
        row["Time"] = np.zeros((6, 1), np.uint32)  # points to another object, which nobody reads
        for label in labels:
            boxes = np.array(frame.get(label, np.zeros((0, 0))), np.float64)
            row[label] = _nested(boxes) if nested and boxes.size else boxes
    truth = {"DataSource": {"Source": "C:\\Data\\clip.mp4"}, "LabelDefinitions": {}, "LabelData": rows}
    cells = np.empty((3, 1), object)
    cells[:, 0] = [np.arange(8, dtype=np.uint8), np.array([[33.3]]), truth]
    objects = _opaque(b"", b"FileWrapper__", _saved(cells))
    names = _element(_INT32, struct.pack("<i", 5)) + _element(_INT8, b"MCOS\0")
    inner = _element(_MATRIX, _head(_STRUCT) + names + objects)
    workspace = np.frombuffer(b"\x00\x01IM\0\0\0\0" + inner, np.uint8)
    variable = _opaque(b"gTruth", b"groundTruth", _saved(np.zeros((6, 1), np.uint32)))
    trailing = _head(_UINT8_ARRAY, len(workspace)) + _element(_UINT8, workspace.tobytes())
    offset = struct.pack("<Q", 128 + len(variable))
    Path(path).write_bytes(b" " * 116 + offset + b"\x00\x01IM" + variable + _element(_MATRIX, trailing))


def _nested(boxes: np.ndarray) -> np.ndarray:
    inner = np.zeros((len(boxes), 1), dtype=[("Position", "O"), ("LabelUIDs", "O")])
    for row, box in zip(inner[:, 0], boxes, strict=True):
        row["Position"], row["LabelUIDs"] = box[None], "an id"
    return inner


def _element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def _head(kind: int, length: int = 1) -> bytes:
    """Flags, size and empty name of a matrix (1, length)."""
    flags = _element(_UINT32, struct.pack("<II", kind, 0))
    return flags + _element(_INT32, struct.pack("<ii", 1, length)) + _element(_INT8, b"")


def _opaque(name: bytes, type_name: bytes, content: bytes) -> bytes:
    texts = b"".join(_element(_INT8, text) for text in (name, b"MCOS", type_name))
    return _element(_MATRIX, _element(_UINT32, struct.pack("<II", _OPAQUE, 0)) + texts + content)


def _saved(value: np.ndarray) -> bytes:
    """A plain value as an element, by SciPy."""
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, {"x": value})
    return file.getvalue()[128:]
