"""LSTS against its equations, as a stream, as clips and in training."""

import numpy as np
import pytest
import torch

from helpers.contracts import check_interleaved_videos
from helpers.models import (
    LSTS_KEYS,
    assert_same_detections,
    build_detector,
    build_image_detector,
    freeze_statistics,
    make_targets,
    make_video,
    tiny_cfg,
)
from helpers.streams import detect_as_stream, step_clip, window_clip
from reference.lsts import run_video, weigh
from vod2.d2 import EventStorage, ShapeSpec
from vod2.engine.optimizer import build_video_optimizer
from vod2.errors import UserError
from vod2.modeling.backbone import forward_stages
from vod2.projects.lsts import LSTSAggregator
from vod2.structures import Clip, Role, TemporalContext
from vod2.temporal import FrameMemory, Keyframes, KeyframeTriplet

INTERVAL = 4
KEYS = LSTS_KEYS | {
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator",
    "MODEL.NARROW_RESNET.BLOCKS": [1, 1, 2, 1],
    "VIDEO.TEST_SCHEDULE.INTERVAL": INTERVAL,
}
ROWS = {
    "a": {"UPDATE": "none", "DENSE": "none"},
    "b": {"UPDATE": "fixed", "DENSE": "none"},
    "c": {"UPDATE": "quality", "DENSE": "none"},
    "d": {"UPDATE": "quality", "DENSE": "fixed", "DENSE_FEATURE": "low"},
    "e": {"UPDATE": "quality", "DENSE": "fixed"},
    "f": {"UPDATE": "quality", "DENSE": "quality", "DENSE_FEATURE": "low"},
    "g": {"UPDATE": "quality", "DENSE": "quality"},
    "g without transform": {"UPDATE": "quality", "DENSE": "quality", "TRANSFORM": False},
}


def row_keys(row: str) -> dict:
    return KEYS | {f"MODEL.LSTS.{name}": value for name, value in ROWS[row].items()}


def history_clip(video: list, t: int) -> dict:
    """Frame t as a clip whose supports are all keyframes until t."""
    clip = window_clip(video, t, Keyframes(INTERVAL))
    past = range(0, t + 1, INTERVAL)
    clip["support"] = [{"image": video[k], "frame_index": k, "role": Role.KEYFRAME} for k in past]
    return clip


def training_clip(video: list, key: int, new: int, old: int) -> dict:
    roles = ((new, Role.KEYFRAME), (old, Role.MEMORY))
    support = [{"image": video[index], "frame_index": index, "role": role} for index, role in roles]
    return {"image": video[key], "frame_index": key, "support": support, "instances": make_targets()}


def test_a_stream_follows_the_equations():
    model, video = build_detector(KEYS, dtype=torch.float64), make_video(10)
    lsts = model.pixel_aggregator

    frames = []
    for image in video:
        images = model.preprocess_image([{"image": image}])
        low = forward_stages(model.backbone, images.tensor, until="res4", block=1)["res4"]
        frames.append((forward_stages(model.backbone, low, after="res4", until="res4", block=1)["res4"], low))
    with torch.no_grad():
        expected = run_video(
            frames,
            INTERVAL,
            align=lsts.align,
            update=lambda a, b: weigh(lsts.update.quality, a, b),
            dense=lambda a, b: weigh(lsts.dense.quality, a, b),
            transform=lsts.transform,
            dense_align=lsts.dense_align,
        )
        memory = FrameMemory(Keyframes(INTERVAL))
        memory.start("video", len(video))
        for t, wanted in enumerate(expected):
            clip = step_clip(video, t, memory)
            for one in ([clip] if "image" in clip else []) + clip["support"]:
                model.remember([one], [memory])
            found = lsts(memory.frame(t), memory.context(t))
            memory.carry(found.carry)
            torch.testing.assert_close(found.value["res4"], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("row", ROWS)
def test_each_row_of_table_2_detects_in_a_stream_what_it_detects_in_clips_of_all_keyframes(row):
    model, video = build_detector(row_keys(row), dtype=torch.float64), make_video(10)
    for t, streamed in enumerate(detect_as_stream(model, video, Keyframes(INTERVAL))):
        assert_same_detections(streamed, model([history_clip(video, t)])[0]["instances"], 1e-10)


@pytest.mark.parametrize("row", ROWS)
def test_each_row_of_table_2_has_only_the_modules_that_it_names(row):
    names = {name.split(".")[1] for name, _ in build_detector(row_keys(row)).named_parameters() if "pixel" in name}
    expected = {"align"}
    expected |= {"dense_align"} if ROWS[row]["UPDATE"] != "none" else set()
    expected |= {"update"} if ROWS[row]["UPDATE"] == "quality" else set()
    expected |= {"dense"} if ROWS[row]["DENSE"] == "quality" else set()
    expected |= {"transform"} if ROWS[row].get("TRANSFORM", True) else set()
    assert names == expected


RFCN = KEYS | {
    "MODEL.LSTS.STAGE": "head_map",
    "MODEL.BACKBONE.NAME": "build_head_map_backbone",
    "MODEL.HEAD_MAP.BOTTOM_UP": "build_narrow_resnet_backbone",
    "MODEL.HEAD_MAP.CHANNELS": 32,
    "MODEL.HEAD_MAP.DILATION": 2,
    "MODEL.RPN.IN_FEATURES": ["rpn"],
    "MODEL.ROI_HEADS.NAME": "RFCNHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["head"],
    "MODEL.ROI_BOX_HEAD.NAME": "MeanBoxHead",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
}


def test_on_r_fcn_a_stream_detects_what_clips_detect_and_only_keyframes_run_through_conv5():
    model, video = build_detector(RFCN, dtype=torch.float64), make_video(10)
    runs = []
    model.backbone.bottom_up.res5.register_forward_hook(lambda module, args, output: runs.append(len(output)))
    streamed = list(detect_as_stream(model, video, Keyframes(INTERVAL)))
    assert runs == [1, 1, 1]  # frames 0, 4 and 8
    for t, found in enumerate(streamed):
        assert_same_detections(found, model([history_clip(video, t)])[0]["instances"], 1e-10)


def test_on_r_fcn_one_training_step_reaches_every_parameter():
    model, video = build_detector(RFCN, dtype=torch.float64).train(), make_video(9)
    freeze_statistics(model)
    torch.manual_seed(0)
    with EventStorage():
        sum(model([training_clip(video, 8, 5, 0)]).values()).backward()
    check_reached(model)


def check_reached(model) -> None:
    """Every parameter has a gradient that is not 0, but for those that a softmax over places or scores does not see."""
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        unseen = name.endswith(("quality.4.bias", "target_embedding.bias"))
        assert unseen or parameter.grad.ne(0).any(), name


def test_a_level_2_is_refused():
    with pytest.raises(UserError, match="PROPOSAL_AGGREGATOR.NAME to '', it is 'RDNAggregator'"):
        build_detector(KEYS | {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"})


@pytest.mark.parametrize("key, value, written", [("TRANSFORM", False, "False"), ("DENSE_FEATURE", "low", "'low'")])
def test_low_and_high_level_features_of_different_width_need_the_transform(key, value, written):
    with pytest.raises(UserError, match=f"{key} {written}.*16 and 32"):
        build_detector(RFCN | {f"MODEL.LSTS.{key}": value})


EFFICIENTNET = KEYS | {"MODEL.BACKBONE.NAME": "build_efficientnet_lite_backbone", "MODEL.BACKBONE.FREEZE_AT": 0}


@pytest.mark.parametrize(("blocks", "channels"), [(1, 80), (3, 80), (4, 112), (6, 112)])
def test_the_transform_begins_with_the_width_of_the_block_where_frames_stop(blocks, channels):
    model, video = build_detector(EFFICIENTNET | {"MODEL.LSTS.LOW_BLOCKS": blocks}), make_video(6)
    assert model.pixel_aggregator.transform[0].in_channels == channels
    assert len(list(detect_as_stream(model, video, Keyframes(INTERVAL)))) == 6
    model.train()
    with EventStorage():
        losses = model([training_clip(video, 3, new=4, old=0)])
    sum(losses.values()).backward()
    assert all(parameter.grad.ne(0).any() for parameter in model.pixel_aggregator.transform.parameters())


def test_an_early_block_of_another_width_than_conv4_needs_the_transform():
    with pytest.raises(UserError, match=r"TRANSFORM False.*LOW_BLOCKS 2.*80 and 112"):
        build_detector(EFFICIENTNET | {"MODEL.LSTS.LOW_BLOCKS": 2, "MODEL.LSTS.TRANSFORM": False})
    build_detector(EFFICIENTNET | {"MODEL.LSTS.LOW_BLOCKS": 5, "MODEL.LSTS.TRANSFORM": False})


def test_frames_between_keyframes_do_not_run_through_the_rest_of_conv4():
    model, video = build_detector(KEYS), make_video(6)
    runs = []
    model.backbone.res4[1].register_forward_hook(lambda module, args, output: runs.append(len(output)))
    list(detect_as_stream(model, video, Keyframes(INTERVAL)))
    assert runs == [1, 1]  # frames 0 and 4


def test_without_supports_it_is_the_image_detector():
    model = build_detector(KEYS)
    state = {name: value for name, value in model.state_dict().items() if "pixel_aggregator" not in name}
    image_detector = build_image_detector(state, {"MODEL.NARROW_RESNET.BLOCKS": [1, 1, 2, 1]})
    for t, image in enumerate(make_video(2)):
        inputs = [{"image": image, "frame_index": t}]
        assert_same_detections(model(inputs)[0]["instances"], image_detector(inputs)[0]["instances"])


def test_a_stream_that_begins_between_two_keyframes_starts_its_memory_there():
    model, video = build_detector(KEYS, dtype=torch.float64), make_video(10)
    memory = FrameMemory(Keyframes(INTERVAL))
    memory.start("video", len(video))
    streamed = model.step(step_clip(video, 6, memory), memory)["instances"]
    clip = window_clip(video, 6, Keyframes(INTERVAL))
    assert_same_detections(streamed, model([clip])[0]["instances"], 1e-10)


def test_two_streams_do_not_share_a_memory():
    check_interleaved_videos(build_detector(KEYS), Keyframes(INTERVAL))


def test_a_stream_keeps_one_keyframe_one_frame_and_one_memory():
    model, video, memory = build_detector(KEYS), make_video(12), FrameMemory(Keyframes(INTERVAL))
    memory.start("video", len(video))
    for t in range(12):
        model.step(step_clip(video, t, memory), memory)
        assert len(memory) <= 2
        assert set(memory.context(t).carry) == {"lsts.memory", "lsts.index"}


@pytest.mark.parametrize("row", ROWS)
def test_one_training_step_reaches_every_parameter(row):
    model, video = build_detector(row_keys(row), dtype=torch.float64).train(), make_video(9)
    freeze_statistics(model)
    torch.manual_seed(0)
    with EventStorage():
        losses = model([training_clip(video, 8, 5, 0)])
    sum(losses.values()).backward()
    check_reached(model)


def test_without_an_update_there_is_no_second_aligner_that_nothing_would_train():
    row = {"MODEL.LSTS.UPDATE": "none", "MODEL.LSTS.SHARED": False}
    assert build_detector(KEYS | row).pixel_aggregator.dense_align is None


def test_still_images_videos_and_a_lone_image_train_together():
    model, video = build_detector(KEYS).train(), make_video(9)
    still = training_clip(video, 0, 0, 0) | {"support": [{"frame_index": 0, "role": Role.KEY}]}
    alone = {"image": video[1], "frame_index": 0, "instances": make_targets()}
    with EventStorage():
        losses = model([still, training_clip(video, 8, 5, 0), alone])
    assert all(value.isfinite() for value in losses.values())


def map_with_loss(model, clip: dict) -> torch.Tensor:
    """The map that RPN and heads are trained on, in a model whose normalisation does not depend on the batch."""
    freeze_statistics(model)
    with torch.no_grad():
        (enhanced,), _ = model.enhance_clips(model.read_clips([clip | {"instances": make_targets()}]))
    return enhanced.key.features["res4"]


def test_a_still_image_is_trained_on_the_plain_map_of_the_whole_backbone():
    model, video = build_detector(KEYS, dtype=torch.float64).train(), make_video(1)
    (support,) = KeyframeTriplet(INTERVAL).sample(0, 1, np.random.default_rng(0))
    actual = map_with_loss(model, {"image": video[0], "frame_index": 0, "support": [support._asdict()]})
    with torch.no_grad():
        expected = model.backbone(model.preprocess_image([{"image": video[0]}]).tensor)["res4"]
    assert support == (0, Role.KEY)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_key_frame_that_is_the_new_keyframe_is_trained_on_the_task_feature_that_a_stream_gives_it():
    model, video = build_detector(KEYS, dtype=torch.float64), make_video(INTERVAL + 1)
    memory = FrameMemory(Keyframes(INTERVAL))
    memory.start("video", len(video))
    for t in range(INTERVAL):
        model.step(step_clip(video, t, memory), memory)
    model.remember([{"image": video[INTERVAL], "frame_index": INTERVAL}], [memory])
    (clip,), _ = model.enhance_clips([Clip(memory.frame(INTERVAL), memory.context(INTERVAL))])
    expected = clip.key.features["res4"]
    support = [
        {"frame_index": INTERVAL, "role": Role.KEY},
        {"image": video[0], "frame_index": 0, "role": Role.MEMORY},
    ]
    actual = map_with_loss(model.train(), {"image": video[INTERVAL], "frame_index": INTERVAL, "support": support})
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_the_loss_of_a_keyframe_distinguishes_memory_and_aggregate():
    video, losses = make_video(5), []
    support = [{"frame_index": 4, "role": Role.KEY}, {"image": video[0], "frame_index": 0, "role": Role.MEMORY}]
    clip = {"image": video[4], "frame_index": 4, "support": support}
    for task in ("aggregate", "memory"):
        losses.append(map_with_loss(build_detector(KEYS | {"MODEL.LSTS.TASK": task}).train(), clip))
    assert not torch.allclose(*losses, atol=1e-3)


def test_in_training_the_memory_may_come_from_a_keyframe_after_the_key_frame():
    """As the "released" triplet has it; at test nothing looks ahead."""
    model, video = build_detector(KEYS, dtype=torch.float64), make_video(9)
    clip, other = training_clip(video, 5, 8, 0), training_clip(video, 5, 8, 0)
    other["support"][0] = other["support"][0] | {"image": video[7]}
    for training in (True, False):
        model.train(training)
        same = map_with_loss(model, clip).equal(map_with_loss(model, other))
        assert same is not training


def test_two_aligners_look_at_one_set_of_learned_locations_and_compare_by_their_own_embeddings():
    lsts = build_detector(KEYS).pixel_aggregator
    first, second = lsts.align.layer, lsts.dense_align.layer
    assert first.locations is second.locations
    assert first.source_embedding.weight is not second.source_embedding.weight
    apart = build_detector(KEYS | {"MODEL.LSTS.SHARED_LOCATIONS": False}).pixel_aggregator
    assert apart.align.layer.locations is not apart.dense_align.layer.locations
    fixed = build_detector(KEYS | {"MODEL.ALIGNER.LEARNED": False}).pixel_aggregator
    assert fixed.align.layer.locations.equal(fixed.dense_align.layer.locations)
    assert build_detector(KEYS | {"MODEL.LSTS.SHARED": True}).pixel_aggregator.dense_align is None


def test_shared_locations_are_optimized_once():
    cfg, model = tiny_cfg(KEYS | {"MODEL.ALIGNER.LR_MULTIPLIER": 2.5}), build_detector(KEYS)
    locations = model.pixel_aggregator.align.layer.locations
    groups = build_video_optimizer(cfg, model).param_groups
    rates = [group["lr"] for group in groups for parameter in group["params"] if parameter is locations]
    multiplier = model.pixel_aggregator.align.layer.lr_multipliers["locations"]
    assert rates == [multiplier * cfg.SOLVER.BASE_LR]


def test_with_dense_feature_low_what_is_aggregated_is_not_transformed():
    keys, video = KEYS | {"MODEL.LSTS.DENSE": "fixed"}, make_video(3)
    for feature in ("low", "high"):
        model = build_detector(keys | {"MODEL.LSTS.DENSE_FEATURE": feature}, dtype=torch.float64)
        lsts = model.pixel_aggregator
        frames = model.encode([{"image": video[t], "frame_index": t} for t in (0, 1)])
        with torch.no_grad():
            context = TemporalContext((frames[0],), (Role.KEYFRAME,))
            actual = lsts(frames[1], context).value["res4"]
            memory, low = frames[0].features["res4"], frames[1].features["low"]
            high = lsts.transform(low)
            aligned = lsts.dense_align(memory, high)
            expected = 0.5 * aligned + 0.5 * (low if feature == "low" else high)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_quality_net_without_relu_is_linear_and_keeps_the_names_of_its_weights():
    with_relu = build_detector(KEYS).pixel_aggregator
    without = build_detector(KEYS | {"MODEL.LSTS.QUALITY_RELU": False}).pixel_aggregator
    assert with_relu.state_dict().keys() == without.state_dict().keys()
    quality = without.update.quality.double()
    x, y, zero = (torch.randn(1, 16, 3, 3, dtype=torch.float64) for _ in range(3))
    zero = torch.zeros_like(x)
    torch.testing.assert_close(quality(x + y), quality(x) + quality(y) - quality(zero))


def test_transform_and_quality_nets_may_begin_with_small_normal_weights():
    cfg = tiny_cfg(KEYS | {"MODEL.LSTS.INIT_STD": 0.01, "MODEL.LSTS.TRANSFORM_LAYERS": [[3, 64], [3, 0]]})
    torch.manual_seed(0)
    lsts = LSTSAggregator(cfg, {"res4": ShapeSpec(channels=64)})
    assert lsts.transform[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert lsts.update.quality[0].weight.std().item() == pytest.approx(0.01, rel=0.15)


def test_a_frame_between_keyframes_without_a_keyframe_says_what_to_do():
    model, video = build_detector(KEYS), make_video(6)
    clip = {"image": video[5], "frame_index": 5, "support": [{"image": video[3], "frame_index": 3}]}
    clip["support"][0]["role"] = None
    with pytest.raises(ValueError, match="Keyframes"):
        model([clip])


@pytest.mark.parametrize("blocks", [0, 3])
def test_a_number_of_blocks_that_conv4_does_not_have_is_refused(blocks):
    model = build_detector(KEYS | {"MODEL.LSTS.LOW_BLOCKS": blocks})
    with pytest.raises(ValueError, match=f"res4 has 2 blocks: expected 1 to 2 of them, got {blocks}"):
        model([window_clip(make_video(2), 1, Keyframes(INTERVAL))])


@pytest.mark.parametrize(
    "key, value",
    [("STAGE", "res3"), ("UPDATE", "learned"), ("DENSE", "all"), ("TASK", "both"), ("DENSE_FEATURE", "mid")],
)
def test_an_unknown_row_is_refused(key, value):
    outputs = {"MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"]}
    with pytest.raises(UserError, match=key):
        build_detector(KEYS | outputs | {f"MODEL.LSTS.{key}": value})
