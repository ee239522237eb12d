"""DFF against the slow reference, as a stream, and its public parameters."""

import numpy as np
import pytest
import torch

import vod2
from helpers.models import (
    RFCN_KEYS,
    ROOT,
    assert_same_detections,
    build_detector,
    freeze_statistics,
    make_targets,
    make_video,
    tiny_cfg,
)
from helpers.parity import public_shapes
from helpers.public_flow import public_flownet
from helpers.streams import detect_as_stream, window_clip
from reference.flow import dff
from vod2.d2 import EventStorage, ShapeSpec, build_model, get_cfg
from vod2.errors import UserError
from vod2.projects.dff import DFFAggregator
from vod2.structures import Clip, Frame, Role, Support, TemporalContext
from vod2.temporal import FrameMemory, Keyframes, RandomKeyframe, SlidingWindow, build_training_schedule

INTERVAL = 4
KEYS = {
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "DFFAggregator",
    "MODEL.FLOWNET.WIDTH": 0.03,
    "VIDEO.TEST_SCHEDULE.INTERVAL": INTERVAL,
}


HEAD_MAP = RFCN_KEYS | KEYS | {"MODEL.DFF.STAGE": "head_map"}


def make_dff(keys: dict | None = None) -> DFFAggregator:
    """DFF on a map of few channels, whose flow is about a cell long."""
    torch.manual_seed(0)
    cfg = tiny_cfg(KEYS | {"MODEL.PIXEL_STD": [1.0, 1.0, 1.0]} | (keys or {}))
    model = DFFAggregator(cfg, {"res4": ShapeSpec(channels=6)})
    draw_flow(model)
    return model.double()


def draw_flow(model: DFFAggregator) -> None:
    for parameter in (*model.flownet.flow.parameters(), model.flownet.scale.weight):
        torch.nn.init.normal_(parameter, std=0.3)


def random_frame(model: DFFAggregator, index: int, keyframe: bool) -> tuple[Frame, torch.Tensor]:
    """A frame of 64 x 96 pixels, and its image."""
    rng = torch.Generator().manual_seed(index)
    image = 255 * torch.rand(3, 64, 96, generator=rng, dtype=torch.float64) - 120
    features = {"half_image": model.flownet.prepare(image[None])}
    if keyframe:
        features["res4"] = torch.randn(1, 6, 4, 6, generator=rng, dtype=torch.float64)
    return Frame("video", index, (64, 96), features), image


def test_a_frame_between_keyframes_is_the_warped_and_scaled_map_of_the_last_one():
    model = make_dff()
    (key, image), (first, _), (last, last_image) = (random_frame(model, i, keyframe=i < 9) for i in (9, 4, 8))
    expected = dff(model.flownet.state_dict(), image, last_image, last.features["res4"][0])
    for frames in ((first, last), (last, first), (last,)):
        value = model(key, TemporalContext(frames, (Role.KEYFRAME,) * len(frames))).value
        torch.testing.assert_close(value["res4"][0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_a_frame_that_is_its_own_keyframe_keeps_its_map(training):
    model = make_dff().train(training)
    key, _ = random_frame(model, 8, keyframe=True)
    value = model(key, TemporalContext((key,), (Role.KEYFRAME,))).value["res4"]
    assert value.equal(key.features["res4"])


def test_the_public_convention_warps_a_keyframe_by_the_flow_to_itself():
    model = make_dff({"MODEL.DFF.WARP_KEYFRAMES": True})
    key, image = random_frame(model, 8, keyframe=True)
    expected = dff(model.flownet.state_dict(), image, image, key.features["res4"][0])
    value = model(key, TemporalContext((key,), (Role.KEYFRAME,))).value["res4"]
    torch.testing.assert_close(value[0], expected, rtol=1e-9, atol=1e-9)


def test_with_a_new_flow_network_every_frame_has_the_map_of_its_keyframe():
    model = DFFAggregator(tiny_cfg(KEYS), {"res4": ShapeSpec(channels=6)}).double()
    (key, _), (keyframe, _) = random_frame(model, 9, keyframe=False), random_frame(model, 8, keyframe=True)
    value = model(key, TemporalContext((keyframe,), (Role.KEYFRAME,))).value["res4"]
    torch.testing.assert_close(value, keyframe.features["res4"], rtol=0, atol=1e-12)


def test_only_keyframes_go_through_the_backbone():
    model, image = build_detector(KEYS), make_video(1)[0]
    seen = []
    model.backbone.stem.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    supports = [Support(0, None), Support(3, None), Support(7, Role.KEYFRAME), Support(5, Role.LOCAL), Support(8, None)]
    frames = model.encode([{"image": image, "frame_index": index, "role": role} for index, role in supports])
    assert [sorted(frame.features) for frame in frames] == [
        ["half_image", "res4"] if number in (0, 2, 4) else ["half_image"] for number in range(5)
    ]
    assert seen == [3]


def frame_of_clip(video: list[torch.Tensor], index: int, support: list[int]) -> dict:
    supports = [{"image": video[i], "frame_index": i, "role": Role.KEYFRAME} for i in support]
    return {"image": video[index], "video_id": "video", "frame_index": index, "support": supports}


@pytest.mark.parametrize("keys", [KEYS, HEAD_MAP], ids=["res4", "head map"])
def test_a_still_image_trains_the_detector_as_without_dff(keys):
    model = build_detector(keys).train()
    freeze_statistics(model)
    image, targets = make_video(1)[0], make_targets()
    losses = []
    for aggregator in (model.pixel_aggregator, None):
        model.pixel_aggregator = aggregator
        clip = frame_of_clip([image], 0, [] if aggregator is None else [0])
        torch.manual_seed(0)
        with EventStorage():
            losses.append(model([clip | {"instances": targets}]))
    for name, value in losses[1].items():
        torch.testing.assert_close(losses[0][name], value, rtol=1e-5, atol=1e-6)


def test_between_keyframes_neither_conv5_nor_the_convolution_after_it_runs():
    model, seen = build_detector(HEAD_MAP), []
    for layer in (model.backbone.bottom_up.stem, model.backbone.bottom_up.res5, model.backbone.last_conv):
        layer.register_forward_pre_hook(lambda module, inputs: seen.append(module))
    assert len(list(detect_as_stream(model, make_video(10), Keyframes(INTERVAL)))) == 10
    whole = [model.backbone.bottom_up.stem, model.backbone.bottom_up.res5, model.backbone.last_conv]
    assert seen == 3 * whole


def test_rpn_and_heads_read_the_warped_head_map():
    model, (image, keyframe_image) = build_detector(HEAD_MAP, dtype=torch.float64), make_video(2)
    draw_flow(model.pixel_aggregator)
    key, keyframe = model.encode(
        [{"image": image, "frame_index": 9}, {"image": keyframe_image, "frame_index": 8}]
    )  # frame 9 is between two keyframes, frame 8 is one
    (clip,), _ = model.enhance_clips([Clip(key, TemporalContext((keyframe,), (Role.KEYFRAME,)))])
    enhanced = clip.key
    std = model.pixel_std
    images = [(model.preprocess_image([{"image": one}]).tensor * std)[0] for one in (image, keyframe_image)]
    expected = dff(model.pixel_aggregator.flownet.state_dict(), *images, keyframe.features["head_map"][0])
    torch.testing.assert_close(enhanced.features["rpn"][0], expected[:16], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(enhanced.features["head"][0], expected[16:], rtol=1e-9, atol=1e-9)


def test_in_training_only_the_supports_go_through_the_backbone():
    model, image = build_detector(KEYS).train(), make_video(1)[0]
    inputs = [{"image": image, "frame_index": 8}, {"image": image, "frame_index": 6, "role": Role.KEYFRAME}]
    assert ["res4" in frame.features for frame in model.encode(inputs)] == [False, True]


def test_the_map_of_a_keyframe_is_that_of_the_backbone():
    model, image = build_detector(KEYS, dtype=torch.float64), make_video(1)[0]
    with torch.no_grad():
        (frame,) = model.encode([{"image": image}])
        expected = model.backbone(model.preprocess_image([{"image": image}]).tensor)["res4"]
    assert frame.features["res4"].equal(expected)


@pytest.mark.parametrize("keys", [KEYS, HEAD_MAP], ids=["res4", "head map"])
def test_a_stream_of_thirty_frames_detects_what_clips_detect_and_remembers_two_frames(keys):
    model, video, schedule = build_detector(keys, dtype=torch.float64), make_video(30), Keyframes(INTERVAL)
    memory = FrameMemory(schedule)
    memory.start("video", len(video))
    for t in range(len(video)):
        streamed = model.step({"image": video[t], "frame_index": t}, memory)["instances"]
        clip = model([window_clip(video, t, schedule)])[0]["instances"]
        assert_same_detections(streamed, clip, 1e-10)
        assert len(memory) == (1 if t % INTERVAL == 0 else 2)


def test_the_backbone_sees_every_fourth_frame_of_a_stream():
    model, seen = build_detector(KEYS), []
    model.backbone.stem.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    assert len(list(detect_as_stream(model, make_video(10), Keyframes(INTERVAL)))) == 10
    assert seen == [1, 1, 1]


def test_the_loss_reaches_the_flow_network_and_the_backbone_through_the_keyframe():
    model, video = build_detector(KEYS).train(), make_video(3)
    clip = frame_of_clip(video, 2, [1])
    with EventStorage():
        losses = model([clip | {"instances": make_targets()}])
    sum(losses.values()).backward()
    flownet = model.pixel_aggregator.flownet
    assert all(p.grad.ne(0).any() for p in (flownet.scale.weight, flownet.contract[0].weight))
    assert model.backbone.stem.conv1.weight.grad.ne(0).any()


@pytest.mark.parametrize("t, expected", [(20, range(11, 21)), (3, range(4)), (0, [0])])
def test_a_training_clip_has_one_keyframe_of_the_last_ten_frames(t, expected):
    schedule, rng = RandomKeyframe(interval=10), np.random.default_rng(0)
    drawn = [schedule.sample(t, 30, rng) for _ in range(300)]
    assert {support.role for (support,) in drawn} == {Role.KEYFRAME}
    assert {support.index for (support,) in drawn} == set(expected)


def test_intervals_of_training_and_inference_are_keys():
    cfg = tiny_cfg(KEYS | {"VIDEO.TRAIN_SCHEDULE.NAME": "RandomKeyframe", "VIDEO.TRAIN_SCHEDULE.INTERVAL": 7})
    assert build_training_schedule(cfg).interval == 7
    assert DFFAggregator(cfg, {"res4": ShapeSpec(channels=6)}).interval == INTERVAL
    with pytest.raises(ValueError, match="interval of at least 1, got 0"):
        RandomKeyframe(0)


def test_a_frame_without_keyframe_is_refused_with_what_to_do():
    with pytest.raises(UserError, match="frame 5 of video 'video' has no keyframe.*'Keyframes'"):
        build_detector(KEYS)([window_clip(make_video(7), 5, SlidingWindow(1))])


@pytest.mark.parametrize(
    "keys, stage, message",
    [
        (KEYS, "head_map", "MODEL.DFF.STAGE is 'head_map': the backbone .* has res4, res5"),
        (KEYS, "res5", "MODEL.DFF.STAGE is 'res5', but .* names 'res4'.*set MODEL.DFF.STAGE to 'res4'"),
    ],
)
def test_a_map_that_rpn_and_heads_would_not_see_is_refused(keys, stage, message):
    with pytest.raises(UserError, match=message):
        build_detector(keys | {"MODEL.DFF.STAGE": stage})


def test_a_proposal_aggregator_beside_it_is_refused():
    with pytest.raises(UserError, match="set MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME to '', it is 'RDNAggregator'"):
        build_detector(KEYS | {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"})


def test_the_published_configuration_has_the_parameters_of_the_public_code():
    public = public_shapes("dff")
    cfg = vod2.add_video_config(get_cfg())
    cfg.merge_from_file(str(ROOT / "configs" / "DFF_R101.yaml"))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    ours = {key: tuple(value.shape) for key, value in model.pixel_aggregator.state_dict().items()}
    assert ours == {f"flownet.{key}": shape for key, shape in public_flownet(public).items()}
    heads = [tuple(model.roi_heads.box_head.fc1.weight.shape), tuple(model.roi_heads.box_head.fc2.weight.shape)]
    assert heads == [public[f"roi_heads.box.feature_extractor.{name}.weight"] for name in ("fc6", "fc7")]
