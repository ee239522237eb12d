"""Every method gives on the device what it gives on the CPU: detections of the quick models, weights drawn from a seed.

Where the device is the CPU, what it gives without oneDNN.
"""

import copy
from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from gpu_steps.step import Failed, Step
from gpu_steps.streams import EndlessStream, configuration, noise
from gpu_steps.timing import precision
from vod2.d2 import CfgNode, Instances, build_model
from vod2.engine.random_weights import draw_weights

FRAMES = 6
SIZE = (128, 192)  # of a frame; every third is a keyframe where there are any
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
"""Largest difference of scores, and of box coordinates relative to the image's longer side."""


NO_METHODS = {"Base", "LSTS_Fast"}
"""Of configs/quick: what others are based on, and what is there twice."""


def run(step: Step) -> None:
    names = {path.stem for path in (step.root / "configs" / "quick").glob("*.yaml")} - NO_METHODS
    for dtype in TOLERANCE:
        for name in sorted(names)[:: 4 if step.small else 1]:
            step.case(f"{name}, {dtype}", partial(_compare_detections, step, name, dtype), needs=2)


def _compare_detections(step: Step, name: str, dtype: str) -> dict:
    # In float32 the geometry of nearly equal boxes would magnify rounding by its scale of 100, and large weights of the
    # aggregators by more than that. float64 has digits enough for both.
    precise = dtype == "float64"
    keys = () if precise else ("MODEL.VIDEO.RELATION.GEOMETRY_SCALE", 1.0)
    cfg = configuration(step.root, f"quick/{name}.yaml", "cpu", *keys)
    if cfg.VIDEO.TEST_SCHEDULE.NAME == "Keyframes":
        cfg.VIDEO.TEST_SCHEDULE.INTERVAL = 3
    torch.manual_seed(0)
    model = build_model(cfg)
    draw_weights(model, aggregators=precise)
    model = model.to(getattr(torch, dtype)).eval()
    # TF32 has ten bits of mantissa, which no tolerance here allows for.
    with precision("fp32", step.device):
        expected = _detections(model, cfg)
        # On a CPU the other way of computing is that without oneDNN, which rounds in another order.
        with torch.backends.mkldnn.flags(enabled=step.device != "cpu"):
            actual = _detections(copy.deepcopy(model).to(step.device), cfg)
    differences = [difference(a, b, TOLERANCE[dtype]) for a, b in zip(actual, expected, strict=True)]
    values = {
        "detections": sum(map(len, expected)),
        "box difference": max(box for box, _, _ in differences),
        "score difference": max(score for _, score, _ in differences),
        "unmatched": sum(lost for _, _, lost in differences),
        "tolerance": TOLERANCE[dtype],
    }
    if not values["detections"]:
        raise Failed("there is no detection to compare", **values)
    if values["unmatched"] or not max(values["box difference"], values["score difference"]) <= TOLERANCE[dtype]:
        raise Failed("detections differ", **values)
    return values


def _detections(model: nn.Module, cfg: CfgNode) -> list[Instances]:
    """What a stream detects, on the CPU."""
    # The schedule is told the true length, so that windows at both ends of a video are tried as well.
    stream = EndlessStream(model, cfg, noise(FRAMES, SIZE), length=FRAMES)
    return [stream.step().to("cpu") for _ in range(FRAMES)]


def difference(actual: Instances, expected: Instances, tolerance: float) -> tuple[float, float, int]:
    """Largest difference of boxes (relative to the image's longer side) and of scores, and how many have no partner.

    The order does not count: each detection is compared with that of the same proposal and class. One whose score is
    within `tolerance` of the lowest may be beyond the last that is kept on the other side.
    """
    actual_rows = {_identity(actual, row): row for row in range(len(actual))}
    expected_rows = {_identity(expected, row): row for row in range(len(expected))}
    common = [identity for identity in actual_rows if identity in expected_rows]
    lost = _lost(actual, actual_rows.keys() - expected_rows.keys(), actual_rows, tolerance)
    lost += _lost(expected, expected_rows.keys() - actual_rows.keys(), expected_rows, tolerance)
    if not common:
        return 0.0, 0.0, lost
    rows = [actual_rows[identity] for identity in common]
    partners = [expected_rows[identity] for identity in common]
    boxes = (actual.pred_boxes.tensor[rows] - expected.pred_boxes.tensor[partners]).abs().max().item()
    scores = (actual.scores[rows] - expected.scores[partners]).abs().max().item()
    return boxes / max(expected.image_size), scores, lost


def _lost(instances: Instances, identities: Iterable, rows: dict, tolerance: float) -> int:
    lowest = instances.scores.min().item() if len(instances) else 0.0
    # Near the lowest score that is kept, rounding decides which detection is the last.
    return sum(instances.scores[rows[identity]].item() > lowest + tolerance for identity in identities)


def _identity(instances: Instances, row: int) -> tuple[int, int]:
    return int(instances.proposal_index[row]), int(instances.pred_classes[row])
