"""UAVDT's average precision: with regions that are ignored, all classes as one and each alone.

Shape alphabet: F frames, n detections, m ground truths, K classes.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vod2.d2 import DatasetCatalog, DatasetEvaluator, MetadataCatalog
from vod2.evaluation.arrays import Detections, pool_classes, take_rows
from vod2.evaluation.collect import DetectionCollector, write_evaluation
from vod2.evaluation.curves import mean_average_precision
from vod2.evaluation.evaluated import load_evaluated_dataset
from vod2.evaluation.matching import MatchingProtocol, average_precision, match_detections
from vod2.evaluation.mot_metrics import VideoFrames, mot_metrics_if_possible
from vod2.evaluation.regions import is_ignored
from vod2.evaluation.report import LINKED_NOTE
from vod2.evaluation.stability import stability

logger = logging.getLogger(__name__)

_THRESHOLDS = {"70": 0.7, "50": 0.5}  # IoU by name; the benchmark's own is first


class UAVDTEvaluator(DatasetEvaluator):
    """AP (area under the full precision envelope) at IoU .7 and .5.

    "AP70-pooled" is the benchmark's own figure: all classes are one. "AP70" is the mean over the classes that have
    ground truth, "AP70-<class>" that of one class; those at .5 alike. Detections in ignore regions (see `is_ignored`)
    are dropped first. Where the dataset tells tracks, the numbers of `stability` follow.

    Example:
        >>> import torch
        >>> from vod2.d2 import Boxes, BoxMode, Instances
        >>> car = {"bbox": [0, 0, 50, 50], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
        >>> frame = {"image_id": "a", "annotations": [car], "ignore_regions": [[100, 0, 200, 100]]}
        >>> _ = DatasetCatalog.register("one_frame_of_cars", lambda: [frame])
        >>> _ = MetadataCatalog.get("one_frame_of_cars").set(thing_classes=["car", "truck", "bus"])
        >>> evaluator = UAVDTEvaluator("one_frame_of_cars", distributed=False)
        >>> instances = Instances((100, 200))
        >>> instances.pred_boxes = Boxes(torch.tensor([[120.0, 10.0, 180.0, 90.0], [0.0, 0.0, 50.0, 50.0]]))
        >>> instances.scores, instances.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
        >>> evaluator.process([{"image_id": "a"}], [{"instances": instances}])
        >>> results = evaluator.evaluate()["uavdt"]
        >>> results["AP70-pooled"], results["AP70-car"]
        (100.0, 0.0)
    """

    def __init__(
        self, dataset_name: str, output_dir: str | os.PathLike | None = None, distributed: bool = True
    ) -> None:
        """
        Args:
            dataset_name: a registered dataset; its metadata has `thing_classes`, its dicts may have `ignore_regions`
                [[x1, y1, x2, y2]].
            output_dir: where results.json, detections.npz and truth.npz are written (see `write_evaluation`; the
                dropped detections are among them, marked as ignored); None writes nothing.
            distributed: gather the detections of all processes; False evaluates those of this process alone.

        Raises:
            ValueError: two frames of one image_id, a category_id that is no class, or a class called "pooled".
        """
        self._dataset_name = dataset_name
        self._output_dir = None if output_dir is None else Path(output_dir)
        dataset = DatasetCatalog.get(dataset_name)
        self._class_names = list(MetadataCatalog.get(dataset_name).thing_classes)
        # AP at .5 is what two evaluations are compared by: that is the protocol "fixed".
        self._data = load_evaluated_dataset(dataset_name, protocol="fixed", dataset=dataset)
        self._ground_truth, self._tracks = self._data.truth, self._data.tracks
        self._collector = DetectionCollector(dataset_name, self._data.image_ids, len(self._class_names), distributed)
        self._frames = VideoFrames.of(dataset, self._data.video)
        # "AP70-pooled" would be the name of two metrics.
        if "pooled" in self._class_names:
            raise ValueError(f"Dataset {dataset_name!r}: a class is called 'pooled', like all of them: rename it")

    def reset(self) -> None:
        """Forget all detections."""
        self._collector.reset()

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Store the detections of some frames; see `DetectionCollector.add`."""
        self._collector.add(inputs, outputs)

    def evaluate(self) -> OrderedDict:
        """Evaluate what has been processed; a frame of the dataset without a detection counts as an empty one.

        Returns:
            {"uavdt": {"AP70-pooled", "AP50-pooled", "AP70", "AP50", "AP70-<class>"..., "AP50-<class>"...}} in percent,
            NaN where there is no ground truth, then the numbers of `stability`, and "linked-identities" 1.0 where their
            tracks were linked; of linked detections those of `mot_metrics`, if its package is installed. Empty in all
            processes but the first.
        """
        collected = self._collector.gather()
        if collected is None:
            return OrderedDict()
        ignored = is_ignored(collected, self._frames.regions)
        detections = take_rows(collected, ~ignored)
        pooled, single = self._average_precisions(detections)
        # The benchmark's own figure comes first.
        results = OrderedDict((f"AP{name}-pooled", ap) for name, ap in pooled.items())
        for name, per_class in single.items():
            results[f"AP{name}"] = mean_average_precision(per_class)
        for name, per_class in single.items():
            results.update((f"AP{name}-{c}", float(ap)) for c, ap in zip(self._class_names, per_class, strict=True))
        results.update(stability(detections, self._ground_truth, self._tracks))
        if self._data.linked_identities and "flicker" in results:
            results["linked-identities"] = 1.0
        truth, tracks = self._ground_truth, self._tracks
        results.update(mot_metrics_if_possible(collected, truth, tracks, self._frames, self._class_names))
        lines = [f"{key:16} {value:6.2f}" for key, value in results.items()]
        lines.append(f"{ignored.sum()} of {len(ignored)} detections lie in ignored regions")
        if "linked-identities" in results:
            lines.append(LINKED_NOTE)
        logger.info("Evaluation of %s:\n%s", self._dataset_name, "\n".join(lines))
        if self._output_dir is not None:
            evaluated = self._collector.evaluated
            # All detections, and which of them were dropped: tools/compare.py then drops the same.
            write_evaluation(self._output_dir, "uavdt", results, self._data, collected, evaluated, ignored)
        return OrderedDict(uavdt=results)

    def _average_precisions(self, detections: Detections) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Percent by the name of the IoU threshold: of all classes as one, and (K,) of each."""
        truth = self._ground_truth
        pooled_detections, pooled_truth = pool_classes(detections), pool_classes(truth)
        pooled, single = {}, {}
        for name, threshold in _THRESHOLDS.items():
            protocol = _constant(threshold)
            matches = match_detections(pooled_detections, pooled_truth, protocol)
            pooled[name] = 100 * float(average_precision(pooled_detections, pooled_truth, matches, 1)[0])
            matches = match_detections(detections, truth, protocol)
            single[name] = 100 * average_precision(detections, truth, matches, len(self._class_names))
        return pooled, single


def _constant(iou: float) -> MatchingProtocol:
    return MatchingProtocol(pixel_offset=0.0, threshold=lambda width, height: np.full(width.shape, iou))
