"""Average precision of many frames: arrays against plain loops over frames, classes and boxes."""

import numpy as np
import torch

from vod2.benchmark.comparing import Comparison, random_boxes
from vod2.d2 import Boxes, BoxMode, DatasetCatalog, Instances, MetadataCatalog
from vod2.evaluation import VIDEvaluator, index_tracks
from vod2.evaluation.motion import motion_iou, speed_groups

CLASSES, DETECTIONS, VIDEO_LENGTH = 30, 300, 317  # the mean length of ImageNet VID's 555 validation videos


def evaluation(device: torch.device) -> list[Comparison]:
    """AP of 30 classes, all objects and three speeds, 300 detections a frame: arrays against loops."""
    # The loops would take minutes for 5,000 frames.
    few, many = moving_objects(500), moving_objects(5000)
    generator = torch.Generator().manual_seed(0)
    instances = [random_instances(record, generator) for record in few]
    return [
        Comparison("500 frames", lambda: evaluate_in_loops(few, instances), fill_evaluator(few).evaluate),
        Comparison("5,000 frames", None, fill_evaluator(many).evaluate),
    ]


def evaluation_of_vid(device: torch.device) -> list[Comparison]:
    """Collecting and evaluating 176,126 frames of 300 detections; minutes, so run it with --repeats 1."""
    records = moving_objects(176126)
    return [Comparison("collect and evaluate", None, lambda: fill_evaluator(records).evaluate())]


def moving_objects(num_frames: int) -> list[dict]:
    """Dataset dicts: videos with one or two objects that stay, move slowly, or move fast."""
    records = []
    for frame in range(num_frames):
        video, index = divmod(frame, VIDEO_LENGTH)
        tracks = range(1 + video % 5 // 2)
        # Every 50 frames they begin anew, so that none leaves the image.
        shift = (0.0, 1.5, 4.0)[video % 3] * (index % 50)
        notes = [
            {
                "bbox": [50 + 120 * track + shift, 40, 150 + 120 * track + shift, 140],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": (video + 7 * track) % CLASSES,
                "iscrowd": 0,
                "track_id": track,
            }
            for track in tracks
        ]
        records.append({"image_id": str(frame), "video_id": str(video), "frame_index": index, "annotations": notes})
    return records


def random_instances(record: dict, generator: torch.Generator) -> Instances:
    """Detections anywhere, the first of them on the objects of the frame."""
    boxes = random_boxes(DETECTIONS, generator)
    labels = torch.randint(CLASSES, (DETECTIONS,), generator=generator)
    for row, note in enumerate(record["annotations"]):
        boxes[row] = torch.tensor(note["bbox"]) + 8 * torch.randn(4, generator=generator)
        labels[row] = note["category_id"]
    scores = torch.rand(DETECTIONS, generator=generator)
    return Instances((720, 1280), pred_boxes=Boxes(boxes), scores=scores, pred_classes=labels)


def fill_evaluator(records: list[dict]) -> VIDEvaluator:
    name = f"benchmark_{len(records)}"
    # A second run of the benchmark brings records of its own under the same name.
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = [f"class {label}" for label in range(CLASSES)]
    evaluator, generator = VIDEvaluator(name, protocol="fixed"), torch.Generator().manual_seed(0)
    evaluator.reset()
    for record in records:
        evaluator.process([record], [{"instances": random_instances(record, generator)}])
    return evaluator


def evaluate_in_loops(records: list[dict], instances: list[Instances]) -> list[float]:
    """AP50 of all objects and of each speed, the mean over classes: frame by frame, class by class, box by box."""
    boxes = np.array([note["bbox"] for record in records for note in record["annotations"]])
    speeds = speed_groups(motion_iou(*index_tracks(records), boxes)).values()
    return [mean_ap_in_loops(records, instances, counts) for counts in (np.ones(len(boxes), bool), *speeds)]


def mean_ap_in_loops(records: list[dict], instances: list[Instances], counts: np.ndarray) -> float:
    """AP50 of the objects (m,) that count, the mean over classes; the others are ignored."""
    ranked: list[list[tuple[float, bool]]] = [[] for _ in range(CLASSES)]  # (score, whether it shows an object)
    positives = [0] * CLASSES
    start = 0  # row in `counts` of the frame's first object
    for record, detections in zip(records, instances, strict=True):
        notes = record["annotations"]
        frame_counts = counts[start : start + len(notes)]
        start += len(notes)
        boxes = detections.pred_boxes.tensor.numpy()
        scores, labels = detections.scores.numpy(), detections.pred_classes.numpy()
        for label in np.union1d(labels, [note["category_id"] for note in notes]).tolist():
            objects = [row for row, note in enumerate(notes) if note["category_id"] == label]
            positives[label] += sum(bool(frame_counts[row]) for row in objects)
            matched = set()
            # The surest detection first: each takes the free object that it overlaps most.
            for detection in sorted(np.flatnonzero(labels == label).tolist(), key=lambda row: -scores[row]):
                free = [row for row in objects if row not in matched]
                ious = [iou_of_two(boxes[detection].tolist(), notes[row]["bbox"]) for row in free]
                match = free[int(np.argmax(ious))] if free and max(ious) >= 0.5 else None
                matched.add(match)
                # A detection of an ignored object is neither true nor false.
                if match is None or frame_counts[match]:
                    ranked[label].append((float(scores[detection]), match is not None))
    aps = [ap_in_loops(rows, total) for rows, total in zip(ranked, positives, strict=True) if total]
    return 100 * sum(aps) / len(aps) if aps else float("nan")


def iou_of_two(first: list[float], second: list[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return common / (areas - common)


def ap_in_loops(ranked: list[tuple[float, bool]], positives: int) -> float:
    num_true, precision = 0, []
    for rank, (_, is_true) in enumerate(sorted(ranked, key=lambda row: -row[0]), 1):
        num_true += is_true
        precision.append((num_true / rank, is_true))
    best = total = 0.0
    # From the end, so that `best` is the best precision at this recall or a higher one.
    for value, is_true in reversed(precision):
        best = max(best, value)
        total += best * is_true
    return total / positives
