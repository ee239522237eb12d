"""HOTA, IDF1 and MOTA of linked detections: by hand, and against loops that follow the papers."""

import json
import logging
import sys

import numpy as np
import pytest
import torch

from helpers.models import tiny_cfg
from reference import mot
from vod2.d2 import Boxes, BoxMode, DatasetCatalog, Instances, MetadataCatalog
from vod2.errors import UserError
from vod2.evaluation import Detections, UAVDTEvaluator, VIDEvaluator, read_run
from vod2.evaluation.evaluated import ground_truth_arrays
from vod2.evaluation.mot_metrics import VideoFrames, check_mot, mot_metrics
from vod2.evaluation.stability import index_tracks

HERE, THERE = (0.0, 0.0, 50.0, 50.0), (100.0, 0.0, 150.0, 50.0)
CLASSES = ["cat", "dog"]


def note(box, track, label=0, iscrowd=0):
    result = {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "iscrowd": iscrowd}
    return result if track is None else result | {"track_id": track}


def dataset_of(videos):
    """Dicts of videos, lists of frames, lists of notes."""
    records = []
    for video, frames in enumerate(videos):
        for t, notes in enumerate(frames):
            record = {
                "image_id": f"{video}/{t}",
                "video_id": f"v{video}",
                "frame_index": t,
                "video_length": len(frames),
            }
            records.append(record | {"height": 300, "width": 300, "annotations": notes})
    return records


def metrics_of(records, found, classes=CLASSES):
    """`found`: rows (frame of the dataset, box, track, label, score)."""
    columns = [np.array([row[k] for row in found]) for k in (0, 2, 3, 4)]
    boxes = np.array([row[1] for row in found], dtype=np.float32).reshape(-1, 4)
    image, track, label = (column.astype(np.int64) for column in columns[:3])
    detections = Detections(image, boxes, columns[3].astype(float), label, track)
    videos = np.unique([record["video_id"] for record in records], return_inverse=True)[1].astype(np.int64)
    truth, tracks = ground_truth_arrays(records), index_tracks(records)
    return mot_metrics(detections, truth, tracks, VideoFrames.of(records, videos), classes)


def follow(track_of_frame, box=HERE, label=0, score=0.9):
    """Rows of one box in frame after frame, with these tracks; None is no box."""
    return [(t, box, track, label, score) for t, track in enumerate(track_of_frame) if track is not None]


ONE = [[[note(HERE, 7)] for _ in range(4)]]  # one object for four frames


def test_a_perfect_track_has_100_percent():
    assert metrics_of(dataset_of(ONE), follow([3, 3, 3, 3])) == {
        **dict.fromkeys(["HOTA", "DetA", "AssA", "IDF1", "MOTA"], pytest.approx(100)),
        "id-switches": 0,
        **dict.fromkeys(["HOTA-cat", "IDF1-cat", "MOTA-cat"], pytest.approx(100)),
        **dict.fromkeys(["HOTA-dog", "IDF1-dog", "MOTA-dog"], pytest.approx(np.nan, nan_ok=True)),
    }


def test_a_change_of_identity_in_the_middle_by_hand():
    """All found, half with each track. AssA: each pair 2 / (4 + 2 - 2) = .5. IDF1: 2 of 4 agree. MOTA: 1 of 4 lost."""
    found = metrics_of(dataset_of(ONE), follow([3, 3, 4, 4]))
    expected = {"HOTA": 100 * 0.5**0.5, "DetA": 100, "AssA": 50, "IDF1": 50, "MOTA": 75, "id-switches": 1}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_missed_frame_and_a_false_track_by_hand():
    """3 of 4 found, 2 false ones elsewhere. DetA 3 / 6. AssA 3 / 4. IDF1 2 * 3 / (4 + 5). MOTA 1 - (1 + 2) / 4."""
    rows = [*follow([3, None, 3, 3]), *follow([9, 9, None, None], THERE)]
    found = metrics_of(dataset_of(ONE), rows)
    expected = {"HOTA": 100 * (0.5 * 0.75) ** 0.5, "DetA": 50, "AssA": 75, "IDF1": 200 / 3, "MOTA": 25}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["id-switches"] == 0


def test_the_order_is_that_of_frame_numbers_and_not_of_the_dataset():
    """Tracks 3, 4, 4, 3 in order are two switches, in the order of the dataset (0, 3, 1, 2) they would be one."""
    records = dataset_of(ONE)
    shuffled = [records[t] for t in (0, 3, 1, 2)]
    rows = [(row, HERE, (3, 4, 4, 3)[t], 0, 0.9) for row, t in enumerate((0, 3, 1, 2))]
    assert metrics_of(shuffled, rows)["id-switches"] == 2


def test_classes_are_evaluated_alone_and_the_mean_is_over_those_with_tracks():
    """The cat is followed, the dog called a cat: HOTA 100 * sqrt(1 / 2) and 0; a third class has detections alone."""
    records = dataset_of([[[note(HERE, 1), note(THERE, 2, label=1)] for _ in range(3)]])
    rows = [*follow([5] * 3), *follow([6] * 3, THERE), *follow([7] * 3, THERE, label=2)]
    found = metrics_of(records, rows, ["cat", "dog", "fox"])
    assert found["HOTA-cat"] == pytest.approx(100 * 0.5**0.5) and found["HOTA-dog"] == 0
    assert np.isnan(found["HOTA-fox"]) and found["HOTA"] == pytest.approx(found["HOTA-cat"] / 2)
    assert (found["MOTA-cat"], found["MOTA-dog"], found["MOTA"]) == (0, 0, 0)


def test_tracks_of_one_number_in_two_videos_are_two():
    records = dataset_of(ONE * 2)
    rows = [(t, HERE, 0, 0, 0.9) for t in range(8)]
    assert metrics_of(records, rows)["HOTA"] == pytest.approx(100)


def test_frames_without_objects_count_with_their_false_detections():
    """Two objects found, two false in a frame with [] and one without annotations: MOTA 0, DetA 1 / 2."""
    records = dataset_of([[[note(HERE, 1)], [note(HERE, 1)], [], []]])
    del records[3]["annotations"]
    found = metrics_of(records, follow([5, 5, 5, 5]))
    assert found["MOTA"] == 0 and found["DetA"] == pytest.approx(50)


def test_nothing_detected_is_zero_and_weak_detections_are_nothing():
    for rows in ([], follow([1] * 4, score=0.49)):
        found = metrics_of(dataset_of(ONE), rows)
        assert [found[name] for name in ("HOTA", "IDF1", "MOTA", "id-switches")] == [0, 0, 0, 0]


def test_crowds_objects_without_tracks_and_ignore_regions_are_neither_right_nor_wrong():
    far = (200.0, 200.0, 250.0, 250.0)
    records = dataset_of([[[note(HERE, 1), note(THERE, 2, iscrowd=1), note(far, None)] for _ in range(3)]])
    for record in records:
        record["ignore_regions"] = [[0, 100, 100, 300]]
    rows = [*follow([5] * 3), *follow([6] * 3, THERE), *follow([7] * 3, far), *follow([8] * 3, (0, 150, 50, 200))]
    found = metrics_of(records, rows)
    assert [found[name] for name in ("HOTA", "IDF1", "MOTA")] == pytest.approx([100] * 3)


def test_an_object_inside_an_ignore_region_can_be_found():
    records = dataset_of(ONE)
    for record in records:
        record["ignore_regions"] = [[0, 0, 300, 300]]
    assert metrics_of(records, [*follow([5] * 4), *follow([6] * 4, THERE)])["MOTA"] == 100


def test_two_boxes_of_a_track_in_one_frame_are_told_and_the_surest_counts(caplog):
    with caplog.at_level(logging.WARNING):
        found = metrics_of(dataset_of(ONE), [*follow([5] * 4), *follow([5] * 4, THERE, score=0.8)])
    assert found["MOTA"] == 100 and "leave out 4 boxes of tracks of detections" in caplog.text


def test_a_detection_without_a_track_is_a_track_of_one_frame():
    found = metrics_of(dataset_of(ONE), follow([5, 5, -1, -1]))
    assert found["id-switches"] == 2 and found["IDF1"] == pytest.approx(50)


@pytest.mark.parametrize("seed", range(12))
def test_random_videos_have_the_metrics_of_the_papers_definitions(seed):
    rng = np.random.default_rng(seed)
    records, rows, plain = [], [], {0: [], 1: []}
    for _ in range(2):
        frames, video = [], {0: [], 1: []}
        start = len(records)
        for t in range(int(rng.integers(1, 7))):
            notes, frame_of_class = [], {0: ([], []), 1: ([], [])}
            for side in (0, 1):
                for name in np.flatnonzero(rng.random(4) < 0.7):
                    corner = np.array([30.0 * (name % 3) + 3 * t, 5.0]) + rng.normal(0, 6, 2)
                    box = tuple(np.float32([*corner, *(corner + rng.uniform(30, 45, 2))]).astype(float).tolist())
                    label = int(name % 2) if rng.random() < 0.85 else 1 - int(name % 2)
                    # Now and then the track changes its number.
                    number = int(name) if side == 0 or rng.random() < 0.8 else 10 + int(name)
                    frame_of_class[label][side].append((number, box))
                    if side == 0:
                        notes.append(note(box, number, label))
                    else:
                        rows.append((start + t, box, number, label, 0.9))
            frames.append(notes)
            for label, sides in frame_of_class.items():
                video[label].append(sides)
        for label, of_class in video.items():
            plain[label].append(of_class)
        records += [record | {"image_id": f"{start}-{record['image_id']}", "video_id": str(start)}
                    for record in dataset_of([frames])]  # fmt: skip
    found = metrics_of(records, rows)
    hota = {}
    for label, videos in plain.items():
        if any(objects for video in videos for objects, _ in video):
            hota[label] = mot.hota(videos)
            expected = [hota[label][0], mot.idf1(videos), mot.mota(videos)]
            given = [found[f"{name}-{CLASSES[label]}"] for name in ("HOTA", "IDF1", "MOTA")]
            assert given == pytest.approx([100 * value for value in expected], abs=1e-9)
    means = 100 * np.mean(list(hota.values()), axis=0)
    assert [found[name] for name in ("HOTA", "DetA", "AssA")] == pytest.approx(means.tolist())
    assert found["id-switches"] == sum(mot.clear_counts(video)[3] for videos in plain.values() for video in videos)


@pytest.fixture
def registered():
    records = dataset_of(ONE)
    DatasetCatalog.register("mot_one", lambda: records)
    MetadataCatalog.get("mot_one").set(thing_classes=["cat"], evaluator_type="vid")
    yield records
    DatasetCatalog.remove("mot_one")
    MetadataCatalog.remove("mot_one")


def evaluate(evaluator, records, tracks):
    evaluator.reset()
    for record, track in zip(records, tracks, strict=True):
        instances = Instances((300, 300), pred_boxes=Boxes(torch.tensor([HERE])))
        instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        if track is not None:
            instances.track_ids = torch.tensor([track])
        evaluator.process([record], [{"instances": instances}])
    return next(iter(evaluator.evaluate().values()))


def test_evaluators_report_linked_detections_and_keep_their_tracks(registered, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        found = evaluate(VIDEvaluator("mot_one", tmp_path, distributed=False), registered, [3, 3, 4, 4])
    assert (found["IDF1"], found["HOTA-cat"]) == pytest.approx((50, 100 * 0.5**0.5))
    assert "identities" in caplog.text and "id-switches" in caplog.text
    assert json.loads((tmp_path / "results.json").read_text())["vid"]["MOTA"] == 75
    assert read_run(tmp_path).detections.track_ids.tolist() == [3, 3, 4, 4]
    assert evaluate(UAVDTEvaluator("mot_one", distributed=False), registered, [3, 3, 4, 4])["MOTA"] == 75


def test_detections_that_are_not_linked_have_none_of_these_metrics(registered, tmp_path):
    found = evaluate(VIDEvaluator("mot_one", tmp_path, distributed=False), registered, [None] * 4)
    assert "HOTA" not in found and "flicker" in found
    assert read_run(tmp_path).detections.track_ids is None


def test_frames_without_tracks_between_linked_ones_count_alone(registered):
    found = evaluate(VIDEvaluator("mot_one", distributed=False), registered, [3, 3, None, None])
    assert found["IDF1"] == pytest.approx(50)


def test_without_the_package_a_warning_says_how_to_get_it(registered, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "trackers.eval", None)
    with caplog.at_level(logging.WARNING):
        found = evaluate(VIDEvaluator("mot_one", distributed=False), registered, [3, 3, 4, 4])
    assert "HOTA" not in found and found["AP50"] == 100
    assert "left out: HOTA, IDF1 and MOTA need trackers" in caplog.text and "pip install 'vod2[mot]'" in caplog.text
    with pytest.raises(UserError, match=r"pip install 'vod2\[mot\]'"):
        metrics_of(registered, follow([1] * 4))


def test_metrics_that_are_asked_for_are_checked_before_the_evaluation(monkeypatch):
    cfg = tiny_cfg({"TEST.REQUIRE_HOTA": True})
    with pytest.raises(UserError, match="detections that are not linked have no tracks: set MODEL.VIDEO.LINKER.NAME"):
        check_mot(cfg, is_linked=False)
    check_mot(cfg, is_linked=True)
    monkeypatch.setitem(sys.modules, "trackers.eval", None)
    with pytest.raises(UserError, match=r"pip install 'vod2\[mot\]'"):
        check_mot(cfg, is_linked=True)
    cfg.TEST.REQUIRE_HOTA = False
    check_mot(cfg, is_linked=False)
