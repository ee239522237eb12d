"""Regions of a frame whose objects are not annotated one by one.

Shape alphabet: F frames, n detections, r regions of a frame, c cells.
"""

from collections.abc import Sequence

import numpy as np

from vod2.evaluation.arrays import Detections


def ignore_regions(dataset: Sequence[dict]) -> list[np.ndarray]:
    """The `ignore_regions` [[x1, y1, x2, y2]] of each of F frames, (r, 4) xyxy pixels; r is 0 where there are none."""
    return [np.array(record.get("ignore_regions") or (), np.float64).reshape(-1, 4) for record in dataset]


def is_ignored(detections: Detections, regions: Sequence[np.ndarray]) -> np.ndarray:
    """Which detections lie in ignore regions: those of which at least half the area is covered by them together.

    The benchmark says "inside" and no more; this is the rule of VisDrone's evaluation, which has such regions, too.

    Args:
        detections: `image` is a row of `regions`.
        regions: for each of F frames (r, 4) xyxy, which may overlap.

    Returns:
        (n,) bool; False for boxes without area.

    Example:
        >>> boxes = np.array([[0.0, 0, 10, 10], [6, 0, 16, 10]])
        >>> detections = Detections(np.zeros(2, int), boxes, np.ones(2), np.zeros(2, int))
        >>> is_ignored(detections, [np.array([[0.0, 0, 10, 10], [0, 0, 9, 9]])])
        array([ True, False])
    """
    ignored = np.zeros(len(detections), dtype=bool)
    order = np.argsort(detections.image, kind="stable")
    ends = np.searchsorted(detections.image, np.arange(len(regions) + 1), sorter=order)
    cells, previous = np.empty((0, 4)), np.empty((0, 4))
    for frame, region in enumerate(regions):
        rows = order[ends[frame] : ends[frame + 1]]
        if not len(region) or not len(rows):
            continue
        if not np.array_equal(region, previous):  # neighbouring frames mostly have the same
            cells, previous = _disjoint(region), region
        box = detections.boxes[rows].astype(np.float64)
        size = np.maximum(box[:, 2:] - box[:, :2], 0)
        area = size[:, 0] * size[:, 1]
        common = np.minimum(box[:, None, 2:], cells[:, 2:]) - np.maximum(box[:, None, :2], cells[:, :2])
        # The cells do not overlap, so no part of a box counts twice.
        covered = np.maximum(common, 0).prod(axis=2).sum(axis=1)
        ignored[rows] = (area > 0) & (covered >= area / 2)
    return ignored


def _disjoint(boxes: np.ndarray) -> np.ndarray:
    """Boxes (c, 4) that do not overlap and cover what `boxes` (r, 4) cover: cells between all their sides."""
    x, y = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    left, top = (grid.ravel() for grid in np.meshgrid(x[:-1], y[:-1]))
    right, bottom = (grid.ravel() for grid in np.meshgrid(x[1:], y[1:]))
    cells = np.stack([left, top, right, bottom], axis=1)
    corner, end = cells[:, None, :2], cells[:, None, 2:]
    inside = np.all((corner >= boxes[:, :2]) & (end <= boxes[:, 2:]), axis=2)  # (cells, boxes)
    return cells[np.any(inside, axis=1)]
