"""How steadily linked tracks are shown, without annotations.

m: boxes of all frames, those of the frames in which a track has none included.
"""

from collections.abc import Sequence

import numpy as np

from vod2.d2 import Instances
from vod2.evaluation.stability import SCORE_THRESHOLD, TrackIndex, TrackStability, stability_measures, track_stability


def linked_track_stability(
    frames: Sequence[Instances], score_threshold: float = SCORE_THRESHOLD
) -> dict[str, tuple[float, float]]:
    """Flicker, delay, gap and coverage of the linked tracks, and whether they are shown, before linking and after it.

    The measures are those of `vod2.evaluation.stability.stability`, but for the tracks that linking has found, from the
    first to the last box of each, in the place of annotated ones: objects that the detector never saw do not count, and
    a track that is linked wrongly does. A track is shown in a frame where it has a box of at least `score_threshold`:
    by the detector's own scores before, by the new ones after. Tracks that are shown in no frame, or that have a single
    one, are left out.

    Args:
        frames: of `link`, with track_ids, scores and input_scores, and with `filled` where gaps were filled.
        score_threshold: in [0, 1].

    Returns:
        {measure: (before, after)}, means over tracks, and "shown", the percentage of the tracks that are shown in any
        frame: a track whose new scores stay below the threshold is shown in none, and its delay is its length. {} where
        there is no track.
    """
    shown: dict[int, dict[int, tuple[bool, bool]]] = {}  # {track: {frame: before, after}}
    for index, frame in enumerate(frames):
        columns = (frame.track_ids, frame.input_scores, frame.scores)
        for track, before, after in zip(*(column.tolist() for column in columns), strict=True):
            shown.setdefault(track, {})[index] = (before >= score_threshold, after >= score_threshold)
    track_numbers, numbers, found = [], [], []
    for track, boxes in shown.items():
        if not any(any(states) for states in boxes.values()):
            continue
        for index in range(min(boxes), max(boxes) + 1):
            track_numbers.append(track)
            numbers.append(index)
            found.append(boxes.get(index, (False, False)))
    tracks = TrackIndex(np.array(track_numbers, dtype=np.int64), np.array(numbers, dtype=np.int64))
    states = np.array(found, dtype=bool).reshape(-1, 2)
    stability = [track_stability(states[:, column], tracks) for column in (0, 1)]
    several = stability[0].length > 1
    if not several.any():
        return {}
    parts = [TrackStability(*(values[several] for values in part)) for part in stability]
    measures = [stability_measures(part) | {"shown": 100.0 * (part.found > 0)} for part in parts]
    return {name: (float(values.mean()), float(measures[1][name].mean())) for name, values in measures[0].items()}
