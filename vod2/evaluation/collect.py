"""What an evaluator keeps of a whole dataset: detections from all processes in order, ground truth, its files.

Shape alphabet: F frames, n detections of all of them.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vod2 import atomic
from vod2.bounded import load_json
from vod2.d2 import Instances, comm
from vod2.errors import UserError
from vod2.evaluation.arrays import Detections
from vod2.evaluation.evaluated import TRUTH_FILE, EvaluatedDataset, save_evaluated_dataset

logger = logging.getLogger(__name__)

DETECTIONS_FILE = "detections.npz"
CONFUSION = "confusion"
"""The key of the confusion matrix in results.json."""


class _Frames(NamedTuple):
    """The detections of some frames. `frame` (F,) int32 is the row in the dataset, `count` (F,) int32 how many each
    has; `boxes` (n, 4) float32 xyxy, `scores` (n,) float32, `labels` (n,) int32 and `track_ids` (n,) int64 follow one
    another frame by frame. `track_ids` is None where no detection has any.
    """

    frame: np.ndarray
    count: np.ndarray  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    track_ids: np.ndarray | None


class DetectionCollector:
    """Keeps detections as compact arrays, 24 bytes each, 32 of linked ones.

    Attributes:
        evaluated: (F,) bool: the frame was processed; known after `gather`.

    Example:
        >>> import torch
        >>> from vod2.d2 import Boxes, Instances
        >>> collector = DetectionCollector("one_frame", ["a"], num_classes=1, distributed=False)
        >>> instances = Instances((60, 60), pred_boxes=Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]])))
        >>> instances.scores, instances.pred_classes = torch.tensor([0.5]), torch.tensor([0])
        >>> collector.add([{"image_id": "a"}], [{"instances": instances}])
        >>> collector.gather().scores
        array([0.5], dtype=float32)
    """

    def __init__(self, dataset_name: str, image_ids: Sequence[str], num_classes: int, distributed: bool = True) -> None:
        """
        Args:
            dataset_name: for messages.
            image_ids: of all F frames of the dataset; its order is the order of the result.
            num_classes: labels are in [0, num_classes).
            distributed: gather from all processes; False takes the detections of this process alone.

        Raises:
            ValueError: two frames of one image_id.
        """
        self._dataset_name = dataset_name
        self._frame_of = {image_id: frame for frame, image_id in enumerate(image_ids)}
        if len(self._frame_of) < len(image_ids):
            raise ValueError(f"Dataset {dataset_name!r} has frames of the same image_id: each needs its own")
        self._num_classes = num_classes
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._frames: list[_Frames] = []
        self.evaluated = np.zeros(len(self._frame_of), dtype=bool)

    def add(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Store the detections of some frames.

        Args:
            inputs: dicts with `image_id`.
            outputs: dicts with `instances`: Instances of pred_boxes, scores and pred_classes, in original pixels, and
                track_ids where they were linked.

        Raises:
            UserError: a label that the dataset has no class for.
            KeyError: a frame that is not the dataset's.
        """
        for frame, output in zip(inputs, outputs, strict=True):
            if frame["image_id"] not in self._frame_of:
                raise KeyError(f"image_id {frame['image_id']!r} is not in the dataset {self._dataset_name!r}")
            detections = _as_arrays(self._frame_of[frame["image_id"]], output["instances"])
            highest = detections.labels.max(initial=-1)
            if highest >= self._num_classes:
                raise UserError(
                    f"the model predicts label {highest}, but dataset {self._dataset_name!r} has "
                    f"{self._num_classes} classes: set MODEL.ROI_HEADS.NUM_CLASSES to that number"
                )
            self._frames.append(detections)

    def gather(self) -> Detections | None:
        """The detections of all processes in the order of the dataset, whichever process had them; `image` is the
        frame's row in the dataset. None in all processes but the first. Sets `evaluated`.

        Of a frame that came more than once the first result counts; a warning counts those, and the frames that did
        not come.
        """
        collected = _concatenate(self._frames)
        # The small arrays of the frames are freed before those of all processes come.
        self._frames = [collected]
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(collected, dst=0)
            if not comm.is_main_process():
                return None
            collected = _concatenate(gathered)
        return self._in_order(collected)

    def _in_order(self, collected: _Frames) -> Detections:
        """The detections of each frame that was collected, the first of one that came twice; sets `evaluated`."""
        # `first` says in which place of `collected` a frame first came.
        frames, first = np.unique(collected.frame, return_index=True)
        if repeated := len(collected.frame) - len(first):
            logger.warning("%d frames were evaluated more than once; only their first result counts", repeated)
        if missing := len(self._frame_of) - len(first):
            logger.warning(
                "%d of the %d frames of %s were not processed; their objects count as missed",
                missing,
                len(self._frame_of),
                self._dataset_name,
            )
        self.evaluated[frames] = True
        count = collected.count[first]
        image = np.repeat(frames, count)
        if np.array_equal(first, np.arange(len(collected.frame))):  # one process, in order: nothing to copy
            return Detections(image, *collected[2:])
        # Detections of a frame follow one another before and after. So they all move by the same number of rows, from
        # where the frame begins in `collected` to where it begins in the result.
        # int64: the counts are int32, their sums may be larger.
        begins_in_collected = (np.cumsum(collected.count, dtype=np.int64) - collected.count)[first]
        begins_in_result = np.cumsum(count, dtype=np.int64) - count
        order = np.arange(len(image)) + np.repeat(begins_in_collected - begins_in_result, count)
        tracks = None if collected.track_ids is None else collected.track_ids[order]
        return Detections(image, collected.boxes[order], collected.scores[order], collected.labels[order], tracks)


def _as_arrays(frame: int, instances: Instances) -> _Frames:
    # float32, because numpy has no bfloat16 and float16 rounds pixels above 2,048.
    boxes = instances.pred_boxes.tensor.detach().cpu().float().numpy()
    scores = instances.scores.detach().cpu().float().numpy()
    labels = instances.pred_classes.cpu().numpy().astype(np.int32)
    track_ids = instances.track_ids.cpu().numpy().astype(np.int64) if instances.has("track_ids") else None
    return _Frames(np.array([frame], np.int32), np.array([len(scores)], np.int32), boxes, scores, labels, track_ids)


def _concatenate(parts: Sequence[_Frames]) -> _Frames:
    if len(parts) == 1:
        return parts[0]  # a copy would hold all detections twice
    # An empty part first: without frames there would be nothing to concatenate.
    empty = np.empty(0, np.int32)
    parts = [_Frames(empty, empty, np.empty((0, 4), np.float32), np.empty(0, np.float32), empty, None), *parts]
    return _Frames(
        frame=np.concatenate([part.frame for part in parts]),
        count=np.concatenate([part.count for part in parts]),
        boxes=np.concatenate([part.boxes for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        track_ids=_concatenated_tracks(parts),
    )


def _concatenated_tracks(parts: Sequence[_Frames]) -> np.ndarray | None:
    if all(part.track_ids is None for part in parts):
        return None
    # A detection of a frame without tracks, beside others with tracks, is of none.
    return np.concatenate(
        [np.full(len(part.labels), -1) if part.track_ids is None else part.track_ids for part in parts]
    )


def read_confusion(path: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """{CONFUSION: what stands there} of the results.json of an evaluation, {} where there is none.

    Args:
        metrics: {task: results} with None for NaN; a file of other metrics is of another evaluation.
    """
    try:
        written = load_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if CONFUSION not in written or written.get("vid") != metrics.get("vid"):
        return {}
    return {CONFUSION: written[CONFUSION]}


def write_evaluation(
    folder: Path,
    task: str,
    results: dict[str, float],
    data: EvaluatedDataset,
    detections: Detections,
    evaluated: np.ndarray,
    ignored: np.ndarray | None = None,
    others: Mapping[str, Any] | None = None,
) -> None:
    """Write {task: results} and `others` to results.json, with null for NaN, the detections to detections.npz and what
    they are held against to truth.npz (see `save_evaluated_dataset`).

    detections.npz holds `image_ids` (F,) of all frames of the dataset, `evaluated` (F,) bool: the frame was processed,
    and of the detections `image` (n,) rows of it, `boxes` (n, 4) xyxy, `scores` and `labels` (n,), frames in the order
    of the dataset; `track_ids` (n,) where they were linked; `ignored` (n,) bool where the evaluation drops some before
    it matches.
    """
    without_nan = {}  # JSON has no NaN
    for key, value in results.items():
        without_nan[key] = value if np.isfinite(value) else None
    arrays: dict[str, Any] = {"image_ids": np.array(data.image_ids), "evaluated": evaluated}
    arrays |= {name: values for name, values in vars(detections).items() if values is not None}
    if ignored is not None:
        arrays["ignored"] = ignored
    atomic.write_json(folder / "results.json", {task: without_nan} | dict(others or {}))
    with atomic.replacing(folder / DETECTIONS_FILE) as path:
        np.savez_compressed(path, **arrays)
    save_evaluated_dataset(folder / TRUTH_FILE, data)
