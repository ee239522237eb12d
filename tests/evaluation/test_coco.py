"""COCO's AP by hotcoco is that of Detectron2's evaluator, which pycocotools computes."""

import json
import logging
import sys
import uuid

import numpy as np
import pytest
import torch

from vod2.d2 import Boxes, BoxMode, COCOEvaluator, DatasetCatalog, Instances, MetadataCatalog, register_coco_instances
from vod2.evaluation.coco import COCO_RESULTS_FILE, HotCOCOEvaluator, build_coco_evaluator

CLASSES = ["cat", "dog", "fox"]


@pytest.fixture
def register():
    names = []

    def add(records, classes=CLASSES):
        names.append(f"coco_{uuid.uuid4().hex}")
        DatasetCatalog.register(names[-1], lambda: records)
        MetadataCatalog.get(names[-1]).set(thing_classes=classes)
        return names[-1]

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def random_frames(seed, frames=12, crowd=0.2, ties=False):
    """Dicts of the dataset and detections (n, 6): xyxy, score, label; objects of all of COCO's three sizes."""
    rng = np.random.default_rng(seed)
    records, found = [], []
    for t in rng.permutation(frames).tolist():
        notes, rows = [], []
        for _ in range(int(rng.integers(0, 6))):
            corner, size = rng.uniform(0, 300, 2), rng.choice([20, 60, 150]) * rng.uniform(0.6, 1.4, 2)
            box, label = np.concatenate([corner, corner + size]), int(rng.integers(0, 3))
            iscrowd = int(rng.random() < crowd)
            notes.append(
                {"bbox": box.tolist(), "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "iscrowd": iscrowd}
            )
            for _ in range(int(rng.integers(0, 4))):
                said = label if rng.random() < 0.8 else int(rng.integers(0, 3))
                rows.append([*(box + rng.normal(0, 0.1, 4) * [*size, *size]), rng.random(), said])
        for _ in range(int(rng.integers(0, 4))):
            corner = rng.uniform(0, 300, 2)
            rows.append([*corner, *(corner + rng.uniform(5, 200, 2)), rng.random(), int(rng.integers(0, 3))])
        table = np.array(rows, dtype=np.float64).reshape(-1, 6)
        if ties:
            table[:, 4] = table[:, 4].round(1)
        # Numbers without leading zeros: their order as texts is not that of the dataset.
        record = {"image_id": f"v/{t}", "file_name": f"{t}.png", "height": 500, "width": 500, "annotations": notes}
        records.append(record)
        found.append(table)
    return records, found


def evaluate(evaluator, image_ids, found):
    evaluator.reset()
    for image_id, table in zip(image_ids, found, strict=True):
        instances = Instances((500, 500), pred_boxes=Boxes(torch.from_numpy(table[:, :4]).float()))
        instances.scores = torch.from_numpy(table[:, 4]).float()
        instances.pred_classes = torch.from_numpy(table[:, 5]).long()
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


def expect_equal(name, image_ids, found, folder):
    """Both evaluators' results, after comparing them."""
    plain = COCOEvaluator(name, ("bbox",), False, str(folder), use_fast_impl=False, allow_cached_coco=False)
    # Detectron2 itself has no "bbox" for a dataset without any annotation.
    expected = evaluate(plain, image_ids, found).get("bbox", {})
    wanted = json.loads((folder / COCO_RESULTS_FILE).read_text())
    given = evaluate(HotCOCOEvaluator(name, folder, distributed=False), image_ids, found).get("bbox", {})
    assert list(given) == list(expected)
    assert given == pytest.approx(expected, abs=1e-6, nan_ok=True)
    written = json.loads((folder / COCO_RESULTS_FILE).read_text())
    # The order of the frames is another one.
    assert sorted(map(json.dumps, written)) == sorted(map(json.dumps, wanted))
    return given


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"crowd": 0.0}, {"ties": True}], ids=str)
def test_random_frames_have_the_ap_of_pycocotools(register, tmp_path, seed, options):
    records, found = random_frames(seed, **options)
    results = expect_equal(register(records), [record["image_id"] for record in records], found, tmp_path)
    assert 0 < results["AP"] < 100 and results["APs"] != results["APl"]


def test_no_annotation_of_a_class_or_of_any_is_nan(register, tmp_path):
    records, found = random_frames(5)
    ids = [record["image_id"] for record in records]
    for record in records:
        record["annotations"] = [note for note in record["annotations"] if note["category_id"]]
    results = expect_equal(register(records), ids, found, tmp_path)
    assert np.isnan(results["AP-cat"]) and results["AP-dog"] > 0
    for record in records:
        record["annotations"] = []
    assert all(np.isnan(value) for value in expect_equal(register(records), ids, found, tmp_path).values())


def test_nothing_detected_is_nan_as_in_detectron2(register, tmp_path):
    records, found = random_frames(6)
    ids = [record["image_id"] for record in records]
    results = expect_equal(register(records), ids, [table[:0] for table in found], tmp_path)
    assert all(np.isnan(value) for value in results.values())


def test_frames_that_were_not_processed_count_with_their_objects_missed(register, tmp_path):
    records, found = random_frames(7)
    expect_equal(register(records), [record["image_id"] for record in records][:6], found[:6], tmp_path)


def test_nothing_processed_gives_no_result(register, tmp_path):
    name = register(random_frames(8)[0])
    assert evaluate(HotCOCOEvaluator(name, tmp_path, distributed=False), [], []) == {}


def test_one_class_has_no_value_of_its_own(register, tmp_path):
    records, found = random_frames(9)
    for record, table in zip(records, found, strict=True):
        record["annotations"] = [note | {"category_id": 0} for note in record["annotations"]]
        table[:, 5] = 0
    results = expect_equal(register(records, ["cat"]), [record["image_id"] for record in records], found, tmp_path)
    assert list(results) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]


def test_more_detections_than_coco_counts(register, tmp_path):
    records, found = random_frames(10, frames=2)
    rng = np.random.default_rng(0)
    crowded = np.concatenate([rng.uniform(0, 200, (150, 2)), rng.uniform(210, 400, (150, 2)), rng.random((150, 1)),
                              np.zeros((150, 1))], axis=1)  # fmt: skip
    found[0] = np.concatenate([found[0], crowded])
    expect_equal(register(records), [record["image_id"] for record in records], found, tmp_path)


def test_a_coco_file_with_its_own_ids_and_areas(tmp_path):
    """Areas of masks are smaller than those of boxes; category ids are neither from 0 nor in the order of the names."""
    records, found = random_frames(11)
    ids, annotations, images = [70, 3, 41], [], []
    for number, record in enumerate(records):
        images.append({"id": 5 * number, **{key: record[key] for key in ("file_name", "height", "width")}})
        for note in record["annotations"]:
            x0, y0, x1, y1 = note["bbox"]
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": 0.4 * (x1 - x0) * (y1 - y0), "iscrowd": note["iscrowd"]}
            annotations.append({"id": len(annotations) + 1, "image_id": 5 * number, **box})
            annotations[-1]["category_id"] = ids[note["category_id"]]
    categories = [{"id": number, "name": label} for number, label in zip(ids, CLASSES, strict=True)]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": categories}))
    name = f"coco_{uuid.uuid4().hex}"
    register_coco_instances(name, {}, str(path), "")
    try:
        DatasetCatalog.get(name)  # sets the classes: dog, fox, cat, by their ids
        for table in found:
            table[:, 5] = np.array([2, 0, 1])[table[:, 5].astype(int)]
        results = expect_equal(name, [image["id"] for image in images], found, tmp_path)
        assert results["AP-cat"] > 0
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_log_says_which_library_computes(register, tmp_path, monkeypatch, caplog):
    name = register(random_frames(12)[0])
    with caplog.at_level(logging.INFO):
        assert isinstance(build_coco_evaluator(name, tmp_path), HotCOCOEvaluator)
    assert "COCO's AP is computed by hotcoco" in caplog.text
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with caplog.at_level(logging.INFO):
        assert not isinstance(build_coco_evaluator(name, tmp_path), HotCOCOEvaluator)
    assert "computed by pycocotools" in caplog.text and "pip install 'vod2[coco]'" in caplog.text
