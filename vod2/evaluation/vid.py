"""ImageNet VID's mean average precision, with and without the frames that are hard to see."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vod2.d2 import CfgNode, DatasetCatalog, DatasetEvaluator
from vod2.errors import settings
from vod2.evaluation.arrays import Detections, pool_classes, take_rows
from vod2.evaluation.coco import COCO_RESULTS_FILE, write_coco_results
from vod2.evaluation.collect import CONFUSION, DetectionCollector, write_evaluation
from vod2.evaluation.confusion import confusion_matrix, describe_confusion
from vod2.evaluation.curves import CURVES_FILE, CurveTable, mean_average_precision, save_curves
from vod2.evaluation.error_split import split_errors
from vod2.evaluation.evaluated import load_evaluated_dataset
from vod2.evaluation.groups import CLEAN, DETERIORATED, group_curves
from vod2.evaluation.matching import get_protocol, precision_recall
from vod2.evaluation.mot_metrics import VideoFrames, mot_metrics_if_possible
from vod2.evaluation.report import evaluation_report
from vod2.evaluation.stability import stability

logger = logging.getLogger(__name__)


class VIDEvaluator(DatasetEvaluator):
    """AP at IoU .5 (area under the full precision envelope), the mean over the classes that have ground truth.

    Besides all objects it evaluates groups, which docs/evaluation.md defines: "slow", "medium" and "fast" objects
    where the annotations tell tracks (see `vod2.evaluation.motion`); "clean" and "deteriorated" frames and those of
    each kind of deterioration; and what the dataset's records name in `groups`. A group of frames is evaluated as if
    there were no other frames. For a group of objects the objects outside it are ignored: a detection that finds one is
    neither right nor wrong, and detections that find nothing are false in every group ("fgfa", "mega": weighed).

    Then AP with all classes as one, what AP is lost to (`split_errors`; results.json has a `confusion_matrix`), and
    how steadily tracks are found (`stability`); of linked detections, how well they keep identities (`mot_metrics`).
    AP by the size of objects is `COCOEvaluator`'s, which `VideoTrainer` runs beside this one.

    Example:
        >>> from vod2.d2 import Boxes, BoxMode, DatasetCatalog, Instances, MetadataCatalog
        >>> import torch
        >>> box = {"bbox": [0, 0, 50, 50], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
        >>> _ = DatasetCatalog.register("one_frame", lambda: [{"image_id": "a", "annotations": [box]}])
        >>> _ = MetadataCatalog.get("one_frame").set(thing_classes=["cat"])
        >>> evaluator = VIDEvaluator("one_frame", distributed=False)
        >>> evaluator.reset()
        >>> instances = Instances((60, 60), pred_boxes=Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]])))
        >>> instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        >>> evaluator.process([{"image_id": "a"}], [{"instances": instances}])
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
        groups: str = "frames",
        frame_kinds: str | os.PathLike | None = None,
    ) -> None:
        """
        Args:
            dataset_name: a registered dataset of video frames; its metadata has `thing_classes`, and perhaps
                `frame_kinds` (a file, see the argument) and `linked_identities` (True where tracks come from linking
                boxes, not from annotation: the results are marked).
            output_dir: where results.json (the metrics), detections.npz and truth.npz (see `write_evaluation`;
                tools/compare.py compares such folders) and curves.npz (see `save_curves`; tools/plot_results.py draws
                it) are written; None writes nothing.
            distributed: gather the detections of all processes; False evaluates those of this process alone.
            protocol: "imagenet" (IoU with +1 pixel sizes, lower threshold for small objects), "fixed" (IoU .5), or
                "fgfa" or "mega" (what the public code of FGFA, and that of RDN and MEGA, computes, see
                `vod2.evaluation.matching`).
            write_json: also write coco_instances_results.json, in COCO's result format.
            groups: "frames": a kind of deterioration is evaluated on the frames that have it, with all of their
                objects and detections; "objects": on the objects that have it and the detections of all frames.
            frame_kinds: a JSON file that says which frames are deteriorated (see `read_frame_kinds`), beside what the
                annotations say; by default that of the metadata.

        Raises:
            ValueError: an unknown protocol or kind of groups, two frames of one image_id, a category_id that is no
                class, or a class that is named like a group.
            UserError: a bad file of deteriorated frames.
        """
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._write_json = write_json
        dataset = DatasetCatalog.get(dataset_name)
        self._data = data = load_evaluated_dataset(dataset_name, protocol, groups, frame_kinds, dataset)
        self._frames = VideoFrames.of(dataset, data.video)
        self._protocol = get_protocol(protocol)
        self._collector = DetectionCollector(dataset_name, data.image_ids, len(data.class_names), distributed)

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        dataset_name: str,
        output_dir: str | os.PathLike | None = None,
        distributed: bool = True,
    ) -> "VIDEvaluator":
        """The evaluator that TEST.VID_PROTOCOL, TEST.VID_GROUPS and TEST.FRAME_KINDS ask for.

        Raises:
            UserError: also where the constructor raises ValueError.
        """
        test = cfg.TEST
        with settings("TEST.VID_PROTOCOL, TEST.VID_GROUPS or the dataset"):
            return cls(
                dataset_name,
                output_dir,
                distributed,
                protocol=test.VID_PROTOCOL,
                groups=test.VID_GROUPS,
                # The key is "" for no file.
                frame_kinds=test.FRAME_KINDS or None,
            )

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
            {"vid": metrics}, in percent, NaN where there is no ground truth: "AP50", "AP50-<group>"...,
            "AP50-any-class" (labels are ignored), "AP50-<class>"...; where the annotations tell tracks, "flicker",
            "delay", "gap", "coverage" (see `stability`), and "linked-identities" 1.0 where those tracks were linked;
            where the detections have tracks, too, what `mot_metrics` returns, if its package is installed;
            "dAP50-<error>"... and "errors-<error>"..., the AP50 that each kind of error costs and how many there are,
            and with "-clean" and "-deteriorated" those of these groups, if they are groups of frames.
            Empty in all processes but the first.
        """
        # Only the main process has the detections of all; it evaluates, the others return nothing.
        detections = self._collector.gather()
        if detections is None:
            return OrderedDict()
        data, num_classes = self._data, len(self._data.class_names)
        curves = group_curves(detections, data.truth, data.groups, num_classes, self._protocol, len(data.empty_frames))
        table = CurveTable(["all", *data.groups], data.class_names, curves)
        results = self._average_precisions(table, detections)
        steadiness = stability(detections, data.truth, data.tracks)
        results.update(steadiness)
        # Only where tracks have been evaluated do the results depend on the linking.
        if data.linked_identities and steadiness:
            results["linked-identities"] = 1.0
        results.update(mot_metrics_if_possible(detections, data.truth, data.tracks, self._frames, data.class_names))
        results.update(self._errors(detections))
        confusion = confusion_matrix(detections, data.truth, num_classes, self._protocol)

        logger.info("Evaluation of %s:\n%s", data.name, evaluation_report(results, data, detections))
        if self._output_dir is not None:
            others = {CONFUSION: describe_confusion(confusion, data.class_names)}
            evaluated = self._collector.evaluated
            write_evaluation(self._output_dir, "vid", results, data, detections, evaluated, others=others)
            save_curves(self._output_dir / CURVES_FILE, table)
            if self._write_json:
                file = self._output_dir / COCO_RESULTS_FILE
                write_coco_results(file, data.image_ids, range(num_classes), detections)
        return OrderedDict(vid=results)

    def _errors(self, detections: Detections) -> dict[str, float]:
        """What AP50 is lost to: in all frames, and in those that are and are not deteriorated, if any are."""
        data = self._data
        results: dict[str, float] = {}
        parts: list[tuple[str, np.ndarray | None]] = [("", None)]
        if DETERIORATED in data.groups:
            parts += [(f"-{name}", data.groups[name].frames) for name in (CLEAN, DETERIORATED)]
        for suffix, frames in parts:
            if suffix and frames is None:  # groups of objects have no detections of their own
                continue
            found, truth = detections, data.truth
            if frames is not None:
                found, truth = take_rows(found, frames[found.image]), take_rows(truth, frames[truth.image])
            errors = split_errors(found, truth, len(data.class_names), self._protocol)
            results.update({f"dAP50-{name}{suffix}": 100 * gain for name, gain in errors.gain.items()})
            results.update({f"errors-{name}{suffix}": float(count) for name, count in errors.count.items()})
        return results

    def _average_precisions(self, table: CurveTable, detections: Detections) -> OrderedDict[str, float]:
        per_class = 100 * table.average_precision()
        # One class: a detection counts for finding an object, whatever it takes it for.
        pooled = precision_recall(pool_classes(detections), pool_classes(self._data.truth), 1, self._protocol)
        results = OrderedDict(AP50=mean_average_precision(per_class[0]))
        for group, of_classes in zip(table.groups[1:], per_class[1:], strict=True):  # the first is all objects
            results[f"AP50-{group}"] = mean_average_precision(of_classes)
        results["AP50-any-class"] = 100 * pooled[0][0].average_precision
        for name, ap in zip(table.classes, per_class[0], strict=True):
            results[f"AP50-{name}"] = float(ap)
        return results
