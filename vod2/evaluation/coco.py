"""COCO's box AP of video sets: by hotcoco (extra `coco`) where it is installed, else as Detectron2 has it.

Shape alphabet: n detections, m ground truths, T IoU thresholds, R recalls, K classes, A ranges of areas.
"""

import importlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tabulate import tabulate

from vod2 import atomic
from vod2.d2 import BoxMode, COCOEvaluator, DatasetEvaluator
from vod2.evaluation.arrays import Detections
from vod2.evaluation.collect import DetectionCollector

logger = logging.getLogger(__name__)

COCO_RESULTS_FILE = "coco_instances_results.json"
"""Detections in COCO's result format, in the folder of an evaluation."""

_MOST_DETECTIONS = 100  # of a class in an image, the surest: COCO's own limit
_WRITTEN_AT_ONCE = 1 << 14  # detections that are Python objects at a time
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def build_coco_evaluator(dataset_name: str, output_dir: str | os.PathLike) -> DatasetEvaluator:
    """The evaluator of COCO's AP, which `HotCOCOEvaluator` is where hotcoco is installed; the log says which."""
    folder = os.fspath(output_dir)
    try:
        library = importlib.import_module("hotcoco")
    except ImportError:
        logger.info(
            "COCO's AP is computed by pycocotools; hotcoco needs less time and memory: pip install 'vod2[coco]'"
        )
        # A cached conversion would outlive a change of the annotations.
        return COCOEvaluator(dataset_name, tasks=("bbox",), output_dir=folder, allow_cached_coco=False)
    logger.info("COCO's AP is computed by hotcoco %s", library.__version__)
    return HotCOCOEvaluator(dataset_name, folder)


class HotCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` of boxes by hotcoco: the same AP, from arrays in place of a Python object for each box.

    Writes coco_instances_results.json as that does, but no instances_predictions.pth: detections.npz of the other
    evaluators has the same boxes.

    Example:
        >>> evaluator = HotCOCOEvaluator("my_videos", "output/inference/my_videos")  # doctest: +SKIP
    """

    def __init__(self, dataset_name: str, output_dir: str | os.PathLike, distributed: bool = True) -> None:
        """
        Args:
            dataset_name: a registered dataset; its ground truth is read as `COCOEvaluator` reads it.
            output_dir: where the converted ground truth and coco_instances_results.json are written.
            distributed: gather the detections of all processes; False evaluates those of this process alone.

        Raises:
            ImportError: hotcoco is not installed.
        """
        self._library = importlib.import_module("hotcoco")
        folder = os.fspath(output_dir)
        super().__init__(dataset_name, ("bbox",), distributed, folder, allow_cached_coco=False)
        self._results_file = Path(folder) / COCO_RESULTS_FILE
        coco: Any = self._coco_api
        # pycocotools takes images in this order, which decides where scores of two images are equal.
        self._image_ids = np.unique(list(coco.imgs)).tolist()
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        categories = sorted(coco.cats)
        # Of each label: without a map the labels are the ids.
        self._category_ids = sorted(id_map, key=id_map.__getitem__) if id_map else categories
        self._names = self._metadata.get("thing_classes") or [coco.cats[k]["name"] for k in categories]
        self._truth = _truth_of(self._library, coco, self._image_ids)
        self._has_truth = "annotations" in coco.dataset
        self._coco_api = None  # its Python objects are not needed any more
        self._collector = DetectionCollector(dataset_name, self._image_ids, len(self._category_ids), distributed)

    def reset(self) -> None:
        """Forget all detections."""
        self._collector.reset()

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Store the detections of some frames; see `DetectionCollector.add`."""
        self._collector.add(inputs, outputs)

    def evaluate(self, img_ids: None = None) -> OrderedDict | None:
        """Evaluate all that was processed.

        Returns:
            {"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>"...}} in percent, NaN where a metric has no
            ground truth or nothing was detected; {} where nothing was processed; None in all processes but the first.
        """
        assert img_ids is None, "all images of the dataset are evaluated"
        detections = self._collector.gather()
        if detections is None:
            return None
        if not self._collector.evaluated.any():
            logger.warning("COCOEvaluator did not receive valid predictions.")
            return OrderedDict()
        write_coco_results(self._results_file, self._image_ids, self._category_ids, detections)
        if not self._has_truth:
            logger.info("Annotations are not available for evaluation.")
            return OrderedDict()
        if not len(detections):
            logger.warning("No predictions from the model!")
            return OrderedDict(bbox=dict.fromkeys(_METRICS, float("nan")))
        return OrderedDict(bbox=self._average_precisions(detections))

    def _average_precisions(self, detections: Detections, img_ids: None = None) -> dict[str, float]:
        rows = np.empty((len(detections), 7))
        rows[:, 0] = detections.image
        rows[:, 1:5] = BoxMode.convert(detections.boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        rows[:, 5], rows[:, 6] = detections.scores, np.array(self._category_ids)[detections.labels]
        evaluation = self._library.COCOeval(self._truth, self._truth.load_res(rows), "bbox")
        del rows
        evaluation.params.max_dets = [_MOST_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
        precision = np.asarray(evaluation.eval["precision"])[..., -1]  # (T, R, K, A); areas all, small, medium, large
        overall, small, medium, large = np.moveaxis(precision, -1, 0)
        # Thresholds are .5, .55 ... .95.
        parts = (overall, overall[0], overall[5], small, medium, large)
        results = dict(zip(_METRICS, map(_percent, parts), strict=True))
        per_class = {f"AP-{name}": _percent(overall[:, :, k]) for k, name in enumerate(self._names)}
        for title, values in (("", results), ("by class", per_class)):
            logger.info("COCO's AP %s\n%s", title, tabulate(values.items(), tablefmt="plain", floatfmt=".3f"))
        # As Detectron2: one class has no value of its own.
        return results | per_class if len(per_class) > 1 else results


def _percent(precision: np.ndarray) -> float:
    """The mean over all entries with ground truth (the others are -1), in percent; NaN where there are none."""
    valid = precision[precision > -1]
    return float(valid.mean() * 100) if valid.size else float("nan")


def _truth_of(library: ModuleType, coco: Any, image_ids: Sequence) -> Any:
    """hotcoco's dataset of what pycocotools has read; the id of an image is its row in `image_ids`."""
    row = {image_id: number for number, image_id in enumerate(image_ids)}
    images = []
    for image_id, number in row.items():
        images.append({"id": number, **{key: coco.imgs[image_id][key] for key in ("width", "height")}})
    notes = list(coco.anns.values())
    return library.COCO.from_arrays(
        images,
        [{"id": number, "name": category["name"]} for number, category in sorted(coco.cats.items())],
        np.array([row[note["image_id"]] for note in notes], dtype=np.int64),
        np.array([note["category_id"] for note in notes], dtype=np.int64),
        np.array([note["bbox"] for note in notes], dtype=np.float64).reshape(-1, 4),
        # It decides what is small, medium and large; in a file of masks it is that of the mask.
        area=np.array([note["area"] for note in notes], dtype=np.float64),
        iscrowd=np.array([note.get("iscrowd", 0) for note in notes], dtype=bool),
    )


def write_coco_results(path: Path, image_ids: Sequence, category_ids: Sequence[int], detections: Detections) -> None:
    """Write detections in COCO's result format: a list of {image_id, category_id, bbox (x y width height), score}.

    Args:
        image_ids: `detections.image` is a row of them.
        category_ids: K, of each label.
    """
    boxes = BoxMode.convert(detections.boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    with atomic.replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for start in range(0, len(detections), _WRITTEN_AT_ONCE):
            part = slice(start, start + _WRITTEN_AT_ONCE)
            columns = (values[part].tolist() for values in (detections.image, detections.labels, detections.scores))
            for number, (image, label, score, box) in enumerate(
                zip(*columns, boxes[part].tolist(), strict=True), start
            ):
                entry = {"image_id": image_ids[image], "category_id": category_ids[label], "bbox": box, "score": score}
                file.write((", " if number else "") + json.dumps(entry))
        file.write("]")
