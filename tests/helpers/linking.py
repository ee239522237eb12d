"""Videos of detections for linkers."""

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import strategies as st

from reference.linking import Result, Video
from vod2.d2 import Instances
from vod2.structures import PreciseBoxes

SIZE = (100, 100)


def detections(frame: Sequence[tuple], label: int = 0, dtype: torch.dtype = torch.float64) -> Instances:
    """Rows (box, score) or (box, score, label), with `row` (n,) to tell them apart afterwards."""
    found = Instances(
        SIZE, pred_boxes=PreciseBoxes(torch.tensor([one[0] for one in frame], dtype=dtype).reshape(-1, 4))
    )
    found.scores = torch.tensor([one[1] for one in frame], dtype=dtype)
    found.pred_classes = torch.tensor([one[2] if len(one) > 2 else label for one in frame], dtype=torch.int64)
    found.row = torch.arange(len(frame))
    return found


def random_video(
    rng: np.random.Generator, frames: int, most: int, labels: int = 1, least: int = 0
) -> list[list[tuple]]:
    """Frames of `least` to `most` boxes (box, score, label) around a few places, so that many overlap."""
    video = []
    for _ in range(frames):
        count = int(rng.integers(least, most + 1))
        corner = 30 * rng.integers(0, 2, (count, 2)) + rng.uniform(0, 6, (count, 2))
        boxes = np.concatenate([corner, corner + 20 + rng.uniform(0, 6, (count, 2))], axis=1).tolist()
        scores, classes = rng.uniform(0.01, 1, count).tolist(), rng.integers(0, labels, count).tolist()
        video.append([(tuple(box), score, label) for box, score, label in zip(boxes, scores, classes, strict=True)])
    return video


def exact_videos(frames: int = 4, most: int = 4) -> st.SearchStrategy[Video]:
    """Videos in which sums of scores and IoU have no rounding, so that ties are ties: boxes of width 1, 2, 4 or 8 that
    begin at one of two places (IoU 1, 1/2, 1/4, 1/8 or 0), scores of 1/64 to 1.
    """
    box = st.builds(
        lambda place, width: (place, 0.0, place + width, 5.0),
        st.sampled_from([0.0, 50.0]),
        st.sampled_from([1, 2, 4, 8]),
    )
    score = st.integers(1, 64).map(lambda k: k / 64)
    return st.lists(st.lists(st.tuples(box, score), max_size=most), max_size=frames)


def assert_equals_reference(linked: Sequence[Instances], expected: Result) -> None:
    """The same boxes with the same scores, and the same of them on one track."""
    wanted = {
        (first + k, row): (number, scores[k])
        for number, ((first, rows), scores) in enumerate(expected)
        for k, row in enumerate(rows)
    }
    found = {
        (t, row): (track, score)
        for t, frame in enumerate(linked)
        for row, track, score in zip(frame.row.tolist(), frame.track_ids.tolist(), frame.scores.tolist(), strict=True)
    }
    assert found.keys() == wanted.keys()
    for box, (_, score) in wanted.items():
        assert abs(found[box][1] - score) < 1e-12
    pairs = {(wanted[box][0], found[box][0]) for box in wanted}
    assert len(pairs) == len({number for number, _ in pairs}) == len({track for _, track in pairs})
