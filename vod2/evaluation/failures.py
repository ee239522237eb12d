"""Where a method loses objects that another one finds.

Shape alphabet: F frames, n detections of a least score, m ground truths, c chosen frames.
"""

from typing import NamedTuple

import numpy as np

from vod2.evaluation.arrays import Detections, GroundTruth, take_rows
from vod2.evaluation.matching import get_protocol, match_detections
from vod2.evaluation.runs import Run


class Judged(NamedTuple):
    """The detections of an evaluation that have a least score, and what they find.

    Attributes:
        detections: n of them.
        matches: (n,) int64 row of the ground truth that each finds, -1 where it finds nothing.
        found: (m,) bool: the object is found.
    """

    detections: Detections
    matches: np.ndarray
    found: np.ndarray


def judge(run: Run, score: float = 0.5) -> Judged:
    """Match the detections of at least `score` by the evaluation's own protocol."""
    confident = take_rows(run.detections, run.detections.scores >= score)
    matches = match_detections(confident, run.data.truth, get_protocol(run.data.protocol))
    is_found = np.zeros(len(run.data.truth), dtype=bool)
    is_found[matches[matches >= 0]] = True
    return Judged(confident, matches, is_found)


def lost_objects(first: Judged, second: Judged, truth: GroundTruth, num_frames: int) -> np.ndarray:
    """(F,) int64: objects that `first` finds and `second` does not, less the reverse; ignored ones do not count.

    Example:
        >>> truth = GroundTruth(np.array([0, 0, 2]), np.zeros((3, 4)), np.zeros(3, int), np.zeros(3, bool))
        >>> nothing = Detections(np.empty(0, int), np.empty((0, 4)), np.empty(0), np.empty(0, int))
        >>> found = [[True, True, False], [False, False, True]]
        >>> first, second = (Judged(nothing, np.empty(0, int), np.array(is_found)) for is_found in found)
        >>> lost_objects(first, second, truth, num_frames=3)
        array([ 2,  0, -1])
    """
    kept = ~truth.ignore
    # Signed, as booleans cannot be subtracted.
    change = first.found[kept].astype(np.int64) - second.found[kept]
    return np.bincount(truth.image[kept], change, minlength=num_frames).astype(np.int64)


def false_detections(judged: Judged, num_frames: int) -> np.ndarray:
    """(F,) int64: detections that find nothing."""
    return np.bincount(judged.detections.image[judged.matches < 0], minlength=num_frames)


def most_errors(judged: Judged, run: Run, count: int, per_video: int = 1) -> np.ndarray:
    """(c,) rows of the frames with most objects missed and false detections together, the worst first.

    Of equal ones those that stand earlier in the dataset come first. A frame without an error is none of them, so c may
    be less than `count`.

    Args:
        per_video: frames of a video, at most.
    """
    num_frames = len(run.data.image_ids)
    missed = ~judged.found & ~run.data.truth.ignore
    errors = np.bincount(run.data.truth.image[missed], minlength=num_frames) + false_detections(judged, num_frames)
    return _first_of_videos(np.argsort(-errors, kind="stable"), errors, run, count, per_video)


def _first_of_videos(order: np.ndarray, badness: np.ndarray, run: Run, count: int, per_video: int) -> np.ndarray:
    """(c,) the first frames of an order by falling `badness` (F,), those above 0; at most `per_video` of a video."""
    chosen: list[int] = []
    count_of_video = np.zeros(run.data.num_videos, dtype=np.int64)
    for frame in order:
        if badness[frame] <= 0 or len(chosen) == count:
            break
        if count_of_video[run.data.video[frame]] < per_video:
            count_of_video[run.data.video[frame]] += 1
            chosen.append(int(frame))
    return np.array(chosen, dtype=np.int64)


def worst_frames(first: Judged, second: Judged, run: Run, count: int, per_video: int = 1) -> np.ndarray:
    """(c,) rows of the frames where `second` loses most objects that `first` finds, the worst first.

    Of equal ones those where `second` has more false detections than `first` come first, then those that stand earlier
    in the dataset. A frame where nothing is lost is none of them, so c may be less than `count`.

    Args:
        run: one of the two evaluations, for its ground truth and videos.
        per_video: frames of a video, at most.
    """
    num_frames = len(run.data.image_ids)
    lost = lost_objects(first, second, run.data.truth, num_frames)
    false = false_detections(second, num_frames) - false_detections(first, num_frames)
    order = np.lexsort((-false, -lost))  # stable: earlier frames first
    return _first_of_videos(order, lost, run, count, per_video)
