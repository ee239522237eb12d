"""Seq-NMS against the enumeration of all paths, and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.counting import calls_of
from helpers.linking import assert_equals_reference, detections, exact_videos, random_video
from reference import linking as reference
from vod2.modeling import SeqNMS
from vod2.modeling.linking.arrays import FrameBoxes

HERE, NEAR, THERE = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 8.0), (50.0, 0.0, 60.0, 10.0)


def link(video, **options):
    return SeqNMS(**options).link([detections(frame) for frame in video])


@settings(max_examples=300, deadline=None)
@given(video=exact_videos(), rescore=st.sampled_from(["mean", "max"]))
def test_it_equals_the_enumeration_of_all_paths_also_where_weights_tie(video, rescore):
    assert_equals_reference(link(video, rescore=rescore), reference.seq_nms(video, 0.5, 0.3, rescore))


@pytest.mark.parametrize("seed", range(30))
def test_it_equals_the_enumeration_of_all_paths_on_boxes_of_any_size(seed):
    rng = np.random.default_rng(seed)
    video = [[one[:2] for one in frame] for frame in random_video(rng, frames=5, most=4)]
    link_iou, suppress_iou = rng.uniform(0.2, 0.9, 2)
    expected = reference.seq_nms(video, link_iou, suppress_iou, "mean")
    assert_equals_reference(link(video, link_iou=link_iou, suppress_iou=suppress_iou), expected)


def test_the_box_of_a_weak_frame_is_lifted_and_its_neighbours_go():
    """By hand: HERE .9, .2, .7 is one path of mean .6; NEAR overlaps it by .8 and goes, THERE stays as it is."""
    video = [[(HERE, 0.9)], [(THERE, 0.5), (NEAR, 0.1), (HERE, 0.2)], [(HERE, 0.7)]]
    linked = link(video)
    assert [frame.row.tolist() for frame in linked] == [[0], [2, 0], [0]]
    assert [frame.track_ids.tolist() for frame in linked] == [[0], [0, 1], [0]]
    for frame, scores in zip(linked, [[0.6], [0.6, 0.5], [0.6]], strict=True):
        assert frame.scores.tolist() == pytest.approx(scores)


def test_the_highest_score_of_the_path_may_be_given_instead():
    linked = link([[(HERE, 0.9)], [(HERE, 0.2)]], rescore="max")
    assert [frame.scores.item() for frame in linked] == [0.9, 0.9]


def test_a_path_does_not_jump_over_a_frame_without_the_object():
    linked = link([[(HERE, 0.9)], [], [(HERE, 0.3)]])
    assert [frame.scores.tolist() for frame in linked] == [[0.9], [], [0.3]]
    assert [frame.track_ids.tolist() for frame in linked] == [[0], [], [1]]


def test_limits_of_the_overlap_belong_to_it():
    """IoU exactly .5 links, exactly .3 suppresses."""
    half, three_tenths = (0.0, 0.0, 10.0, 5.0), (0.0, 0.0, 10.0, 3.0)
    assert [frame.track_ids.item() for frame in link([[(HERE, 0.9)], [(half, 0.5)]])] == [0, 0]
    (frame,) = link([[(HERE, 0.9), (three_tenths, 0.5)]])
    assert frame.row.tolist() == [0]


def test_a_box_without_an_area_ends_as_a_track_of_its_own():
    point = (5.0, 5.0, 5.0, 5.0)
    linked = link([[(point, 0.4), (point, 0.3)], [(point, 0.2)]])
    assert [frame.track_ids.tolist() for frame in linked] == [[0, 1], [2]]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"link_iou": 0.0}, r"LINK_IOU in \(0, 1\], got 0"),
        ({"suppress_iou": 1.5}, r"SUPPRESS_IOU in \(0, 1\], got 1.5"),
        ({"rescore": "median"}, "one of mean, max, got 'median'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SeqNMS(**options)


def tracked_proposals(rng: np.random.Generator, frames: int, objects: int, each: int, weak: int) -> list[FrameBoxes]:
    """What a detector gives of a class before suppression: `each` boxes around every moving object, and weak others."""
    centre, step = rng.uniform(100, 700, (objects, 2)), rng.uniform(-1.5, 1.5, (objects, 2))
    half = rng.uniform(30, 125, (objects, 2))
    video = []
    for t in range(frames):
        middle = centre + step * t
        object_boxes = np.concatenate([middle - half, middle + half], axis=1)[:, None]
        jitter = rng.normal(0, 0.24, (objects, each, 4)) * np.concatenate([half, half], axis=1)[:, None]
        corner, size = rng.uniform(0, 700, (weak, 2)), rng.uniform(20, 300, (weak, 2))
        boxes = np.concatenate([(object_boxes + jitter).reshape(-1, 4), np.concatenate([corner, corner + size], 1)])
        scores = np.concatenate([rng.uniform(0.1, 1, objects * each), rng.uniform(0.001, 0.05, weak)])
        video.append(FrameBoxes(boxes.astype(np.float32), scores, np.zeros(len(boxes), np.int64)))
    return video


def noise(rng: np.random.Generator, frames: int, count: int) -> list[FrameBoxes]:
    """Boxes that have nothing to do with each other: many short paths."""
    corner, size = rng.uniform(0, 500, (frames, count, 2)), rng.uniform(20, 300, (frames, count, 2))
    boxes = np.concatenate([corner, corner + size], axis=2).astype(np.float32)
    return [FrameBoxes(one, rng.random(count), np.zeros(count, np.int64)) for one in boxes]


@pytest.mark.parametrize("kind, longest", [("tracked", 200), ("noise", 2)])
def test_three_hundred_frames_of_three_hundred_boxes_take_some_calls_a_box_and_not_some_for_each_pair(kind, longest):
    rng = np.random.default_rng(0)
    video = noise(rng, 300, 300) if kind == "noise" else tracked_proposals(rng, 300, objects=8, each=30, weak=60)
    assert [len(frame.scores) for frame in video] == [300] * 300
    tracks = []
    calls = calls_of(lambda: tracks.append(SeqNMS().link_class(video)))
    assert np.bincount(tracks[0].track).max() > longest
    boxes = 300 * 300
    assert calls < 20 * boxes  # measured: 5 and 11 a box; each pair of neighbouring frames has 300 x 300 pairs


def test_scores_keep_their_dtype_and_half_precision_is_computed_in_more():
    for dtype in (torch.float16, torch.float32, torch.float64):
        frame = detections([(HERE, 0.5), (NEAR, 0.25)], dtype=dtype)
        (linked,) = SeqNMS().link([frame])
        assert linked.scores.dtype == dtype and linked.pred_boxes.tensor.dtype == dtype and len(linked) == 1
