"""DFF against the slow reference, as a stream, and its public parameters."""

import numpy as np
import pytest
import torch
from helpers.models import ROOT, assert_same_detections, build_detector, make_targets, make_video, tiny_cfg
from helpers.parity import public_shapes
from helpers.public_flow import public_flownet
from helpers.streams import detect_as_stream, window_clip
from reference.flow import dff
from vod2.projects.dff import DFFAggregator

import vod2
from vod2.d2 import EventStorage, ShapeSpec, build_model, get_cfg
from vod2.errors import UserError
from vod2.structures import Frame, Role, Support, TemporalContext
from vod2.temporal import FrameMemory, Keyframes, RandomKeyframe, SlidingWindow, build_training_schedule

INTERVAL = 4
KEYS = {
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "DFFAggregator",
    "MODEL.FLOWNET.WIDTH": 0.03,
    "VIDEO.TEST_SCHEDULE.INTERVAL": INTERVAL,
}


def make_dff(channels: int = 6) -> DFFAggregator:
    """DFF on a map of few channels, whose flow is about a cell long."""
    torch.manual_seed(0)
    model = DFFAggregator(tiny_cfg(KEYS | {"MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}), {"res4": ShapeSpec(channels=channels)})
    for parameter in (*model.flownet.flow.parameters(), model.flownet.scale.weight):
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


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


def test_a_keyframe_is_treated_alike_with_the_flow_to_itself():
    model = make_dff()
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


def test_a_stream_of_thirty_frames_detects_what_clips_detect_and_remembers_two_frames():
    model, video, schedule = build_detector(KEYS, dtype=torch.float64), make_video(30), Keyframes(INTERVAL)
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
    support = {"image": video[1], "frame_index": 1, "role": Role.KEYFRAME}
    clip = {"image": video[2], "video_id": "video", "frame_index": 2, "support": [support]}
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
