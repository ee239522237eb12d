"""How steadily tracks are found: by hand, and against loops over tracks and frames."""

import numpy as np
import pytest
import torch

from vod2.d2 import Boxes, BoxMode, DatasetCatalog, Instances, MetadataCatalog
from vod2.evaluation import (
    Detections,
    GroundTruth,
    TrackIndex,
    VIDEvaluator,
    index_tracks,
    match_detections,
    stability,
    track_stability,
)
from vod2.evaluation.matching import PROTOCOLS

BOX = (0.0, 0.0, 100.0, 100.0)


def one_track(pattern):
    """found and tracks of one object whose frames are "x" where it is found."""
    return np.array([mark == "x" for mark in pattern], dtype=bool), TrackIndex(
        np.zeros(len(pattern), np.int64), np.arange(len(pattern))
    )


@pytest.mark.parametrize(
    "pattern, found, flips, delay, gap",
    [
        ("xxxx", 4, 0, 0, 0),
        ("....", 0, 0, 4, 0),
        ("..xx", 2, 1, 2, 0),
        ("xx..", 2, 1, 0, 2),
        ("x.x.", 2, 3, 0, 1),
        (".x...xx.x..", 4, 6, 1, 3),
        ("x", 1, 0, 0, 0),
    ],
)
def test_a_pattern_of_found_and_lost_frames_is_counted_by_hand(pattern, found, flips, delay, gap):
    result = track_stability(*one_track(pattern))
    assert tuple(values.item() for values in result) == (len(pattern), found, flips, delay, gap)


def test_tracks_do_not_mix_and_need_not_be_sorted():
    # Track 5: frames 0, 3, 9 found, lost, found. Track 2: frames 1, 2 lost, lost. One object without a track.
    tracks = TrackIndex(np.array([5, 2, 5, -1, 2, 5]), np.array([9, 2, 0, 0, 1, 3]))
    result = track_stability(np.array([True, False, True, True, False, False]), tracks)
    assert [values.tolist() for values in result] == [[2, 3], [0, 2], [0, 2], [2, 0], [0, 1]]


def test_no_track_gives_no_number():
    result = track_stability(np.zeros(2, bool), TrackIndex(np.full(2, -1), np.zeros(2, int)))
    assert all(values.shape == (0,) for values in result)
    assert all(values.shape == (0,) for values in track_stability(*one_track("")))


def slow_track_stability(found, tracks):
    rows = []
    for track in sorted(set(tracks.track.tolist()) - {-1}):
        states = [found[i] for i in sorted(np.flatnonzero(tracks.track == track), key=lambda i: tracks.frame[i])]
        flips = sum(a != b for a, b in zip(states, states[1:], strict=False))
        delay = states.index(True) if True in states else len(states)
        gap = longest = 0
        for state in states[delay:]:
            gap = 0 if state else gap + 1
            longest = max(longest, gap)
        rows.append((len(states), sum(states), flips, delay, longest))
    return rows


@pytest.mark.parametrize("seed", range(30))
def test_many_random_tracks_agree_with_loops(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 200))
    track = rng.integers(-1, 12, count)
    tracks = TrackIndex(track, rng.permutation(count))
    found = rng.random(count) < rng.random()
    assert [tuple(row) for row in np.stack(track_stability(found, tracks), axis=1).tolist()] == slow_track_stability(
        found.tolist(), tracks
    )


def problem(rows, length, label=0):
    """One object in `length` frames, and detections from rows (frame, score, label, x shift)."""
    truth = GroundTruth(np.arange(length), np.tile(BOX, (length, 1)), np.full(length, label), np.zeros(length, bool))
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    boxes = np.tile(BOX, (len(table), 1)) + table[:, 3:] * [1, 0, 1, 0]
    found = Detections(table[:, 0].astype(int), boxes, table[:, 1], table[:, 2].astype(int))
    return found, truth, TrackIndex(np.zeros(length, np.int64), np.arange(length))


def test_found_means_sure_enough_of_the_right_class_and_close_enough():
    # Frame 1: below the threshold; 2: another class; 3: IoU 1/3; 0 and 4: found; 5: nothing.
    rows = [(0, 0.5, 0, 0), (1, 0.49, 0, 0), (2, 0.9, 1, 0), (3, 0.9, 0, 50), (4, 0.9, 0, 20)]
    assert stability(*problem(rows, 6)) == pytest.approx(
        {"flicker": 100 * 3 / 6, "delay": 0, "gap": 3, "coverage": 100 * 2 / 6}
    )
    assert stability(*problem(rows, 6), score_threshold=0.4)["coverage"] == pytest.approx(50)


def test_the_summary_is_a_mean_over_tracks_and_leaves_out_single_frames_and_ignored_objects():
    # Track 0: 4 frames "x.x.", track 1: 2 frames "..", track 2: 1 frame, track 3: ignored.
    image = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8])
    truth = GroundTruth(image, np.tile(BOX, (9, 1)), np.zeros(9, int), image >= 7)
    tracks = TrackIndex(np.array([0, 0, 0, 0, 1, 1, 2, 3, 3]), np.array([0, 1, 2, 3, 0, 1, 0, 0, 1]))
    found = Detections(np.array([0, 2, 6, 7]), np.tile(BOX, (4, 1)), np.ones(4), np.zeros(4, int))
    expected = {"flicker": 100 * (3 / 4) / 2, "delay": 2 / 2, "gap": 1 / 2, "coverage": 100 * 0.5 / 2}
    assert stability(found, truth, tracks) == pytest.approx(expected)


def test_without_tracks_there_is_nothing_to_say():
    found, truth, tracks = problem([(0, 0.9, 0, 0)], 3)
    assert stability(found, truth, tracks._replace(track=np.full(3, -1))) == {}
    assert stability(*problem([], 0)) == {}


def test_without_detections_every_frame_is_delay():
    assert stability(*problem([], 5)) == {"flicker": 0, "delay": 5, "gap": 0, "coverage": 0}


def test_the_threshold_does_not_change_who_is_matched_above_it():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 40, (300, 2))
    boxes = np.concatenate([corner, corner + 30], axis=1).astype(float)
    found = Detections(rng.integers(0, 9, 300), boxes, rng.random(300), rng.integers(0, 2, 300))
    truth = GroundTruth(np.arange(40) % 9, boxes[:40] + 2, np.arange(40) % 2, np.zeros(40, bool))
    tracks = TrackIndex(np.arange(40) // 8, np.arange(40) % 8)
    matches = match_detections(found, truth, PROTOCOLS["fixed"])
    is_found = np.isin(np.arange(40), matches[(matches >= 0) & (found.scores >= 0.7)])
    rows = slow_track_stability(is_found.tolist(), tracks)
    expected = np.mean([row[2] / row[0] for row in rows]) * 100
    assert stability(found, truth, tracks, score_threshold=0.7)["flicker"] == pytest.approx(expected)


def annotation(**more):
    return {"bbox": list(BOX), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0, **more}


def test_tracks_are_told_apart_by_video_and_by_number():
    dataset = [
        {"video_id": "a", "frame_index": 3, "annotations": [annotation(track_id=1), annotation(track_id=7)]},
        {"video_id": "b", "frame_index": 0, "annotations": [annotation(track_id=1), annotation()]},
        {"video_id": "a", "frame_index": 4, "annotations": [annotation(track_id=7)]},
        {"annotations": [annotation(track_id=1)]},
    ]
    tracks = index_tracks(dataset)
    assert tracks.track.tolist() == [0, 1, 2, -1, 1, -1]
    assert tracks.frame.tolist() == [3, 3, 0, 0, 4, 0]


@pytest.fixture
def video():
    """The name of a dataset of one video, four frames f0 to f3, with one object."""
    records = [
        {"image_id": f"f{i}", "video_id": "v", "frame_index": i, "annotations": [annotation(track_id=4)]}
        for i in range(4)
    ]
    DatasetCatalog.register("stability_test", lambda: records)
    MetadataCatalog.get("stability_test").set(thing_classes=["cat"])
    yield "stability_test"
    DatasetCatalog.remove("stability_test")
    MetadataCatalog.remove("stability_test")


def test_the_vid_evaluator_reports_it_beside_ap(video):
    evaluator = VIDEvaluator(video)
    for frame in (1, 3):
        found = Instances((200, 200), pred_boxes=Boxes(torch.tensor([BOX])))
        found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        evaluator.process([{"image_id": f"f{frame}"}], [{"instances": found}])
    results = evaluator.evaluate()["vid"]
    assert {key: results[key] for key in ("flicker", "delay", "gap", "coverage")} == {
        "flicker": 75,
        "delay": 1,
        "gap": 1,
        "coverage": 50,
    }
