"""How steadily a detector finds an object from frame to frame, which AP cannot see.

Shape alphabet: n detections, m ground truths, r tracks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vod2.evaluation.arrays import Detections, GroundTruth, take_rows
from vod2.evaluation.matching import PROTOCOLS, MatchingProtocol, match_detections


class TrackIndex(NamedTuple):
    """Where the ground truths of a dataset stand in time.

    Attributes:
        track: (m,) int64, one number for each object of each video, -1 where the annotation tells no track.
        frame: (m,) int64, number of the frame in its video.
    """

    track: np.ndarray
    frame: np.ndarray


class TrackStability(NamedTuple):
    """One number for each of r tracks; frames are those in which the track is annotated.

    Attributes:
        length: frames.
        found: frames in which it is found.
        flips: how often it is lost or found again from one frame to the next.
        delay: frames before it is first found; `length` where it never is.
        gap: the longest run of frames in which it is lost after it has been found.
    """

    length: np.ndarray
    found: np.ndarray
    flips: np.ndarray
    delay: np.ndarray
    gap: np.ndarray


def index_tracks(dataset: Sequence[dict]) -> TrackIndex:
    """The tracks of all annotations of a video dataset, in the order of `ground_truth_arrays`."""
    numbers: dict[tuple, int] = {}
    track, frame = [], []
    for record in dataset:
        video = record.get("video_id")
        for note in record.get("annotations", ()):
            # By a negative id, tools say that they know none.
            has_track = video is not None and note.get("track_id") is not None and note["track_id"] >= 0
            track.append(numbers.setdefault((video, note["track_id"]), len(numbers)) if has_track else -1)
            frame.append(record["frame_index"] if has_track else 0)
    return TrackIndex(np.array(track, dtype=np.int64), np.array(frame, dtype=np.int64))


def track_stability(found: np.ndarray, tracks: TrackIndex) -> TrackStability:
    """Follow each track through its frames.

    Args:
        found: (m,) bool: the ground truth was found.
        tracks: of the same m ground truths, in any order; those of track -1 are left out.

    Returns:
        (r,) int64 each, by ascending number of the track.

    Example:
        >>> found = np.array([False, True, False, False, True])
        >>> track_stability(found, TrackIndex(np.zeros(5, int), np.arange(5)))._asdict()
        {'length': array([5]), 'found': array([2]), 'flips': array([3]), 'delay': array([1]), 'gap': array([2])}
    """
    order = np.lexsort((tracks.frame, tracks.track))
    order = order[tracks.track[order] >= 0]
    found, track = found[order], tracks.track[order]
    # Numbers of tracks are not negative, so -1 before them begins the first one.
    starts = np.flatnonzero(np.diff(track, prepend=-1))
    length = np.diff(starts, append=len(track))
    if not len(starts):
        return TrackStability(length, length, length, length, length)
    position = np.arange(len(track))
    is_first = np.zeros(len(track), dtype=bool)
    is_first[starts] = True
    # The first frame of a track would be compared with the last one of the track before it.
    flips = ~is_first & (found != np.roll(found, 1))
    start = np.repeat(starts, length)
    last_found = np.maximum.accumulate(np.where(found, position, -1))  # at or before; of an earlier track if < start
    lost_for = np.where(last_found >= start, position - last_found, 0)
    return TrackStability(
        length=length,
        found=np.add.reduceat(found, starts, dtype=np.int64),
        flips=np.add.reduceat(flips, starts, dtype=np.int64),
        # A track that is never found has waited for its whole length.
        delay=np.minimum.reduceat(np.where(found, position - start, np.repeat(length, length)), starts),
        gap=np.maximum.reduceat(lost_for, starts),
    )


SCORE_THRESHOLD = 0.5  # from this score on, a detection says that the object is found


class FollowedTracks(NamedTuple):
    """What became of the r tracks of two annotated frames or more.

    Attributes:
        number: (r,) ascending numbers in `TrackIndex.track`.
        stability: of these tracks.
    """

    number: np.ndarray
    stability: TrackStability


def follow_tracks(
    detections: Detections,
    ground_truth: GroundTruth,
    tracks: TrackIndex,
    score_threshold: float = SCORE_THRESHOLD,
    protocol: MatchingProtocol = PROTOCOLS["fixed"],
) -> FollowedTracks:
    """Match the detections and follow each track.

    A ground truth is found where a detection of its class and of at least `score_threshold` is matched to it. Ignored
    ground truths, and tracks of a single frame, are left out.

    Args:
        tracks: of the m ground truths.
    """
    matches = match_detections(take_rows(detections, detections.scores >= score_threshold), ground_truth, protocol)
    is_found = np.zeros(len(ground_truth), dtype=bool)
    is_found[matches[matches >= 0]] = True
    track = np.where(ground_truth.ignore, -1, tracks.track)
    per_track = track_stability(is_found, tracks._replace(track=track))
    # A track of one frame can neither flicker nor be lost.
    has_several_frames = per_track.length > 1
    numbers = np.unique(track[track >= 0])  # ascending, as the tracks in `per_track` are
    kept = TrackStability(*(values[has_several_frames] for values in per_track))
    return FollowedTracks(numbers[has_several_frames], kept)


def stability_measures(tracks: TrackStability) -> dict[str, np.ndarray]:
    """The numbers (r,) of each track whose means `stability` reports, by their names."""
    return {
        "flicker": 100 * tracks.flips / tracks.length,
        "delay": tracks.delay.astype(np.float64),
        "gap": tracks.gap.astype(np.float64),
        "coverage": 100 * tracks.found / tracks.length,
    }


def stability(
    detections: Detections,
    ground_truth: GroundTruth,
    tracks: TrackIndex,
    score_threshold: float = SCORE_THRESHOLD,
    protocol: MatchingProtocol = PROTOCOLS["fixed"],
) -> dict[str, float]:
    """How steadily the tracks are found (see `follow_tracks`): a mean over tracks, each of which counts the same.

    Returns:
        flicker: how often a track is lost or found again, per 100 frames of it;
        delay: frames from the first of the track to the one where it is first found (all, where it never is);
        gap: the longest run of frames in which it is lost after it has been found;
        coverage: percent of its frames in which it is found.
        Empty where there is no track of two frames or more: the dataset tells nothing about stability.
    """
    followed = follow_tracks(detections, ground_truth, tracks, score_threshold, protocol)
    if not len(followed.number):
        return {}
    return {name: float(values.mean()) for name, values in stability_measures(followed.stability).items()}
