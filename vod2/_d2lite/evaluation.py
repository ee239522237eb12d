"""Running a model over a dataset, and COCO's box AP."""

import contextlib
import copy
import datetime
import io
import itertools
import json
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from vod2._d2lite.data.catalog import MetadataCatalog
from vod2._d2lite.data.datasets import convert_to_coco_json
from vod2._d2lite.structures import BoxMode
from vod2._d2lite.utils import comm
from vod2._d2lite.utils.file_io import PathManager
from vod2._d2lite.utils.logger import log_every_n_seconds
from vod2.atomic import replacing

_logger = logging.getLogger(__name__)
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class DatasetEvaluator:
    """Takes inputs and outputs of a model one batch after the other, and evaluates them at the end."""

    def reset(self):
        """Forgets all that came before. Called before the first batch."""

    def process(self, inputs, outputs):
        """Takes a batch: the model's inputs (list of dicts) and what it returned for them (list, one to one)."""

    def evaluate(self):
        """Returns {task: {metric: number}}, or None on processes that have nothing to say."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their results are merged. Two results of one name are an AssertionError."""

    def __init__(self, evaluators):
        self._evaluators = evaluators

    def reset(self):
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs, outputs):
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self):
        results: OrderedDict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            # Evaluators gather on the main process; results of the others would cover their own share only
            if result is None or not comm.is_main_process():
                continue
            twice = results.keys() & result.keys()
            if twice:
                raise AssertionError(f"different evaluators produce results with the same key {sorted(twice)}")
            results.update(result)
        return results


@contextlib.contextmanager
def inference_context(model):
    """The model in eval mode, and back to the mode it had."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def inference_on_dataset(model, data_loader, evaluator):
    """Runs the model over the loader without gradients, feeds the evaluator, and logs the speed.

    Args:
        model: a callable; an `nn.Module` is put into eval mode meanwhile.
        data_loader: an iterable with a length.
        evaluator: an evaluator, a list of them, or None.

    Returns:
        What `evaluator.evaluate()` gives, {} where that is None.
    """
    if evaluator is None or isinstance(evaluator, (list, tuple)):
        evaluator = DatasetEvaluators(evaluator or [])
    total = len(data_loader)
    _logger.info("Start inference on %d batches", total)
    evaluator.reset()
    in_eval_mode = inference_context(model) if isinstance(model, torch.nn.Module) else contextlib.nullcontext()
    with in_eval_mode, torch.no_grad():
        start = time.perf_counter()
        for num_done, inputs in enumerate(data_loader, 1):
            evaluator.process(inputs, model(inputs))
            elapsed = time.perf_counter() - start
            per_iter = elapsed / num_done
            eta = datetime.timedelta(seconds=int(per_iter * (total - num_done)))
            message = f"Inference done {num_done}/{total}. {per_iter:.4f} s/iter. ETA={eta}"
            log_every_n_seconds(logging.INFO, message, n=5)
    _logger.info("Inference time: %.1f s on %d devices", time.perf_counter() - start, comm.get_world_size())
    results = evaluator.evaluate()
    # Processes other than the main one may have none, but callers index the result
    return {} if results is None else results


def print_csv_format(results):
    """Logs the main metrics of {task: {metric: number}} as comma separated lines; per-class ones ("AP-x") are left out.

    Raises:
        AssertionError: `results` is not a dict, or is empty.
    """
    if not isinstance(results, Mapping) or not results:
        raise AssertionError(f"expected a dict {{task: {{metric: number}}}} that is not empty, got {results!r}")
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            _logger.info("copypaste: %s=%s", task, metrics)
            continue
        main = {name: value for name, value in metrics.items() if "-" not in name}
        _logger.info("copypaste: Task: %s", task)
        _logger.info("copypaste: %s", ",".join(main))
        _logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))


def verify_results(cfg, results):
    """Compares results with cfg.TEST.EXPECTED_RESULTS, a list of [task, metric, value, tolerance].

    Returns:
        True where all agree.

    Raises:
        SystemExit: with status 1, where one differs or is not finite.
    """
    expected = cfg.TEST.EXPECTED_RESULTS
    for task, metric, value, tolerance in expected:
        actual = results[task].get(metric)
        # Written so that NaN fails, too
        if actual is None or not abs(actual - value) <= tolerance:
            _logger.error("Result verification failed: %s/%s is %s, expected %s", task, metric, actual, expected)
            sys.exit(1)
    if expected:
        _logger.info("Results verification passed.")
    return True


class COCOEvaluator(DatasetEvaluator):
    """COCO's box AP, as pycocotools computes it, in percent.

    Args:
        dataset_name: a dataset whose metadata has "json_file"; any other registered dataset is first written as one to
            `output_dir`.
        tasks: ("bbox",) or None.
        distributed: gather the predictions of all processes on the main one; else each evaluates its own.
        output_dir: folder for instances_predictions.pth and coco_instances_results.json; None writes none.
        max_dets_per_image: detections of an image that count, by score; 100 where None.
        use_fast_impl: accepted for the sake of scripts; both values mean pycocotools.
        allow_cached_coco: use the converted file of an earlier run.
    """

    def __init__(
        self,
        dataset_name,
        tasks=None,
        distributed=True,
        output_dir=None,
        *,
        max_dets_per_image=None,
        use_fast_impl=True,
        allow_cached_coco=True,
    ):
        if tasks is not None and set(tasks) - {"bbox"}:
            raise ValueError(f"expected tasks=('bbox',) or None, got {tasks!r}; others need Detectron2 itself")
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets = 100 if max_dets_per_image is None else max_dets_per_image
        self._metadata = MetadataCatalog.get(dataset_name)
        self._predictions = []
        json_file = self._metadata.get("json_file")
        if json_file is None:
            if output_dir is None:
                raise ValueError(
                    f"the metadata of dataset '{dataset_name}' has no 'json_file': "
                    "output_dir must be given, as the place to write one"
                )
            json_file = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, json_file, allow_cached=allow_cached_coco)
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api = COCO(PathManager.get_local_path(json_file))

    def reset(self):
        self._predictions = []

    def process(self, inputs, outputs):
        """Takes inputs with image_id and outputs with instances: pred_boxes (original pixels), scores, pred_classes."""
        for x, output in zip(inputs, outputs, strict=True):
            # On the CPU, because predictions accumulate over the whole dataset
            instances = _to_coco_results(output["instances"].to("cpu"), x["image_id"])
            self._predictions.append({"image_id": x["image_id"], "instances": instances})

    def evaluate(self, img_ids=None):
        """Evaluates all that was processed, or the images of `img_ids`.

        Returns:
            {"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>", ...}}, NaN where a metric has no ground
            truth or there is no prediction; {} where nothing was processed; None off the main process.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return None
        if not predictions:
            _logger.warning("COCOEvaluator did not receive valid predictions.")
            return {}
        detections = self._with_dataset_ids(itertools.chain(*(p["instances"] for p in predictions)))
        if self._output_dir is not None:
            with replacing(os.path.join(self._output_dir, "instances_predictions.pth")) as path:
                torch.save(predictions, path)
            with replacing(os.path.join(self._output_dir, "coco_instances_results.json")) as path:
                path.write_text(json.dumps(detections))
        if "annotations" not in self._coco_api.dataset:
            _logger.info("Annotations are not available for evaluation.")
            return OrderedDict()
        return OrderedDict(bbox=self._average_precisions(detections, img_ids))

    def _with_dataset_ids(self, detections):
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if id_map is None:
            return list(detections)
        to_dataset_id = {contiguous: dataset_id for dataset_id, contiguous in id_map.items()}
        try:
            return [{**d, "category_id": to_dataset_id[d["category_id"]]} for d in detections]
        except KeyError as error:
            raise ValueError(
                f"predicted class {error}, but the dataset has {len(to_dataset_id)} classes, with ids in "
                f"[0, {len(to_dataset_id)}): check MODEL.ROI_HEADS.NUM_CLASSES"
            ) from error

    def _average_precisions(self, detections, img_ids):
        if not detections:
            _logger.warning("No predictions from the model!")
            return dict.fromkeys(_METRICS, float("nan"))
        with contextlib.redirect_stdout(io.StringIO()):
            # loadRes adds keys to the dicts it is given
            coco_eval = COCOeval(self._coco_api, self._coco_api.loadRes(copy.deepcopy(detections)), "bbox")
            # A single limit, which summarize() does not support: hence the means below
            coco_eval.params.maxDets = [self._max_dets]
            if img_ids is not None:
                coco_eval.params.imgIds = img_ids
            coco_eval.evaluate()
            coco_eval.accumulate()
        # (IoU thresholds, recalls, classes, areas); areas are all, small, medium, large
        precision = coco_eval.eval["precision"][..., 0]
        overall, small, medium, large = np.moveaxis(precision, -1, 0)
        # The IoU thresholds are 0.5, 0.55 ... 0.95: index 0 is 0.5, index 5 is 0.75
        parts = (overall, overall[0], overall[5], small, medium, large)
        results = dict(zip(_METRICS, map(_percent, parts), strict=True))
        _logger.info("Evaluation results for bbox:\n%s", _table(results.items()))

        # Both are sorted by category id, the order in which `load_coco_json` numbers the classes
        names = self._metadata.get("thing_classes") or [self._coco_api.cats[i]["name"] for i in coco_eval.params.catIds]
        per_class = {f"AP-{name}": _percent(overall[:, :, k]) for k, name in enumerate(names)}
        if len(per_class) > 1:
            _logger.info("Per-category bbox AP:\n%s", _table(per_class.items()))
            results.update(per_class)
        return results


def _percent(precision):
    """The mean over all entries with ground truth (those without are -1), in percent; NaN where there are none."""
    valid = precision[precision > -1]
    return float(valid.mean() * 100) if valid.size else float("nan")


def _table(rows):
    return tabulate(rows, headers=("metric", "percent"), tablefmt="pipe", floatfmt=".3f")


def _to_coco_results(instances, image_id):
    """CPU `Instances` with pred_boxes, scores and pred_classes as COCO results: dicts with bbox in XYWH_ABS."""
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    return [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        for box, score, category in zip(boxes, scores, classes, strict=True)
    ]
