"""The older convention of boxes, written as it is told: [x1, y1, x2, y2] with the last pixel, one box at a time."""

import math

import torch
from torch import Tensor

LIMIT = math.log(1000 / 16)


def decode(deltas: list[float], box: list[float]) -> list[float]:
    width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
    x, y = box[0] + width / 2 + deltas[0] * width, box[1] + height / 2 + deltas[1] * height
    width, height = width * math.exp(min(deltas[2], LIMIT)), height * math.exp(min(deltas[3], LIMIT))
    return [x - width / 2, y - height / 2, x + width / 2 - 1, y + height / 2 - 1]


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    both = max(width, 0) * max(height, 0)
    areas = [(one[2] - one[0] + 1) * (one[3] - one[1] + 1) for one in (a, b)]
    return both / (sum(areas) - both)


def clip(box: list[float], height: int, width: int) -> list[float]:
    return [min(max(value, 0), limit - 1) for value, limit in zip(box, (width, height) * 2, strict=True)]


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Rows of the boxes that are kept, the best first; an IoU strictly above the threshold suppresses."""
    kept: list[int] = []
    for row in scores.argsort(descending=True).tolist():
        if all(iou(boxes[row].tolist(), boxes[other].tolist()) <= threshold for other in kept):
            kept.append(row)
    return kept


def detections(
    boxes: Tensor, probs: Tensor, deltas: Tensor, size: tuple[int, int], threshold: float, overlap: float, count: int
) -> list[tuple[int, float, list[float]]]:
    """(class, score, box) of the `count` best.

    boxes (N, 4), probs (N, K + 1), deltas (N, K, 4) divided by their weights.
    """
    found = []
    for label in range(probs.shape[1] - 1):
        rows = (probs[:, label] > threshold).nonzero()[:, 0].tolist()
        decoded = [clip(decode(deltas[row, label].tolist(), boxes[row].tolist()), *size) for row in rows]
        scores = probs[rows, label]
        for kept in nms(torch.tensor(decoded, dtype=torch.float64).reshape(-1, 4), scores, overlap):
            found.append((label, float(scores[kept]), decoded[kept]))
    return sorted(found, key=lambda one: -one[1])[:count]


def rpn_labels(anchors: Tensor, truth: Tensor, high: float, low: float) -> Tensor:
    """(A,): 1 for an IoU of at least `high`, 0 below `low`, -1 between; the best anchors of each object are 1, too."""
    overlap = torch.tensor([[iou(a, b) for b in truth.tolist()] for a in anchors.tolist()])
    best = overlap.max(dim=1).values
    labels = torch.full((len(anchors),), -1)
    labels[best < low] = 0
    labels[best >= high] = 1
    labels[((overlap == overlap.max(dim=0).values) & (overlap > 0)).any(dim=1)] = 1
    return labels
