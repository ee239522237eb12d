"""The nine contracts of every registered proposal aggregator, and of several one after the other.

1. Without supports it is the image detector.        5. Zero proposals and zero supports work.
2. Streaming equals clip.                            6. Neither context nor memory is changed.
3. Interleaved videos equal each alone.              7. The gradient reaches every parameter.
4. The order of supports is irrelevant.              8. Half precision stays near float32.
9. TEST.CONTEXT "none" and "foreign" are what they say.

A new aggregator is added to CASES, nothing else.
"""

import importlib.util
import re
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
    check_stream_equals_clips_until_a_frame_leaves,
    losses_of_step,
    reordered,
    tensors_of,
)
from helpers.device import autocast, autocast_dtypes, batches_round_alike, device, tolerance
from helpers.models import (
    DIM,
    PYRAMID_KEYS,
    assert_same_detections,
    build_detector,
    build_image_detector,
    make_targets,
    make_video,
    tiny_cfg,
)
from helpers.proposals import random_context, random_proposals
from helpers.streams import window_clip
from helpers.timm_models import DETECTORS
from vod2.d2 import GeneralizedRCNN
from vod2.engine.random_weights import draw_weights
from vod2.modeling import PROPOSAL_AGGREGATOR_REGISTRY, ProposalAggregator, VideoRCNN
from vod2.modeling.roi_heads import build_proposal_aggregator
from vod2.temporal import GlobalSample, LocalMemoryGlobal, RandomVideo, SlidingWindow, TrainingSchedule

PREFIX = "roi_heads.aggregator."
# Backbones of timm, where it is installed
HAS_TIMM = importlib.util.find_spec("timm") is not None
CONVNEXT = {"ConvNeXt of timm": DETECTORS["ConvNeXt"]} if HAS_TIMM else {}
VIT = {"ViT of timm": DETECTORS["ViT"]} if HAS_TIMM else {}


def rdn_without_supports(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict]:
    """Relations without keys are 0: what is left are the fc of the box head, then those of h() of equation 4."""
    kept = {name: value for name, value in state.items() if not name.startswith(PREFIX)}
    pattern = rf"{re.escape(PREFIX)}(?:parts\.(\d+)\.)?transform\.(\d+)\.weight"
    matches = [match for name in state if (match := re.fullmatch(pattern, name))]
    transforms = sorted(matches, key=lambda match: (int(match[1] or 0), int(match[2])))
    for k, match in enumerate(transforms):
        for part in ("weight", "bias"):
            kept[f"roi_heads.box_head.fc{k + 2}.{part}"] = state[f"{match[0].removesuffix('weight')}{part}"]
    return kept, {"MODEL.ROI_BOX_HEAD.NUM_FC": 1 + len(transforms)}


def temporal_without_supports(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict]:
    """Without supports nothing of the temporal attention is used; then as RDN."""
    return rdn_without_supports(
        {name: value for name, value in state.items() if not name.startswith("roi_heads.temporal.")}
    )


@dataclass(frozen=True)
class Case:
    """What the contracts need to know of an aggregator.

    Args:
        image_detector: the parameters of the VideoRCNN -> those of the image detector that it is without supports, and
            the configuration keys of that detector.
        variants: configurations {dotted key: value} to test, each under a name.
        order_matters: whether contract 4 is waived, for an aggregator whose documentation says so.
        no_gradient: ends of the names of parameters whose gradient is 0 by construction.
        own_losses: names of the losses that the image detector does not have.
        other_clips: further clips of the training batch of contract 7, each of another video: the classes of the two
            objects of each.
        training: draws the supports of the first clip of that batch.
        recurrent: the variants that carry something of the frames that have left the window: contract 2 holds until
            one has; from then on a stream is compared with a reference in the project's own tests.
    """

    image_detector: Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], dict]]
    variants: dict[str, dict] = field(default_factory=lambda: {"default": {}})
    order_matters: bool = False
    no_gradient: tuple[str, ...] = ()
    own_losses: tuple[str, ...] = ()
    other_clips: tuple[tuple[int, int], ...] = ()
    training: TrainingSchedule = field(default_factory=lambda: RandomVideo(count=2, include_key=False))
    recurrent: tuple[str, ...] = ()


CASES = {
    "RDNAggregator": Case(
        image_detector=rdn_without_supports,
        variants={
            "full": {"MODEL.RDN.ADVANCED_RATIO": 0.5},
            "public": {"MODEL.RDN.ADVANCED_RATIO": 0.5, "MODEL.RDN.ADVANCED_FC": True},
            "basic": {"MODEL.RDN.ADVANCED": False},
            "three": {"MODEL.RDN.NUM_BASIC": 3},
            "none": {"MODEL.RDN.NUM_BASIC": 0},
            "relations": {"MODEL.VIDEO.KEEP_RELATIONS": True},
            "pyramid": PYRAMID_KEYS,
        }
        | CONVNEXT,
        no_gradient=("key.bias",),  # adds the same to all logits of a query: the softmax does not see it
    ),
    "SELSAAggregator": Case(
        image_detector=rdn_without_supports,  # the activation is the aggregator's, the layers have the same names
        variants={
            name: {"MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"} | keys
            for name, keys in {
                "single head": {},
                "16 heads": {"MODEL.SELSA.NUM_HEADS": 16, "MODEL.SELSA.OUTPUT_PROJECTION": True},
                "updated": {"MODEL.SELSA.UPDATE_SUPPORTS": True},
                "one": {"MODEL.SELSA.NUM_LAYERS": 1},
                "three": {"MODEL.SELSA.NUM_LAYERS": 3},
                "relations": {"MODEL.VIDEO.KEEP_RELATIONS": True},
                "pyramid": PYRAMID_KEYS,
                **VIT,
            }.items()
        },
        no_gradient=("key.bias",),
    ),
    "SPFAAggregator": Case(
        image_detector=rdn_without_supports,  # likewise
        variants={
            name: {"MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"} | keys
            for name, keys in {
                "9 patches": {"MODEL.VIDEO.KEEP_RELATIONS": True},
                "4 patches": {"MODEL.CSMN.SPFA.PATCHES": 4, "MODEL.CSMN.SPFA.TEMPERATURE": 1.0},
                "1 patch": {"MODEL.CSMN.SPFA.PATCHES": 1, "MODEL.VIDEO.KEEP_RELATIONS": True},
                "fixed": {"MODEL.CSMN.SPFA.PATCHES": 4, "MODEL.CSMN.SPFA.IMPORTANCE": "fixed"},
            }.items()
        },
        no_gradient=("key.bias",),  # of the relations of a single patch
    ),
    "MSTAggregator": Case(
        image_detector=rdn_without_supports,
        variants={
            "full": {"MODEL.MST.TOPK": 5, "MODEL.MST.RATIO": 0.5},
            "proposal level": {"MODEL.MST.INSTANCE": False},
            "instance level": {"MODEL.MST.NUM_PROPOSAL": 0},
            "three": {"MODEL.MST.NUM_PROPOSAL": 3},
        },
        no_gradient=("key.bias",),
    ),
    "MEGAAggregator": Case(
        image_detector=rdn_without_supports,
        variants={
            "full": {"MODEL.MEGA.ADVANCED_RATIO": 0.5, "MODEL.MEGA.MEMORY": 2},
            "without memory": {"MODEL.MEGA.MEMORY": 0},
            "local": {"MODEL.MEGA.NUM_GLOBAL": 0, "MODEL.MEGA.MEMORY": 0},
            "local and memory": {"MODEL.MEGA.NUM_GLOBAL": 0},
            "one stage": {"MODEL.MEGA.NUM_STAGES": 1},
            "pyramid": PYRAMID_KEYS | {"MODEL.MEGA.NUM_STAGES": 2, "MODEL.MEGA.MEMORY": 0},
        },
        no_gradient=("key.bias",),
        training=LocalMemoryGlobal(radius=1, include_key=False),
        recurrent=("full", "local and memory", "one stage"),
    ),
    "MEGAAggregator+MSTAggregator": Case(
        image_detector=rdn_without_supports,
        variants={
            name: {"MODEL.MST.TOPK": 5, "MODEL.MST.RATIO": 0.5} | keys
            for name, keys in {
                "instance level": {"MODEL.MST.NUM_PROPOSAL": 0, "MODEL.MEGA.MEMORY": 2},
                "both of MST's levels": {"MODEL.MEGA.MEMORY": 0},
            }.items()
        },
        no_gradient=("key.bias",),
        training=LocalMemoryGlobal(radius=1, include_key=False),
        recurrent=("instance level",),
    ),
    "RDNAggregator+MSTAggregator": Case(
        image_detector=rdn_without_supports,
        variants={"relations": {"MODEL.VIDEO.KEEP_RELATIONS": True, "MODEL.MST.NUM_PROPOSAL": 0}},
        no_gradient=("key.bias",),
    ),
    "MAMBAAggregator": Case(
        image_detector=rdn_without_supports,  # the activation is the aggregator's, the layers have the same names
        variants={
            name: {"MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead", "MODEL.MAMBA.NUM_HEADS": 4} | keys
            for name, keys in {
                "full": {"MODEL.MAMBA.MEMORY": 40, "MODEL.MAMBA.KEYS": 10},
                "three": {"MODEL.MAMBA.NUM_LAYERS": 3, "MODEL.MAMBA.SAMPLING": "frequency"},
                "without bank": {"MODEL.MAMBA.MEMORY": 0, "MODEL.VIDEO.KEEP_RELATIONS": True},
            }.items()
        },
        no_gradient=("key.bias",),
        recurrent=("full", "three"),
    ),
    # Heads, not an aggregator: each variant names the one that they host.
    "TemporalROIHeads": Case(
        image_detector=temporal_without_supports,
        variants={
            name: {"MODEL.ROI_HEADS.NAME": "TemporalROIHeads", "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"} | keys
            for name, keys in {
                "SELSA": {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SELSAAggregator"},
                "mean": {
                    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SELSAAggregator",
                    "MODEL.TROIALIGN.NUM_HEADS": 0,
                    "MODEL.VIDEO.KEEP_RELATIONS": True,
                },
            }.items()
        },
        no_gradient=("key.bias",),
    ),
    "YOLOVAggregator": Case(
        image_detector=rdn_without_supports,  # likewise
        variants={
            "four heads": {"MODEL.YOLOV.SIMILARITY": 0.3},
            "one head": {"MODEL.YOLOV.NUM_HEADS": 1},
        },
    ),
    "HVRAggregator": Case(
        image_detector=rdn_without_supports,  # likewise
        variants={
            name: {"MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"} | keys
            for name, keys in {
                "full": {},
                "intra only": {"MODEL.HVRNET.NUM_INTER": 0},
                "two intra": {"MODEL.HVRNET.NUM_INTRA": 2, "MODEL.HVRNET.AUXILIARY_WEIGHT": 0.0},
                # Five relations one after the other, of drawn weights, magnify rounding: in float32, weights that were
                # rounded to bfloat16 once change the result by up to 3%. The project's tests hold them to a reference.
                "two inter": {"MODEL.HVRNET.NUM_INTER": 2, "MODEL.HVRNET.TEST_INTER": "none"},
                "public": {
                    "MODEL.HVRNET.VIDEO_SIMILARITY": "max",
                    "MODEL.HVRNET.PROPOSALS": "all",
                    "MODEL.HVRNET.SKIP": "initial",
                    "MODEL.HVRNET.MINING": "kernel",
                },
                "without the relation between videos": {"MODEL.HVRNET.TEST_INTER": "none"},
            }.items()
        },
        no_gradient=("key.bias",),
        own_losses=("loss_cls_intra", "loss_relation"),
        other_clips=((1, 1), (0, 0)),  # V+ and V- of a video with the classes 1 and 3
    ),
}
REGISTERED = sorted(name for name, _ in PROPOSAL_AGGREGATOR_REGISTRY)


def each_case() -> Iterator:
    for name in sorted({*REGISTERED, *CASES}):
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
    return CASES[name], {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": name} | CASES[name].variants[variant]


@pytest.fixture
def check_stream(request) -> Callable[..., None]:
    """What contract 2 asks of the chosen variant."""
    name, variant = request.node.callspec.params["chosen"]
    recurrent = variant in CASES[name].recurrent
    return check_stream_equals_clips_until_a_frame_leaves if recurrent else check_stream_equals_clips


@pytest.fixture
def aggregator(keys) -> ProposalAggregator:
    return make_aggregator(keys, torch.float64)


def make_aggregator(keys: dict, dtype: torch.dtype) -> ProposalAggregator:
    model = build_proposal_aggregator(tiny_cfg(keys), DIM)
    draw_weights(model, seed=1)
    return model.to(device(), dtype)


def image_detector_of(case: Case, model: VideoRCNN, keys: dict) -> GeneralizedRCNN:
    """The detector, on the same backbone, that the model is without supports."""
    state, image_keys = case.image_detector(model.state_dict())
    of_backbone = {key: keys[key] for key in keys if key in PYRAMID_KEYS or key.startswith("MODEL.TIMM.")}
    return build_image_detector(state, image_keys | of_backbone)


# 1


def test_without_supports_it_equals_the_image_detector_exactly(case, keys):
    model = build_detector(keys)
    image_detector = image_detector_of(case, model, keys)
    for image in make_video(3):
        inputs = [{"image": image, "height": 128, "width": 192}]
        assert_same_detections(model(inputs)[0]["instances"], image_detector(inputs)[0]["instances"])


def test_without_supports_it_has_the_losses_of_the_image_detector(case, keys):
    model = build_detector(keys).train()
    image_detector = image_detector_of(case, model, keys).train()
    inputs = [{"image": image, "instances": make_targets()} for image in make_video(2)]
    losses, expected = (losses_of_step(detector, inputs) for detector in (model, image_detector))
    shared = {name: loss for name, loss in losses.items() if name not in case.own_losses}
    # The image detector's layers see the proposals of both images at once, those of an aggregator one image.
    rounding = tolerance(0, 1e-5)
    torch.testing.assert_close(shared, expected, rtol=rounding, atol=rounding)


def test_supports_make_a_difference(keys):
    """Otherwise the contracts on streams would hold for an aggregator that does nothing."""
    model, video = build_detector(keys), make_video(3)
    with_supports = model([window_clip(video, 1, SlidingWindow(1))])[0]["instances"]
    alone = model([{"image": video[1]}])[0]["instances"]
    different_count = len(with_supports) != len(alone)
    assert different_count or not torch.allclose(with_supports.scores, alone.scores, atol=1e-3)


# 2


SCHEDULES = pytest.mark.parametrize(
    "schedule",
    [SlidingWindow(2), SlidingWindow(1, lookahead=0), SlidingWindow(2, edge="repeat"), GlobalSample(3)],
    ids=["sliding", "causal", "repeat", "global"],
)


@SCHEDULES
def test_a_stream_detects_what_clips_with_the_whole_window_detect(keys, schedule, check_stream):
    check_stream(build_detector(keys, dtype=torch.float64), schedule, tolerance(1e-10, 1e-7))


@SCHEDULES
def test_a_stream_detects_what_clips_detect_in_float32(keys, schedule, check_stream):
    """A stream encodes frames one by one, a clip encodes them together: rounding must not come from that here.

    Libraries of convolutions round by the size of the batch, and the geometry embedding multiplies coordinates by up to
    scale / (1e-3 * width): without both precautions 1e-6 in a feature map becomes 1e-2 pixels in a detection.
    """
    model = build_detector(keys | {"MODEL.VIDEO.RELATION.GEOMETRY_SCALE": 1.0})
    with batches_round_alike():
        check_stream(model, schedule, tolerance(1e-5, 1e-3))


# 3


def test_two_interleaved_videos_do_not_touch_each_other(keys):
    check_interleaved_videos(build_detector(keys), SlidingWindow(2))


# 4


def test_the_order_of_supports_is_irrelevant(case, aggregator):
    if case.order_matters:
        pytest.skip("the aggregator declares that order matters")
    rng = torch.Generator().manual_seed(0)
    query, context = random_proposals(4, DIM, rng), random_context([6, 2, 0, 8], DIM, rng)
    expected = aggregator(query, context).value
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        actual = aggregator(query, reordered(context, order)).value
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


# 5


@pytest.mark.parametrize(
    "count, supports", [(0, []), (3, []), (0, [4, 2]), (3, [0]), (3, [0, 0]), (0, [0]), (3, [0, 4])]
)
def test_no_proposals_and_no_supports_work_forward_and_backward(aggregator, count, supports):
    rng = torch.Generator().manual_seed(0)
    query = random_proposals(count, DIM, rng, requires_grad=True)
    context = random_context(supports, DIM, rng, requires_grad=True)
    value = aggregator(query, context).value
    assert value.shape == (count, DIM) and value.isfinite().all()
    value.square().sum().backward()
    assert query.features.grad is not None and query.features.grad.isfinite().all()
    for parameter in aggregator.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_a_frame_without_any_proposal_is_a_frame_without_detections(keys):
    model, video = build_detector(keys), make_video(2)
    model.proposal_generator.min_box_size = 1e6
    for clip in ({"image": video[0]}, window_clip(video, 0, SlidingWindow(1))):
        instances = model([clip])[0]["instances"]
        assert len(instances) == 0 and instances.pred_boxes.tensor.shape == (0, 4)


def test_a_clip_without_any_proposal_trains(keys):
    model, video = build_detector(keys).train(), make_video(2)
    model.proposal_generator.min_box_size = 1e6
    clip = window_clip(video, 0, SlidingWindow(1)) | {"instances": make_targets([])}
    losses = losses_of_step(model, [clip])
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# 6


def test_query_and_context_are_left_as_they_were(aggregator):
    rng = torch.Generator().manual_seed(0)
    query, context = random_proposals(4, DIM, rng), random_context([6, 2], DIM, rng)
    untouched = Untouched(tensors_of(query, context))
    value = aggregator(query, context).value
    value.add_(1)  # nor does the result share memory with them
    untouched.check()


def test_memory_is_left_as_it_was(keys):
    check_memory_is_left_as_it_was(build_detector(keys), SlidingWindow(3))


# 7


def test_the_gradient_reaches_every_parameter_in_one_training_step(case, keys):
    clip = training_clip(case)
    others = [clip_of_classes(classes, seed) for seed, classes in enumerate(case.other_clips, start=1)]
    check_gradients(build_detector(keys, dtype=torch.float64), clip, case.no_gradient, others)


def training_clip(case: Case) -> dict:
    """The middle one of three frames with the supports that the case draws for it."""
    video = make_video(3)
    support = [
        {"image": video[index], "frame_index": index, "role": role}
        for index, role in case.training.sample(1, 3, np.random.default_rng(1))
    ]
    return {"image": video[1], "video_id": "video", "frame_index": 1, "video_length": 3, "support": support}


def clip_of_classes(classes: tuple[int, int], seed: int) -> dict:
    """A training clip of a video of its own."""
    targets = make_targets()
    targets.gt_classes = torch.tensor(classes)
    return window_clip(make_video(3, seed), 1, SlidingWindow(1), f"video {seed}") | {"instances": targets}


# 8


@pytest.mark.parametrize("dtype", autocast_dtypes())
def test_half_precision_autocast_stays_near_float32(keys, dtype):
    aggregator, rng = make_aggregator(keys, torch.float32), torch.Generator().manual_seed(0)
    query = random_proposals(6, DIM, rng, dtype=torch.float32)
    context = random_context([6, 6], DIM, rng, dtype=torch.float32)
    with torch.no_grad():
        full = aggregator(query, context).value
        with autocast(dtype):
            half = aggregator(query, context).value
    error = (half.float() - full).norm() / full.norm()
    assert error < 0.03, f"relative error {error:.4f}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_whole_detector_runs_under_autocast(keys, dtype):
    check_autocast(build_detector(keys), SlidingWindow(1), dtype)


# 9


def test_without_context_every_frame_is_a_video_of_its_own(keys):
    check_context_none(build_detector(keys), SlidingWindow(2))


def test_in_a_foreign_context_no_other_frame_of_its_own_video_counts(keys):
    check_context_foreign(build_detector(keys), SlidingWindow(2))
