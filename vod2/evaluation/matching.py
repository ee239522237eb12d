"""Which detection finds which ground truth, and the average precision that follows: arrays in, arrays out.

Shape alphabet: n detections, m ground truths, e pairs of the two that may match, K classes, G groups.
Boxes are xyxy pixels; labels are in [0, K); an image is the integer that both sides call it by.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vod2.evaluation.arrays import Detections, GroundTruth, take_rows
from vod2.evaluation.curves import Curve

# Pairs of detection and ground truth whose IoU is computed at once: bounds the memory (some 100 bytes a pair).
_PAIRS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class MatchingProtocol:
    """When a box counts as found, and what a detection that finds nothing counts.

    Attributes:
        pixel_offset: added to every width and height in the IoU (1 where corners are indices of inclusive pixels).
        threshold: width (m,), height (m,) of the ground truth, offset included -> the IoU (m,) from which it counts
            as found.
        weighs_false: a detection that finds nothing is not simply false; `_weights_near_truth` says what it counts.
        near_any_class: `weighs_false` looks at all objects of the image, not only at those of the detection's class.
        speeds_overlap: an object on the limit of two speed groups belongs to both (`vod2.evaluation.motion`).
    """

    pixel_offset: float
    threshold: Callable[[np.ndarray, np.ndarray], np.ndarray]
    weighs_false: bool = False
    near_any_class: bool = False
    speeds_overlap: bool = False


def _half(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    return np.full(width.shape, 0.5)


def _half_or_ten_pixels(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """An object under some 24 pixels may be missed by 5 pixels on each side: ILSVRC's allowance for annotators."""
    return np.minimum(0.5, width * height / ((width + 10) * (height + 10)))


# "imagenet" is the rule of ILSVRC's development kit; "fixed" is PASCAL's and COCO's IoU of one half. "fgfa" is what the
# public code of FGFA computes, by which SELSA, CSMN, HVR-Net and LSTS report slow, medium and fast; "mega" is that of
# the public PyTorch code of FGFA, RDN and MEGA, which adds the pixel twice.
PROTOCOLS: dict[str, MatchingProtocol] = {
    "imagenet": MatchingProtocol(pixel_offset=1.0, threshold=_half_or_ten_pixels),
    "fixed": MatchingProtocol(pixel_offset=0.0, threshold=_half),
    "fgfa": MatchingProtocol(
        pixel_offset=1.0,
        threshold=_half_or_ten_pixels,
        weighs_false=True,
        near_any_class=True,
        speeds_overlap=True,
    ),
    "mega": MatchingProtocol(pixel_offset=2.0, threshold=_half, weighs_false=True, speeds_overlap=True),
}


def get_protocol(name: str) -> MatchingProtocol:
    """The protocol called `name`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"Matching protocol {name!r} is unknown: expected one of {', '.join(map(repr, PROTOCOLS))}")
    return PROTOCOLS[name]


def match_detections(
    detections: Detections, ground_truth: GroundTruth, protocol: MatchingProtocol = PROTOCOLS["imagenet"]
) -> np.ndarray:
    """Match greedily: within an image and a class the detection of the highest score chooses first.

    A detection takes, of the ground truths that are still free and whose threshold it reaches, the one of the highest
    IoU (of equals, the first). Ignored ground truths are matched like the others, so that one matching serves every
    choice of what to ignore.

    Returns:
        (n,) int64: the row of the matched ground truth, -1 where there is none.
    """
    matches = np.full(len(detections), -1, dtype=np.int64)
    for class_detections, class_truth, rows, truth_rows in _by_class(detections, ground_truth):
        class_matches = _match_class(class_detections, class_truth, protocol)
        hit = class_matches >= 0
        matches[rows[hit]] = truth_rows[class_matches[hit]]
    return matches


def precision_recall(
    detections: Detections,
    ground_truth: GroundTruth,
    num_classes: int,
    protocol: MatchingProtocol = PROTOCOLS["imagenet"],
    ignore: np.ndarray | None = None,
    share: np.ndarray | None = None,
) -> list[list[Curve]]:
    """Match and rank all detections, one class after the other: beyond its arguments it holds arrays of one class.

    Args:
        num_classes: K.
        ignore: (G, m) bool: what to ignore, for G choices at about the price of one; by default
            `ground_truth.ignore` alone.
        share: (G,) what an unmatched detection counts as false where its image has no object to compare it with, under
            a protocol that weighs false ones; by default the share of the ground truth that is not ignored.

    Returns:
        G lists of K curves.
    """
    classes = rank_detections(detections, ground_truth, num_classes, protocol, ignore, share)
    curves = [
        _curves_of_class(ranked.scores, ranked.matches, ranked.ignore, ranked.share, ranked.weights)
        for ranked in classes
    ]
    return [list(group_curves) for group_curves in zip(*curves, strict=True)]


class FalseWeights(NamedTuple):
    """What unmatched detections count as false, where an object of the class is in their image: `rank` (u,) ascending
    rows, `weight` (G, u) in [0, 1]."""

    rank: np.ndarray
    weight: np.ndarray


class RankedClass(NamedTuple):
    """The n detections of one class by descending score, matched to its m ground truths.

    Attributes:
        scores, image: (n,) of the detections.
        matches: (n,) int64 row of the ground truth of this class, -1 where there is none.
        truth_image: (m,).
        ignore: (G, m) bool.
        share: (G,) what an unmatched detection counts as false that `weights` says nothing of.
        weights: None where every unmatched detection counts `share`.
    """

    scores: np.ndarray
    image: np.ndarray
    matches: np.ndarray
    truth_image: np.ndarray
    ignore: np.ndarray
    share: np.ndarray
    weights: FalseWeights | None


def rank_detections(
    detections: Detections,
    ground_truth: GroundTruth,
    num_classes: int,
    protocol: MatchingProtocol = PROTOCOLS["imagenet"],
    ignore: np.ndarray | None = None,
    share: np.ndarray | None = None,
) -> Iterator[RankedClass]:
    """Match and rank one class after the other, K in all; the arguments are those of `precision_recall`."""
    ignore = np.atleast_2d(ground_truth.ignore if ignore is None else np.asarray(ignore, dtype=bool))
    if not protocol.weighs_false or not len(ground_truth):
        # Without weighing, each false detection counts in full.
        share = np.ones(len(ignore))
    elif share is None:
        share = 1 - ignore.mean(axis=1)
    for class_detections, truth, _, truth_rows in _by_class(detections, ground_truth, num_classes):
        class_ignore, order = ignore[:, truth_rows], ranking(class_detections.scores)
        matches = _match_class(class_detections, truth, protocol)
        weights = None
        if protocol.weighs_false:
            near = (ground_truth, ignore) if protocol.near_any_class else (truth, class_ignore)
            weights = _weights_near_truth(class_detections, matches, order, *near, protocol.pixel_offset)
        ranked = take_rows(class_detections, order)
        yield RankedClass(ranked.scores, ranked.image, matches[order], truth.image, class_ignore, share, weights)


def average_precision(
    detections: Detections,
    ground_truth: GroundTruth,
    matches: np.ndarray,
    num_classes: int,
    ignore: np.ndarray | None = None,
) -> np.ndarray:
    """The area under the precision envelope of a given matching, per class; every detection without a match is false.

    Args:
        matches: (n,) from `match_detections`.
        num_classes: K.
        ignore: (m,) bool, or (G, m) to evaluate G choices at the price of one sort; by default `ground_truth.ignore`.

    Returns:
        (K,) or (G, K) float64 in [0, 1]; NaN for a class that has no ground truth left.
    """
    ignore = ground_truth.ignore if ignore is None else np.asarray(ignore, dtype=bool)
    groups = np.atleast_2d(ignore)
    result = np.full((len(groups), num_classes), np.nan)
    for label, rows in enumerate(rows_by_class(detections.labels, num_classes)):
        order = rows[ranking(detections.scores[rows])]
        class_ignore = groups | (ground_truth.labels != label)
        curves = _curves_of_class(detections.scores[order], matches[order], class_ignore, np.ones(len(groups)), None)
        result[:, label] = [curve.average_precision for curve in curves]
    return result.reshape(*ignore.shape[:-1], num_classes)


def _by_class(
    detections: Detections, ground_truth: GroundTruth, num_classes: int | None = None
) -> Iterator[tuple[Detections, GroundTruth, np.ndarray, np.ndarray]]:
    """Detections and ground truth of one class after the other, and the rows that they come from."""
    # Without a number, as many classes as either side has labels.
    if num_classes is None:
        num_classes = int(max(detections.labels.max(initial=-1), ground_truth.labels.max(initial=-1))) + 1
    if num_classes == 1:  # nothing to sort or copy
        yield detections, ground_truth, np.arange(len(detections)), np.arange(len(ground_truth))
        return
    sides = (rows_by_class(labels, num_classes) for labels in (detections.labels, ground_truth.labels))
    for rows, truth_rows in zip(*sides, strict=True):
        yield take_rows(detections, rows), take_rows(ground_truth, truth_rows), rows, truth_rows


def rows_by_class(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """The rows of each class, in their order."""
    narrow = labels.astype(np.int16) if num_classes < 2**15 else labels  # numpy sorts 16 bits much faster
    # A label beyond the classes sorts behind them all, into a last part that is cut off.
    counts = np.bincount(labels, minlength=num_classes)[:num_classes]
    return np.split(np.argsort(narrow, kind="stable"), np.cumsum(counts))[:num_classes]


def ranking(scores: np.ndarray) -> np.ndarray:
    """The rows (n,) by descending score; equal scores in the order given."""
    # Negated rather than reversed, which would also reverse the order of equal scores.
    return np.argsort(-scores, kind="stable")


def ranked_curve(scores: np.ndarray, matches: np.ndarray, ignored: np.ndarray) -> Curve:
    """The curve of one class from scores (n,) in descending order and their matches (n,), rows of ignored (m,)."""
    return _curves_of_class(scores, matches, ignored[None], np.ones(1), None)[0]


def _curves_of_class(
    scores: np.ndarray, matches: np.ndarray, ignore: np.ndarray, share: np.ndarray, weights: FalseWeights | None
) -> list[Curve]:
    """G curves from the scores (n,) of a class in descending order and their matches (n,), rows of ignore (G, m).

    share (G,) is what a detection counts that no weight is given for.
    """
    hits = np.flatnonzero(matches >= 0)
    truth = matches[hits]
    # Precision is only needed at the hits, so misses are counted there and never listed.
    misses = hits - np.arange(len(hits))  # unmatched detections before each hit
    if weights is None:
        false = np.broadcast_to(misses, (len(ignore), len(hits)))
    else:
        before = np.searchsorted(weights.rank, hits)
        total = np.cumsum(np.pad(weights.weight, ((0, 0), (1, 0))), axis=1)
        false = total[:, before] + share[:, None] * (misses - before)
    curves = []
    for ignored, false_before in zip(ignore, false, strict=True):
        kept = ~ignored[truth]
        true = np.arange(1, np.count_nonzero(kept) + 1)
        precision = true / (true + false_before[kept])
        curves.append(Curve(scores[hits[kept]], precision, int(np.count_nonzero(~ignored))))
    return curves


def _weights_near_truth(
    detections: Detections,
    matches: np.ndarray,
    order: np.ndarray,
    truth: GroundTruth,
    ignore: np.ndarray,
    pixel_offset: float,
) -> FalseWeights:
    """What the unmatched detections of one class count, where their image has objects to compare them with.

    With a higher IoU to an object that counts than to any ignored one it is false (1), with a lower one it is dropped
    (0); where both are equal, it counts the share of those objects of the image that is ignored. An image that has
    objects of one kind only has no equality: the other kind is worse than any. (In an image without such objects it
    counts the share of all ground truth, whatever class, that is not ignored.)

    Args:
        matches: (n,) of the detections.
        order: (n,) their rows by descending score.
        truth: m objects that they are compared with: those of their class, or all.
        ignore: (G, m).
    """
    pairs = ImagePairs(detections, truth)
    rank = np.flatnonzero(((pairs.count > 0) & (matches < 0))[order])
    parts = [np.empty((len(ignore), 0))]
    for detection, row in pairs.of(order[rank]):
        iou = paired_iou(detections.boxes[detection], truth.boxes[row], pixel_offset)
        starts = np.flatnonzero(np.diff(detection, prepend=-1))
        parts.append(np.stack([_weights_of_group(iou, ignored[row], starts) for ignored in ignore]))
    return FalseWeights(rank, np.concatenate(parts, axis=1))


def _weights_of_group(iou: np.ndarray, ignored: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(u,) weights from the pairs (e,) of u detections, which begin at starts (u,)."""
    # -1 where the image has no object of the kind: less than any IoU.
    best_counted = np.maximum.reduceat(np.where(ignored, -1.0, iou), starts)
    best_ignored = np.maximum.reduceat(np.where(ignored, iou, -1.0), starts)
    share = np.add.reduceat(ignored.astype(np.float64), starts) / np.diff(starts, append=len(iou))
    # Equality is no accident of rounding: a detection that touches nothing has an IoU of 0 with both kinds.
    return np.where(best_counted == best_ignored, share, best_counted > best_ignored)


def _match_class(detections: Detections, truth: GroundTruth, protocol: MatchingProtocol) -> np.ndarray:
    """`match_detections` of one class."""
    matches = np.full(len(detections), -1, dtype=np.int64)
    detection, row = _eligible_pairs(detections, truth, protocol)
    is_taken = np.zeros(len(truth), dtype=bool)
    # Pairs are sorted by image, then score, then IoU: the first pair of an image is what greedy matching does next, and
    # what remains after it is a smaller problem of the same kind. Rounds: the most ground truths in one image.
    while len(detection):
        first = np.flatnonzero(np.diff(detections.image[detection], prepend=-1))
        matches[detection[first]] = row[first]
        is_taken[row[first]] = True
        free = (matches[detection] < 0) & ~is_taken[row]
        detection, row = detection[free], row[free]
    return matches


class ImagePairs:
    """The pairs of a detection and a ground truth that are in the same image.

    Attributes:
        count: (n,) ground truths in the image of each detection.
    """

    def __init__(self, detections: Detections, truth: GroundTruth) -> None:
        self._order = np.argsort(truth.image, kind="stable")
        images, first, count = np.unique(truth.image[self._order], return_index=True, return_counts=True)
        # One more entry, which no image equals, for the detections beyond the last one.
        images, first, count = (np.append(array, extra) for array, extra in ((images, -1), (first, 0), (count, 0)))
        position = np.searchsorted(images[:-1], detections.image)
        # 32 bits: these are the largest arrays of an evaluation.
        self.count = np.where(images[position] == detections.image, count[position], 0).astype(np.int32)
        self._first = first.astype(np.int32)[position]

    def of(self, detections: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(detection row, ground truth row), both (e,), of the given detection rows in their order, a piece at a time;
        the pairs of one detection follow one another in one piece."""
        for start, stop in _chunks(self.count[detections]):
            count = self.count[detections[start:stop]]
            detection = np.repeat(detections[start:stop], count)
            nth = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
            yield detection, self._order[self._first[detection] + nth]


def _eligible_pairs(
    detections: Detections, truth: GroundTruth, protocol: MatchingProtocol
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of one image where the detection reaches the ground truth's threshold, in one class.

    Returns:
        detection row (e,), ground truth row (e,), both int64, sorted by image, then by descending score, then by
        descending IoU.
    """
    pairs = ImagePairs(detections, truth)
    candidates = np.flatnonzero(pairs.count)
    threshold = iou_thresholds(truth.boxes, protocol)
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for detection, row in pairs.of(candidates):
        iou = paired_iou(detections.boxes[detection], truth.boxes[row], protocol.pixel_offset)
        # An object without area may have the threshold 0, which a box that does not touch it would reach.
        reaches = (iou >= threshold[row]) & (iou > 0)
        parts.append((detection[reaches], row[reaches], iou[reaches]))
    detection, row, iou = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    # Of equal scores the earlier detection comes first, with all of its pairs.
    order = np.lexsort((-iou, detection, -detections.scores[detection], detections.image[detection]))
    return detection[order], row[order]


def _chunks(count: np.ndarray) -> Iterator[tuple[int, int]]:
    """Split (n,) counts into ranges [start, stop) whose counts sum to about `_PAIRS_AT_ONCE`."""
    total = np.cumsum(count)
    start = 0
    while start < len(count):
        before = total[start] - count[start]
        # At least one detection, however many pairs it has.
        stop = max(start + 1, int(np.searchsorted(total, before + _PAIRS_AT_ONCE, side="right")))
        yield start, stop
        start = stop


def _sizes(boxes: np.ndarray, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Widths and heights (n,) in float64, never negative."""
    # In double precision, as ILSVRC's kit (MATLAB) computes: a detection at the threshold falls on the same side.
    size = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2] + offset, 0)
    return size[:, 0], size[:, 1]


def iou_thresholds(boxes: np.ndarray, protocol: MatchingProtocol) -> np.ndarray:
    """The IoU (m,) from which each ground truth box (m, 4) counts as found."""
    return protocol.threshold(*_sizes(boxes, protocol.pixel_offset))


def paired_iou(first: np.ndarray, second: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """IoU (e,) in float64 of row i of `first` with row i of `second`, both (e, 4); 0 where both are empty.

    `offset` is added to every width and height.
    """
    common = np.concatenate([np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])], axis=1)
    intersection, first_area, second_area = (np.multiply(*_sizes(boxes, offset)) for boxes in (common, first, second))
    # Two boxes without area have no union to divide by.
    union = first_area + second_area - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
