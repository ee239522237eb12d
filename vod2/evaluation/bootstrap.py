"""Average precision of resampled datasets, from sums that are made once.

A resample of a dataset has each of its videos a number of times: its weight. Nothing of the matching depends on the
weights, and the ranking only in that a detection of a video that comes twice stands twice in it. AP is then a weighted
sum over the true detections, in which false ones only come as counts between one true detection and the next.

Shape alphabet: B resamples, V videos, t true detections of one class and group, f entries of false ones, S runs.
"""

from typing import NamedTuple

import numpy as np

from vod2.evaluation.matching import RankedClass

_CELLS_AT_ONCE = 1 << 22  # of (B, t) and (t, V) arrays in float64, of which a few are held


class Tally(NamedTuple):
    """The detections of one class in one group, by descending score, as far as AP needs them.

    Attributes:
        positives: (V,) objects that count.
        true_video: (t,) video of each true detection.
        false_step: (f,) ascending: the true detection before which these false ones stand. Those after the last true
            one do not matter.
        false_video: (f,) their video.
        false_weight: (f,) how much they count together, by fixed weights.
        shared_weight: (f,) what is counted in shares of the ground truth instead ("fgfa", "mega"), or None.
        counted, annotated: (V,) objects of all classes that count, and all; their ratio is that share. Of a dataset
            that `counts_empty_frames`, with its frames without objects.
    """

    positives: np.ndarray
    true_video: np.ndarray
    false_step: np.ndarray
    false_video: np.ndarray
    false_weight: np.ndarray
    shared_weight: np.ndarray | None
    counted: np.ndarray
    annotated: np.ndarray


def tally_class(ranked: RankedClass, video: np.ndarray, num_videos: int, annotated: np.ndarray) -> list[Tally]:
    """The sums of one class, for each of G choices of what to ignore.

    Args:
        video: (F,) the video of each image.
        num_videos: V.
        annotated: (G, 2, V): objects of all classes that count, and all.
    """
    truth_video, detection_video = video[ranked.truth_image], video[ranked.image]
    unmatched, hits = np.flatnonzero(ranked.matches < 0), np.flatnonzero(ranked.matches >= 0)
    tallies = []
    for row, ignored in enumerate(ranked.ignore):
        true = hits[~ignored[ranked.matches[hits]]]
        step = np.searchsorted(true, unmatched)
        before_last = step < len(true)
        false = unmatched[before_last]
        # False ones of one video before the same true detection add up to one entry, of which there are far fewer.
        cell, entry = np.unique(step[before_last] * num_videos + detection_video[false], return_inverse=True)
        fixed, shared = _false_weights(ranked, row)
        tallies.append(
            Tally(
                positives=np.bincount(truth_video[~ignored], minlength=num_videos),
                true_video=detection_video[true],
                false_step=cell // num_videos,
                false_video=cell % num_videos,
                false_weight=np.bincount(entry, fixed[false], minlength=len(cell)),
                shared_weight=None if shared is None else np.bincount(entry, shared[false], minlength=len(cell)),
                counted=annotated[row, 0],
                annotated=annotated[row, 1],
            )
        )
    return tallies


def _false_weights(ranked: RankedClass, row: int) -> tuple[np.ndarray, np.ndarray | None]:
    """What each detection (n,) counts if it is false: by itself, and in shares of the ground truth."""
    if ranked.weights is None:
        return np.ones(len(ranked.matches)), None
    shared = np.ones(len(ranked.matches))
    shared[ranked.weights.rank] = 0.0
    fixed = np.zeros(len(ranked.matches))
    fixed[ranked.weights.rank] = ranked.weights.weight[row]
    return fixed, shared


def weighted_average_precision(tally: Tally, weights: np.ndarray) -> np.ndarray:
    """All-point AP of each resample, the number that an evaluation of a dataset with repeated videos would give.

    Args:
        weights: (B, V) float64, how often each video comes.

    Returns:
        (B,) float64 in [0, 1]; NaN where a resample has no object.

    Example:
        >>> one = np.ones(2)
        >>> tally = Tally(one, np.array([0]), np.array([0]), np.array([1]), np.array([1.0]), None, one, one)
        >>> weighted_average_precision(tally, np.array([[1.0, 1], [2, 0], [0, 2]]))  # false in video 1, true in 0
        array([0.25, 1.  , 0.  ])
    """
    positives = weights @ tally.positives
    area = np.zeros(len(weights))
    # Some resamples at a time, as an array (B, t) of all of them may not fit in memory.
    at_once = max(1, _CELLS_AT_ONCE // max(len(tally.true_video), 1))
    for start in range(0, len(weights), at_once) if len(tally.true_video) else ():
        chunk = slice(start, start + at_once)
        area[chunk] = _weighted_area(tally, weights[chunk])
    return np.divide(area, positives, out=np.full(len(weights), np.nan), where=positives > 0)


def _weighted_area(tally: Tally, weights: np.ndarray) -> np.ndarray:
    """The sum (b,) of the best precision ahead over the true detections."""
    true = weights[:, tally.true_video]
    true_so_far = np.cumsum(true, axis=1)
    false = _false_so_far(tally, tally.false_weight, weights)
    if tally.shared_weight is not None:
        annotated = weights @ tally.annotated
        # Without any ground truth a share says nothing; AP is NaN there anyway.
        share = np.divide(weights @ tally.counted, annotated, out=np.ones(len(weights)), where=annotated > 0)
        false += share[:, None] * _false_so_far(tally, tally.shared_weight, weights)
    total = true_so_far + false
    # A resample may lack the videos of all detections so far.
    precision = np.divide(true_so_far, total, out=np.zeros_like(total), where=total > 0)
    # A true detection of a video that does not come adds nothing, and is no better than the one before it.
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (true * envelope).sum(axis=1)


def _false_so_far(tally: Tally, amount: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(b, t) what counts as false before each true detection."""
    num_videos, num_true = weights.shape[1], len(tally.true_video)
    added = np.empty((len(weights), num_true))
    at_once = max(1, _CELLS_AT_ONCE // num_videos)
    for start in range(0, num_true, at_once):
        stop = min(start + at_once, num_true)
        part = slice(*np.searchsorted(tally.false_step, [start, stop]))
        cell = (tally.false_step[part] - start) * num_videos + tally.false_video[part]
        # A product with the weights adds up the false ones of each resample: no loop over videos.
        table = np.bincount(cell, amount[part], minlength=(stop - start) * num_videos).reshape(-1, num_videos)
        added[:, start:stop] = weights @ table.T
    return np.cumsum(added, axis=1, out=added)


def weighted_mean(total: np.ndarray, count: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean (B,) of what videos hold `count` (V,) of, with the sum `total` (V,); NaN where a resample has none."""
    number = weights @ count
    return np.divide(weights @ total, number, out=np.full(len(weights), np.nan), where=number > 0)


def draw_videos(num_videos: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Weights (B, V) float64 of resamples of V videos each, drawn with replacement."""
    return generator.multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=resamples).astype(np.float64)


def draw_runs(num_runs: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Which runs of a method each resample takes: (R, B) numbers.

    S - 1 of S runs are drawn with replacement: the mean of so many varies as much as the mean of S independent runs
    does, where S of S would vary by a factor (S - 1) / S too little (Rao and Wu, 1988), a half for two runs. A single
    run says nothing about other runs.

    Args:
        num_runs: S, at least 1.
        resamples: B.
    """
    if num_runs == 1:
        return np.zeros((1, resamples), np.int64)
    return generator.integers(0, num_runs, size=(num_runs - 1, resamples))


def mean_of_drawn(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The mean over the drawn runs, (B, ...), of `values` (S, B, ...) of each run and resample; `drawn` is (R, B)."""
    resamples = values.shape[1]
    return values[drawn, np.arange(resamples)].mean(axis=0)


def percentile_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The middle `confidence` of the values that are not NaN; NaN, NaN where fewer than half of them are numbers.

    Example:
        >>> percentile_interval(np.arange(101.0), 0.5)
        (25.0, 75.0)
    """
    numbers = values[~np.isnan(values)]
    if 2 * len(numbers) < len(values) or not len(numbers):
        return float("nan"), float("nan")
    low, high = np.quantile(numbers, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
