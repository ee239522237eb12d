"""The contract of evaluation, on whichever backend is active."""

import json
import logging
import math
import uuid

import pytest
import torch

from vod2.d2 import (
    Boxes,
    BoxMode,
    COCOEvaluator,
    DatasetCatalog,
    DatasetEvaluator,
    DatasetEvaluators,
    Instances,
    MetadataCatalog,
    get_cfg,
    inference_context,
    inference_on_dataset,
    print_csv_format,
    register_coco_instances,
    verify_results,
)

# Class a: two boxes of 20 x 20 in two images. Class b: one of 40 x 40 in the first.
TRUTH = {1: [("a", [10, 10, 30, 30]), ("b", [50, 50, 90, 90])], 2: [("a", [30, 30, 50, 50])]}
# a: an exact one at 0.9, and one of IoU 12.4 / 20 = 0.62 at 0.8. b: a wrong one at 0.7, and an exact one at 0.5.
FOUND = {
    1: [("a", 0.9, [10, 10, 30, 30]), ("b", 0.7, [0, 40, 40, 80]), ("b", 0.5, [50, 50, 90, 90])],
    2: [("a", 0.8, [30, 30, 50, 42.4])],
}
# At the IoU thresholds 0.5, 0.55 and 0.6 both of a are right. At the 7 others the second is wrong: precision 1 up to
# the recall 1/2, which holds 51 of the 101 recall points.
AP_A = 100 * (3 + 7 * 51 / 101) / 10
AP_B = 50.0  # one of two is right wherever there is any recall
EXPECTED = {
    "AP": (AP_A + AP_B) / 2,
    "AP50": (100 + 50) / 2,
    "AP75": (100 * 51 / 101 + 50) / 2,
    "APs": AP_A,  # 400 pixels are less than 32 squared
    "APm": AP_B,
    "APl": math.nan,
    "AP-a": AP_A,
    "AP-b": AP_B,
}


@pytest.fixture
def name():
    name = f"test_{uuid.uuid4().hex}"
    yield name
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)


@pytest.fixture
def coco_name(name, tmp_path):
    """The ground truth as a COCO file with the category ids 3 and 7."""
    ids = {"a": 3, "b": 7}
    annotations = []
    for image_id, objects in TRUTH.items():
        for label, (x0, y0, x1, y1) in objects:
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": ids[label], **box})
    images = [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 100} for i in TRUTH]
    categories = [{"id": i, "name": label} for label, i in ids.items()]
    path = tmp_path / "truth.json"
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    register_coco_instances(name, {}, str(path), "")
    DatasetCatalog.get(name)  # reading it sets the classes in the metadata
    return name


@pytest.fixture
def dict_name(name):
    """The ground truth as dataset dicts, with strings as image ids."""

    def dataset():
        return [
            {
                "file_name": f"{i}.png",
                "image_id": f"video/{i}",
                "height": 100,
                "width": 100,
                "annotations": [
                    {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": "ab".index(label)}
                    for label, box in objects
                ],
            }
            for i, objects in TRUTH.items()
        ]

    DatasetCatalog.register(name, dataset)
    MetadataCatalog.get(name).thing_classes = ["a", "b"]
    return name


def instances(found):
    result = Instances((100, 100))
    result.pred_boxes = Boxes(torch.tensor([box for _, _, box in found], dtype=torch.float32).reshape(-1, 4))
    result.scores = torch.tensor([score for _, score, _ in found], dtype=torch.float32)
    result.pred_classes = torch.tensor(["ab".index(label) for label, _, _ in found], dtype=torch.int64)
    return result


def evaluate(evaluator, found, image_id="{}", img_ids=None):
    evaluator.reset()
    for i in TRUTH:
        inputs = [{"image_id": i if image_id == "{}" else image_id.format(i)}]
        evaluator.process(inputs, [{"instances": instances(found[i])}])
    return evaluator.evaluate(img_ids=img_ids)


def test_coco_ap_is_the_one_computed_by_hand(coco_name):
    results = evaluate(COCOEvaluator(coco_name), FOUND)
    assert list(results) == ["bbox"]
    assert results["bbox"] == pytest.approx(EXPECTED, nan_ok=True)


def test_a_dataset_without_a_file_is_converted_to_one(dict_name, tmp_path):
    results = evaluate(COCOEvaluator(dict_name, output_dir=str(tmp_path), use_fast_impl=False), FOUND, "video/{}")
    assert results["bbox"] == pytest.approx(EXPECTED, nan_ok=True)
    written = json.loads((tmp_path / f"{dict_name}_coco_format.json").read_text())
    assert [image["id"] for image in written["images"]] == ["video/1", "video/2"]
    assert written["annotations"][1]["bbox"] == [50, 50, 40, 40] and written["annotations"][1]["category_id"] == 1


def test_a_dataset_without_a_file_needs_a_place_to_write_it(dict_name):
    with pytest.raises(ValueError, match="output_dir"):
        COCOEvaluator(dict_name)


def test_a_converted_file_is_kept_unless_told_otherwise(dict_name, tmp_path):
    COCOEvaluator(dict_name, output_dir=str(tmp_path))
    path = tmp_path / f"{dict_name}_coco_format.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "info": {"description": "mine"}}))
    COCOEvaluator(dict_name, output_dir=str(tmp_path))
    assert json.loads(path.read_text())["info"] == {"description": "mine"}
    MetadataCatalog.remove(dict_name)  # which may have been told of the file
    MetadataCatalog.get(dict_name).thing_classes = ["a", "b"]
    COCOEvaluator(dict_name, output_dir=str(tmp_path), allow_cached_coco=False)
    assert json.loads(path.read_text())["info"] != {"description": "mine"}


def test_predictions_are_written_with_the_ids_of_the_dataset(coco_name, tmp_path):
    evaluate(COCOEvaluator(coco_name, output_dir=str(tmp_path)), FOUND)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [(d["image_id"], d["category_id"]) for d in written] == [(1, 3), (1, 7), (1, 7), (2, 3)]
    assert written[0]["bbox"] == [10, 10, 20, 20] and written[0]["score"] == pytest.approx(0.9)
    predictions = torch.load(tmp_path / "instances_predictions.pth", weights_only=False)
    assert [p["image_id"] for p in predictions] == [1, 2]


def test_only_the_best_detections_of_an_image_count(coco_name):
    wrong = [("b", 0.6 + 0.01 * i, [i, 40, 30 + i, 80]) for i in range(10)]
    found = {1: [*wrong, ("b", 0.5, [50, 50, 90, 90])], 2: []}
    assert evaluate(COCOEvaluator(coco_name, max_dets_per_image=10), found)["bbox"]["AP-b"] == 0
    assert evaluate(COCOEvaluator(coco_name), found)["bbox"]["AP-b"] == pytest.approx(100 / 11)


def test_no_detections_give_nan_and_no_images_give_no_results(coco_name):
    results = evaluate(COCOEvaluator(coco_name), {1: [], 2: []})["bbox"]
    assert all(math.isnan(results[key]) for key in ("AP", "AP50", "AP75", "APs", "APm", "APl"))
    evaluator = COCOEvaluator(coco_name)
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_an_evaluation_may_be_of_some_images_only(coco_name):
    results = evaluate(COCOEvaluator(coco_name), FOUND, img_ids=[1])
    assert results["bbox"]["AP-a"] == pytest.approx(100)


class Count(DatasetEvaluator):
    def __init__(self, key="count"):
        self.key = key

    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen.extend(zip(inputs, outputs, strict=True))

    def evaluate(self):
        return {self.key: {"n": len(self.seen)}}


class Silent(DatasetEvaluator):
    pass


class Double(torch.nn.Module):
    def forward(self, batch):
        assert not self.training and not torch.is_grad_enabled()
        return [2 * x for x in batch]


LOADER = [[i, i + 1] for i in range(0, 14, 2)]


def test_inference_feeds_the_evaluator_and_restores_the_mode():
    model, evaluator = Double(), Count()
    assert inference_on_dataset(model, LOADER, evaluator) == {"count": {"n": 14}}
    assert evaluator.seen[:3] == [(0, 0), (1, 2), (2, 4)]
    assert model.training


def test_inference_takes_functions_lists_of_evaluators_and_none():
    def double(batch):
        return [2 * x for x in batch]

    assert inference_on_dataset(double, LOADER, [Count("a"), Count("b")]) == {"a": {"n": 14}, "b": {"n": 14}}
    assert inference_on_dataset(double, LOADER[:1], Silent()) == {}
    assert inference_on_dataset(double, LOADER, None) == {}


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_in_eval_mode_inside_of_the_context_only(training):
    model = torch.nn.Dropout().train(training)
    with inference_context(model):
        assert not model.training
    assert model.training == training


def test_two_evaluators_must_not_produce_one_key():
    both = DatasetEvaluators([Count("a"), Silent(), Count("a")])
    both.reset()
    with pytest.raises(AssertionError, match="same key"):
        both.evaluate()


def test_results_are_logged_as_comma_separated_lines(caplog):
    logger = logging.getLogger(print_csv_format.__module__)
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    try:
        print_csv_format({"bbox": {"AP": 12.5, "AP50": 25.0, "AP-cat": 3.0}})
    finally:
        logger.removeHandler(caplog.handler)
    messages = list(dict.fromkeys(record.getMessage() for record in caplog.records))
    assert messages == ["copypaste: Task: bbox", "copypaste: AP,AP50", "copypaste: 12.5000,25.0000"]


def test_results_are_compared_with_the_expected_ones():
    cfg = get_cfg()
    assert verify_results(cfg, {})
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 50.0, 1.0]]
    assert verify_results(cfg, {"bbox": {"AP": 50.9}})
    for wrong in (48.0, math.nan):
        with pytest.raises(SystemExit):
            verify_results(cfg, {"bbox": {"AP": wrong}})
