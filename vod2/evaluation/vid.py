"""ImageNet VID's mean average precision, with and without the frames that are hard to see."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vod2 import atomic
from vod2.d2 import BoxMode, DatasetCatalog, DatasetEvaluator, Instances, MetadataCatalog, comm
from vod2.errors import UserError
from vod2.evaluation.matching import Detections, GroundTruth, average_precision, get_protocol, match_detections

logger = logging.getLogger(__name__)


class _Frames(NamedTuple):
    """The detections of some frames. `frame` (F,) is the row in the dataset, `count` (F,) how many each has; `boxes`
    (n, 4) float32 xyxy, `scores` (n,) float32 and `labels` (n,) int32 follow one another frame by frame."""

    frame: np.ndarray
    count: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class VIDEvaluator(DatasetEvaluator):
    """AP at IoU .5 (area under the full precision envelope), the mean over the classes that have ground truth.

    Besides all frames it evaluates groups of objects: "clean" (annotations without `deterioration`) and each kind of
    deterioration that the ground truth records. For a group the objects outside it are ignored: a detection that finds
    one is neither right nor wrong. Detections that find nothing are false in every group.

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
            output_dir: where results.json (the metrics) and detections.npz (see `evaluate`) are written; None writes
                nothing.
            distributed: gather the detections of all processes; False evaluates those of this process alone.
            protocol: "imagenet" (IoU with +1 pixel sizes, lower threshold for small objects) or "fixed" (IoU .5).
            write_json: also write coco_instances_results.json, in COCO's result format.

        Raises:
            ValueError: an unknown protocol, two frames of one image_id, a category_id that is no class, or a class that
                is named like a group.
        """
        self._dataset_name = dataset_name
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._distributed = distributed
        self._protocol = get_protocol(protocol)
        self._write_json = write_json
        self._class_names = list(MetadataCatalog.get(dataset_name).thing_classes)
        dataset = DatasetCatalog.get(dataset_name)
        self._image_ids = [record["image_id"] for record in dataset]
        self._frame_of = {image_id: frame for frame, image_id in enumerate(self._image_ids)}
        if len(self._frame_of) < len(self._image_ids):
            raise ValueError(f"Dataset {dataset_name!r} has frames of the same image_id: each needs its own")
        self._ground_truth, self._groups = _ground_truth(dataset)
        if (highest := self._ground_truth.labels.max(initial=-1)) >= len(self._class_names):
            raise ValueError(f"Dataset {dataset_name!r}: category_id {highest}, but {len(self._class_names)} classes")
        if twice := set(self._class_names) & set(self._groups):
            raise ValueError(f"Dataset {dataset_name!r}: {twice} names both a class and a group of objects, rename one")
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._seen: list[_Frames] = []

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Store the detections of some frames.

        Args:
            inputs: dicts with `image_id`.
            outputs: dicts with `instances`: Instances of pred_boxes, scores and pred_classes, in original pixels.

        Raises:
            UserError: a label that the dataset has no class for.
            KeyError: a frame that is not the dataset's.
        """
        for given, output in zip(inputs, outputs, strict=True):
            if given["image_id"] not in self._frame_of:
                raise KeyError(f"image_id {given['image_id']!r} is not in the dataset {self._dataset_name!r}")
            found = _as_arrays(self._frame_of[given["image_id"]], output["instances"])
            if (highest := found.labels.max(initial=-1)) >= len(self._class_names):
                raise UserError(
                    f"the model predicts label {highest}, but dataset {self._dataset_name!r} has "
                    f"{len(self._class_names)} classes: set MODEL.ROI_HEADS.NUM_CLASSES to that number"
                )
            self._seen.append(found)

    def evaluate(self) -> OrderedDict:
        """Evaluate what has been processed; a frame of the dataset without a detection counts as an empty one.

        With an output_dir, detections.npz holds `image_ids` (F,) of all frames of the dataset, and `image` (n,) rows of
        it, `boxes` (n, 4) xyxy, `scores` and `labels` (n,), frames in the order of the dataset.

        Returns:
            {"vid": {"AP50", "AP50-<group>"..., "AP50-<class>"...}} in percent, NaN where there is no ground truth;
            empty in all processes but the first.
        """
        seen = _concatenate(self._seen)
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(seen, dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            seen = _concatenate(gathered)
        detections = self._in_order(seen)

        num_classes = len(self._class_names)
        matches = match_detections(detections, self._ground_truth, self._protocol)
        ignore = np.stack([self._ground_truth.ignore, *(~member for member in self._groups.values())])
        per_class = 100 * average_precision(detections, self._ground_truth, matches, num_classes, ignore)
        results = OrderedDict(AP50=_mean(per_class[0]))
        results.update((f"AP50-{name}", _mean(row)) for name, row in zip(self._groups, per_class[1:], strict=True))
        results.update((f"AP50-{name}", float(ap)) for name, ap in zip(self._class_names, per_class[0], strict=True))

        self._log(results, detections)
        if self._output_dir is not None:
            self._write(results, detections)
        return OrderedDict(vid=results)

    def _in_order(self, seen: _Frames) -> Detections:
        """All detections in the order of the dataset, whichever process had them; warn of frames missing or doubled."""
        _, first = np.unique(seen.frame, return_index=True)
        if repeated := len(seen.frame) - len(first):
            logger.warning("%d frames were evaluated more than once; only their first result counts", repeated)
        if missing := len(self._image_ids) - len(first):
            logger.warning(
                "%d of the %d frames of %s were not processed; their objects count as missed",
                missing,
                len(self._image_ids),
                self._dataset_name,
            )
        image = np.repeat(seen.frame, seen.count)
        is_first = np.zeros(len(seen.frame), dtype=bool)
        is_first[first] = True
        kept = np.flatnonzero(np.repeat(is_first, seen.count))
        order = kept[np.argsort(image[kept], kind="stable")]
        return Detections(image[order], seen.boxes[order], seen.scores[order], seen.labels[order])

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
        atomic.write_json(
            self._output_dir / "results.json",
            {"vid": {key: value if np.isfinite(value) else None for key, value in results.items()}},
        )
        with atomic.replacing(self._output_dir / "detections.npz") as path:
            np.savez_compressed(path, image_ids=np.array(self._image_ids), **vars(detections))
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


def _as_arrays(frame: int, instances: Instances) -> _Frames:
    boxes = instances.pred_boxes.tensor.detach().cpu().float().numpy()
    scores = instances.scores.detach().cpu().float().numpy()
    labels = instances.pred_classes.cpu().numpy().astype(np.int32)
    return _Frames(np.array([frame]), np.array([len(scores)]), boxes, scores, labels)


def _concatenate(parts: Sequence[_Frames]) -> _Frames:
    nothing = np.empty(0, np.int64)
    empty = _Frames(nothing, nothing, np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))
    return _Frames(*(np.concatenate(arrays) for arrays in zip(empty, *parts, strict=True)))


def _ground_truth(dataset: Sequence[dict]) -> tuple[GroundTruth, dict[str, np.ndarray]]:
    """The annotations of all frames, and for each group which of them (m,) bool belong to it; crowds to none."""
    annotations = [(frame, note) for frame, record in enumerate(dataset) for note in record.get("annotations", ())]
    boxes = [BoxMode.convert(list(note["bbox"]), note["bbox_mode"], BoxMode.XYXY_ABS) for _, note in annotations]
    truth = GroundTruth(
        image=np.array([frame for frame, _ in annotations], dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.array([note["category_id"] for _, note in annotations], dtype=np.int32),
        ignore=np.array([note.get("iscrowd", 0) for _, note in annotations], dtype=bool),
    )
    deteriorations = [note.get("deterioration") or {} for _, note in annotations]
    groups = {"clean": np.array([not kinds for kinds in deteriorations], dtype=bool)}
    for kind in sorted({kind for kinds in deteriorations for kind in kinds}):
        groups[kind] = np.array([kind in kinds for kinds in deteriorations], dtype=bool)
    return truth, {name: member & ~truth.ignore for name, member in groups.items()}


def _mean(per_class: np.ndarray) -> float:
    """The mean over the classes that have ground truth, NaN where none has."""
    known = per_class[~np.isnan(per_class)]
    return float(known.mean()) if len(known) else float("nan")
