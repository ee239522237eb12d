"""UAVDTEvaluator: ignore regions, pooled and single classes, two thresholds, several processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vod2.d2 import Boxes, BoxMode, DatasetCatalog, Instances, MetadataCatalog, comm
from vod2.engine import VideoTrainer, load_config, trainer
from vod2.errors import UserError
from vod2.evaluation import Detections, UAVDTEvaluator, is_ignored, read_run, tally_run
from vod2.evaluation.comparison import resampled_metrics

CAR, TRUCK, BUS = range(3)
BOX = [0.0, 0.0, 100.0, 100.0]
FAR = [200.0, 200.0, 300.0, 300.0]
SHIFTED = [25.0, 0.0, 125.0, 100.0]  # IoU .6 with BOX


def annotation(category_id, box=BOX, **more):
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category_id, "iscrowd": 0, **more}


@pytest.fixture
def register():
    """A function that registers frames (annotations, ignore regions) as f0, f1, ..., unregistered at the end."""
    names = []

    def register(*frames, evaluator_type="uavdt", classes=("car", "truck", "bus")):
        name = f"uavdt_evaluator_test_{len(names)}"
        records = [
            {"image_id": f"f{i}", "video_id": "v", "frame_index": i, "annotations": notes, "ignore_regions": regions}
            for i, (notes, regions) in enumerate(frames)
        ]
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(thing_classes=list(classes), evaluator_type=evaluator_type)
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def process(evaluator, frames):
    """Feed {frame: rows (box, score, label)}."""
    for frame, rows in frames.items():
        instances = Instances((300, 300))
        instances.pred_boxes = Boxes(torch.tensor([box for box, _, _ in rows]).reshape(-1, 4))
        instances.scores = torch.tensor([score for _, score, _ in rows])
        instances.pred_classes = torch.tensor([label for _, _, label in rows], dtype=torch.int64)
        evaluator.process([{"image_id": f"f{frame}"}], [{"instances": instances}])


def evaluate(name, frames):
    evaluator = UAVDTEvaluator(name)
    process(evaluator, frames)
    return evaluator.evaluate()["uavdt"]


def test_the_thresholds_are_point_seven_and_point_five(register):
    results = evaluate(register(([annotation(CAR)], [])), {0: [(SHIFTED, 0.9, CAR)]})
    assert (results["AP70-pooled"], results["AP50-pooled"]) == (0, 100)
    assert (results["AP70-car"], results["AP50-car"]) == (0, 100)


def test_pooled_does_not_ask_for_the_class_and_the_mean_is_over_classes_with_ground_truth(register):
    name = register(([annotation(CAR), annotation(TRUCK, FAR)], []))
    results = evaluate(name, {0: [(BOX, 0.9, CAR), (FAR, 0.8, BUS)]})
    assert list(results) == [
        *("AP70-pooled", "AP50-pooled", "AP70", "AP50"),
        *("AP70-car", "AP70-truck", "AP70-bus", "AP50-car", "AP50-truck", "AP50-bus"),
    ]
    assert results["AP70-pooled"] == 100
    assert (results["AP70-car"], results["AP70-truck"]) == (100, 0) and np.isnan(results["AP70-bus"])
    assert results["AP70"] == results["AP50"] == 50


def test_pooled_counts_two_classes_on_one_object_as_one_right_and_one_wrong(register):
    name = register(([annotation(CAR)], []), ([annotation(CAR)], []))
    results = evaluate(name, {0: [(BOX, 0.9, TRUCK), (BOX, 0.8, CAR)], 1: [(BOX, 0.7, CAR)]})
    # True, false, true: 1/2 of recall at precision 1, 1/2 at 2/3. Of the cars alone both are true.
    assert results["AP70-pooled"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert results["AP70-car"] == 100


def test_detections_in_ignore_regions_are_dropped(register):
    rows = {0: [(FAR, 0.9, CAR), (BOX, 0.8, CAR)]}
    assert evaluate(register(([annotation(CAR)], [])), rows)["AP70-pooled"] == 50
    assert evaluate(register(([annotation(CAR)], [[190, 190, 300, 300]])), rows)["AP70-pooled"] == 100
    # The region of another frame does not count.
    name = register(([annotation(CAR)], []), ([], [[190, 190, 300, 300]]))
    assert evaluate(name, rows)["AP70-pooled"] == 50


def test_a_comparison_reads_these_results_without_what_is_ignored_and_at_one_half(register, tmp_path):
    region = [190, 190, 300, 300]
    name = register(([annotation(CAR)], [region]), ([annotation(TRUCK)], []))
    evaluator = UAVDTEvaluator(name, tmp_path)
    process(evaluator, {0: [(FAR, 0.9, CAR), (SHIFTED, 0.8, CAR)], 1: [(FAR, 0.7, CAR), (BOX, 0.6, CAR)]})
    results = evaluator.evaluate()["uavdt"]
    run = read_run(tmp_path)
    metrics = resampled_metrics(tally_run(run), run.data.class_names, np.ones((1, 1)))
    assert metrics["AP50"] == pytest.approx(results["AP50"]) == 50
    assert metrics["AP50-any-class"] == pytest.approx(results["AP50-pooled"]) == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_identities_that_were_linked_are_marked(register, caplog):
    name = register(([annotation(CAR, track_id=0)], []), ([annotation(CAR, track_id=0)], []))
    assert "linked-identities" not in evaluate(name, {})
    MetadataCatalog.get(name).linked_identities = True
    with caplog.at_level("INFO", logger="vod2.evaluation.uavdt"):
        assert evaluate(name, {})["linked-identities"] == 1
    assert "linked from boxes, not annotated" in caplog.text


def test_half_of_the_area_under_all_regions_together_is_inside():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [5, 5, 5, 9], [20, 0, 30, 10], [0, 0, 10, 10]], np.float64)
    found = Detections(np.array([0, 0, 0, 0, 1]), boxes, np.ones(5), np.zeros(5, int))
    # The two regions cover 10 x 5 of the first box together: exactly half; overlap counts once.
    regions = [np.array([[0, 0, 7, 5], [3, 0, 12, 5], [25, -5, 40, 20]], np.float64), np.empty((0, 4))]
    assert is_ignored(found, regions).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("seed", range(20))
def test_the_covered_area_agrees_with_counting_pixels(seed):
    rng = np.random.default_rng(seed)

    def boxes(count):
        corner = rng.integers(0, 30, (count, 2))
        return np.concatenate([corner, corner + rng.integers(0, 12, (count, 2))], axis=1)

    regions = [boxes(int(rng.integers(0, 6))) for _ in range(4)]
    regions[3] = regions[2]
    found = Detections(rng.integers(0, 4, 60), boxes(60).astype(np.float32), np.ones(60), np.zeros(60, int))
    expected = []
    for image, (x1, y1, x2, y2) in zip(found.image, found.boxes.astype(int), strict=True):
        mask = np.zeros((50, 50), bool)
        for left, top, right, bottom in regions[image]:
            mask[top:bottom, left:right] = True
        area = (x2 - x1) * (y2 - y1)
        expected.append(area > 0 and 2 * mask[y1:y2, x1:x2].sum() >= area)
    assert is_ignored(found, [region.astype(np.float64) for region in regions]).tolist() == expected


def slow_ap(truth, rows, threshold):
    """truth {frame: boxes}, rows (frame, box, score): greedy matching and area under the envelope, by loops."""
    taken, flags = set(), []
    for frame, (x1, y1, x2, y2), _ in sorted(rows, key=lambda row: -row[2]):
        best, best_iou = None, 0.0
        for number, (a1, b1, a2, b2) in enumerate(truth[frame]):
            common = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
            iou = common / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - common)
            if (frame, number) not in taken and iou >= threshold and iou > best_iou:
                best, best_iou = (frame, number), iou
        flags.append(best is not None)
        taken.add(best)
    precision = [sum(flags[: i + 1]) / (i + 1) for i in range(len(flags))]
    total = sum(len(boxes) for boxes in truth.values())
    return 100 * sum(max(precision[i:]) for i, flag in enumerate(flags) if flag) / total


@pytest.mark.parametrize("seed", range(5))
def test_random_problems_agree_with_loops(register, seed):
    rng = np.random.default_rng(seed)
    scores = iter(rng.permutation(1000) / 1024)  # distinct, and exact in float32

    def random_box():
        x, y = rng.integers(0, 60, 2).tolist()
        return [float(x), float(y), float(x + rng.integers(10, 40)), float(y + rng.integers(10, 40))]

    objects = {frame: [(random_box(), int(rng.integers(2))) for _ in range(5)] for frame in range(6)}
    found = {
        frame: [([c + float(rng.integers(-2, 3)) for c in box], float(next(scores)), label) for box, label in notes * 2]
        for frame, notes in objects.items()
    }
    frames = [([annotation(label, box) for box, label in notes], []) for notes in objects.values()]
    results = evaluate(register(*frames), found)
    for name, threshold in (("70", 0.7), ("50", 0.5)):
        for key, labels in (("pooled", (0, 1)), ("car", (0,)), ("truck", (1,))):
            truth = {frame: [box for box, label in notes if label in labels] for frame, notes in objects.items()}
            rows = [(f, box, s) for f, rows in found.items() for box, s, label in rows if label in labels]
            assert results[f"AP{name}-{key}"] == pytest.approx(slow_ap(truth, rows, threshold), abs=1e-9)


def test_nothing_found_is_zero_and_nothing_to_find_is_nan(register):
    assert evaluate(register(([annotation(CAR)], [[0, 0, 9, 9]])), {0: []})["AP70-pooled"] == 0
    results = evaluate(register(([], [])), {0: [(BOX, 0.9, CAR)]})
    assert np.isnan(results["AP70-pooled"]) and np.isnan(results["AP50"])


def test_tracks_are_followed_where_the_dataset_tells_them(register):
    name = register(*[([annotation(CAR, track_id=3)], [])] * 4)
    results = evaluate(name, {0: [], 1: [(BOX, 0.9, CAR)], 2: [], 3: []})
    assert {key: results[key] for key in ("flicker", "delay", "gap", "coverage")} == {
        "flicker": 50,
        "delay": 1,
        "gap": 2,
        "coverage": 25,
    }


def test_two_processes_give_the_result_of_one(register, monkeypatch, tmp_path):
    frames = {i: [(BOX, 0.1 * i + 0.1, i % 3), (FAR, 0.5, CAR)] for i in range(6)}
    name = register(*[([annotation(i % 2)], [[250, 0, 300, 300]] if i == 3 else []) for i in range(6)])
    whole = UAVDTEvaluator(name, tmp_path / "whole")
    process(whole, frames)
    expected = whole.evaluate()
    ranks = [UAVDTEvaluator(name, tmp_path / "ranks") for _ in range(2)]
    process(ranks[1], {i: frames[i] for i in (2, 0, 5)})
    process(ranks[0], {i: frames[i] for i in (4, 1, 3)})
    sent = []
    monkeypatch.setattr(comm, "gather", lambda data, dst: sent.append(data) or [])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert ranks[1].evaluate() == {}
    monkeypatch.setattr(comm, "gather", lambda data, dst: [data, *sent])
    monkeypatch.setattr(comm, "is_main_process", lambda: True)
    np.testing.assert_equal(dict(ranks[0].evaluate()["uavdt"]), dict(expected["uavdt"]))
    one, two = (np.load(tmp_path / folder / "detections.npz") for folder in ("whole", "ranks"))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def test_the_written_files_hold_the_metrics_and_all_detections(register, tmp_path):
    evaluator = UAVDTEvaluator(register(([annotation(CAR)], [FAR])), tmp_path)
    process(evaluator, {0: [(BOX, 0.75, CAR), (FAR, 0.5, BUS)]})
    evaluator.evaluate()
    written = json.loads((tmp_path / "results.json").read_text())["uavdt"]
    assert written["AP70-pooled"] == 100 and written["AP70-bus"] is None
    assert np.load(tmp_path / "detections.npz")["boxes"].tolist() == [BOX, FAR]


def test_evaluating_twice_and_after_a_reset(register):
    evaluator = UAVDTEvaluator(register(([annotation(CAR)], [])))
    process(evaluator, {0: [(BOX, 0.9, CAR)]})
    assert [evaluator.evaluate()["uavdt"]["AP70-car"] for _ in range(2)] == [100, 100]
    evaluator.reset()
    assert evaluator.evaluate()["uavdt"]["AP70-car"] == 0


def test_bad_labels_and_datasets_are_named(register):
    with pytest.raises(UserError, match="label 3, but dataset .* has 3 classes"):
        evaluate(register(([], [])), {0: [(BOX, 0.9, 3)]})
    with pytest.raises(ValueError, match="category_id 3, but 3 classes"):
        UAVDTEvaluator(register(([annotation(3)], [])))
    with pytest.raises(ValueError, match="'pooled'"):
        UAVDTEvaluator(register(([], []), classes=["pooled"]))


@pytest.mark.parametrize(("evaluator_type", "warnings"), [(None, 1), ("coco", 0), ("vid", 0)])
def test_a_dataset_that_does_not_say_how_it_is_evaluated_is_named_once(
    register, tmp_path, monkeypatch, caplog, evaluator_type, warnings
):
    trainer._warn_without_evaluator_type.cache_clear()
    # Detectron2 logs into files and streams of its own.
    monkeypatch.setattr(trainer._LOGGER, "propagate", True)
    monkeypatch.setattr(trainer, "build_coco_evaluator", lambda *_: None)
    name = register(([], []), evaluator_type=evaluator_type)
    config = Path(__file__).parents[2] / "configs" / "quick" / "RDN.yaml"
    cfg = load_config(str(config), ["OUTPUT_DIR", str(tmp_path)])
    for _ in range(2):
        VideoTrainer.build_evaluator(cfg, name)
    said = [text for text in caplog.messages if f"dataset '{name}' has no evaluator_type" in text]
    assert len(said) == warnings
    assert all(f"MetadataCatalog.get('{name}').set(evaluator_type=\"vid\")" in text for text in said)


@pytest.mark.parametrize("evaluator_type", ["uavdt", "vid"])
def test_the_trainer_chooses_the_evaluator_that_the_metadata_names(register, tmp_path, evaluator_type):
    config = Path(__file__).parents[2] / "configs" / "quick" / "RDN.yaml"
    cfg = load_config(str(config), ["OUTPUT_DIR", str(tmp_path), "TEST.COCO_AP", "False"])
    chosen = VideoTrainer.build_evaluator(cfg, register(([], []), evaluator_type=evaluator_type))
    chosen.reset()
    assert set(chosen.evaluate()) == {evaluator_type}
