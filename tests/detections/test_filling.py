"""Gaps in tracks: joined and filled, against a slow reference, by hand, and online."""

import numpy as np
import pytest
import torch

from helpers.linking import random_video
from reference import filling as reference
from vod2.detections import GapFiller, as_instances, fill_gaps, link

HERE, NEAR, FAR = (0.0, 0.0, 10.0, 10.0), (2.0, 0.0, 12.0, 10.0), (80.0, 0.0, 90.0, 10.0)


def frame(*rows):
    """Rows (box, score, label, track)."""
    boxes, scores, labels, tracks = zip(*rows, strict=True) if rows else ((), (), (), ())
    columns = {"boxes": list(boxes), "scores": list(scores), "labels": list(labels), "track_ids": list(tracks)}
    return as_instances(columns, (100, 100))


def plain(frames):
    """Of each frame its rows (box, score, label, track, filled), sorted."""
    return [
        sorted(
            zip(
                map(tuple, one.pred_boxes.tensor.tolist()),
                one.scores.tolist(),
                one.pred_classes.tolist(),
                one.track_ids.tolist(),
                one.filled.tolist(),
                strict=True,
            )
        )
        for one in frames
    ]


def linked_video(seed: int):
    """Tracks of three classes with gaps, as a linker gives them."""
    rng = np.random.default_rng(seed)
    video = random_video(rng, frames=12, most=3, labels=2)
    rows = [([row[0] for row in one], [row[1] for row in one], [row[2] for row in one]) for one in video]
    return link([columns if rng.random() < 0.7 else ([], [], []) for columns in rows])


@pytest.mark.parametrize("max_gap", [1, 3])
@pytest.mark.parametrize("seed", range(30))
def test_it_equals_the_reference_that_sees_the_whole_video(seed, max_gap):
    frames = linked_video(seed)
    found = plain(fill_gaps(frames, max_gap))
    expected = reference.fill(
        [
            list(
                zip(
                    one.pred_boxes.tensor.double().tolist(),
                    one.scores.tolist(),
                    one.pred_classes.tolist(),
                    one.track_ids.tolist(),
                    strict=True,
                )
            )
            for one in frames
        ],
        max_gap,
        min_iou=0.3,
    )
    assert [len(one) for one in found] == [len(one) for one in expected]
    for rows, wanted in zip(found, expected, strict=True):
        for row, other in zip(rows, sorted(wanted), strict=True):
            assert row[0] == pytest.approx(other[0], abs=1e-4)
            assert row[1] == pytest.approx(other[1], abs=1e-6)
            assert row[2:] == other[2:]


def test_the_reference_fills_something_in_these_videos():
    filled = [sum(int(one.filled.sum()) for one in fill_gaps(linked_video(seed), 3)) for seed in range(30)]
    assert sum(filled) > 50


def test_boxes_and_scores_in_between_are_interpolated():
    later = (4.0, 0.0, 14.0, 10.0)
    found = plain(fill_gaps([frame((HERE, 0.5, 1, 0)), frame(), frame(), frame(), frame((later, 1.0, 1, 7))], 3))
    assert found[1] == [((1.0, 0.0, 11.0, 10.0), 0.625, 1, 0, True)]
    assert found[3] == [((3.0, 0.0, 13.0, 10.0), 0.875, 1, 0, True)]
    assert found[4][0][3:] == (0, False), "the later track has the number of the earlier one"


def test_a_gap_that_is_longer_is_left():
    frames = [frame((HERE, 0.5, 1, 0)), frame(), frame(), frame((HERE, 0.5, 1, 7))]
    assert plain(fill_gaps(frames, 1))[1:] == [[], [], [(HERE, 0.5, 1, 7, False)]]


@pytest.mark.parametrize("after", [(FAR, 0.5, 1, 7), (HERE, 0.5, 2, 7)], ids=["elsewhere", "another class"])
def test_another_object_is_not_joined(after):
    assert plain(fill_gaps([frame((HERE, 0.5, 1, 0)), frame(), frame(after)], 3))[1] == []


def test_an_object_is_found_where_its_velocity_has_taken_it():
    """10 pixels a frame: after two frames it overlaps nothing of what it was."""
    boxes = [(10.0 * t, 0.0, 10.0 * t + 10, 10.0) for t in range(6)]
    frames = [frame((boxes[t], 0.5, 0, 0)) if t < 3 else frame() for t in range(5)] + [frame((boxes[5], 0.5, 0, 1))]
    found = plain(fill_gaps(frames, 2))
    assert [rows[0][0] for rows in found] == boxes
    assert {rows[0][3] for rows in found} == {0}


def test_where_another_box_of_the_class_is_none_is_added():
    frames = [
        frame((HERE, 0.5, 1, 0), (FAR, 0.5, 1, 5)),
        frame((NEAR, 0.9, 1, 3)),
        frame((HERE, 0.5, 1, 0), (FAR, 0.5, 1, 5)),
    ]
    found = plain(fill_gaps(frames, 3))
    assert [(row[0], row[3]) for row in found[1]] == [(NEAR, 3), (FAR, 5)]


def test_a_track_that_comes_back_while_another_continues_it_is_an_object_of_its_own():
    frames = [frame((HERE, 0.5, 0, 0)), frame(), frame((HERE, 0.5, 0, 1)), frame((HERE, 0.5, 0, 1), (FAR, 0.5, 0, 0))]
    found = plain(fill_gaps(frames, 5))
    assert [[row[3] for row in rows] for rows in found[:3]] == [[0], [0], [0]]
    tracks = {row[0]: row[3] for row in found[3]}
    assert tracks[HERE] == 0 and tracks[FAR] < 0


def test_a_frame_waits_for_max_gap_others_and_memory_is_bounded():
    filler = GapFiller(3)
    for t in range(200):
        # A new track in every fifth frame, so that tracks are joined again and again
        finished = filler.push(frame((HERE, 0.5, 0, t)) if t % 5 == 0 else frame((FAR, 0.5, 0, -t)))
        assert len(finished) == (1 if t >= 3 else 0)
        assert len(filler._waiting) <= 3 and len(filler._recent) <= 5 and len(filler._joined) <= 5
    assert len(filler.flush()) == 3
    assert filler.flush() == []


def test_input_scores_of_filled_boxes_are_0():
    seen = ([HERE], [0.5], [0])
    assert [one.input_scores.tolist() for one in link([seen, ([], [], []), seen], fill_gaps=1)] == [[0.5], [0.0], [0.5]]


@pytest.mark.parametrize(("values", "message"), [((-1,), "at least 0"), ((1, 0.0), "IoU"), ((1, 1.5), "IoU")])
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        GapFiller(*values)


def test_float64_boxes_stay_float64():
    one = frame((HERE, 0.5, 0, 0))
    one.pred_boxes = type(one.pred_boxes)(one.pred_boxes.tensor.double())
    assert fill_gaps([one, frame(), one], 1)[0].pred_boxes.tensor.dtype == torch.float64
