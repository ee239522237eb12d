"""Which class is taken for which, of detections that are sure enough to be shown.

Shape alphabet: n detections, m ground truths, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vod2.evaluation.arrays import Detections, GroundTruth, pool_classes, take_rows
from vod2.evaluation.matching import PROTOCOLS, MatchingProtocol, match_detections
from vod2.evaluation.stability import SCORE_THRESHOLD


def confusion_matrix(
    detections: Detections,
    truth: GroundTruth,
    num_classes: int,
    protocol: MatchingProtocol = PROTOCOLS["imagenet"],
    score_threshold: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """Count what the objects of each class are taken for.

    Detections below `score_threshold` do not count. The others are matched as for AP, within their class; then those
    that are left to the objects that are left, of whatever class, again by descending score. A detection that is
    matched to an ignored object counts nowhere.

    Returns:
        (K + 1, K + 1) int64: row k are the objects of class k, column k the detections of it; the last row are
        detections without an object, the last column objects without a detection. The last entry is 0.

    Example:
        >>> box = np.array([[0.0, 0, 100, 100]])
        >>> truth = GroundTruth(np.array([0]), box, np.array([0]), np.array([False]))
        >>> detections = Detections(np.array([0]), box, np.array([0.9]), np.array([1]))  # right box, wrong class
        >>> confusion_matrix(detections, truth, num_classes=2).tolist()
        [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    """
    sure = take_rows(detections, detections.scores >= score_threshold)
    matches = match_detections(sure, truth, protocol)
    rows, free = np.flatnonzero(matches < 0), np.setdiff1d(np.arange(len(truth)), matches)
    others = match_detections(pool_classes(take_rows(sure, rows)), pool_classes(take_rows(truth, free)), protocol)
    is_other = others >= 0
    matches[rows[is_other]] = free[others[is_other]]

    is_matched = matches >= 0
    kept = np.ones(len(sure), dtype=bool)
    kept[is_matched] = ~truth.ignore[matches[is_matched]]
    missed = ~truth.ignore
    missed[matches[is_matched]] = False
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    actual = np.full(len(sure), num_classes)
    actual[is_matched] = truth.labels[matches[is_matched]]
    np.add.at(counts, (actual[kept], sure.labels[kept]), 1)
    np.add.at(counts, (truth.labels[missed], num_classes), 1)
    return counts


def describe_confusion(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """`confusion_matrix` as results.json has it: `score_threshold`, `classes` and `counts`, the rows of the matrix."""
    return {"score_threshold": SCORE_THRESHOLD, "classes": list(class_names), "counts": counts.tolist()}
