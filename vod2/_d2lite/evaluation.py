"""Running a model over a dataset, and COCO's box AP."""

import contextlib
import copy
import io
import itertools
import json
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping

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

_logger = logging.getLogger(__name__)
_WARMUP = 5  # batches that are not timed
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
    """Several evaluators as one; their results are merged."""

    def __init__(self, evaluators):
        super().__init__()
        self._evaluators = evaluators

    def reset(self):
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs, outputs):
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self):
        results = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
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


def inference_on_dataset(model, data_loader, evaluator, callbacks=None):
    """Runs the model over the loader without gradients, feeds the evaluator, and logs the speed.

    Args:
        model: a callable; an `nn.Module` is put into eval mode meanwhile.
        data_loader: an iterable with a length.
        evaluator: an evaluator, a list of them, or None to measure the speed only.
        callbacks: dict of functions without arguments: on_start, before_inference, after_inference, on_end.

    Returns:
        What `evaluator.evaluate()` gives, {} where that is None.
    """
    if evaluator is None or isinstance(evaluator, (list, tuple)):
        evaluator = DatasetEvaluators(evaluator or [])
    call = (callbacks or {}).get
    _logger.info("Start inference on %d batches", len(data_loader))
    evaluator.reset()
    with contextlib.ExitStack() as stack:
        if isinstance(model, torch.nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        call("on_start", _nothing)()
        clock = _Clock(len(data_loader))
        for inputs in data_loader:
            call("before_inference", _nothing)()
            clock.lap("data")
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            clock.lap("inference")
            call("after_inference", _nothing)()
            evaluator.process(inputs, outputs)
            clock.lap("eval")
            clock.batch_done()
        call("on_end", _nothing)()
    clock.report()
    results = evaluator.evaluate()
    return {} if results is None else results


def _nothing():
    pass


class _Clock:
    """Seconds of each part of the loop, warm-up batches excepted."""

    def __init__(self, total):
        self.total = total
        self.warmup = min(_WARMUP, total - 1)
        self.done = 0
        self._restart()

    def _restart(self):
        self.seconds = dict.fromkeys(("data", "inference", "eval"), 0.0)
        self.start = self.last = time.perf_counter()

    def lap(self, part):
        """Adds the time since the lap before to `part`."""
        now = time.perf_counter()
        self.seconds[part] += now - self.last
        self.last = now

    def batch_done(self):
        self.done += 1
        if self.done == self.warmup:
            self._restart()
        timed = self._timed()
        if self.done < 2 * self.warmup or not timed:
            return
        per_batch = (time.perf_counter() - self.start) / timed
        parts = ". ".join(f"{part.capitalize()}: {s / timed:.4f} s/iter" for part, s in self.seconds.items())
        log_every_n_seconds(
            logging.INFO,
            f"Inference done {self.done}/{self.total}. {parts}. Total: {per_batch:.4f} s/iter. "
            f"ETA={_hms(per_batch * (self.total - self.done))}",
            n=5,
        )

    def _timed(self):
        return self.done - self.warmup if self.done > self.warmup else 0

    def report(self):
        timed = max(self._timed(), 1)
        elapsed = time.perf_counter() - self.start
        world = comm.get_world_size()
        line = "Total %s: %s (%.6f s / iter per device, on %d devices)"
        _logger.info(line, "inference time", _hms(elapsed), elapsed / timed, world)
        compute = self.seconds["inference"]
        _logger.info(line, "inference pure compute time", _hms(compute), compute / timed, world)


def _hms(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


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
        if actual is None or not abs(actual - value) <= tolerance:
            _logger.error("Result verification failed: %s/%s is %s", task, metric, actual)
            _logger.error("Expected results: %s", expected)
            _logger.error("Actual results: %s", dict(results))
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
        self._coco_api = self._load_ground_truth(dataset_name, allow_cached_coco)
        self._do_evaluation = "annotations" in self._coco_api.dataset

    def _load_ground_truth(self, dataset_name, allow_cached):
        json_file = self._metadata.get("json_file")
        if json_file is None:
            if self._output_dir is None:
                raise ValueError(
                    f"the metadata of dataset '{dataset_name}' has no 'json_file': "
                    "output_dir must be given, as the place to write one"
                )
            json_file = os.path.join(self._output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, json_file, allow_cached=allow_cached)
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(PathManager.get_local_path(json_file))

    def reset(self):
        self._predictions = []

    def process(self, inputs, outputs):
        """Takes inputs with image_id and outputs with instances: pred_boxes (original pixels), scores, pred_classes."""
        for x, output in zip(inputs, outputs, strict=True):
            if "instances" in output:
                instances = instances_to_coco_json(output["instances"].to("cpu"), x["image_id"])
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
        detections = self._to_dataset_ids(list(itertools.chain(*(p["instances"] for p in predictions))))
        self._save(predictions, detections)
        if not self._do_evaluation:
            _logger.info("Annotations are not available for evaluation.")
            return OrderedDict()
        return OrderedDict(bbox=self._average_precisions(detections, img_ids))

    def _to_dataset_ids(self, detections):
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if id_map is None:
            return detections
        to_dataset_id = {contiguous: dataset_id for dataset_id, contiguous in id_map.items()}
        unknown = {d["category_id"] for d in detections} - to_dataset_id.keys()
        if unknown:
            raise ValueError(
                f"predicted classes {sorted(unknown)}, but the dataset has {len(to_dataset_id)} classes, "
                f"with ids in [0, {len(to_dataset_id)}): check MODEL.ROI_HEADS.NUM_CLASSES"
            )
        return [{**d, "category_id": to_dataset_id[d["category_id"]]} for d in detections]

    def _save(self, predictions, detections):
        if self._output_dir is None:
            return
        PathManager.mkdirs(self._output_dir)
        with _atomic(os.path.join(self._output_dir, "instances_predictions.pth"), "wb") as f:
            torch.save(predictions, f)
        with _atomic(os.path.join(self._output_dir, "coco_instances_results.json"), "w") as f:
            json.dump(detections, f)

    def _average_precisions(self, detections, img_ids):
        if not detections:
            _logger.warning("No predictions from the model!")
            return dict.fromkeys(_METRICS, float("nan"))
        with contextlib.redirect_stdout(io.StringIO()):
            # loadRes adds keys to the dicts it is given
            coco_eval = COCOeval(self._coco_api, self._coco_api.loadRes(copy.deepcopy(detections)), "bbox")
            coco_eval.params.maxDets = [self._max_dets]
            if img_ids is not None:
                coco_eval.params.imgIds = img_ids
            coco_eval.evaluate()
            coco_eval.accumulate()
        # (IoU thresholds, recalls, classes, areas); areas are all, small, medium, large
        precision = coco_eval.eval["precision"][..., 0]
        halves = {0.5: precision[:1], 0.75: precision[5:6]}
        parts = (precision[..., 0], halves[0.5][..., 0], halves[0.75][..., 0], *np.moveaxis(precision, -1, 0)[1:])
        results = dict(zip(_METRICS, map(_percent, parts), strict=True))
        _logger.info("Evaluation results for bbox:\n%s", _table([results.keys(), results.values()]))

        names = [self._coco_api.cats[i]["name"] for i in coco_eval.params.catIds]
        names = self._metadata.get("thing_classes") or names
        per_class = {name: _percent(precision[:, :, k, 0]) for k, name in enumerate(names)}
        if len(per_class) > 1:
            cells = [cell for pair in per_class.items() for cell in pair]
            rows = [cells[i : i + 6] for i in range(0, len(cells), 6)]
            _logger.info("Per-category bbox AP:\n%s", _table([["category", "AP"] * min(3, len(per_class)), *rows]))
            results.update({f"AP-{name}": value for name, value in per_class.items()})
        return results


@contextlib.contextmanager
def _atomic(path, mode):
    temporary = f"{path}.{os.getpid()}.tmp"
    with PathManager.open(temporary, mode) as f:
        yield f
    os.replace(temporary, path)


def _percent(precision):
    """The mean over all entries with ground truth (those without are -1), in percent; NaN where there are none."""
    valid = precision[precision > -1]
    return float(valid.mean() * 100) if valid.size else float("nan")


def _table(rows):
    header, *body = map(list, rows)
    return tabulate(body, headers=header, tablefmt="pipe", floatfmt=".3f", numalign="center", stralign="center")


def instances_to_coco_json(instances, img_id):
    """CPU `Instances` with pred_boxes, scores and pred_classes as COCO results: dicts with bbox in XYWH_ABS."""
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    return [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score}
        for box, score, category in zip(boxes, scores, classes, strict=True)
    ]
