"""Precision-recall curves, and the file of them that an evaluation leaves beside its results.

Shape alphabet: G groups of objects, K classes, t true detections of one group and class, T of all of them.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vod2 import atomic
from vod2.bounded import read_npz
from vod2.errors import UserError

CURVES_FILE = "curves.npz"


class Curve(NamedTuple):
    """Precision against recall of one class, at its t true detections, the surest first.

    Precision only falls from a true detection to the next one, so these points are all that the area needs.

    Attributes:
        scores: (t,), descending.
        precision: (t,) float64 in (0, 1].
        positives: ground truths that could be found.

    Example:
        >>> curve = Curve(np.array([0.9, 0.5]), np.array([0.5, 0.75]), positives=4)
        >>> curve.recall.tolist(), curve.envelope.tolist(), curve.average_precision
        ([0.25, 0.5], [0.75, 0.75], 0.375)
    """

    scores: np.ndarray
    precision: np.ndarray
    positives: int

    @property
    def recall(self) -> np.ndarray:
        """(t,) float64 in (0, 1]."""
        return np.arange(1, len(self.precision) + 1) / max(self.positives, 1)

    @property
    def envelope(self) -> np.ndarray:
        """(t,) the best precision at this recall or a higher one."""
        return np.maximum.accumulate(self.precision[::-1])[::-1]

    @property
    def average_precision(self) -> float:
        """The area under the envelope over all recalls ("all-point" AP), NaN without positives."""
        return float(self.envelope.sum() / self.positives) if self.positives else float("nan")


class CurveTable(NamedTuple):
    """The curves of each group and class.

    Attributes:
        groups: G names; the first is "all".
        classes: K names.
        curves: G lists of K curves.
    """

    groups: list[str]
    classes: list[str]
    curves: list[list[Curve]]

    def average_precision(self) -> np.ndarray:
        """(G, K) float64 in [0, 1], NaN where a class has no ground truth in a group."""
        values = [curve.average_precision for curves in self.curves for curve in curves]
        return np.array(values).reshape(len(self.groups), len(self.classes))


def save_curves(path: str | os.PathLike, table: CurveTable) -> None:
    """Write `groups` (G,), `classes` (K,), `positives` (G, K) int64, `count` (G, K) int64 (the t of each curve), and of
    all curves one after the other `scores` and `precision` (T,) float32, as a compressed npz."""
    shape = len(table.groups), len(table.classes)
    flat = [curve for row in table.curves for curve in row]
    # Without any detection there would be nothing to concatenate.
    empty = np.empty(0, np.float32)
    with atomic.replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            groups=np.array(table.groups),
            classes=np.array(table.classes),
            positives=np.array([curve.positives for curve in flat], dtype=np.int64).reshape(shape),
            count=np.array([len(curve.scores) for curve in flat], dtype=np.int64).reshape(shape),
            scores=np.concatenate([empty, *(curve.scores for curve in flat)]).astype(np.float32),
            precision=np.concatenate([empty, *(curve.precision for curve in flat)]).astype(np.float32),
        )


def load_curves(path: str | os.PathLike) -> CurveTable:
    """Read what `save_curves` wrote.

    Raises:
        UserError: there is no such file, or it is another one.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: evaluate again, VIDEvaluator writes {CURVES_FILE} to its output folder"
        )
    try:
        arrays = read_npz(path)
        groups, classes = arrays["groups"].tolist(), arrays["classes"].tolist()
        positives, count = arrays["positives"], arrays["count"]
        if positives.shape != (len(groups), len(classes)) or count.shape != positives.shape:
            raise ValueError(f"{positives.shape} and {count.shape} for {len(groups)} groups, {len(classes)} classes")
        ends = np.cumsum(count)[:-1]
        scores, precision = np.split(arrays["scores"], ends), np.split(arrays["precision"], ends)
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged file
        raise UserError(f"{path} is not a file of curves ({error}): evaluate again to write it") from error
    flat = [Curve(*parts) for parts in zip(scores, precision, positives.ravel().tolist(), strict=True)]
    curves = []  # of each group, those of its classes
    for row in range(len(groups)):
        # The file has the curves one after the other, group by group.
        curves.append(flat[row * len(classes) : (row + 1) * len(classes)])
    return CurveTable(groups, classes, curves)


def mean_envelope(curves: Sequence[Curve], recall: np.ndarray) -> np.ndarray:
    """The mean over the classes with ground truth of the best precision at each recall (r,) or a higher one; 0 where
    a class is never recalled so far. NaN (r,) if no class has ground truth.

    Example:
        >>> curve = Curve(np.array([0.9, 0.5]), np.array([1.0, 0.5]), positives=2)
        >>> mean_envelope([curve], np.array([0.0, 0.5, 0.75]))
        array([1. , 1. , 0.5])
    """
    with_truth = [curve for curve in curves if curve.positives]
    if not with_truth:
        return np.full(len(recall), np.nan)
    envelopes = []
    for curve in with_truth:
        # The 0 is for recalls that the class does not reach.
        envelope = np.append(curve.envelope, 0.0)
        # k / positives and the same recall on another grid may differ in the last digit.
        envelopes.append(envelope[np.searchsorted(curve.recall, recall - 1e-9)])
    return np.mean(envelopes, axis=0)


def mean_average_precision(per_class: np.ndarray) -> float:
    """The mean of APs (K,) over the classes that have ground truth (are not NaN), NaN where none has.

    Example:
        >>> mean_average_precision(np.array([0.5, np.nan, 1.0]))
        0.75
    """
    numbers = per_class[~np.isnan(per_class)]
    return float(numbers.mean()) if len(numbers) else float("nan")
