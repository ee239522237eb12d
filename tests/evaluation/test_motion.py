"""The speed of objects, from tracks worked out by hand and against slow loops."""

import numpy as np
import pytest

from vod2.evaluation.motion import motion_iou, speed_groups


def slow_motion_iou(track, frame, boxes):
    result = []
    for i in range(len(track)):
        values = []
        for j in range(len(track)):
            if track[i] < 0 or track[j] != track[i] or not 1 <= abs(int(frame[j]) - int(frame[i])) <= 10:
                continue
            width, height = np.maximum(
                np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2]), 0
            )
            union = sum(np.prod(box[2:] - box[:2]) for box in (boxes[i], boxes[j])) - width * height
            values.append(width * height / union if union else 0.0)
        result.append(np.mean(values) if values else np.nan)
    return result


@pytest.mark.parametrize("seed", range(10))
def test_motion_iou_equals_that_of_plain_loops(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 80))
    track, frame = rng.integers(-1, 4, count), rng.integers(0, 40, count)  # some frames have a track twice
    corner = rng.random((count, 2)) * 10
    boxes = np.concatenate([corner, corner + rng.random((count, 2)) * 20], axis=1)
    np.testing.assert_allclose(motion_iou(track, frame, boxes), slow_motion_iou(track, frame, boxes), atol=1e-12)


def test_an_object_that_moves_by_a_tenth_of_its_width_has_the_motion_iou_worked_out_by_hand():
    boxes = np.array([[x, 0, x + 100, 50] for x in (0, 10, 20)], dtype=float)
    one, two = 90 / 110, 80 / 120
    expected = [(one + two) / 2, one, (one + two) / 2]
    np.testing.assert_allclose(motion_iou(np.zeros(3, int), np.arange(3), boxes), expected, rtol=1e-12)


def test_ten_frames_are_near_and_eleven_are_not():
    boxes = np.tile([0.0, 0.0, 10.0, 10.0], (2, 1))
    assert motion_iou(np.zeros(2, int), np.array([5, 15]), boxes).tolist() == [1.0, 1.0]
    assert np.isnan(motion_iou(np.zeros(2, int), np.array([5, 16]), boxes)).all()


def test_tracks_do_not_mix_and_unknown_tracks_have_no_motion():
    boxes = np.tile([0.0, 0.0, 10.0, 10.0], (4, 1))
    motion = motion_iou(np.array([0, 1, -1, -1]), np.array([0, 1, 2, 3]), boxes)
    assert np.isnan(motion).all() and len(motion) == 4


def test_no_objects_have_no_motion():
    assert motion_iou(np.empty(0, int), np.empty(0, int), np.empty((0, 4))).shape == (0,)


def test_the_limits_belong_to_medium_alone_or_to_both_groups():
    motion = np.array([0.0, 0.7, 0.8, 0.9, 1.0, np.nan])
    groups = {name: member.astype(int).tolist() for name, member in speed_groups(motion).items()}
    assert groups == {"slow": [0, 0, 0, 0, 1, 0], "medium": [0, 1, 1, 1, 0, 0], "fast": [1, 0, 0, 0, 0, 0]}
    groups = {name: member.astype(int).tolist() for name, member in speed_groups(motion, overlap=True).items()}
    assert groups == {"slow": [0, 0, 0, 1, 1, 0], "medium": [0, 1, 1, 1, 0, 0], "fast": [1, 1, 0, 0, 0, 0]}
