"""Which detection finds which ground truth, and the average precision that follows: arrays in, arrays out.

Shape alphabet: n detections, m ground truths, e pairs of the two that may match, K classes, G groups.
Boxes are xyxy pixels; labels are in [0, K); an image is the integer that both sides call it by.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

# Pairs of detection and ground truth whose IoU is computed at once: bounds the memory (some 100 bytes a pair).
_PAIRS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Detections:
    """All detections of a dataset, in any order.

    Attributes:
        image: (n,) integer.
        boxes: (n, 4) xyxy.
        scores: (n,), higher is surer. Equal scores rank in the order given here.
        labels: (n,) integer in [0, K).
    """

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        _check_lengths(self)
        if not (np.isfinite(self.scores).all() and np.isfinite(self.boxes).all()):
            raise ValueError("Detections: boxes and scores must be finite, got NaN or infinity; has training diverged?")

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class GroundTruth:
    """All annotated objects of a dataset, in any order.

    Attributes:
        image: (m,) integer.
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


@dataclass(frozen=True)
class MatchingProtocol:
    """When a box counts as found.

    Attributes:
        pixel_offset: added to every width and height in the IoU (1 where corners are indices of inclusive pixels).
        threshold: width (m,), height (m,) of the ground truth, offset included -> the IoU (m,) from which it counts
            as found.
    """

    pixel_offset: float
    threshold: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _half(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    return np.full(width.shape, 0.5)


def _half_or_ten_pixels(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """An object under some 24 pixels may be missed by 5 pixels on each side: ILSVRC's allowance for annotators."""
    return np.minimum(0.5, width * height / ((width + 10) * (height + 10)))


# "imagenet" is the rule of ILSVRC's development kit; "fixed" is PASCAL's and COCO's IoU of one half.
PROTOCOLS: dict[str, MatchingProtocol] = {
    "imagenet": MatchingProtocol(pixel_offset=1.0, threshold=_half_or_ten_pixels),
    "fixed": MatchingProtocol(pixel_offset=0.0, threshold=_half),
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
    group, detection, truth = _eligible_pairs(detections, ground_truth, protocol)
    truth_taken = np.zeros(len(ground_truth), dtype=bool)
    # Pairs are sorted by group, then score, then IoU: the first pair of a group is what greedy matching does next, and
    # what remains after it is a smaller problem of the same kind. Rounds: the most ground truths in one group.
    while len(group):
        first = np.flatnonzero(np.diff(group, prepend=-1))
        matches[detection[first]] = truth[first]
        truth_taken[truth[first]] = True
        free = (matches[detection] < 0) & ~truth_taken[truth]
        group, detection, truth = group[free], detection[free], truth[free]
    return matches


def average_precision(
    detections: Detections,
    ground_truth: GroundTruth,
    matches: np.ndarray,
    num_classes: int,
    ignore: np.ndarray | None = None,
) -> np.ndarray:
    """The area under the precision envelope over all recalls ("all-point" AP), per class.

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
    positives = [np.bincount(ground_truth.labels[~ignored], minlength=num_classes) for ignored in groups]
    order = np.lexsort((-detections.scores, detections.labels))
    ends = np.searchsorted(detections.labels[order], np.arange(num_classes + 1))
    for label in range(num_classes):
        matched = matches[order[ends[label] : ends[label + 1]]]
        for row, ignored in enumerate(groups):
            if positives[row][label]:
                # Where nothing is matched the last row is read (there is one, since there are positives) and masked.
                dropped = (matched >= 0) & ignored[matched]
                result[row, label] = _area_under_envelope(matched[~dropped] >= 0, positives[row][label])
    return result.reshape(*ignore.shape[:-1], num_classes)


def _area_under_envelope(is_true: np.ndarray, positives: int) -> float:
    """AP from (n,) bool flags in descending order of score: a step of recall is worth the best precision ahead."""
    precision = np.cumsum(is_true) / np.arange(1, len(is_true) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[is_true].sum() / positives)


def _eligible_pairs(
    detections: Detections, ground_truth: GroundTruth, protocol: MatchingProtocol
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of one image and class where the detection reaches the ground truth's threshold.

    Returns:
        group (e,), detection row (e,), ground truth row (e,), all int64, sorted by group (an image and a class), then
        by descending score, then by descending IoU.
    """
    labels = max(detections.labels.max(initial=0), ground_truth.labels.max(initial=0)) + 1
    detection_group = detections.image.astype(np.int64) * labels + detections.labels
    truth_group = ground_truth.image.astype(np.int64) * labels + ground_truth.labels
    truth_order = np.argsort(truth_group, kind="stable")
    first = np.searchsorted(truth_group, detection_group, side="left", sorter=truth_order)
    count = np.searchsorted(truth_group, detection_group, side="right", sorter=truth_order) - first

    candidates = np.flatnonzero(count)
    candidates = candidates[np.lexsort((-detections.scores[candidates], detection_group[candidates]))]
    width, height = _sizes(ground_truth.boxes, protocol.pixel_offset)
    threshold = protocol.threshold(width, height)
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for start, stop in _chunks(count[candidates]):
        row = np.repeat(np.arange(start, stop), count[candidates[start:stop]])
        detection = candidates[row]
        nth = np.arange(len(row)) - np.searchsorted(row, row)  # the how manieth ground truth of this detection
        truth = truth_order[first[detection] + nth]
        iou = _paired_iou(detections.boxes[detection], ground_truth.boxes[truth], protocol.pixel_offset)
        reached = (iou >= threshold[truth]) & (iou > 0)
        found.append((row[reached], truth[reached], iou[reached]))
    row, truth, iou = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((-iou, row))
    detection = candidates[row[order]]
    return detection_group[detection], detection, truth[order]


def _chunks(count: np.ndarray) -> Iterator[tuple[int, int]]:
    """Split (n,) counts into ranges [start, stop) whose counts sum to about `_PAIRS_AT_ONCE`."""
    total = np.cumsum(count)
    start = 0
    while start < len(count):
        before = total[start] - count[start]
        stop = max(start + 1, int(np.searchsorted(total, before + _PAIRS_AT_ONCE, side="right")))
        yield start, stop
        start = stop


def _sizes(boxes: np.ndarray, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Widths and heights (n,) in float64, never negative."""
    size = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2] + offset, 0)
    return size[:, 0], size[:, 1]


def _paired_iou(first: np.ndarray, second: np.ndarray, offset: float) -> np.ndarray:
    """IoU (e,) in float64 of row i of `first` with row i of `second`, both (e, 4); 0 where both are empty."""
    common = np.concatenate([np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])], axis=1)
    intersection, first_area, second_area = (np.multiply(*_sizes(boxes, offset)) for boxes in (common, first, second))
    union = first_area + second_area - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _check_lengths(arrays: Detections | GroundTruth) -> None:
    length = len(arrays.image)
    for name, array in vars(arrays).items():
        expected = (length, 4) if name == "boxes" else (length,)
        if array.shape != expected:
            raise ValueError(f"{type(arrays).__name__}.{name} has the shape {array.shape}, expected {expected}")
