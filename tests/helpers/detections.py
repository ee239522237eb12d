"""Random detections beside random objects, as arrays and by frame."""

import numpy as np

from vod2.evaluation import Detections, GroundTruth


def random_problem(
    seed: int, frames: int = 8, num_classes: int = 3, ignored: float = 0.0
) -> tuple[Detections, GroundTruth]:
    """Detections jittered around crowded objects, some of another class, twice, or of nothing; all scores differ.

    Both in the order of the frames; some frames and classes may have none of either.
    """
    rng = np.random.default_rng(seed)
    count, extra = int(rng.integers(1, 30)), int(rng.integers(0, 30))
    boxes = random_boxes(rng, count)
    truth = GroundTruth(
        np.sort(rng.integers(0, frames, count)),
        boxes,
        rng.integers(0, num_classes, count),
        rng.random(count) < ignored,
    )
    source = rng.integers(0, count, 2 * count)
    near = boxes[source] + rng.integers(-9, 10, (2 * count, 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    labels = np.where(rng.random(2 * count) < 0.3, rng.integers(0, num_classes, 2 * count), truth.labels[source])
    image = np.concatenate([truth.image[source], rng.integers(0, frames, extra)])
    order = np.argsort(image, kind="stable")
    total = 2 * count + extra
    scores = (rng.permutation(total) + 1) / (total + 1)
    return Detections(
        image[order],
        np.concatenate([near, random_boxes(rng, extra)])[order],
        scores,
        np.concatenate([labels, rng.integers(0, num_classes, extra)])[order],
    ), truth


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) xyxy of whole pixels."""
    corner = rng.integers(0, 80, (count, 2))
    return np.concatenate([corner, corner + rng.integers(8, 50, (count, 2))], axis=1).astype(np.float64)


def by_frame(found: Detections, truth: GroundTruth) -> tuple[dict, dict]:
    """Objects and detections as tests/reference/evaluation.py wants them."""
    objects: dict[int, list] = {}
    for image, box, label, ignored in zip(truth.image, truth.boxes, truth.labels, truth.ignore, strict=True):
        objects.setdefault(int(image), []).append((tuple(box.tolist()), int(label), bool(ignored)))
    detections: dict[int, list] = {}
    for image, box, score, label in zip(found.image, found.boxes, found.scores, found.labels, strict=True):
        detections.setdefault(int(image), []).append((tuple(box.tolist()), float(score), int(label)))
    return objects, detections
