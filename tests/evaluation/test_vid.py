"""VIDEvaluator: what it registers, gathers, reports and writes."""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from vod2.config import add_video_config
from vod2.d2 import Boxes, BoxMode, COCOEvaluator, DatasetCatalog, Instances, MetadataCatalog, comm, get_cfg
from vod2.errors import UserError
from vod2.evaluation import ERROR_TYPES, VIDEvaluator
from vod2.evaluation.curves import load_curves

CLASSES = ["cat", "dog", "fox"]
BOX = [10.0, 10.0, 110.0, 110.0]
FAR = [200.0, 200.0, 260.0, 260.0]


def annotation(category_id, box=BOX, **more):
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category_id, "iscrowd": 0, **more}


@pytest.fixture
def register():
    """A function that registers frames (lists of annotations) with image_ids f0, f1, ..., unregistered at the end."""
    names = []

    def register(frames, classes=CLASSES):
        name = f"evaluator_test_{len(names)}"
        records = [{"image_id": f"f{i}", "annotations": notes} for i, notes in enumerate(frames)]
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(thing_classes=classes)
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def found(rows):
    """Instances from rows (box, score, label)."""
    instances = Instances((300, 300))
    instances.pred_boxes = Boxes(torch.tensor([box for box, _, _ in rows]).reshape(-1, 4))
    instances.scores = torch.tensor([score for _, score, _ in rows])
    instances.pred_classes = torch.tensor([label for _, _, label in rows], dtype=torch.int64)
    return {"instances": instances}


def process(evaluator, frames):
    """Feed {frame: rows}."""
    for frame, rows in frames.items():
        evaluator.process([{"image_id": f"f{frame}"}], [found(rows)])


def test_map_is_the_mean_over_classes_that_have_ground_truth(register):
    evaluator = VIDEvaluator(register([[annotation(0)], [annotation(1)]]))
    process(evaluator, {0: [(BOX, 0.9, 0)], 1: [(FAR, 0.9, 1), (BOX, 0.5, 1), (BOX, 0.5, 2)]})
    results = evaluator.evaluate()["vid"]
    names = ["AP50", "AP50-clean", "AP50-any-class", "AP50-cat", "AP50-dog", "AP50-fox"]
    assert list(results) == names + [f"{what}-{kind}" for what in ("dAP50", "errors") for kind in ERROR_TYPES]
    assert results["AP50-cat"] == 100 and results["AP50-dog"] == 50 and np.isnan(results["AP50-fox"])
    assert results["AP50"] == 75


def test_objects_of_other_groups_are_ignored_and_not_false(register):
    blurred = annotation(0, deterioration={"motion_blur": 0.7})
    both = annotation(0, deterioration={"motion_blur": 0.2, "occlusion": 1.0})
    evaluator = VIDEvaluator(register([[annotation(0)], [blurred], [both]]), groups="objects")
    process(evaluator, {0: [(BOX, 0.5, 0)], 1: [(BOX, 0.9, 0)], 2: [(FAR, 0.8, 0)]})
    results = evaluator.evaluate()["vid"]
    # By score: true (blurred), false, true (clean); the object of frame 2 is missed.
    assert results["AP50"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert results["AP50-clean"] == pytest.approx(50)
    assert results["AP50-motion_blur"] == pytest.approx(50)
    assert results["AP50-occlusion"] == 0 and results["AP50-deteriorated"] == pytest.approx(50)


def test_a_kind_of_deterioration_is_evaluated_on_its_frames_alone(register):
    blurred = [annotation(0, deterioration={"motion_blur": 0.7}), annotation(0, FAR)]
    evaluator = VIDEvaluator(register([[annotation(0)], blurred, []]))
    process(evaluator, {0: [(FAR, 0.9, 0), (BOX, 0.8, 0)], 1: [(BOX, 0.7, 0)], 2: [(BOX, 0.95, 0)]})
    results = evaluator.evaluate()["vid"]
    # All: false, false, true, true of three. The blurred frame: one of its two objects, and nothing false. The clean
    # ones: false, false, true.
    assert results["AP50"] == pytest.approx(100 * (1 / 2 + 1 / 2) / 3)
    assert results["AP50-motion_blur"] == results["AP50-deteriorated"] == pytest.approx(50)
    assert results["AP50-clean"] == pytest.approx(100 / 3)


def test_any_class_ap_does_not_look_at_labels(register):
    evaluator = VIDEvaluator(register([[annotation(0)], [annotation(1)]]))
    process(evaluator, {0: [(BOX, 0.9, 2)], 1: [(BOX, 0.8, 1), (BOX, 0.7, 0)]})
    results = evaluator.evaluate()["vid"]
    assert results["AP50"] == 50 and results["AP50-any-class"] == 100


def test_identities_that_were_linked_are_marked_in_the_results_and_in_the_table(moving, caplog, tmp_path):
    assert "linked-identities" not in VIDEvaluator(moving).evaluate()["vid"]
    MetadataCatalog.get(moving).linked_identities = True
    with caplog.at_level(logging.INFO, logger="vod2.evaluation.vid"):
        assert VIDEvaluator(moving, tmp_path).evaluate()["vid"]["linked-identities"] == 1
    assert "linked from boxes, not annotated" in caplog.text
    assert json.loads((tmp_path / "results.json").read_text())["vid"]["linked-identities"] == 1


def test_the_configuration_chooses_the_groups_and_bad_values_are_one_sentence(register, tmp_path):
    frames = [[annotation(0, deterioration={"defocus": 1.0})], [annotation(0)]]
    name, cfg = register(frames), add_video_config(get_cfg())
    (tmp_path / "kinds.json").write_text('{"f1": ["low_light"]}')
    cfg.TEST.FRAME_KINDS = str(tmp_path / "kinds.json")
    for groups, expected in (("frames", 100), ("objects", 50)):
        cfg.TEST.VID_GROUPS = groups
        evaluator = VIDEvaluator.from_config(cfg, name)
        process(evaluator, {0: [(FAR, 0.9, 0)], 1: [(BOX, 0.8, 0)]})
        results = evaluator.evaluate()["vid"]
        assert results["AP50-low_light"] == expected and results["AP50-defocus"] == 0
    cfg.TEST.VID_GROUPS = "videos"
    with pytest.raises(UserError, match="TEST.VID_GROUPS.*'videos'.*'frames', 'objects'"):
        VIDEvaluator.from_config(cfg, name)


def test_crowds_are_ignored(register):
    evaluator = VIDEvaluator(register([[annotation(0), annotation(0, FAR, iscrowd=1)]]))
    process(evaluator, {0: [(FAR, 0.9, 0), (BOX, 0.8, 0)]})
    assert evaluator.evaluate()["vid"]["AP50"] == 100


def test_the_protocol_is_chosen_by_name(register):
    name = register([[annotation(0, [0.0, 0.0, 9.0, 9.0])]])
    for protocol, expected in (("imagenet", 100), ("fixed", 0)):
        evaluator = VIDEvaluator(name, protocol=protocol)
        process(evaluator, {0: [([0.0, 0.0, 19.0, 19.0], 0.9, 0)]})
        assert evaluator.evaluate()["vid"]["AP50"] == expected
    with pytest.raises(ValueError, match="'coco'"):
        VIDEvaluator(name, protocol="coco")


def test_nothing_found_is_zero_and_a_dataset_without_objects_is_nan(register):
    evaluator = VIDEvaluator(register([[annotation(0)]]))
    process(evaluator, {0: []})
    assert evaluator.evaluate()["vid"]["AP50"] == 0
    evaluator = VIDEvaluator(register([[]]))
    process(evaluator, {0: [(BOX, 0.9, 0)]})
    assert np.isnan(evaluator.evaluate()["vid"]["AP50"])


def test_frames_that_were_not_processed_are_counted_in_a_warning(register, caplog):
    evaluator = VIDEvaluator(register([[annotation(0)], [annotation(0)], []]))
    process(evaluator, {0: [(BOX, 0.9, 0)]})
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate()["vid"]["AP50"] == 50
    assert "2 of the 3 frames" in caplog.text


def test_a_frame_seen_twice_counts_once_with_a_warning(register, caplog):
    evaluator = VIDEvaluator(register([[annotation(0)]]))
    process(evaluator, {0: [(BOX, 0.5, 0)]})
    process(evaluator, {0: [(FAR, 0.9, 0)]})
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate()["vid"]["AP50"] == 100
    assert "1 frames were evaluated more than once" in caplog.text


def test_reset_forgets_what_was_processed(register):
    evaluator = VIDEvaluator(register([[annotation(0)]]))
    process(evaluator, {0: [(BOX, 0.9, 0)]})
    evaluator.reset()
    assert evaluator.evaluate()["vid"]["AP50"] == 0


def test_a_label_beyond_the_classes_is_an_error_that_names_label_and_dataset(register):
    name = register([[annotation(0)]])
    with pytest.raises(UserError, match=f"label 3, but dataset '{name}' has 3 classes"):
        process(VIDEvaluator(name), {0: [(BOX, 0.9, 3)]})


def test_bad_datasets_are_refused(register):
    with pytest.raises(ValueError, match="category_id 3, but 3 classes"):
        VIDEvaluator(register([[annotation(3)]]))
    for taken in ("clean", "any-class"):
        with pytest.raises(ValueError, match=f"'{taken}'"):
            VIDEvaluator(register([[]], classes=[taken]))
    with pytest.raises(KeyError, match="'f7'"):
        process(VIDEvaluator(register([[]])), {7: []})


def test_two_processes_give_the_result_of_one_whatever_their_shares(register, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    frames = {i: [(BOX, float(rng.integers(1, 5)) / 5, int(rng.integers(3))) for _ in range(3)] for i in range(8)}
    name = register([[annotation(i % 3)] for i in range(8)])
    whole = VIDEvaluator(name, tmp_path / "whole")
    process(whole, frames)
    expected = whole.evaluate()
    ranks = [VIDEvaluator(name, tmp_path / "ranks") for _ in range(2)]
    process(ranks[1], {i: frames[i] for i in (2, 0, 5)})
    process(ranks[0], {i: frames[i] for i in (7, 1, 3, 4, 6)})

    sent = []
    monkeypatch.setattr(comm, "gather", lambda data, dst: sent.append(data) or [])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert ranks[1].evaluate() == {}
    monkeypatch.setattr(comm, "gather", lambda data, dst: [data, *sent])
    monkeypatch.setattr(comm, "is_main_process", lambda: True)
    assert ranks[0].evaluate() == expected
    one, two = (np.load(tmp_path / folder / "detections.npz") for folder in ("whole", "ranks"))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def test_the_written_files_hold_the_metrics_and_the_detections(register, tmp_path):
    name = register([[annotation(0)], [annotation(1)]])
    evaluator = VIDEvaluator(name, tmp_path / "new" / "folder", write_json=True)
    process(evaluator, {1: [(FAR, 0.25, 1)], 0: [(BOX, 0.75, 0), (FAR, 0.5, 2)]})
    results = evaluator.evaluate()["vid"]
    folder = tmp_path / "new" / "folder"
    files = ["coco_instances_results.json", "curves.npz", "detections.npz", "results.json", "truth.npz"]
    assert sorted(path.name for path in folder.iterdir()) == files
    written = json.loads((folder / "results.json").read_text())["vid"]
    assert written["AP50"] == results["AP50"] and written["AP50-fox"] is None
    arrays = np.load(folder / "detections.npz")
    assert arrays["image_ids"].tolist() == ["f0", "f1"] and arrays["evaluated"].tolist() == [True, True]
    assert arrays["image"].tolist() == [0, 0, 1] and arrays["labels"].tolist() == [0, 2, 1]
    assert arrays["boxes"].tolist() == [BOX, FAR, FAR] and arrays["scores"].tolist() == [0.75, 0.5, 0.25]
    entries = json.loads((folder / "coco_instances_results.json").read_text())
    assert entries[2] == {"image_id": "f1", "category_id": 1, "bbox": [200, 200, 60, 60], "score": 0.25}


def test_the_coco_file_is_written_only_on_request(register, tmp_path):
    VIDEvaluator(register([[annotation(0)]]), tmp_path).evaluate()
    assert not (tmp_path / "coco_instances_results.json").exists() and (tmp_path / "detections.npz").exists()


def test_the_table_is_logged(register, caplog):
    evaluator = VIDEvaluator(register([[annotation(0, deterioration={"defocus": 0.5})]]))
    process(evaluator, {0: [(BOX, 0.9, 0)]})
    with caplog.at_level(logging.INFO, logger="vod2.evaluation.vid"):
        evaluator.evaluate()
    table = [line.split() for line in caplog.messages[-1].splitlines()[1:]]
    assert table[:7] == [
        ["AP50", "frames", "objects", "detections"],
        ["all", "100.00", "1", "1", "1"],
        ["clean", "nan", "0", "0", "0"],
        ["deteriorated", "100.00", "1", "1", "1"],
        ["defocus", "100.00", "1", "1", "1"],
        ["any", "class", "100.00", "1", "1", "1"],
        [],
    ]
    assert table[7:10] == [
        ["class", "AP50", "objects", "detections"],
        ["cat", "100.00", "1", "1"],
        [],
    ]  # no dog, no fox


def test_half_precision_detections_on_any_device_are_accepted(register):
    evaluator = VIDEvaluator(register([[annotation(0)]]))
    output = found([(BOX, 0.5, 0)])
    output["instances"].pred_boxes = Boxes(output["instances"].pred_boxes.tensor.half())
    output["instances"].scores = output["instances"].scores.half().requires_grad_()
    evaluator.process([{"image_id": "f0"}], [output])
    assert evaluator.evaluate()["vid"]["AP50"] == 100


@pytest.fixture
def moving():
    """A dataset of one video of two frames: a cat that stays, one that moves by a fifth of its width (IoU 2/3), and
    one that is seen once; a dog stays."""
    start, end, once = [0.0, 0.0, 100.0, 50.0], [20.0, 0.0, 120.0, 50.0], [0.0, 200.0, 50.0, 250.0]
    frames = [
        [annotation(0, FAR, track_id=0), annotation(0, start, track_id=1), annotation(1, BOX, track_id=3)],
        [annotation(0, FAR, track_id=0), annotation(0, end, track_id=1), annotation(0, once, track_id=2)],
    ]
    frames[1].append(annotation(1, BOX, track_id=3))
    shared = {"video_id": "v", "height": 300, "width": 300, "video_length": 2}
    records = [
        {"image_id": f"f{i}", "file_name": f"{i}.jpg", "frame_index": i, "annotations": notes, **shared}
        for i, notes in enumerate(frames)
    ]
    DatasetCatalog.register("evaluator_test_moving", lambda: records)
    MetadataCatalog.get("evaluator_test_moving").set(thing_classes=CLASSES)
    yield "evaluator_test_moving"
    DatasetCatalog.remove("evaluator_test_moving")
    MetadataCatalog.remove("evaluator_test_moving")


def test_speeds_are_reported_where_there_are_tracks(moving, tmp_path):
    evaluator = VIDEvaluator(moving, tmp_path)
    # By score: the cat that moves (true), nothing (false), the cat that stays, once of two (true), the one seen once.
    process(
        evaluator,
        {
            0: [([0.0, 0.0, 100.0, 50.0], 0.9, 0), (FAR, 0.7, 0)],
            1: [([250.0, 0.0, 290.0, 30.0], 0.8, 0), ([0.0, 200.0, 50.0, 250.0], 0.6, 0)],
        },
    )
    results = evaluator.evaluate()["vid"]
    assert results["AP50-cat"] == pytest.approx(100 * (1 + 3 / 4 + 3 / 4) / 5)
    assert results["AP50-fast"] == pytest.approx(100 * 1 / 2)
    assert results["AP50-slow"] == pytest.approx(100 * (1 / 2 / 2 + 0) / 2)  # the mean of cat and dog
    assert np.isnan(results["AP50-medium"])
    table = load_curves(tmp_path / "curves.npz")
    assert (table.groups, table.classes) == (["all", "slow", "medium", "fast", "clean"], CLASSES)
    assert 100 * table.average_precision()[0, 0] == pytest.approx(results["AP50-cat"])


def test_the_mega_protocol_weighs_what_is_false_in_a_group(moving):
    evaluator = VIDEvaluator(moving, protocol="mega")
    frames = {0: [([0.0, 0.0, 100.0, 50.0], 0.9, 0)], 1: [([250.0, 0.0, 290.0, 30.0], 0.95, 0)]}
    process(evaluator, frames)
    # The false one touches neither the two ignored cats of its frame nor the one that moves: it weighs 2/3.
    assert evaluator.evaluate()["vid"]["AP50-fast"] == pytest.approx(100 / (1 + 2 / 3) / 2)


def test_coco_ap_of_a_video_dataset_is_split_by_size(moving, tmp_path):
    evaluator = COCOEvaluator(moving, tasks=("bbox",), distributed=False, output_dir=str(tmp_path))
    evaluator.reset()
    for frame in range(2):
        evaluator.process([{"image_id": f"f{frame}"}], [found([(FAR, 0.9, 0), (BOX, 0.8, 1)])])
    results = evaluator.evaluate()["bbox"]
    # FAR has 60 x 60 pixels and BOX 100 x 100: medium and large; both dogs and both cats that stay are found.
    assert np.isnan(results["APs"]) and 0 < results["APm"] < 100 and results["APl"] == 100
    assert 0 < results["AP"] < 100 and results["AP-dog"] == 100


TWO_PROCESSES = """
import sys
import torch
from vod2.d2 import Boxes, BoxMode, DatasetCatalog, Instances, MetadataCatalog, comm
from vod2.data import VideoInferenceSampler
from vod2.evaluation import ERROR_TYPES, VIDEvaluator

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)

def boxes(count, generator):
    corner = torch.randint(0, 200, (count, 2), generator=generator).float()
    return torch.cat([corner, corner + torch.randint(20, 90, (count, 2), generator=generator)], dim=1)

def frame(video, index):
    generator = torch.Generator().manual_seed(100 * video + index)
    box = boxes(3, torch.Generator().manual_seed(video)) + video * index
    notes = [
        {"bbox": b, "bbox_mode": BoxMode.XYXY_ABS, "category_id": track % 2, "iscrowd": 0, "track_id": track}
        for track, b in enumerate(box.tolist())
    ]
    found = Instances((400, 400))
    near = box + torch.randint(-20, 20, (3, 4), generator=generator)
    found.pred_boxes = Boxes(torch.cat([near, boxes(5, generator)]))
    found.scores = torch.randint(0, 6, (8,), generator=generator) / 6
    found.pred_classes = torch.tensor([0, 1, 0, 0, 0, 1, 1, 1])
    record = {"image_id": f"{video}/{index}", "video_id": str(video), "frame_index": index, "annotations": notes}
    return record, found

frames = [frame(video, index) for video, length in enumerate((5, 12, 3, 7)) for index in range(length)]
DatasetCatalog.register("videos", lambda: [record for record, _ in frames])
MetadataCatalog.get("videos").set(thing_classes=["cat", "dog"])

def evaluate(positions, output, distributed):
    evaluator = VIDEvaluator("videos", f"{folder}/{output}", distributed, protocol="mega")
    evaluator.reset()
    for position in positions:
        record, found = frames[position]
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate()

own = list(VideoInferenceSampler([record["video_id"] for record, _ in frames]))
assert 0 < len(own) < len(frames)
assert bool(evaluate(own, "two", True)) == (rank == 0)
if rank == 0:
    evaluate(range(len(frames)), "one", False)
comm.synchronize()
"""


def test_two_processes_that_evaluate_whole_videos_write_the_files_of_one(tmp_path):
    (tmp_path / "program.py").write_text(TWO_PROCESSES)
    path = os.pathsep.join(entry for entry in [os.getcwd(), *sys.path] if entry)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def start(rank):
        command = [sys.executable, str(tmp_path / "program.py"), str(rank), str(tmp_path)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    for program in [start(0), start(1)]:
        _, errors = program.communicate(timeout=120)
        assert program.returncode == 0, errors
    one, two = tmp_path / "one", tmp_path / "two"
    results = json.loads((one / "results.json").read_text())
    assert json.loads((two / "results.json").read_text()) == results
    assert 0 < results["vid"]["AP50-fast"] < 100
    for file in ("detections.npz", "curves.npz", "truth.npz"):
        with np.load(one / file) as expected, np.load(two / file) as arrays:
            for key in expected:
                np.testing.assert_array_equal(arrays[key], expected[key])
