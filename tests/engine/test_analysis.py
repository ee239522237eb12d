"""Cost of a model, against numbers counted by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from vod2.d2 import build_model
from vod2.engine import load_config
from vod2.engine.analysis import RunningStream, _operators, analyze, frame_seconds
from vod2.temporal import Keyframes, NoWindow, SlidingWindow, build_support_schedule


@pytest.fixture
def rows():
    cfg = load_config("configs/quick/RDN.yaml", ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    return model, {row.part: row for row in analyze(model, SlidingWindow(2), (64, 96))}


def test_the_parts_add_up_to_the_total(rows):
    _, parts = rows
    total = parts.pop("total")
    assert total.parameters == sum(row.parameters for row in parts.values())
    assert total.flops == sum(row.flops for row in parts.values())


def test_parameters_of_a_relation_are_three_projections_and_the_geometry(rows):
    _, parts = rows
    relation = 3 * (256 * 256 + 256) + (64 * 8 + 8)
    assert parts["roi_heads.aggregator"].parameters == 4 * relation + (256 * 256 + 256)  # 2 basic, 2 advanced, one h()


def test_the_stem_costs_what_a_7x7_convolution_costs(rows):
    model, _ = rows
    stem = 2 * (32 * 48) * 7 * 7 * 3 * model.backbone.stem.conv1.out_channels
    later = [row for row in analyze(model, NoWindow(), (64, 96)) if row.part == "backbone"]
    assert later[0].flops > stem


def test_a_frame_of_the_stream_is_encoded_once_however_long_the_window(rows):
    model, parts = rows
    wide = {row.part: row for row in analyze(model, SlidingWindow(5), (64, 96))}
    assert wide["backbone"].flops == parts["backbone"].flops
    assert wide["roi_heads.aggregator"].flops > parts["roi_heads.aggregator"].flops


def backbone_flops(interval: int) -> float:
    keys = ["MODEL.DEVICE", "cpu", "MODEL.NARROW_RESNET.BLOCKS", [1, 1, 2, 1], "VIDEO.TEST_SCHEDULE.INTERVAL", interval]
    model = build_model(load_config("configs/quick/LSTS.yaml", keys))
    return {row.part: row.flops for row in analyze(model, Keyframes(interval), (64, 96))}["backbone"]


@pytest.mark.parametrize("interval", [4, 7])
def test_of_keyframes_and_the_frames_between_the_mean_is_counted(interval):
    second_block = 2 * 2 * (4 * 6) * 3 * 3 * 64**2  # of conv4, which only keyframes run through: two 3x3
    expected = backbone_flops(1) - second_block * (interval - 1) / interval
    assert backbone_flops(interval) == pytest.approx(expected)


def test_supports_that_are_related_to_each_other_once_are_not_counted_at_every_frame():
    """HVR-Net with a sample that the key frame is not in: what is left are the key frame's rows."""
    totals = {}
    for include_key in (True, False):
        keys = ["MODEL.DEVICE", "cpu", "VIDEO.TEST_SCHEDULE.INCLUDE_KEY", include_key]
        cfg = load_config("configs/quick/HVRNet.yaml", keys)
        rows = analyze(build_model(cfg), build_support_schedule(cfg), (96, 128))
        totals[include_key] = {row.part: row.flops for row in rows}["roi_heads.aggregator"]
    assert totals[False] < 0.6 * totals[True]


def test_in_an_evaluation_that_keeps_its_frames_a_step_encodes_one_frame(monkeypatch):
    """MEGA: a stream encodes its newest frame and the one of the whole video that a step draws."""
    cfg = load_config("configs/quick/MEGA.yaml", ["MODEL.DEVICE", "cpu"])
    model, schedule = build_model(cfg), build_support_schedule(cfg)
    encoded, remember = [], model.remember
    monkeypatch.setattr(
        model, "remember", lambda frames, memories: encoded.extend(frames) or remember(frames, memories)
    )
    counts = {}
    for encode_once in (False, True):
        stream = RunningStream(model, schedule, (64, 96), encode_once)
        encoded.clear()
        for _ in range(8):
            stream.step()
        counts[encode_once] = len(encoded)
    assert counts[True] == 8 < 12 <= counts[False] <= 16
    single = {row.part: row.flops for row in analyze(model, NoWindow(), (64, 96))}["backbone"]
    for encode_once, frames in ((False, 2), (True, 1)):
        parts = {row.part: row.flops for row in analyze(model, schedule, (64, 96), encode_once)}
        assert parts["backbone"] == frames * single


def test_analysis_leaves_no_gradient_behind(rows):
    model, _ = rows
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_a_memory_that_is_carried_is_full():
    """What a frame looks at grows with the memory, entry by entry."""

    def flops(entries: int) -> float:
        keys = ["MODEL.DEVICE", "cpu", "MODEL.MEGA.MEMORY", entries, "MODEL.MEGA.NUM_STAGES", 1]
        cfg = load_config("configs/quick/MEGA.yaml", keys)
        rows = analyze(build_model(cfg), build_support_schedule(cfg), (64, 96))
        return {row.part: row.flops for row in rows}["roi_heads.aggregator"]

    few, more, many = flops(0), flops(10), flops(30)
    assert more > few and many - more == pytest.approx(2 * (more - few), rel=1e-6)


def test_a_deformable_convolution_costs_what_a_convolution_costs():
    class Model(torch.nn.Module):
        def forward(self, x, offsets, weight):
            return deform_conv2d(x, offsets, weight, padding=1)

    x, weight = torch.zeros(2, 6, 5, 7), torch.zeros(4, 6, 3, 3)
    with FlopCounterMode(display=False, custom_mapping=_operators()) as counter:
        Model()(x, torch.zeros(2, 18, 5, 7), weight)
    assert counter.get_total_flops() == 2 * (2 * 4 * 5 * 7) * (6 * 3 * 3)


@pytest.fixture(scope="module")
def keyframes_of_four():
    keys = ["MODEL.DEVICE", "cpu", "VIDEO.TEST_SCHEDULE.INTERVAL", 4]
    return build_model(load_config("configs/quick/LSTS.yaml", keys))


def test_the_time_of_a_frame_is_the_mean_over_a_period_and_the_median_of_periods(keyframes_of_four, monkeypatch):
    clock = iter([0.0, 6.0, 10.0, 11.0, 20.0, 23.0])  # periods of 6, 1 and 3 seconds
    monkeypatch.setattr("vod2.engine.analysis.time.perf_counter", lambda: next(clock))
    assert frame_seconds(keyframes_of_four, Keyframes(4), (64, 96), repeats=3) == 3.0 / 4


def test_a_running_stream_detects_each_frame_of_a_period_once(keyframes_of_four, monkeypatch):
    model, frames = keyframes_of_four, []
    stream, step = RunningStream(model, Keyframes(4), (64, 96)), model.step
    monkeypatch.setattr(model, "step", lambda clip, memory: frames.append(clip["frame_index"]) or step(clip, memory))
    stream.advance()
    stream.advance()
    assert frames == list(range(frames[0], frames[0] + 8)) and frames[0] % 4 == 0


@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_costs_two_products_on_the_cpu(with_bias):
    heads, queries, keys, dim = 2, 30, 70, 16
    q, k, v = (torch.rand(1, heads, count, dim) for count in (queries, keys, keys))
    bias = torch.rand(1, heads, queries, keys) if with_bias else None
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_operators()) as counter:
        torch.nn.functional.scaled_dot_product_attention(q, k, v, bias)
    assert counter.get_total_flops() == 2 * 2 * heads * queries * keys * dim
