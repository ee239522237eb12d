"""The detectors of configs/published with converted weights against what public code computed, in float64 and float32.

The weights are made from their names, so that no checkpoint is needed; see `helpers.parity`.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.models import ROOT
from helpers.parity import public_outputs, public_weights
from vod2.checkpoint import Target, convert
from vod2.d2 import Boxes, EventStorage, Instances, build_model
from vod2.engine import load_config
from vod2.modeling import VideoRCNN
from vod2.structures import Role
from vod2.temporal import FrameMemory, RollingGlobal, ScheduleUnion, SupportSchedule, build_support_schedule

CONFIGS = {
    "base": "FasterRCNN_R101",
    "rdn_base": "RDN_Base_R101",
    "rdn": "RDN_R101",
    "mega": "MEGA_R101",
    "fgfa": "FGFA_R101",
    "dff": "DFF_R101",
}


def build(method: str, dtype: torch.dtype) -> tuple[VideoRCNN, SupportSchedule]:
    cfg = load_config(str(ROOT / "configs" / "published" / f"{CONFIGS[method]}.yaml"))
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).to(dtype).eval()
    converted = convert(public_weights(method), "mega", Target.of(cfg, model))
    assert converted.unused == {}
    model.load_state_dict(converted.state)
    return model, build_support_schedule(cfg)


def with_global_order(schedule: SupportSchedule, order: list[int]) -> SupportSchedule:
    """MEGA draws its global frames at random: here in the order that is given."""
    if not isinstance(schedule, ScheduleUnion):
        return schedule
    parts = [
        RollingGlobal(part.count, orders={"video": order}) if isinstance(part, RollingGlobal) else part
        for part in schedule.schedules
    ]
    return ScheduleUnion(parts)


def stream(model: VideoRCNN, schedule: SupportSchedule, frames: np.ndarray) -> Iterator[tuple[Instances, Tensor]]:
    """Detections of each frame, and what entered the box predictor."""
    entered = []
    model.roi_heads.box_predictor.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    memory = FrameMemory(schedule)
    memory.start("video", len(frames))
    images = [torch.from_numpy(frame[:, :, ::-1].transpose(2, 0, 1).copy()) for frame in frames]
    for t in range(len(frames)):
        new = [{"image": images[index], "frame_index": index} for index in memory.missing(t)]
        for one in new:
            model.remember([one], [memory])
        clip = {"frame_index": t, "height": frames.shape[1], "width": frames.shape[2]}
        yield model.detect_from(memory, clip)["instances"], entered.pop()


def ordered(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By label, then score, then place: degenerate boxes at a corner have the same score."""
    boxes, scores, labels = boxes.numpy(), scores.numpy(), labels.numpy()
    keys = (*boxes.round(3).T[::-1], -scores.round(7), labels)
    order = np.lexsort(keys)
    return boxes[order], scores[order], labels[order]


# A minute each, which needs the outputs of the public code.
LONG = {"fgfa", "mega", "dff", "rdn_base", "base"}


@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.slow) if m in LONG else m for m in CONFIGS])
def test_boxes_scores_and_features_are_those_of_the_public_code_in_float64(method):
    public = public_outputs(method)
    model, schedule = build(method, torch.float64)
    schedule = with_global_order(schedule, public["global_order"].tolist())
    for t, (found, features) in enumerate(stream(model, schedule, public["frames"])):
        assert len(found) == len(public[f"boxes_{t}"])
        expected = (torch.from_numpy(public[f"{name}_{t}"]) for name in ("boxes", "scores", "labels"))
        boxes, scores, labels = ordered(*expected)
        actual = ordered(found.pred_boxes.tensor, found.scores, found.pred_classes + 1)
        np.testing.assert_array_equal(actual[2], labels)
        np.testing.assert_allclose(actual[1], scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(actual[0], boxes, rtol=0, atol=1e-4)
        if f"features_{t}" in public:
            wanted = torch.from_numpy(public[f"features_{t}"])
            assert (features[: len(wanted)] - wanted).abs().max() <= 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("method", ["base", "fgfa", "dff"])
def test_without_relations_float32_is_near_as_well(method):
    public = public_outputs(method)
    model, schedule = build(method, torch.float32)
    for t, (found, _) in enumerate(islice(stream(model, schedule, public["frames"]), 2)):
        boxes, scores, labels = (torch.from_numpy(public[f"{name}_{t}"]) for name in ("boxes", "scores", "labels"))
        assert len(found) == len(boxes)
        # Each has its counterpart: rounding may exchange two of nearly the same score.
        near = (found.pred_boxes.tensor[:, None] - boxes).abs().amax(dim=2) < 0.01
        near &= (found.scores[:, None] - scores).abs() < 1e-4
        near &= found.pred_classes[:, None] + 1 == labels
        assert near.any(dim=1).all() and near.any(dim=0).all()


@pytest.mark.slow
def test_a_converted_detector_is_trained_further():
    """Eight small steps on one clip: drawn weights have large gradients. Nothing is drawn but the RoIs."""
    frames = public_outputs("mega")["frames"][:, :96, :128]
    images = [torch.from_numpy(frame[:, :, ::-1].transpose(2, 0, 1).copy()) for frame in frames]
    targets = Instances(
        (96, 128), gt_boxes=Boxes(torch.tensor([[10.0, 8.0, 90.0, 84.0]])), gt_classes=torch.tensor([4])
    )
    roles = (Role.LOCAL, Role.MEMORY, Role.GLOBAL)
    support = [{"image": images[i], "frame_index": i, "role": role} for i, role in enumerate(roles)]
    clip = {"image": images[1], "frame_index": 1, "video_id": "video", "instances": targets, "support": support}
    model, _ = build("mega", torch.float32)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=2e-5)
    torch.manual_seed(0)
    losses = []
    with EventStorage():
        for _ in range(8):
            loss = sum(model([clip]).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.isfinite(losses).all() and np.mean(losses[-3:]) < 0.8 * losses[0], losses
