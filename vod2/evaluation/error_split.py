"""What AP is lost to: the kinds of error of "TIDE: A General Toolbox for Identifying Object Detection Errors" (Bolya et
al., ECCV 2020, section 2), and what each of them costs.

Shape alphabet: n detections, m ground truths, e pairs of the two, u detections of a piece, K classes.
"""

from typing import NamedTuple

import numpy as np

from vod2.evaluation.arrays import Detections, GroundTruth, take_rows
from vod2.evaluation.curves import mean_average_precision
from vod2.evaluation.matching import (
    PROTOCOLS,
    ImagePairs,
    MatchingProtocol,
    iou_thresholds,
    match_detections,
    paired_iou,
    ranked_curve,
    ranking,
    rows_by_class,
)

ERROR_TYPES = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(ERROR_TYPES))

_DETECTIONS_AT_ONCE = 1 << 20  # bounds the memory that kinds are found in
_BACKGROUND_IOU = 0.1  # TIDE's t_b: with a lower IoU a detection has nothing to do with an object


class Errors(NamedTuple):
    """The error of each detection, and the objects that no detection can be blamed for.

    Attributes:
        kind: (n,) int8, an index of `ERROR_TYPES` (never `MISSED`), -1 where the detection is no error.
        target: (n,) int64: the ground truth that a `CLASSIFICATION` or `LOCALISATION` error is about, else -1.
        missed: (m,) bool: neither found nor such a target; ignored ones never are.
    """

    kind: np.ndarray
    target: np.ndarray
    missed: np.ndarray


class ErrorSplit(NamedTuple):
    """By the name of the error, in the order of `ERROR_TYPES`.

    Attributes:
        gain: dAP in [0, 1]: what the mean AP gains where an oracle fixes all errors of this kind, and no other.
        count: errors.
    """

    gain: dict[str, float]
    count: dict[str, int]  # type: ignore[assignment]  # hides tuple.count, which nobody calls


def split_errors(
    detections: Detections,
    truth: GroundTruth,
    num_classes: int,
    protocol: MatchingProtocol = PROTOCOLS["imagenet"],
) -> ErrorSplit:
    """Count the errors of each kind and what they cost in AP (the mean over classes that have ground truth).

    Oracles, as in the paper: classification gives the detection the label, localisation the box of its target; if the
    target is found already, or by a surer detection of the same kind of error, the detection is dropped instead.
    Both, duplicate and background drop the detection. Missed leaves the missed ground truth out of the recall; a class
    that has none other left then has an AP of 1 (in the paper's code it has 0, as if to find nothing had been right).

    False detections count fully in this AP also under a protocol that weighs them. Gains are NaN without ground truth.

    Example:
        >>> box = np.array([[0.0, 0, 100, 100]])
        >>> truth = GroundTruth(np.array([0]), box, np.array([0]), np.array([False]))
        >>> detections = Detections(np.array([0]), box, np.array([0.9]), np.array([1]))  # right box, wrong class
        >>> split_errors(detections, truth, num_classes=2).gain["classification"]
        1.0
    """
    matches = match_detections(detections, truth, protocol)
    errors = classify_errors(detections, truth, matches, protocol)
    count = np.bincount(errors.kind[errors.kind >= 0], minlength=len(ERROR_TYPES))
    # No detection has this kind: it counts objects.
    count[MISSED] = np.count_nonzero(errors.missed)
    right = {}  # of each kind, the detections that its oracle makes right; it drops the others
    for kind in (CLASSIFICATION, LOCALISATION):
        rows = np.flatnonzero(errors.kind == kind)
        right[kind] = _surest_of_each_target(rows, detections.scores, errors.target, matches)
    table = np.full((1 + len(ERROR_TYPES), num_classes), np.nan)
    for label, rows in enumerate(rows_by_class(detections.labels, num_classes)):
        rows = rows[ranking(detections.scores[rows])]
        table[:, label] = _oracle_precisions(rows, label, detections, truth, matches, errors, right)
    before, *after = [mean_average_precision(row) for row in table]  # of the oracles, in the order of ERROR_TYPES
    gain = [fixed - before for fixed in after]
    return ErrorSplit(
        gain=dict(zip(ERROR_TYPES, gain, strict=True)), count=dict(zip(ERROR_TYPES, count.tolist(), strict=True))
    )


def classify_errors(
    detections: Detections,
    truth: GroundTruth,
    matches: np.ndarray,
    protocol: MatchingProtocol = PROTOCOLS["imagenet"],
) -> Errors:
    """Say of each detection without a match why it has none.

    IoU and the threshold from which an object is reached are the protocol's; ignored objects are left out. The first of
    these that is true:

    - localisation: reaches no object of its class, and has IoU >= .1 with the nearest one of its class;
    - classification: reaches the nearest object of another class;
    - duplicate: reaches an object of its class, which a surer detection has found;
    - background: IoU < .1 with every object;
    - both: anything else (IoU >= .1 with an object of another class, without reaching it).

    Args:
        matches: (n,) from `match_detections`.
    """
    counted = np.flatnonzero(~truth.ignore)
    objects = take_rows(truth, counted)
    unmatched = np.flatnonzero(matches < 0)
    kind = np.full(len(detections), -1, dtype=np.int8)
    target = np.full(len(detections), -1, dtype=np.int64)
    for start in range(0, len(unmatched), _DETECTIONS_AT_ONCE):
        rows = unmatched[start : start + _DETECTIONS_AT_ONCE]
        kind[rows], nearest = _classify(take_rows(detections, rows), objects, protocol)
        target[rows] = np.where(nearest >= 0, counted[nearest], -1) if len(counted) else -1
    explained = np.zeros(len(truth), dtype=bool)
    explained[matches[matches >= 0]] = True
    explained[target[target >= 0]] = True
    return Errors(kind, target, ~explained & ~truth.ignore)


def _classify(unmatched: Detections, objects: GroundTruth, protocol: MatchingProtocol) -> tuple[np.ndarray, np.ndarray]:
    """Kind (n,) and target (n,), a row of `objects` or -1, of detections without a match."""
    pairs, threshold = ImagePairs(unmatched, objects), iou_thresholds(objects.boxes, protocol)
    kind, target = np.full(len(unmatched), BACKGROUND, dtype=np.int8), np.full(len(unmatched), -1, dtype=np.int64)
    for detection, row in pairs.of(np.flatnonzero(pairs.count)):
        iou = paired_iou(unmatched.boxes[detection], objects.boxes[row], protocol.pixel_offset)
        is_same = unmatched.labels[detection] == objects.labels[row]
        starts = np.flatnonzero(np.diff(detection, prepend=-1))
        kind[detection[starts]], nearest = _kinds_of_piece(iou, is_same, threshold[row], starts)
        target[detection[starts]] = np.where(nearest >= 0, row[nearest], -1)
    return kind, target


def _kinds_of_piece(
    iou: np.ndarray, is_same: np.ndarray, threshold: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Kind (u,) and the pair (u,) with the target, -1 for none, from pairs (e,) of which detections begin at starts."""
    reaches = (iou >= threshold) & (iou > 0)
    # -1 is below every IoU, so the pairs of the other kind are never the nearest.
    same_iou, same_pair = _nearest(np.where(is_same, iou, -1.0), starts)
    other_iou, other_pair = _nearest(np.where(is_same, -1.0, iou), starts)
    reaches_own_class = np.logical_or.reduceat(reaches & is_same, starts)
    # The order is that of `classify_errors`: np.select takes the first condition that holds.
    conditions = {
        LOCALISATION: (same_iou >= _BACKGROUND_IOU) & ~reaches_own_class,
        CLASSIFICATION: (other_iou >= 0) & reaches[other_pair],
        DUPLICATE: reaches_own_class,
        BACKGROUND: np.maximum(same_iou, other_iou) < _BACKGROUND_IOU,
    }
    kind = np.select(list(conditions.values()), list(conditions), default=BOTH)
    target = np.select([kind == LOCALISATION, kind == CLASSIFICATION], [same_pair, other_pair], default=-1)
    return kind, target


def _nearest(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest value (u,) of each piece of values (e,), and the first place (u,) where it stands."""
    best = np.maximum.reduceat(values, starts)
    is_best = values == np.repeat(best, np.diff(starts, append=len(values)))
    return best, np.minimum.reduceat(np.where(is_best, np.arange(len(values)), len(values)), starts)


def _oracle_precisions(
    rows: np.ndarray,
    label: int,
    detections: Detections,
    truth: GroundTruth,
    matches: np.ndarray,
    errors: Errors,
    right: dict[int, np.ndarray],
) -> list[float]:
    """AP of one class, as it is and after the oracle of each kind of error.

    Args:
        rows: the detections of the class by descending score.
        right: of the kinds that an oracle turns into true detections, those that it does not drop, of all classes.
    """
    # All classes share the rows of the truth, so the objects of the others are ignored.
    ignored = truth.ignore | (truth.labels != label)
    if ignored.all():
        return [np.nan] * (1 + len(ERROR_TYPES))

    def average_precision(kept: np.ndarray, matches: np.ndarray, ignored: np.ndarray = ignored) -> float:
        return ranked_curve(detections.scores[kept], matches, ignored).average_precision

    kind, class_matches = errors.kind[rows], matches[rows]
    result = [average_precision(rows, class_matches)]
    for error in range(len(ERROR_TYPES)):
        kept = kind != error
        if error == MISSED:
            ignored_after = ignored | errors.missed
            result.append(1.0 if ignored_after.all() else average_precision(rows, class_matches, ignored_after))
        elif error in right:
            # The oracle of classification brings detections of other classes to this one.
            joined = right[error][truth.labels[errors.target[right[error]]] == label]  # also from other classes
            candidates = np.concatenate([rows[kept], joined])
            # Of equal scores the earlier detection first, as `ranking` has it.
            order = np.lexsort((candidates, -detections.scores[candidates]))
            targets = np.concatenate([class_matches[kept], errors.target[joined]])
            result.append(average_precision(candidates[order], targets[order]))
        else:
            result.append(average_precision(rows[kept], class_matches[kept]))
    return result


def _surest_of_each_target(rows: np.ndarray, scores: np.ndarray, target: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Of the detections `rows`, the surest of each target that no detection has found; of equals, the first."""
    rows = rows[~np.isin(target[rows], matches[matches >= 0])]
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    return rows[np.unique(target[rows], return_index=True)[1]]
