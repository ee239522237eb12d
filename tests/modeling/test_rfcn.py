"""R-FCN: position-sensitive pooling against loops, the heads inside VideoRCNN, and the published configuration."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from helpers.models import (
    IMAGE_SIZE,
    NUM_CLASSES,
    RFCN_KEYS,
    ROOT,
    assert_same_detections,
    build_detector,
    make_targets,
    make_video,
    tiny_cfg,
)
from helpers.streams import detect_as_stream, window_clip
from reference.rfcn import position_sensitive_pool, rfcn_head
from vod2 import UserError
from vod2.d2 import BACKEND, EventStorage, build_model
from vod2.engine import load_config
from vod2.engine.analysis import analyze
from vod2.layers.ps_roi_bags import position_sensitive_bags
from vod2.modeling import propose_frames
from vod2.modeling.roi_heads import RFCNHeads
from vod2.modeling.roi_heads.rfcn import PositionSensitivePooler, position_sensitive_align
from vod2.structures import PreciseBoxes
from vod2.temporal import NoWindow, SlidingWindow

BOXES = torch.tensor(
    [
        [16.0, 8.0, 80.0, 60.0],
        [3.3, 2.1, 9.7, 30.9],  # less than a cell wide
        [-40.0, -40.0, 20.0, 25.0],  # starts outside of the map
        [70.0, 40.0, 140.0, 110.0],  # ends outside of it
    ],
    dtype=torch.float64,
)


def random_maps(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, 4, 6, generator=rng, dtype=torch.float64)


def small_pooler() -> PositionSensitivePooler:
    torch.manual_seed(0)
    return PositionSensitivePooler(in_channels=6, num_classes=4, resolution=3, scale=1 / 16, sampling_ratio=2)


def losses_of(model, clips) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    with EventStorage():
        return model(clips)


def trained_clip(boxes: list | None = None) -> dict:
    return {"image": make_video(1)[0], "instances": make_targets(boxes)}


class TestPooling:
    def test_each_bin_is_pooled_from_the_channel_of_its_own(self):
        """Channel c is c everywhere, so that a bin tells the channel that it was pooled from."""
        maps = torch.arange(18.0)[None, :, None, None].expand(1, 18, 4, 6)
        pooled = position_sensitive_align(maps, [torch.tensor([[20.0, 12.0, 70.0, 50.0]])], 3, 1 / 16, 2)
        assert pooled.tolist() == torch.arange(18.0).reshape(1, 2, 3, 3).tolist()

    @pytest.mark.parametrize("side, samples", [(3, 2), (2, 1), (1, 3)])
    def test_pooled_values_are_those_of_the_reference(self, side, samples):
        maps = random_maps(2, 5 * side**2)
        pooled = position_sensitive_align(maps, [BOXES[:3], BOXES[1:]], side, 1 / 16, samples)
        pairs = [(0, box) for box in BOXES[:3]] + [(1, box) for box in BOXES[1:]]
        wanted = [position_sensitive_pool(maps[row], box.tolist(), side, 1 / 16, samples) for row, box in pairs]
        torch.testing.assert_close(pooled, torch.stack(wanted), rtol=1e-12, atol=1e-12)

    def test_gradients_are_those_of_the_reference(self):
        ours, theirs = (random_maps(1, 18).requires_grad_() for _ in range(2))
        weight = random_maps(4, 18)[:, :, 0, 0].reshape(4, 2, 3, 3)
        (position_sensitive_align(ours, [BOXES], 3, 1 / 16, 2) * weight).sum().backward()
        wanted = [position_sensitive_pool(theirs[0], box, 3, 1 / 16, 2) for box in BOXES.tolist()]
        (torch.stack(wanted) * weight).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_pooled_in_single(self, dtype):
        maps = random_maps(1, 18).to(dtype)
        pooled = position_sensitive_align(maps, [BOXES], 3, 1 / 16, 2)
        wanted = position_sensitive_align(maps.float(), [BOXES.float()], 3, 1 / 16, 2)
        assert pooled.dtype == torch.float32 and torch.equal(pooled, wanted)

    def test_no_box_at_all_gives_nothing_and_a_gradient_of_zero(self):
        pooler = small_pooler()
        x = torch.randn(2, 6, 4, 6, requires_grad=True)
        pooled = pooler([x], [PreciseBoxes(torch.zeros(0, 4))] * 2)
        assert pooled.shape == (0, 4 + 1 + 8, 3, 3)
        pooled.sum().backward()
        assert x.grad.abs().sum() == 0 and pooler.cls_score.weight.grad.abs().sum() == 0

    def test_an_image_without_boxes_beside_one_with_boxes(self):
        maps = random_maps(2, 18)
        pooled = position_sensitive_align(maps, [BOXES[:0], BOXES], 3, 1 / 16, 2)
        alone = position_sensitive_align(maps[1:], [BOXES], 3, 1 / 16, 2)
        assert torch.equal(pooled, alone)


def as_table(maps: torch.Tensor, side: int) -> torch.Tensor:
    """(B, D*P*P, H, W) -> (B, H, W, P*P, D)."""
    return maps.unflatten(1, (-1, side**2)).permute(0, 3, 4, 2, 1)


class TestBags:
    @pytest.mark.parametrize("side, samples", [(3, 2), (2, 1), (1, 3)])
    def test_pooled_values_are_those_of_the_reference(self, side, samples):
        maps = random_maps(2, 5 * side**2)
        pooled = position_sensitive_bags(as_table(maps, side), [BOXES[:3], BOXES[1:]], 1 / 16, samples)
        pairs = [(0, box) for box in BOXES[:3]] + [(1, box) for box in BOXES[1:]]
        wanted = [position_sensitive_pool(maps[row], box.tolist(), side, 1 / 16, samples) for row, box in pairs]
        torch.testing.assert_close(pooled, torch.stack(wanted), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("side", [1, 2, 7])
    @pytest.mark.parametrize("scale", [1 / 16, 1 / 2])
    def test_as_many_samples_as_a_bin_has_cells_are_those_of_torchvision(self, side, scale):
        maps = random_maps(1, 3 * side**2)
        pooled = position_sensitive_bags(as_table(maps, side), [BOXES], scale, 0)
        wanted = position_sensitive_align(maps, [BOXES], side, scale, 0)
        torch.testing.assert_close(pooled, wanted, rtol=1e-12, atol=1e-12)

    def test_boxes_that_end_before_they_begin_are_pooled_as_torchvision_does(self):
        """Boxes of less than a pixel have such corners where their last pixel counts (`vod2.layers.inclusive`)."""
        rng = torch.Generator().manual_seed(0)
        corner = 90 * torch.rand(300, 2, generator=rng, dtype=torch.float64)
        boxes = torch.cat([corner, corner - torch.rand(300, 2, generator=rng, dtype=torch.float64)], dim=1)
        maps = random_maps(1, 18)
        pooled = position_sensitive_bags(as_table(maps, 3), [boxes], 1 / 16, 2)
        wanted = position_sensitive_align(maps, [boxes], 3, 1 / 16, 2)
        torch.testing.assert_close(pooled, wanted, rtol=1e-10, atol=1e-10)
        # With as many samples as a bin has cells, torchvision divides by none.
        assert position_sensitive_bags(as_table(maps, 3), [boxes], 1 / 16, 0).isfinite().all()

    def test_a_box_far_outside_is_zero(self):
        box = torch.tensor([[500.0, 0.0, 600.0, 50.0]], dtype=torch.float64)
        assert position_sensitive_bags(as_table(random_maps(1, 8), 2), [box], 1 / 16, 0).eq(0).all()

    def test_gradients_are_those_of_torchvision(self):
        ours, theirs = (random_maps(1, 18).requires_grad_() for _ in range(2))
        weight = random_maps(4, 18)[:, :, 0, 0].reshape(4, 2, 3, 3)
        (position_sensitive_bags(as_table(ours, 3), [BOXES], 1 / 16, 0) * weight).sum().backward()
        (position_sensitive_align(theirs, [BOXES], 3, 1 / 16, 0) * weight).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_pooled_in_single(self, dtype):
        table = as_table(random_maps(1, 18).to(dtype), 3)
        pooled = position_sensitive_bags(table, [BOXES], 1 / 16, 2)
        assert pooled.dtype == torch.float32
        assert torch.equal(pooled, position_sensitive_bags(table.float(), [BOXES.float()], 1 / 16, 2))

    def test_no_box_at_all_gives_nothing_and_a_gradient_of_zero(self):
        maps = random_maps(2, 18).requires_grad_()
        pooled = position_sensitive_bags(as_table(maps, 3), [BOXES[:0]] * 2, 1 / 16, 0)
        assert pooled.shape == (0, 2, 3, 3)
        pooled.sum().backward()
        assert maps.grad.eq(0).all()

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_a_pooler_gives_the_same_without_gradients(self, memory_format):
        pooler = small_pooler().double()
        x = random_maps(2, 6).to(memory_format=memory_format)
        boxes = [PreciseBoxes(BOXES[:1]), PreciseBoxes(BOXES)]
        with torch.no_grad():
            found = pooler([x], boxes)
        torch.testing.assert_close(found, pooler([x], boxes), rtol=1e-12, atol=1e-12)


class TestHeads:
    def test_scores_and_deltas_are_those_of_the_reference(self):
        heads = build_detector(RFCN_KEYS, dtype=torch.float64).roi_heads
        feature = random_maps(1, 16)
        pooled = heads.box_pooler([feature], [PreciseBoxes(BOXES)])
        scores, deltas = heads.box_predictor(heads.box_head(pooled))
        wanted = rfcn_head(
            heads.box_pooler.state_dict(), feature[0], BOXES, classes=NUM_CLASSES, side=3, scale=1 / 16, samples=2
        )
        torch.testing.assert_close(scores, wanted[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(deltas, wanted[1], rtol=1e-10, atol=1e-10)

    def test_the_embedding_of_a_proposal_is_its_scores_and_eight_deltas(self):
        model = build_detector(RFCN_KEYS)
        with torch.no_grad():
            frames = model.encode([{"image": make_video(1)[0]}])
            (frame,), _ = propose_frames(model.proposal_generator, model.roi_heads, frames)
        assert frame.proposals.features.shape == (16, NUM_CLASSES + 1 + 8)

    def test_parameters_are_the_two_convolutions_alone(self):
        names = {name for name, _ in build_detector(RFCN_KEYS).roi_heads.named_parameters()}
        assert names == {
            f"box_pooler.{layer}.{kind}" for layer in ("cls_score", "bbox_pred") for kind in ("weight", "bias")
        }

    @pytest.mark.parametrize(
        "key, value",
        [
            ("MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME", "RDNAggregator"),
            ("MODEL.VIDEO.REDUCE_CHANNELS", 8),
            ("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
            ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", False),
            ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign"),
            ("MODEL.ROI_HEADS.IN_FEATURES", ["head", "rpn"]),
        ],
    )
    def test_a_setting_that_it_has_not_is_named(self, key, value):
        with pytest.raises(UserError, match=key):
            build_model(tiny_cfg(RFCN_KEYS | {key: value}))


class TestDetector:
    def test_a_step_has_finite_losses_and_reaches_every_parameter(self):
        model = build_detector(RFCN_KEYS).train()
        losses = losses_of(model, [trained_clip()])
        assert losses.keys() == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
        assert all(value.isfinite() and value > 0 for value in losses.values())
        sum(losses.values()).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.ne(0).any()] == []

    def test_the_loss_is_that_of_the_hardest_proposals(self):
        model = build_detector(RFCN_KEYS, dtype=torch.float64).train()
        every = build_detector(RFCN_KEYS | {"MODEL.VIDEO.OHEM": 0}, dtype=torch.float64).train()
        hard, mean = (losses_of(one, [trained_clip()]) for one in (model, every))
        assert hard["loss_cls"] + hard["loss_box_reg"] > mean["loss_cls"] + mean["loss_box_reg"]

    def test_an_image_without_objects_trains_beside_one_with_objects(self):
        model = build_detector(RFCN_KEYS).train()
        losses = losses_of(model, [trained_clip(), trained_clip([])])
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values()).backward()

    def test_no_proposal_at_all_is_an_empty_result(self):
        model = build_detector(RFCN_KEYS | {"MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 1000})
        (found,) = model([{"image": make_video(1)[0]}])
        assert len(found["instances"]) == 0

    def test_no_proposal_at_all_trains(self):
        keys = {"MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 1000, "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": False}
        model = build_detector(RFCN_KEYS | keys).train()
        losses = losses_of(model, [trained_clip()])
        sum(losses.values()).backward()
        assert losses["loss_cls"] == 0 and losses["loss_box_reg"] == 0

    def test_detections_keep_double_precision(self):
        model = build_detector(RFCN_KEYS, dtype=torch.float64)
        found = model([{"image": make_video(1)[0]}])[0]["instances"]
        assert len(found) > 0 and found.image_size == IMAGE_SIZE
        assert found.pred_boxes.tensor.dtype == found.scores.dtype == torch.float64
        assert found.proposal_index.max() < 16

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_training_runs_under_autocast(self, dtype):
        model = build_detector(RFCN_KEYS).train()
        full = losses_of(model, [trained_clip()])
        with torch.autocast("cpu", dtype=dtype):
            half = losses_of(model, [trained_clip()])
        sum(half.values()).backward()
        torch.testing.assert_close(half["loss_rpn_cls"].float(), full["loss_rpn_cls"], rtol=0.1, atol=0.02)
        assert all(value.isfinite() for value in half.values())

    def test_a_stream_detects_what_clips_detect(self):
        model, video, schedule = build_detector(RFCN_KEYS, dtype=torch.float64), make_video(3), SlidingWindow(1)
        for t, streamed in enumerate(detect_as_stream(model, video, schedule)):
            clip = model([window_clip(video, t, schedule)])[0]["instances"]
            assert_same_detections(streamed, clip, 1e-10)


class TestConfigurations:
    def test_the_parameters_of_the_published_row_are_those_that_its_file_tells(self):
        """60.0 M in LSTS's Table 1."""
        model = build_model(load_config("configs/RFCN_R101.yaml", ["MODEL.DEVICE", "cpu"]))
        assert isinstance(model.roi_heads, RFCNHeads)
        resnet, head_map = 42_394_816, 3 * 3 * 2048 * 1024 + 1024
        rpn, heads = (512 + 1) * 9 * (1 + 4), (512 + 1) * 7 * 7 * (31 + 8)
        assert (head_map, rpn, heads) == (18_875_392, 23_085, 980_343)
        assert sum(p.numel() for p in model.parameters()) == resnet + head_map + rpn + heads == 62_273_636

    def test_the_schedule_of_the_published_row_is_four_epochs(self):
        solver = load_config("configs/RFCN_R101.yaml").SOLVER
        epoch = 2 * (57_834 + 53_639) / solver.IMS_PER_BATCH  # with mirror images
        assert solver.MAX_ITER == pytest.approx(4 * epoch, abs=1) and solver.STEPS[0] == pytest.approx(
            2.33 * epoch, abs=1
        )

    def test_its_cost_is_counted(self):
        model = build_model(load_config("configs/quick/RFCN.yaml", ["MODEL.DEVICE", "cpu"]))
        total = analyze(model, NoWindow(), (64, 96))[-1]
        assert total.parameters == sum(p.numel() for p in model.parameters())
        assert total.flops > 2 * (4 * 6) * 64 * 3 * 3 * (31 + 8)  # the 1x1 convolutions alone


OTHER_BACKEND = """
import torch
from helpers.models import build_detector, make_video
keys, state, boxes, scores = torch.load("saved.pth")
model = build_detector(keys, dtype=torch.float64)
model.load_state_dict(state)
found = model([{"image": make_video(1)[0]}])[0]["instances"]
assert len(found) == len(scores) > 0
torch.testing.assert_close(found.pred_boxes.tensor, boxes, rtol=1e-9, atol=1e-9)
torch.testing.assert_close(found.scores, scores, rtol=1e-9, atol=1e-9)
"""


@pytest.mark.skipif(importlib.util.find_spec("detectron2") is None, reason="Detectron2 is not installed")
def test_both_backends_detect_the_same(tmp_path):
    model = build_detector(RFCN_KEYS, dtype=torch.float64)
    found = model([{"image": make_video(1)[0]}])[0]["instances"]
    torch.save((RFCN_KEYS, model.state_dict(), found.pred_boxes.tensor, found.scores), tmp_path / "saved.pth")
    other = "lite" if BACKEND == "detectron2" else "detectron2"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"VOD2_D2": other, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", OTHER_BACKEND]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-1500:]
