"""The stand-in and Detectron2 give the same data and the same metrics."""

import itertools
import json

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="agreement needs Detectron2 next to the stand-in")

import detectron2.config
import detectron2.data
import detectron2.data.datasets
import detectron2.data.samplers
import detectron2.evaluation
import detectron2.structures
from PIL import Image

import vod2._d2lite.config
import vod2._d2lite.data
import vod2._d2lite.data.datasets
import vod2._d2lite.data.samplers
import vod2._d2lite.evaluation
import vod2._d2lite.structures

BACKENDS = {"detectron2": detectron2, "lite": vod2._d2lite}
IMAGE = np.random.RandomState(0).randint(0, 256, (37, 53, 3)).astype(np.uint8)
BOXES = np.array([[3.0, 4, 20, 30], [0, 0, 53, 37], [10.5, 11.25, 12.75, 30]])


def both(function):
    """What `function` gives with either backend."""
    return [function(backend) for backend in BACKENDS.values()]


AUGMENTATIONS = {
    "shortest edge, range": lambda T: [T.ResizeShortestEdge([20, 90], 120, "range")],
    "shortest edge, choice": lambda T: [T.ResizeShortestEdge([20, 64, 90], 100, "choice")],
    "resize": lambda T: [T.Resize((41, 29))],
    "flips": lambda T: [T.RandomFlip(0.5), T.RandomFlip(0.3, horizontal=False, vertical=True)],
    "crop, relative": lambda T: [T.RandomCrop("relative", (0.5, 0.7))],
    "crop, relative_range": lambda T: [T.RandomCrop("relative_range", (0.4, 0.6))],
    "crop, absolute": lambda T: [T.RandomCrop("absolute", (20, 100))],
    "crop, absolute_range": lambda T: [T.RandomCrop("absolute_range", (10, 45))],
    "colors": lambda T: [T.RandomBrightness(0.5, 1.5), T.RandomContrast(0.5, 1.5), T.RandomSaturation(0.5, 1.5)],
    "sometimes": lambda T: [T.RandomApply(T.RandomBrightness(0.5, 1.5), 0.5), T.RandomFlip()],
}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_seed_gives_the_same_pixels_and_boxes(name, dtype):
    def run(backend):
        T = backend.data.transforms
        np.random.seed(11)
        results = []
        for _ in range(8):
            aug_input = T.AugInput(IMAGE.astype(dtype), boxes=BOXES.copy())
            T.AugmentationList(AUGMENTATIONS[name](T))(aug_input)
            results.append((aug_input.image, aug_input.boxes))
        return results

    for (image, boxes), (lite_image, lite_boxes) in zip(*both(run), strict=True):
        assert image.dtype == lite_image.dtype
        np.testing.assert_array_equal(image, lite_image)
        np.testing.assert_allclose(boxes, lite_boxes, rtol=1e-12)


def test_the_shortest_edge_has_the_same_output_sizes():
    sizes = itertools.product(range(1, 1400, 61), range(1, 1400, 67), (1, 224, 600, 800), (500, 1000, 1333))
    shapes = [b.data.transforms.ResizeShortestEdge.get_output_shape for b in BACKENDS.values()]
    for size in sizes:
        assert shapes[0](*size) == shapes[1](*size), size


@pytest.mark.parametrize("mode", [0, 2, 3])
def test_a_resize_interpolates_alike(mode):
    images = IMAGE, IMAGE[:, :, 0], IMAGE[:, ::-1], IMAGE.astype(np.float64) / 255
    for image in images:
        resized = both(
            lambda b, image=image: b.data.transforms.ResizeTransform(37, 53, 20, 71, mode).apply_image(image)
        )
        np.testing.assert_array_equal(*resized)


def take(n, iterable):
    return list(itertools.islice(iterable, n))


def test_samplers_give_the_same_order():
    factors = torch.tensor([1.0, 1.3, 2.7, 1.5, 4.1])
    dicts = [{"annotations": [{"category_id": c} for c in cats]} for cats in ([0], [0, 1], [0], [], [2, 0], [0])]
    for make in (
        lambda s: take(50, s.TrainingSampler(7, seed=5)),
        lambda s: take(50, s.TrainingSampler(7, shuffle=False)),
        lambda s: take(90, s.RepeatFactorTrainingSampler(factors, seed=5)),
        lambda s: take(90, s.RepeatFactorTrainingSampler(factors, shuffle=False, seed=6)),
        lambda s: list(s.InferenceSampler(9)),
        lambda s: s.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.7).tolist(),
    ):
        expected, given = both(lambda b, make=make: make(b.data.samplers))
        assert expected == given


@pytest.fixture
def dataset(tmp_path):
    """Dataset dicts of six random images of various sizes."""
    rng = np.random.RandomState(3)
    dicts = []
    for i in range(6):
        height, width = rng.randint(20, 40, 2).tolist()
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.randint(0, 256, (height, width, 3)).astype(np.uint8)).save(path)
        corners = np.sort(rng.rand(3, 2, 2), axis=1) * [width, height]
        annotations = [
            {"bbox": box, "bbox_mode": 0, "category_id": k, "iscrowd": int(k == 2)}
            for k, box in enumerate(corners.reshape(3, 4).tolist())
        ]
        size = {"height": height, "width": width}
        dicts.append({"file_name": str(path), "image_id": i, **size, "annotations": annotations})
    return dicts


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("grouping", [True, False])
def test_loaders_give_the_same_batches(dataset, workers, grouping):
    def run(backend):
        cfg = backend.config.get_cfg()
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.CROP.ENABLED = (30, 60), "range", True
        cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 2, workers
        cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
        mode = backend.structures.BoxMode
        items = [
            {**d, "annotations": [{**ann, "bbox_mode": mode(ann["bbox_mode"])} for ann in d["annotations"]]}
            for d in dataset
        ]
        torch.manual_seed(2)
        np.random.seed(2)
        sampler = backend.data.samplers.TrainingSampler(len(items), seed=4)
        return take(6, backend.data.build_detection_train_loader(cfg, dataset=items, sampler=sampler))

    for expected, given in zip(*both(run), strict=True):
        assert [x["image_id"] for x in expected] == [x["image_id"] for x in given]
        for x, y in zip(expected, given, strict=True):
            torch.testing.assert_close(x["image"], y["image"], rtol=0, atol=0)
            torch.testing.assert_close(x["instances"].gt_boxes.tensor, y["instances"].gt_boxes.tensor)
            assert x["instances"].gt_classes.tolist() == y["instances"].gt_classes.tolist()


@pytest.fixture
def coco_json(tmp_path):
    """Random ground truth of four classes in twelve images, and random detections near it, per image."""
    rng = np.random.RandomState(7)
    images = [{"id": 10 + i, "file_name": f"{i}.png", "height": 300, "width": 300} for i in range(12)]
    annotations, found = [], {}
    for image in images:
        boxes = np.concatenate([rng.rand(6, 2) * 150, rng.rand(6, 2) ** 2 * 140 + 5], axis=1)
        labels = rng.randint(0, 4, 6)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": 5 * label + 1, "bbox": box}
            annotations.append({**entry, "area": box[2] * box[3], "iscrowd": int(rng.rand() < 0.1)})
        moved = boxes + rng.randn(6, 4) * [2, 2, 4, 4]
        moved[:, 2:] = moved[:, :2] + np.maximum(moved[:, 2:], 1)
        wrong = rng.rand(6) < 0.2
        found[image["id"]] = np.concatenate([moved, moved[:3]]), rng.rand(9), np.resize((labels + wrong) % 4, 9)
    categories = [{"id": 5 * k + 1, "name": f"class {k}"} for k in range(4)]
    path = tmp_path / "truth.json"
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return str(path), found


@pytest.mark.parametrize("max_dets", [None, 12, 200])
def test_coco_results_are_the_same(coco_json, max_dets):
    path, found = coco_json

    def run(backend):
        name = "test_agreement_coco"
        backend.data.datasets.register_coco_instances(name, {}, path, "root")
        try:
            dicts = backend.data.DatasetCatalog.get(name)
            evaluator = backend.evaluation.COCOEvaluator(name, max_dets_per_image=max_dets)
            evaluator.reset()
            for image_id, (boxes, scores, classes) in found.items():
                instances = backend.structures.Instances((300, 300))
                instances.pred_boxes = backend.structures.Boxes(torch.from_numpy(boxes))
                instances.scores, instances.pred_classes = torch.from_numpy(scores), torch.from_numpy(classes)
                evaluator.process([{"image_id": image_id}], [{"instances": instances}])
            return dicts, evaluator.evaluate()["bbox"]
        finally:
            backend.data.DatasetCatalog.remove(name)
            backend.data.MetadataCatalog.remove(name)

    (dicts, results), (lite_dicts, lite_results) = both(run)
    assert dicts == lite_dicts
    assert 5 < results["AP"] < 95
    assert lite_results == pytest.approx(results, rel=1e-9, nan_ok=True)
    assert list(results) == list(lite_results)
