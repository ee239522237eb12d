"""ImageNet VID's mean average precision, with and without the frames that are hard to see."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vod2 import atomic
from vod2.d2 import BoxMode, DatasetCatalog, DatasetEvaluator, MetadataCatalog
from vod2.evaluation.collect import DetectionCollector, ground_truth_arrays, write_evaluation
from vod2.evaluation.curves import CURVES_FILE, CurveTable, mean_average_precision, save_curves
from vod2.evaluation.matching import Detections, GroundTruth, MatchingProtocol, get_protocol, precision_recall
from vod2.evaluation.motion import motion_iou, speed_groups
from vod2.evaluation.stability import TrackIndex, index_tracks, stability

logger = logging.getLogger(__name__)


class VIDEvaluator(DatasetEvaluator):
    """AP at IoU .5 (area under the full precision envelope), the mean over the classes that have ground truth.

    Besides all objects it evaluates groups of them: "slow", "medium" and "fast" where the annotations tell tracks (see
    `vod2.evaluation.motion`), "clean" (annotations without `deterioration`), and each kind of deterioration that the
    ground truth records. For a group the objects outside it are ignored: a detection that finds one is neither right
    nor wrong. Detections that find nothing are false in every group (protocol "mega" weighs them). AP by the size of
    objects is `COCOEvaluator`'s, which `VideoTrainer` runs beside this one.

    Example:
        >>> from vod2.d2 import Boxes, Instances
        >>> import torch
        >>> box = {"bbox": [0, 0, 50, 50], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
        >>> _ = DatasetCatalog.register("one_frame", lambda: [{"image_id": "a", "annotations": [box]}])
        >>> _ = MetadataCatalog.get("one_frame").set(thing_classes=["cat"])
        >>> evaluator = VIDEvaluator("one_frame", distributed=False)
        >>> evaluator.reset()
        >>> found = Instances((60, 60), pred_boxes=Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]])))
        >>> found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        >>> evaluator.process([{"image_id": "a"}], [{"instances": found}])
        >>> evaluator.evaluate()["vid"]["AP50"]
        100.0
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike | None = None,
        distributed: bool = True,
        protocol: str = "imagenet",
        write_json: bool = False,
    ) -> None:
        """
        Args:
            dataset_name: a registered dataset of video frames; its metadata has `thing_classes`.
            output_dir: where results.json (the metrics), detections.npz (see `write_evaluation`) and curves.npz (see
                `save_curves`; tools/plot_results.py draws it) are written; None writes nothing.
            distributed: gather the detections of all processes; False evaluates those of this process alone.
            protocol: "imagenet" (IoU with +1 pixel sizes, lower threshold for small objects), "fixed" (IoU .5), or
                "mega" (what the public code of FGFA, RDN and MEGA computes, see `vod2.evaluation.matching`).
            write_json: also write coco_instances_results.json, in COCO's result format.

        Raises:
            ValueError: an unknown protocol, two frames of one image_id, a category_id that is no class, or a class that
                is named like a group.
        """
        self._dataset_name = dataset_name
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._protocol = get_protocol(protocol)
        self._write_json = write_json
        self._class_names = list(MetadataCatalog.get(dataset_name).thing_classes)
        dataset = DatasetCatalog.get(dataset_name)
        self._image_ids = [record["image_id"] for record in dataset]
        self._collector = DetectionCollector(dataset_name, self._image_ids, len(self._class_names), distributed)
        self._ground_truth, self._tracks = ground_truth_arrays(dataset), index_tracks(dataset)
        self._groups = _groups(dataset, self._ground_truth, self._tracks, self._protocol)
        if (highest := self._ground_truth.labels.max(initial=-1)) >= len(self._class_names):
            raise ValueError(f"Dataset {dataset_name!r}: category_id {highest}, but {len(self._class_names)} classes")
        if twice := set(self._class_names) & set(self._groups):
            raise ValueError(f"Dataset {dataset_name!r}: {twice} names both a class and a group of objects, rename one")

    def reset(self) -> None:
        """Forget all detections."""
        self._collector.reset()

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Store the detections of some frames.

        Args:
            inputs: dicts with `image_id`.
            outputs: dicts with `instances`: Instances of pred_boxes, scores and pred_classes, in original pixels.

        Raises:
            UserError: a label that the dataset has no class for.
            KeyError: a frame that is not the dataset's.
        """
        self._collector.add(inputs, outputs)

    def evaluate(self) -> OrderedDict:
        """Evaluate what has been processed; a frame of the dataset without a detection counts as an empty one.

        Returns:
            {"vid": {"AP50", "AP50-<group>"..., "AP50-<class>"...}} in percent, NaN where there is no ground truth;
            then, where the annotations tell tracks, how steadily they are found (see `stability`). Empty in all
            processes but the first.
        """
        detections = self._collector.gather()
        if detections is None:
            return OrderedDict()
        num_classes = len(self._class_names)
        ignore = np.stack([self._ground_truth.ignore, *(~member for member in self._groups.values())])
        curves = precision_recall(detections, self._ground_truth, num_classes, self._protocol, ignore)
        table = CurveTable(["all", *self._groups], self._class_names, curves)
        per_class = 100 * table.average_precision()
        results = OrderedDict(AP50=mean_average_precision(per_class[0]))
        results.update(
            (f"AP50-{name}", mean_average_precision(row)) for name, row in zip(self._groups, per_class[1:], strict=True)
        )
        results.update((f"AP50-{name}", float(ap)) for name, ap in zip(self._class_names, per_class[0], strict=True))
        results.update(stability(detections, self._ground_truth, self._tracks))

        self._log(results, detections)
        if self._output_dir is not None:
            self._write(results, detections)
            save_curves(self._output_dir / CURVES_FILE, table)
        return OrderedDict(vid=results)

    def _log(self, results: OrderedDict, detections: Detections) -> None:
        truth, num_classes = self._ground_truth, len(self._class_names)
        objects = np.bincount(truth.labels[~truth.ignore], minlength=num_classes)
        found = np.bincount(detections.labels, minlength=num_classes)
        rows = [("all", "AP50", int(objects.sum()), len(detections))]
        rows += [(name, f"AP50-{name}", int(member.sum()), "") for name, member in self._groups.items()]
        rows += [(name, f"AP50-{name}", *n) for name, *n in zip(self._class_names, objects, found, strict=True)]
        width = max(len(row[0]) for row in rows)
        lines = [f"{'':{width}}  {'AP50':>6}  {'objects':>9}  {'detections':>10}"]
        lines += [f"{name:{width}}  {results[key]:6.2f}  {n:9}  {m:10}" for name, key, n, m in rows]
        logger.info("Evaluation of %s:\n%s", self._dataset_name, "\n".join(lines))

    def _write(self, results: OrderedDict, detections: Detections) -> None:
        write_evaluation(self._output_dir, "vid", results, self._image_ids, detections)
        if self._write_json:
            entries = [
                {"image_id": self._image_ids[image], "category_id": label, "bbox": box, "score": score}
                for image, box, score, label in zip(
                    detections.image.tolist(),
                    BoxMode.convert(detections.boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist(),
                    detections.scores.tolist(),
                    detections.labels.tolist(),
                    strict=True,
                )
            ]
            atomic.write_json(self._output_dir / "coco_instances_results.json", entries)


def _groups(
    dataset: Sequence[dict], truth: GroundTruth, tracks: TrackIndex, protocol: MatchingProtocol
) -> dict[str, np.ndarray]:
    """For each group of objects which of the ground truth (m,) bool belong to it; crowds belong to none."""
    groups = {}
    motion = motion_iou(np.where(truth.ignore, -1, tracks.track), tracks.frame, truth.boxes)
    if not np.isnan(motion).all():
        groups.update(speed_groups(motion, overlap=protocol.speeds_overlap))
    deteriorations = [note.get("deterioration") or {} for record in dataset for note in record.get("annotations", ())]
    groups["clean"] = np.array([not kinds for kinds in deteriorations], dtype=bool)
    for kind in sorted({kind for kinds in deteriorations for kind in kinds}):
        groups[kind] = np.array([kind in kinds for kinds in deteriorations], dtype=bool)
    return {name: member & ~truth.ignore for name, member in groups.items()}
