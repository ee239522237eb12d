"""The contracts of detectors of clips, for `VideoOneStage` with each kind of level 1 and level 2.

That an aggregator keeps its own contracts is shown on the two-stage detector; here is what depends on the detector.
"""

import pytest
import torch

from helpers.contracts import (
    check_autocast,
    check_context_foreign,
    check_context_none,
    check_gradients,
    check_interleaved_videos,
    check_memory_is_left_as_it_was,
    check_stream_equals_clips,
    losses_of_step,
)
from helpers.device import autocast, batches_round_alike, tolerance
from helpers.models import FCOS_KEYS, assert_same_detections, build_detector, make_targets, make_video
from helpers.streams import window_clip
from vod2.d2 import build_model
from vod2.engine import load_config
from vod2.package_files import CONFIGS
from vod2.temporal import GlobalSample, SlidingWindow

LEVEL_2 = {
    "YOLOV": {
        "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "YOLOVAggregator",
        "MODEL.ROI_BOX_HEAD.NAME": "TwoTowerBoxHead",
        "MODEL.YOLOV.SIMILARITY": 0.3,
    },
    "RDN": {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator", "MODEL.RDN.ADVANCED_RATIO": 0.5},
    "SELSA": {
        "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SELSAAggregator",
        "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
    },
}
ONE_MAP = {
    "MODEL.BACKBONE.NAME": "build_narrow_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.FCOS.IN_FEATURES": ["res4"],
    "MODEL.FCOS.SIZES": [],
}
"""Level 1 aggregates one map of a ResNet, not a pyramid."""
FGFA = ONE_MAP | {
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "FGFAAggregator",
    "MODEL.FGFA.STAGE": "res4",
    "MODEL.FGFA.EMBEDDING_DIMS": (8, 8, 16),
    "MODEL.FLOWNET.WIDTH": 0.0625,
}
CASES = {
    "FCOS": {},
    **LEVEL_2,
    "shipped head": {"MODEL.FCOS.NORM": "GN", "MODEL.FPN.OUT_CHANNELS": 32} | LEVEL_2["YOLOV"],
    "pixels": FGFA,
    "pixels and proposals": FGFA | LEVEL_2["RDN"],
}
EACH = pytest.mark.parametrize("keys", [pytest.param(FCOS_KEYS | keys, id=name) for name, keys in CASES.items()])
EACH_LEVEL_2 = pytest.mark.parametrize(
    "keys", [pytest.param(FCOS_KEYS | keys, id=name) for name, keys in LEVEL_2.items()]
)


@EACH
@pytest.mark.parametrize("schedule", [SlidingWindow(2), GlobalSample(3)], ids=["sliding", "global"])
def test_a_stream_detects_what_clips_with_the_whole_window_detect(keys, schedule):
    check_stream_equals_clips(build_detector(keys, dtype=torch.float64), schedule, tolerance(1e-10, 1e-7))


@EACH_LEVEL_2
def test_a_stream_detects_what_clips_detect_in_float32(keys):
    model = build_detector(keys | {"MODEL.VIDEO.RELATION.GEOMETRY_SCALE": 1.0})
    with batches_round_alike():
        check_stream_equals_clips(model, SlidingWindow(2), tolerance(1e-5, 1e-3))


@EACH_LEVEL_2
def test_supports_change_scores_and_no_box(keys):
    everything = {
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": 1.0,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "TEST.DETECTIONS_PER_IMAGE": -1,
    }
    model, video = build_detector(keys | everything, dtype=torch.float64), make_video(3)
    found = []
    for clip in ({"image": video[1]}, window_clip(video, 1, SlidingWindow(1))):
        instances = model([clip])[0]["instances"]
        rows = (instances.proposal_index * 100 + instances.pred_classes).argsort()
        found.append((instances.pred_boxes.tensor[rows], instances.scores[rows]))
    (boxes, scores), (boxes_together, scores_together) = found
    assert len(boxes) > 10
    torch.testing.assert_close(boxes_together, boxes, rtol=1e-9, atol=1e-9)
    assert (scores - scores_together).abs().max() > 1e-3


def test_without_aggregators_supports_do_not_matter():
    model, video = build_detector(FCOS_KEYS, dtype=torch.float64), make_video(3)
    alone = model([{"image": video[1]}])[0]["instances"]
    together = model([window_clip(video, 1, SlidingWindow(1))])[0]["instances"]
    assert_same_detections(together, alone, 1e-10)


@EACH
def test_two_interleaved_videos_do_not_touch_each_other(keys):
    check_interleaved_videos(build_detector(keys), SlidingWindow(2))


@EACH_LEVEL_2
def test_memory_is_left_as_it_was(keys):
    check_memory_is_left_as_it_was(build_detector(keys), SlidingWindow(3))


@EACH
def test_a_frame_without_any_box_is_a_frame_without_detections(keys):
    model, video = build_detector(keys), make_video(2)
    model.proposal_generator.min_box_size = 1e6
    for clip in ({"image": video[0]}, window_clip(video, 0, SlidingWindow(1))):
        instances = model([clip])[0]["instances"]
        assert len(instances) == 0 and instances.pred_boxes.tensor.shape == (0, 4)


@EACH
@pytest.mark.parametrize("boxes", [None, []], ids=["objects", "no objects"])
def test_a_clip_without_any_box_trains(keys, boxes):
    model, video = build_detector(keys).train(), make_video(2)
    model.proposal_generator.min_box_size = 1e6
    clip = window_clip(video, 0, SlidingWindow(1)) | {"instances": make_targets(boxes)}
    losses = losses_of_step(model, [clip])
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@EACH
def test_the_gradient_reaches_every_parameter_in_one_training_step(keys):
    model = build_detector(keys, dtype=torch.float64)
    # The last layer of the flow begins at 0, so that nothing before it has a gradient yet.
    check_gradients(model, window_clip(make_video(3), 1, SlidingWindow(1)), ("key.bias",))


@EACH
@pytest.mark.parametrize("support", [False, True], ids=["still image", "clip"])
def test_every_kind_of_clip_gives_every_parameter_a_gradient(keys, support):
    model, video = build_detector(keys).train(), make_video(2)
    clip = window_clip(video, 0, SlidingWindow(1)) if support else {"image": video[0]}
    sum(losses_of_step(model, [clip | {"instances": make_targets()}]).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_whole_detector_runs_under_autocast(keys, dtype):
    check_autocast(build_detector(keys), SlidingWindow(1), dtype)


@EACH_LEVEL_2
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_and_gradients_are_finite_under_autocast(keys, dtype):
    # Not compared with those in float32: the boxes that are taken may be others.
    model, video = build_detector(keys).train(), make_video(2)
    with autocast(dtype):
        losses = losses_of_step(model, [window_clip(video, 0, SlidingWindow(1)) | {"instances": make_targets()}])
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("topk", [3, 40], ids=["more boxes than columns", "more columns than boxes"])
def test_relations_to_the_next_frame_are_those_of_the_boxes_that_are_detected(topk):
    keys = FCOS_KEYS | LEVEL_2["RDN"] | {"MODEL.VIDEO.KEEP_RELATIONS": True, "MODEL.VIDEO.SUPPORT_TOPK": topk}
    model, video = build_detector(keys, dtype=torch.float64), make_video(3)
    clip = window_clip(video, 1, SlidingWindow(1))
    found = model([clip])[0]["instances"]
    assert len(found) > 0 and found.next_relation.shape == (len(found), topk)
    # Without the next frame nothing is left of them.
    clip["support"] = [support for support in clip["support"] if support["frame_index"] != 2]
    assert model([clip])[0]["instances"].next_relation.abs().max() == 0 < found.next_relation.sum(dim=1).min()


def test_a_few_updates_lower_the_losses():
    model, video = build_detector(FCOS_KEYS | LEVEL_2["YOLOV"]).train(), make_video(2)
    clip = window_clip(video, 0, SlidingWindow(1)) | {"instances": make_targets()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(12):
        losses = losses_of_step(model, [clip])
        totals.append({name: loss.item() for name, loss in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert sum(totals[-1].values()) < 0.7 * sum(totals[0].values())
    assert totals[-1]["loss_rescore_cls"] < totals[0]["loss_rescore_cls"]


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("one_stage/[!B]*.yaml")), ids=lambda file: file.stem)
def test_the_configurations_are_those_detectors(file):
    cfg = load_config(str(file), ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert cfg.MODEL.FCOS.NORM == "GN" and len(model.proposal_generator.head.strides) == 5
    assert all(name.startswith("roi_heads") for name in learning) == (cfg.MODEL.FREEZE == "detector")


@EACH_LEVEL_2
def test_without_context_every_frame_is_a_video_of_its_own(keys):
    check_context_none(build_detector(keys), SlidingWindow(2))


@EACH_LEVEL_2
def test_in_a_foreign_context_no_other_frame_of_its_own_video_counts(keys):
    check_context_foreign(build_detector(keys), SlidingWindow(2))
