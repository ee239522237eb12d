"""Detections of other libraries as Detectron2's `Instances`.

n: detections of a frame.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from vod2.bounded import shown
from vod2.d2 import Instances
from vod2.errors import UserError
from vod2.structures import PreciseBoxes

_LARGEST_LABEL = 2**31 - 1
_EXPECTED = (
    "expected Instances, {'boxes', 'scores', 'labels'}, (boxes, scores, labels), an array (n, 6) of x1 y1 x2 y2 score "
    "label, detections of supervision or results of ultralytics"
)


def as_instances(detections: Any, size: tuple[int, int] | None = None, frame: str = "detections") -> Instances:
    """The detections of one frame, whoever made them, with boxes (n, 4) xyxy pixels.

    Args:
        detections: Detectron2's `Instances` or {"instances": Instances}; torchvision's {"boxes", "scores", "labels"}
            (and "track_ids", if known); a tuple (boxes, scores, labels); an array (n, 6) with rows x1 y1 x2 y2 score
            label; `Detections` of supervision; one of the `Results` of ultralytics. Numbers may be tensors, arrays or
            lists; boxes are xyxy pixels, labels whole numbers from 0.
        size: (height, width) of the frame in pixels; by default what the detections say, or else what holds all boxes.
        frame: what an error calls them.

    Returns:
        `Instances` on the CPU with pred_boxes, scores and pred_classes, and track_ids if they are known. Those of
        Detectron2 keep all their fields.

    Raises:
        UserError: it is none of these, or holds numbers that are no detections.

    Example:
        >>> as_instances(([[0, 0, 10, 20]], [0.9], [3])).pred_classes
        tensor([3])
    """
    if isinstance(detections, Mapping) and "instances" in detections:
        detections = detections["instances"]
    if hasattr(detections, "get_fields"):
        return _checked_instances(_resized(detections.to("cpu"), size), frame)
    columns = _columns(detections, frame)
    boxes = _array(columns["boxes"], np.float32, "boxes", frame)
    # An empty list of boxes has no columns.
    boxes = boxes.reshape(-1, 4) if not boxes.size else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"{frame}: boxes of shape {boxes.shape}, expected (n, 4): {_EXPECTED}")
    rows = {
        "scores": _array(columns["scores"], np.float32, "scores", frame),
        "labels": _labels(columns["labels"], frame),
    }
    if columns.get("track_ids") is not None:
        rows["track_ids"] = _array(columns["track_ids"], np.int64, "track_ids", frame)
    for name, values in rows.items():
        if values.shape != (len(boxes),):
            raise UserError(f"{frame}: {name} of shape {values.shape}, expected ({len(boxes)},), one for each box")
    instances = Instances(size or columns.get("size") or _extent(boxes), pred_boxes=PreciseBoxes(torch.tensor(boxes)))
    instances.scores = torch.tensor(rows["scores"])
    instances.pred_classes = torch.tensor(rows["labels"])
    if "track_ids" in rows:
        instances.track_ids = torch.tensor(rows["track_ids"])
    return _checked_instances(instances, frame)


def _resized(instances: Instances, size: tuple[int, int] | None) -> Instances:
    """The same detections in a frame of another size, where one is given."""
    if size is None or instances.image_size == size:
        return instances
    return Instances(size, **instances.get_fields())


def _columns(detections: Any, frame: str) -> dict[str, Any]:
    """{"boxes", "scores", "labels"}, and "track_ids" and "size" where they are known."""
    if isinstance(detections, Mapping):
        missing = [name for name in ("boxes", "scores", "labels") if name not in detections]
        if missing:
            raise UserError(f"{frame}: a dict without {', '.join(map(repr, missing))}: {_EXPECTED}")
        return dict(detections)
    if hasattr(detections, "xyxy") and hasattr(detections, "class_id"):  # supervision
        for name in ("confidence", "class_id"):
            if getattr(detections, name) is None:
                raise UserError(
                    f"{frame}: supervision's detections have no {name}: linking compares scores and classes"
                )
        return {
            "boxes": detections.xyxy,
            "scores": detections.confidence,
            "labels": detections.class_id,
            "track_ids": getattr(detections, "tracker_id", None),
        }
    boxes = getattr(detections, "boxes", None)
    if boxes is not None and all(hasattr(boxes, name) for name in ("xyxy", "conf", "cls")):  # ultralytics
        size = getattr(detections, "orig_shape", None)
        columns = {
            "boxes": boxes.xyxy,
            "scores": boxes.conf,
            "labels": boxes.cls,
            "track_ids": getattr(boxes, "id", None),
        }
        return columns | ({"size": (int(size[0]), int(size[1]))} if size is not None else {})
    if isinstance(detections, tuple) and len(detections) == 3:
        return dict(zip(("boxes", "scores", "labels"), detections, strict=True))
    table = _array(detections, np.float64, "the array", frame)
    if table.ndim and not table.size:
        return {"boxes": [], "scores": [], "labels": []}
    if table.ndim != 2 or table.shape[1] != 6:
        raise UserError(f"{frame}: an array of shape {table.shape}: {_EXPECTED}")
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5]}


def _array(values: Any, kind: type, name: str, frame: str) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().float() if values.is_floating_point() else values.detach().cpu()
    try:
        return np.asarray(values, dtype=kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{frame}: {name} cannot be read as numbers ({error}): {_EXPECTED}") from error


def _labels(values: Any, frame: str) -> np.ndarray:
    numbers = _array(values, np.float64, "labels", frame)
    # Not even NaN is equal to its floor.
    wrong = numbers[(numbers != np.floor(numbers)) | (np.abs(numbers) > _LARGEST_LABEL)]
    if wrong.size:
        raise UserError(f"{frame}: {shown(float(wrong.flat[0]))} is no label: expected whole numbers from 0")
    return numbers.astype(np.int64)


def _extent(boxes: np.ndarray) -> tuple[int, int]:
    """(height, width) of the smallest image that holds all boxes, at least of 1 pixel."""
    if not len(boxes) or not np.isfinite(boxes).all():
        return 1, 1
    width, height = np.ceil(boxes[:, 2:].max(axis=0)).clip(1, 2**31 - 1)
    return int(height), int(width)


def _checked_instances(instances: Instances, frame: str) -> Instances:
    missing = [name for name in ("pred_boxes", "scores", "pred_classes") if not instances.has(name)]
    if missing:
        raise UserError(f"{frame}: Instances without {', '.join(missing)}: expected the output of a detector")
    if not hasattr(instances.pred_boxes, "tensor"):
        raise UserError(f"{frame}: pred_boxes is a {type(instances.pred_boxes).__name__}, expected Detectron2's Boxes")
    boxes, scores = instances.pred_boxes.tensor, instances.scores
    if not boxes.isfinite().all() or not scores.isfinite().all():
        raise UserError(f"{frame}: boxes or scores are not finite: leave these detections out")
    turned = (boxes[:, 2:] < boxes[:, :2]).any(dim=1)
    if turned.any():
        raise UserError(
            f"{frame}: box {boxes[turned][0].tolist()} ends before it begins: expected x1 y1 x2 y2, "
            "not x y width height"
        )
    if len(instances) and instances.pred_classes.min() < 0:
        raise UserError(f"{frame}: label {int(instances.pred_classes.min())} is negative: expected numbers from 0")
    return instances


def as_video(detections: Sequence[Any], size: tuple[int, int] | None = None) -> list[Instances]:
    """`as_instances` of every frame of a video, in order; errors name the frame, from 0."""
    return [as_instances(found, size, f"frame {index}") for index, found in enumerate(detections)]
