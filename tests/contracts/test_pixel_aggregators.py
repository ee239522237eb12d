"""The nine contracts of every registered pixel aggregator.

1. Without supports it is the image detector.        5. No supports, and supports of another size, work.
2. Streaming equals clip.                            6. Neither context nor memory is changed.
3. Interleaved videos equal each alone.              7. The gradient reaches every parameter.
4. The order of supports is irrelevant.              8. Half precision stays near float32.
9. TEST.CONTEXT "none" and "foreign" are what they say.

A new aggregator is added to CASES, nothing else. Those that tests register for themselves need no entry.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.contracts import (
    Untouched,
    check_autocast,
    check_context_foreign,
    check_context_none,
    check_gradients,
    check_interleaved_videos,
    check_memory_is_left_as_it_was,
    check_stream_equals_clips,
    losses_of_step,
    reordered,
    tensors_of,
)
from helpers.device import autocast, autocast_dtypes, tolerance
from helpers.models import (
    LSTS_KEYS,
    RFCN_KEYS,
    assert_same_detections,
    build_detector,
    build_image_detector,
    make_targets,
    make_video,
)
from helpers.streams import step_clip, window_clip
from vod2.modeling import PIXEL_AGGREGATOR_REGISTRY, VideoRCNN
from vod2.structures import Frame, Role, TemporalContext
from vod2.temporal import (
    FrameMemory,
    GlobalSample,
    Keyframes,
    KeyframeTriplet,
    RandomKeyframe,
    RandomNear,
    SlidingWindow,
    SupportSchedule,
    TrainingSchedule,
    WithKey,
)

PREFIX = "pixel_aggregator."


def without_the_aggregator(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict]:
    """All other parameters, in a detector of the same configuration."""
    return {name: value for name, value in state.items() if not name.startswith(PREFIX)}, {}


@dataclass(frozen=True)
class Case:
    """What the contracts need to know of an aggregator.

    Args:
        variants: configurations {dotted key: value} to test, each under a name.
        image_detector: the parameters of the VideoRCNN -> those of the image detector that it is without supports, and
            the configuration keys of that detector.
        schedules: windows to test, each under a name; the first is that of all contracts but the second.
        training: draws the supports of a training clip.
        recurrent: whether it carries something from frame to frame, which a clip does not hold: contract 2 is waived.
        order_matters: whether contract 4 is waived, for an aggregator whose documentation says so.
        no_gradient: ends of the names of parameters whose gradient is 0 by construction.
    """

    variants: dict[str, dict] = field(default_factory=lambda: {"default": {}})
    image_detector: Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], dict]] = without_the_aggregator
    schedules: dict[str, SupportSchedule] = field(
        default_factory=lambda: {
            "sliding": SlidingWindow(2),
            "causal": SlidingWindow(1, lookahead=0),
            "repeat": SlidingWindow(2, edge="repeat"),
            "global": GlobalSample(3),
        }
    )
    training: TrainingSchedule = field(default_factory=lambda: WithKey(RandomNear(radius=2, count=2)))
    recurrent: bool = False
    order_matters: bool = False
    no_gradient: tuple[str, ...] = ()


CSMN_HEAD = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SPFAAggregator",
    "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
    "MODEL.CSMN.SPFA.PATCHES": 4,
}

CASES = {
    # With supports that are encoded as they enter it is recurrent: tests/projects/test_csmn.py
    "StCIE": Case(
        variants={
            name: {"MODEL.CSMN.STCIE.RELATION_DIM": 8} | keys
            for name, keys in {
                "default": {},
                "softmax": {"MODEL.CSMN.STCIE.NORMALISER": "softmax"},
                "spatial": {"MODEL.CSMN.STCIE.TEMPORAL": False},
                "res4": {"MODEL.CSMN.STCIE.STAGE": "res4"},
                "RPN on res5": {"MODEL.RPN.IN_FEATURES": ["res5"]},
                "res4, RPN on the plain map": {"MODEL.CSMN.STCIE.STAGE": "res4", "MODEL.CSMN.STCIE.RPN": False},
                "CSMN": CSMN_HEAD,
                "CSMN on res4": CSMN_HEAD | {"MODEL.CSMN.STCIE.STAGE": "res4"},
                "CSMN, plain supports": CSMN_HEAD | {"MODEL.CSMN.STCIE.SUPPORTS": "plain"},
            }.items()
        },
    ),
    # With a bank it is recurrent: tests/projects/test_mamba.py
    "MAMBAPixels": Case(
        variants={
            name: {"MODEL.MAMBA.PIXEL.NUM_HEADS": 4, "MODEL.MAMBA.PIXEL.MEMORY": 0} | keys
            for name, keys in {
                "res5": {"MODEL.RPN.IN_FEATURES": ["res5"]},
                "some cells of res4": {"MODEL.MAMBA.PIXEL.STAGE": "res4", "MODEL.MAMBA.PIXEL.CELLS": 7},
                "with instances": {
                    "MODEL.MAMBA.PIXEL.STAGE": "res4",
                    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MAMBAAggregator",
                    "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
                    "MODEL.MAMBA.NUM_HEADS": 4,
                    "MODEL.MAMBA.MEMORY": 0,
                },
            }.items()
        },
        no_gradient=("key.bias",),
    ),
    "DFFAggregator": Case(
        variants={
            name: {"MODEL.FLOWNET.WIDTH": 0.0625, "VIDEO.TEST_SCHEDULE.INTERVAL": 3} | keys
            for name, keys in {
                "default": {},
                "legacy": {"MODEL.FLOWNET.LEGACY_WARP": True, "MODEL.DFF.WARP_KEYFRAMES": True},
                "R-FCN": RFCN_KEYS | {"MODEL.DFF.STAGE": "head_map"},
            }.items()
        },
        schedules={"keyframes": Keyframes(3)},
        training=RandomKeyframe(3),
    ),
    "FGFAAggregator": Case(
        variants={
            name: {"MODEL.FLOWNET.WIDTH": 0.0625, "MODEL.FGFA.EMBEDDING_DIMS": (8, 8, 16)} | keys
            for name, keys in {
                "default": {},
                "legacy": {"MODEL.FLOWNET.LEGACY_WARP": True},
                "R-FCN": RFCN_KEYS | {"MODEL.FGFA.STAGE": "head_map"},
                "RDN": {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"},
            }.items()
        },
        no_gradient=("key.bias",),
    ),
    # As stream against a clip of all keyframes: tests/projects/test_lsts.py
    "LSTSAggregator": Case(
        variants={
            name: LSTS_KEYS | keys
            for name, keys in {
                "default": {},
                "one aligner": {"MODEL.LSTS.SHARED": True},
                "two sets of locations": {"MODEL.LSTS.SHARED_LOCATIONS": False},
                "low": {"MODEL.LSTS.DENSE_FEATURE": "low"},
                "fixed": {"MODEL.LSTS.UPDATE": "fixed", "MODEL.LSTS.DENSE": "fixed"},
                "memory": {"MODEL.LSTS.TASK": "memory"},
                "MatchTrans": {"MODEL.ALIGNER.NAME": "MatchTrans"},
                "NonLocal": {"MODEL.ALIGNER.NAME": "NonLocal"},
                "flow": {"MODEL.ALIGNER.NAME": "FlowNetS", "MODEL.FLOWNET.WIDTH": 0.0625},
            }.items()
        },
        schedules={"causal": SlidingWindow(2, lookahead=0)},
        training=KeyframeTriplet(1, "online"),  # two keyframes, and a frame after them
        recurrent=True,
        no_gradient=("quality.4.bias", "target_embedding.bias"),  # a softmax does not see them
    ),
    # With QUERY "all" and a level 2 it is recurrent, too: tests/projects/test_mst.py
    "MSTFrames": Case(
        variants={
            "default": {"MODEL.ALIGNER.NAME": "DAlign", "MODEL.ALIGNER.WIDTH": 4},
            "without alignment": {},
            "all pairs": {"MODEL.MST.KEY_STRIDE": 1},
            "offsets alone, added": {
                "MODEL.ALIGNER.NAME": "DAlign",
                "MODEL.ALIGNER.WIDTH": 4,
                "MODEL.ALIGNER.RESIDUAL": True,
                "MODEL.ALIGNER.MODULATED": False,
            },
            "to each reference": {
                "MODEL.ALIGNER.NAME": "DAlign",
                "MODEL.ALIGNER.WIDTH": 4,
                "MODEL.MST.FRAME": False,
                "MODEL.MST.ALIGN_TO": "reference",
                "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MSTAggregator",
            },
            "MST": {
                "MODEL.ALIGNER.NAME": "DAlign",
                "MODEL.ALIGNER.WIDTH": 4,
                "MODEL.MST.QUERY": "reference",
                "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MSTAggregator",
            },
        },
        no_gradient=("key.bias",),
    ),
}


def shipped() -> list[str]:
    """The aggregators of the library and of the projects; what tests register lives elsewhere."""
    return sorted(name for name, kind in PIXEL_AGGREGATOR_REGISTRY if kind.__module__.startswith("vod2."))


def each_case() -> Iterator:
    for name in shipped():
        marks = [pytest.mark.device_sample]
        for variant in CASES[name].variants if name in CASES else ["default"]:
            yield pytest.param((name, variant), id=f"{name}-{variant}", marks=marks)
            marks = []


@pytest.fixture(params=each_case())
def chosen(request) -> tuple[Case, dict]:
    """The case and the configuration that switches the aggregator on."""
    name, variant = request.param
    if name not in CASES:
        pytest.fail(f"{name} is registered, but {__file__} has no entry for it in CASES: add one", pytrace=False)
    return CASES[name], {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": name} | CASES[name].variants[variant]


@pytest.fixture
def schedule(case) -> SupportSchedule:
    return next(iter(case.schedules.values()))


def encoded(
    model: VideoRCNN, schedule: SupportSchedule, t: int = 3, requires_grad: bool = False
) -> tuple[Frame, TemporalContext]:
    """Frame t of a video of 7 and the context that its window is, as the backbone encodes them."""
    video, window = make_video(7), schedule.window(t, 7, "video")
    roles = {t: {}} | {index: {"role": role} for index, role in window}
    inputs = [{"image": video[i], "video_id": "video", "frame_index": i} | role for i, role in sorted(roles.items())]
    with torch.no_grad():
        frames = {frame.index: leaf(frame, requires_grad) for frame in model.encode(inputs)}
    context = TemporalContext(tuple(frames[index] for index, _ in window), tuple(role for _, role in window))
    return frames[t], context


def leaf(frame: Frame, requires_grad: bool) -> Frame:
    features = {name: value.clone().requires_grad_(requires_grad) for name, value in frame.features.items()}
    return frame.with_(features=features)


def training_clip(case: Case) -> dict:
    """The middle one of five frames with the supports that the case draws for it."""
    video, support = make_video(5), []
    for index, role in case.training.sample(2, 5, np.random.default_rng(1)):
        image = {} if role is Role.KEY else {"image": video[index]}
        support.append({"frame_index": index, "role": role} | image)
    return {"image": video[2], "video_id": "video", "frame_index": 2, "video_length": 5, "support": support}


# 1


def test_without_supports_it_equals_the_image_detector_exactly(case, keys):
    model = build_detector(keys)
    if "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME" in keys:
        pytest.skip("what is left of a proposal aggregator is its own contract")
    state, image_keys = case.image_detector(model.state_dict())
    image_detector = build_image_detector(state, keys | image_keys)
    for image in make_video(3):
        inputs = [{"image": image, "height": 128, "width": 192}]
        with torch.no_grad():  # R-FCN's heads pool in another way where a gradient is wanted
            assert_same_detections(model(inputs)[0]["instances"], image_detector(inputs)[0]["instances"])


def test_without_supports_the_map_is_returned_as_it_is(keys):
    model = build_detector(keys)
    key, _ = encoded(model, SlidingWindow(0))
    stage = model.pixel_aggregator.stage
    assert model.pixel_aggregator(key, TemporalContext()).value[stage].equal(key.features[stage])


def test_supports_make_a_difference(keys, schedule):
    """Otherwise the contracts on streams would hold for an aggregator that does nothing."""
    model, video = build_detector(keys), make_video(7)
    with_supports = model([window_clip(video, 4, schedule)])[0]["instances"]  # no keyframe, which would be alone
    alone = model([{"image": video[4]}])[0]["instances"]
    different_count = len(with_supports) != len(alone)
    assert different_count or not torch.allclose(with_supports.scores, alone.scores, atol=1e-3)


# 2


def test_a_stream_detects_what_clips_with_the_whole_window_detect(case, keys):
    if case.recurrent:
        pytest.skip("a clip does not hold what the aggregator carries")
    model = build_detector(keys, dtype=torch.float64)
    for schedule in case.schedules.values():
        check_stream_equals_clips(model, schedule, tolerance(1e-10, 1e-7))


def test_a_memory_that_is_started_again_gives_the_same_stream(keys, schedule):
    model, video, memory = build_detector(keys), make_video(4), FrameMemory(schedule)
    runs = []
    for _ in range(2):
        memory.start("video", len(video))
        runs.append([model.step(step_clip(video, t, memory), memory)["instances"] for t in range(len(video))])
    for first, second in zip(*runs, strict=True):
        assert_same_detections(second, first)


# 3


def test_two_interleaved_videos_do_not_touch_each_other(keys, schedule):
    check_interleaved_videos(build_detector(keys), schedule)


# 4


def test_the_order_of_supports_is_irrelevant(case, keys, schedule):
    if case.order_matters:
        pytest.skip("the aggregator declares that order matters")
    model = build_detector(keys, dtype=torch.float64)
    key, context = encoded(model, schedule)
    stage, count = model.pixel_aggregator.stage, len(context)
    expected = model.pixel_aggregator(key, context).value[stage]
    for order in (range(count)[::-1], np.random.default_rng(0).permutation(count)):
        actual = model.pixel_aggregator(key, reordered(context, order)).value[stage]
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


# 5


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_supports_works_forward_and_backward(keys, schedule, count):
    model = build_detector(keys, dtype=torch.float64)
    key, context = encoded(model, schedule, requires_grad=True)
    aggregator, stage = model.pixel_aggregator, model.pixel_aggregator.stage
    context = TemporalContext(context.frames[:count], context.roles[:count])
    value = aggregator(key, context).value[stage]
    assert value.shape == key.features[stage].shape and value.isfinite().all()
    value.square().sum().backward()
    assert key.features[stage].grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in aggregator.parameters())


def test_a_clip_without_supports_trains(keys):
    model = build_detector(keys).train()
    losses = losses_of_step(model, [{"image": make_video(1)[0], "instances": make_targets()}])
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_clips_of_different_sizes_train_together(case, keys):
    """They are padded to a common size."""
    model, clip = build_detector(keys).train(), training_clip(case)
    small = {"image": make_video(1, size=(48, 64))[0], "instances": make_targets([[4.0, 4.0, 30.0, 34.0]], [1])}
    losses = losses_of_step(model, [clip | {"instances": make_targets()}, small])
    assert all(value.isfinite() for value in losses.values())


# 6


def test_key_and_context_are_left_as_they_were(keys, schedule):
    model = build_detector(keys)
    key, context = encoded(model, schedule)
    untouched = Untouched(tensors_of(key, context))
    value = model.pixel_aggregator(key, context).value[model.pixel_aggregator.stage]
    value.add_(1)  # nor does the result share memory with them
    untouched.check()


def test_memory_is_left_as_it_was(keys, schedule):
    check_memory_is_left_as_it_was(build_detector(keys), schedule)


# 7


def test_the_gradient_reaches_every_parameter_in_one_training_step(case, keys):
    check_gradients(build_detector(keys, dtype=torch.float64), training_clip(case), case.no_gradient)


# 8


@pytest.mark.parametrize("dtype", autocast_dtypes())
def test_half_precision_autocast_stays_near_float32(keys, schedule, dtype):
    model = build_detector(keys)
    aggregator, stage = model.pixel_aggregator, model.pixel_aggregator.stage
    key, context = encoded(model, schedule)
    with torch.no_grad():
        full = aggregator(key, context).value[stage]
        with autocast(dtype):
            half = aggregator(key, context).value[stage]
    error = (half.float() - full).norm() / full.norm()
    assert error < 0.03, f"relative error {error:.4f}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_whole_detector_runs_under_autocast(keys, schedule, dtype):
    check_autocast(build_detector(keys), schedule, dtype)


# 9


def test_without_context_every_frame_is_a_video_of_its_own(keys, schedule):
    check_context_none(build_detector(keys), schedule)


def test_in_a_foreign_context_no_other_frame_of_its_own_video_counts(keys, schedule):
    check_context_foreign(build_detector(keys), schedule)
