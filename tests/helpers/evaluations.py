"""Videos with objects, tracks, deteriorations and groups, and random detections of them, evaluated or repeated."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vod2.d2 import Boxes, BoxMode, DatasetCatalog, Instances, MetadataCatalog
from vod2.evaluation import VIDEvaluator

CLASSES = ["cat", "dog", "fox"]
Frame = tuple[dict, np.ndarray]
"""A dict of the dataset, and detections (n, 6): xyxy, score, label."""


def make_videos(seed: int, videos: int = 6, frames: int = 8, quality: float = 0.7) -> list[Frame]:
    """Objects are those of a fixed draw, `seed` and `quality` concern the detections. All scores differ."""
    world, rng = np.random.default_rng(0), np.random.default_rng(seed)
    result = []
    for video in range(videos):
        tracks = int(world.integers(1, 4))
        start, step = world.integers(0, 120, (tracks, 2)), world.integers(-6, 7, (tracks, 2))
        label = world.integers(0, len(CLASSES), tracks)
        for t in range(frames):
            corner = start + t * step
            boxes = np.concatenate([corner, corner + 50], axis=1).astype(float)
            record = {"image_id": f"{video}/{t}", "video_id": f"v{video}", "frame_index": t, "video_length": frames}
            record |= {"file_name": f"{video}/{t}.jpg", "height": 400, "width": 400}
            record["annotations"] = [_note(world, k, boxes[k], int(label[k])) for k in range(tracks)]
            if world.random() < 0.4:
                record["groups"] = ["far"]
            result.append((record, _detections(rng, boxes, label, quality)))
    scores = np.linspace(0.99, 0.01, sum(len(found) for _, found in result)).astype(np.float32)
    order = np.argsort(np.argsort(-np.concatenate([found[:, 4] for _, found in result])))
    ends = np.cumsum([len(found) for _, found in result])
    for (_, found), end in zip(result, ends, strict=True):
        found[:, 4] = scores[order[end - len(found) : end]]
    return result


def _note(rng: np.random.Generator, track: int, box: np.ndarray, label: int) -> dict:
    note = {"bbox": box.tolist(), "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "track_id": track}
    note["iscrowd"] = int(rng.random() < 0.05)
    if rng.random() < 0.25:
        note["deterioration"] = {str(rng.choice(["blur", "fog"])): 0.5}
    return note


def _detections(rng: np.random.Generator, boxes: np.ndarray, label: np.ndarray, quality: float) -> np.ndarray:
    rows = []
    for box, its in zip(boxes, label, strict=True):
        for _ in range(int(rng.integers(0, 3))):
            right = rng.random() < quality
            said = its if right else rng.integers(0, len(CLASSES))
            rows.append([*(box + rng.integers(-8, 9, 4)), rng.random() + right * quality, said])
    for _ in range(int(rng.integers(0, 3))):
        corner = rng.integers(0, 300, 2)
        rows.append([*corner, *(corner + 40), 0.7 * rng.random(), rng.integers(0, len(CLASSES))])
    return np.array(rows, dtype=np.float64).reshape(-1, 6)


def repeat_videos(frames: Sequence[Frame], weights: Sequence[int]) -> list[Frame]:
    """Each video as often as its weight says, under new names; the copies of a frame follow one another."""
    number = {video: row for row, video in enumerate(dict.fromkeys(record["video_id"] for record, _ in frames))}
    result = []
    for record, found in frames:
        for copy in range(int(weights[number[record["video_id"]]])):
            names = {key: f"{record[key]}#{copy}" for key in ("image_id", "video_id")}
            result.append((record | names, found))
    return result


def evaluate(frames: Sequence[Frame], folder: Path | None = None, name: str = "videos", **options) -> dict[str, float]:
    """The metrics of VIDEvaluator; the dataset is registered only meanwhile, metadata may be given as `metadata`."""
    metadata = options.pop("metadata", {})
    assert max(Counter(record["image_id"] for record, _ in frames).values()) == 1
    DatasetCatalog.register(name, lambda: [record for record, _ in frames])
    MetadataCatalog.get(name).set(thing_classes=CLASSES, evaluator_type="vid", **metadata)
    try:
        evaluator = VIDEvaluator(name, folder, distributed=False, **options)
        for record, found in frames:
            instances = Instances((400, 400), pred_boxes=Boxes(torch.from_numpy(found[:, :4]).float()))
            instances.scores = torch.from_numpy(found[:, 4])
            instances.pred_classes = torch.from_numpy(found[:, 5]).long()
            evaluator.process([record], [{"instances": instances}])
        return evaluator.evaluate()["vid"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
