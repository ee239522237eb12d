"""docs/export.md, "Without vod2", followed to the letter with NumPy, against the detector's own stream."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.exports import EXPORTED, bgr_video, cfg_with_weights
from helpers.models import IMAGE_SIZE
from vod2 import VideoPredictor
from vod2.export import Manifest, make_parts
from vod2.export.graphs import keyframe_interval
from vod2.export.manifest import describe, with_settings
from vod2.temporal import GlobalSample, ScheduleUnion, SlidingWindow

REPEAT = {"VIDEO.TEST_SCHEDULE.EDGE": "repeat", "VIDEO.TEST_SCHEDULE.RADIUS": 2}


def resized(frame: np.ndarray, content: dict) -> np.ndarray:
    height, width = content["size"]
    image = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
    return (image if content["input"]["format"] == "BGR" else image[:, :, ::-1]).transpose(2, 0, 1)[None]


def window_of(t: int, length: int, schedule: dict) -> list[int]:
    indices = range(t - schedule["radius"], t + schedule["lookahead"] + 1)
    if schedule["edge"] == "repeat":
        return [min(max(index, 0), length - 1) for index in indices]
    return [index for index in indices if 0 <= index < length]


def aggregated(run, t: int, encoded: list[dict], content: dict) -> dict:
    shapes = {entry["name"]: entry["shape"] for entry in content["parts"]["aggregate"]["inputs"]}
    count = shapes["support_valid"][1]
    inputs = {f"key_{name}": encoded[t][name] for name in ("boxes", "features", "objectness")}
    for name in ("boxes", "features", "objectness", "valid"):
        dtype = bool if name == "valid" else np.float32
        inputs[f"support_{name}"] = np.zeros(shapes[f"support_{name}"], dtype)
        for row, index in enumerate(window_of(t, len(encoded), content["schedules"][0])):
            inputs[f"support_{name}"][row] = encoded[index][name][:count]
    return run("aggregate", inputs) | {"valid": encoded[t]["valid"]}


def selected(found: dict, content: dict, size: tuple[int, int]) -> list[tuple[int, float, np.ndarray]]:
    """(class, score, box in pixels of an image of `size`), the best first."""
    rule, (height, width) = content["selection"], content["size"]
    limits = np.array([width, height, width, height])
    candidates = []
    for boxes, scores in zip(found["boxes"][found["valid"]], found["scores"][found["valid"]], strict=True):
        for label, score in enumerate(scores[:-1]):
            if score > rule["score_thresh"]:
                box = np.clip(boxes[label if len(boxes) > 1 else 0], 0, limits)
                candidates.append((label, float(score), box))
    kept: list = []
    for label, score, box in sorted(candidates, key=lambda entry: -entry[1]):
        if all(label != other or overlap(box, better) <= rule["nms_thresh"] for other, _, better in kept):
            kept.append((label, score, box))
    kept = kept[: rule["topk"]] if rule["topk"] >= 0 else kept
    factor = np.array([size[1] / width, size[0] / height] * 2)
    scaled = [(label, score, box * factor) for label, score, box in kept]
    return [entry for entry in scaled if (entry[2][2:] > entry[2][:2]).all()]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    both = sides.clip(min=0).prod()
    return both / ((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod() - both)


def followed(run, frames: list[np.ndarray], content: dict) -> list[list]:
    images = [resized(frame, content) for frame in frames]
    results, encoded, memory = [], [], None
    if "frame" in content["parts"]:
        encoded = [run("frame", {"image": image}) for image in images]
    for t, image in enumerate(images):
        if encoded:
            found = aggregated(run, t, encoded, content)
        elif "detect" in content["parts"]:
            found = run("detect", {"image": image})
        elif t % content["interval"] == 0:
            memory = np.zeros(content["parts"]["keyframe"]["inputs"][1]["shape"], np.float32) if t == 0 else memory
            found = run("keyframe", {"image": image, "memory": memory, "is_first": np.array(t == 0)})
            memory = found["new_memory"]
        else:
            found = run("between", {"image": image, "memory": memory})
        results.append(selected(found, content, frames[t].shape[:2]))
    return results


@pytest.mark.parametrize(
    "keys",
    [EXPORTED["single"], EXPORTED["LSTS"], EXPORTED["RDN"], EXPORTED["RDN"] | REPEAT],
    ids=["single", "LSTS", "clip", "repeat"],
)
def test_the_recipe_gives_what_the_detector_gives(keys, tmp_path):
    cfg = cfg_with_weights(tmp_path, keys)
    model = VideoPredictor(cfg)
    parts = {part.name: part for part in make_parts(model.model, model.schedule, IMAGE_SIZE)}
    manifest = describe(
        list(parts.values()), IMAGE_SIZE, lookahead=model.lookahead, interval=keyframe_interval(model.model)
    )
    content = json.loads(with_settings(manifest, cfg, model.schedule).text())

    def run(part: str, inputs: dict) -> dict:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in parts[part](tensors).items()}

    # 128x193 becomes 64x96: the factors of x and y differ.
    size = (2 * IMAGE_SIZE[0], 2 * IMAGE_SIZE[1] + 1)
    frames = bgr_video(5, size=size)
    for done, found in zip(model.stream(frames), followed(run, frames, content), strict=True):
        instances = done.instances
        assert len(found) == len(instances) > 0
        assert [label for label, _, _ in found] == instances.pred_classes.tolist()
        assert [score for _, score, _ in found] == pytest.approx(instances.scores.tolist(), abs=1e-3)
        boxes = torch.from_numpy(np.stack([box for _, _, box in found])).float()
        assert torch.allclose(boxes, instances.pred_boxes.tensor, atol=0.02)


def test_the_manifest_says_what_the_recipe_needs(tmp_path):
    cfg = cfg_with_weights(tmp_path, EXPORTED["RDN"] | REPEAT | {"MODEL.LEGACY.KEEP_TIES": True})
    manifest = Manifest(IMAGE_SIZE, 1, 0, (), {})
    schedule = ScheduleUnion([SlidingWindow(2, 1, "repeat"), GlobalSample(3, lookahead=0)])
    manifest = with_settings(manifest, cfg, schedule)
    assert manifest.schedules == (
        {"name": "SlidingWindow", "radius": 2, "lookahead": 1, "edge": "repeat"},
        {"name": "GlobalSample", "count": 3, "include_key": True, "lookahead": 0},
    )
    assert manifest.selection["keep_ties"] and not manifest.selection["inclusive_boxes"]
    (tmp_path / "export.json").write_text(manifest.text())
    assert Manifest.read(tmp_path) == manifest
