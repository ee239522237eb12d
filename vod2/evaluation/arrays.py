"""The arrays that everything here works on: detections and ground truth of a whole dataset.

Shape alphabet: n detections, m ground truths, K classes.
Boxes are xyxy pixels; labels are in [0, K); an image is the integer that both sides call it by.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np


@dataclass(frozen=True)
class Detections:
    """All detections of a dataset, in any order.

    Attributes:
        image: (n,) integer, not negative.
        boxes: (n, 4) xyxy.
        scores: (n,), higher is surer. Equal scores rank in the order given here.
        labels: (n,) integer in [0, K).
        track_ids: (n,) integer: detections of one number in one video are one object, -1 where none is known. None
            where the detections were not linked.
    """

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    track_ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_lengths(self)
        # NaN would rank anywhere and match nothing, and the metrics would be wrong without a word.
        if not (np.isfinite(self.scores).all() and np.isfinite(self.boxes).all()):
            raise ValueError("Detections: boxes and scores must be finite, got NaN or infinity; has training diverged?")

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class GroundTruth:
    """All annotated objects of a dataset, in any order.

    Attributes:
        image: (m,) integer, not negative.
        boxes: (m, 4) xyxy.
        labels: (m,) integer in [0, K).
        ignore: (m,) bool; a detection matched to an ignored object is neither right nor wrong.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray

    def __post_init__(self) -> None:
        _check_lengths(self)

    def __len__(self) -> int:
        return len(self.image)


_Arrays = TypeVar("_Arrays", Detections, GroundTruth)


def take_rows(arrays: _Arrays, rows: np.ndarray) -> _Arrays:
    """Some of the detections or ground truths.

    Args:
        rows: bool (n,) or integer (k,), an index of the arrays.

    Example:
        >>> detections = Detections(np.arange(2), np.zeros((2, 4)), np.array([0.9, 0.8]), np.array([5, 6]))
        >>> take_rows(detections, detections.scores > 0.85).labels
        array([5])
    """
    return type(arrays)(**{name: values[rows] for name, values in vars(arrays).items() if values is not None})


def pool_classes(arrays: _Arrays) -> _Arrays:
    """The same with all labels 0: what is found at all, whatever it is called."""
    return replace(arrays, labels=np.zeros_like(arrays.labels))


def _check_lengths(arrays: Detections | GroundTruth) -> None:
    length = len(arrays.image)
    for name, array in vars(arrays).items():
        if array is None:
            continue
        expected = (length, 4) if name == "boxes" else (length,)
        if array.shape != expected:
            raise ValueError(f"{type(arrays).__name__}.{name} has the shape {array.shape}, expected {expected}")
