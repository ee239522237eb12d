"""Detections as plain arrays.

n: boxes of a frame, K: support proposals that relations are kept of.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from vod2.d2 import Instances

_SMALLEST_AREA = float(np.finfo(np.float32).tiny)  # keeps the IoU of two empty boxes from being 0 / 0


def corners(boxes: np.ndarray) -> np.ndarray:
    """xyxy boxes (..., 4) -> (5, ...): left, top, right, bottom and area, each contiguous."""
    first, last = np.moveaxis(boxes[..., :2], -1, 0), np.moveaxis(boxes[..., 2:], -1, 0)
    return np.concatenate([first, last, np.prod(last - first, axis=0)[None]])


def iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of `corners` (5, ...) that broadcast against each other, 0 where both are empty."""
    # In place, in two buffers: before NMS the pairs of two frames are many.
    left, top, right, bottom, area = boxes
    other_left, other_top, other_right, other_bottom, other_area = others
    shared = np.minimum(right, other_right)
    shared -= np.maximum(left, other_left)
    np.maximum(shared, 0, out=shared)
    height = np.minimum(bottom, other_bottom)
    height -= np.maximum(top, other_top)
    shared *= np.maximum(height, 0, out=height)
    union = np.subtract(area + other_area, shared, out=height)
    np.maximum(union, _SMALLEST_AREA, out=union)
    return np.divide(shared, union, out=union)


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """xyxy boxes (n, 4) and (m, 4) -> (n, m)."""
    return iou(corners(boxes)[:, :, None], corners(others)[:, None])


class FrameBoxes(NamedTuple):
    """The detections of one frame.

    Attributes:
        boxes: (n, 4) xyxy pixels, in the dtype of the detections and at least float32.
        scores: (n,) float64.
        labels: (n,) integer.
        proposal: (n,) integer, the proposal of its frame that each came from; None where that is not known.
        relations: (n, K), relation weights of that proposal to those of the next frame; None where they were not kept.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    proposal: np.ndarray | None = None
    relations: np.ndarray | None = None

    @staticmethod
    def of(instances: Instances) -> "FrameBoxes":
        """pred_boxes, scores, pred_classes and, if there, proposal_index and next_relation."""

        def optional(name: str) -> np.ndarray | None:
            return _numpy(instances.get(name)) if instances.has(name) else None

        boxes = _numpy(instances.pred_boxes.tensor)
        return FrameBoxes(
            boxes.astype(np.promote_types(boxes.dtype, np.float32), copy=False),
            # Paths are compared by sums over a whole video: in float32 rounding would decide between some.
            _numpy(instances.scores).astype(np.float64),
            _numpy(instances.pred_classes),
            optional("proposal_index"),
            optional("next_relation"),
        )

    def take(self, rows: np.ndarray) -> "FrameBoxes":
        """The detections at `rows`."""
        return self._replace(**{name: values[rows] for name, values in self._asdict().items() if values is not None})


def _numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    # NumPy has no bfloat16; float16 goes the same way.
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()
    return tensor.numpy()
