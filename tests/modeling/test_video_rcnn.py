"""VideoRCNN: the image detector that it contains, clips, and level 1."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.models import (
    IMAGE_SIZE,
    assert_same_detections,
    build_detector,
    build_image_detector,
    freeze_statistics,
    make_targets,
    make_video,
)
from helpers.streams import detect_as_stream, window_clip
from vod2.d2 import EventStorage
from vod2.modeling import PIXEL_AGGREGATOR_REGISTRY, Aggregated, PixelAggregator, ProposalAggregator, ProposalNeeds
from vod2.modeling.roi_heads.base import needs_of
from vod2.structures import Role, TemporalContext
from vod2.temporal import FrameMemory, NoWindow, SlidingWindow

RDN = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"}


class FirstSupport(PixelAggregator):
    """Replaces the map of the key frame by that of its first support, so that one sees where it goes."""

    def __init__(self, cfg, shapes):
        super().__init__()

    def forward(self, key, context):
        value = context.frames[0].features[self.stage] if len(context) else key.features[self.stage]
        return Aggregated({self.stage: value}, losses={"loss_toy": value.mean()}, carry={})


@PIXEL_AGGREGATOR_REGISTRY.register()
class FirstSupportRes4(FirstSupport):
    stage = "res4"


@PIXEL_AGGREGATOR_REGISTRY.register()
class FirstSupportRes5(FirstSupport):
    stage = "res5"


@PIXEL_AGGREGATOR_REGISTRY.register()
class Counting(PixelAggregator):
    """Changes nothing and counts its calls in what it carries."""

    stage = "res4"

    def __init__(self, cfg, shapes):
        super().__init__()

    def forward(self, key, context):
        count = context.carry.get("count", torch.zeros(1))
        return Aggregated({"res4": key.features["res4"]}, carry={"count": count + 1})


def pixel_keys(stage: str) -> dict:
    return {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": f"FirstSupport{stage.capitalize()}"}


def losses_of(model, inputs, seed: int = 0) -> dict[str, torch.Tensor]:
    """One training step's losses; the seed decides which anchors and RoIs are sampled."""
    torch.manual_seed(seed)
    with EventStorage():
        return model(inputs)


def clip_of(images, targets=None) -> dict:
    """The first image as key frame, the others as supports."""
    support = [{"image": image, "frame_index": i, "role": Role.LOCAL} for i, image in enumerate(images[1:], start=1)]
    clip = {"image": images[0], "video_id": "video", "frame_index": 0, "video_length": 9, "support": support}
    return clip if targets is None else clip | {"instances": targets}


class TestWithoutAggregator:
    @pytest.mark.parametrize(
        "keys",
        [
            pytest.param({}, id="default"),
            pytest.param({"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True}, id="class-agnostic"),
            pytest.param({"TEST.DETECTIONS_PER_IMAGE": 3, "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.2}, id="few"),
        ],
    )
    def test_detections_are_those_of_the_generalized_rcnn(self, keys):
        model = build_detector(keys)
        door = build_image_detector(model.state_dict(), keys)
        inputs = [{"image": image, "height": 100, "width": 200} for image in make_video(3)]
        for found, wanted in zip(model(inputs), door(inputs), strict=True):
            assert_same_detections(found["instances"], wanted["instances"], 1e-6)

    def test_losses_and_gradients_are_those_of_the_generalized_rcnn(self):
        ours = build_detector().train()
        door = build_image_detector(ours.state_dict()).train()
        inputs = [{"image": image, "instances": make_targets()} for image in make_video(2)]
        losses = [losses_of(model, inputs) for model in (ours, door)]
        assert losses[0].keys() == losses[1].keys() == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
        for name, value in losses[0].items():
            torch.testing.assert_close(value, losses[1][name])
            assert value > 0
        for one in losses:
            sum(one.values()).backward()
        wanted = dict(door.named_parameters())
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(parameter.grad, wanted[name].grad)

    def test_parameters_have_the_names_of_the_generalized_rcnn(self):
        """So that checkpoints move between the two."""
        model = build_detector()
        assert set(build_image_detector(model.state_dict()).state_dict()) == set(model.state_dict())

    def test_supports_do_not_matter_in_inference(self):
        model, images = build_detector(dtype=torch.float64), make_video(3)
        (alone,), (clip,) = model([{"image": images[0]}]), model([clip_of(images)])
        assert_same_detections(clip["instances"], alone["instances"], 1e-10)

    def test_supports_give_no_loss(self):
        model, images = build_detector(dtype=torch.float64).train(), make_video(3)
        freeze_statistics(model)
        alone = losses_of(model, [{"image": images[0], "instances": make_targets()}])
        clip = losses_of(model, [clip_of(images, make_targets())])
        for name, value in alone.items():
            torch.testing.assert_close(clip[name], value, rtol=1e-10, atol=1e-10)

    def test_no_detection_above_the_threshold_is_an_empty_result(self):
        model = build_detector({"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 1.0})
        (found,) = model([{"image": make_video(1)[0], "height": 128, "width": 192}])
        instances = found["instances"]
        assert len(instances) == 0 and instances.pred_boxes.tensor.shape == (0, 4)
        assert instances.has("scores") and instances.has("pred_classes") and instances.image_size == (128, 192)


class TestClips:
    def test_a_plain_dict_without_any_video_key_is_detected_in_and_trained_on(self):
        model, image = build_detector(RDN), make_video(1)[0]
        assert model([{"image": image}])[0]["instances"].image_size == IMAGE_SIZE
        losses = losses_of(model.train(), [{"image": image, "instances": make_targets()}])
        assert all(value.isfinite() for value in losses.values())

    def test_detections_are_scaled_to_the_size_of_the_original(self):
        model, image = build_detector(), make_video(1)[0]
        small = model([{"image": image}])[0]["instances"]
        large = model([{"image": image, "height": 128, "width": 288}])[0]["instances"]
        assert large.image_size == (128, 288)
        factors = torch.tensor([3.0, 2.0, 3.0, 2.0])
        torch.testing.assert_close(large.pred_boxes.tensor, small.pred_boxes.tensor * factors)

    def test_clips_with_different_numbers_of_supports_do_not_touch_each_other(self):
        model, images = build_detector(RDN, dtype=torch.float64), make_video(8)
        clips = [clip_of(images[:2]), clip_of(images[2:6]), clip_of(images[6:7])]
        for clip, found in zip(clips, model(clips), strict=True):
            assert_same_detections(found["instances"], model([clip])[0]["instances"], 1e-10)

    def test_losses_of_two_clips_are_finite_and_reach_the_aggregator(self):
        model, images = build_detector(RDN).train(), make_video(5)
        clips = [clip_of(images[:2], make_targets()), clip_of(images[2:5], make_targets())]
        losses = losses_of(model, clips)
        sum(losses.values()).backward()
        assert model.roi_heads.aggregator.refine.value.weight.grad.ne(0).any()

    def test_supports_of_another_size_are_padded(self):
        model, images = build_detector(RDN), [make_video(1)[0], make_video(1, size=(48, 64))[0]]
        assert len(model([clip_of(images)])[0]["instances"]) > 0

    def test_roles_may_be_left_out(self):
        model, images = build_detector(RDN), make_video(2)
        clip = clip_of(images)
        expected = model([clip])[0]["instances"]
        del clip["support"][0]["role"]
        assert_same_detections(model([clip])[0]["instances"], expected)

    def test_boxes_before_postprocessing_are_those_of_the_resized_image(self):
        model, image = build_detector(), make_video(1)[0]
        (raw,) = model.inference([{"image": image, "height": 128, "width": 192}], do_postprocess=False)
        assert raw.image_size == IMAGE_SIZE

    def test_given_boxes_are_refused(self):
        with pytest.raises(ValueError, match="detected_instances is not supported"):
            build_detector().inference([{"image": make_video(1)[0]}], detected_instances=[])

    def test_the_proposal_of_each_detection_is_told(self):
        """Box linking needs it: the index is a row of the frame's proposals, each at most once per class."""
        found = build_detector()([{"image": make_video(1)[0]}])[0]["instances"]
        pairs = list(zip(found.proposal_index.tolist(), found.pred_classes.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs) and all(0 <= row < 16 for row, _ in pairs)


class TestGroundTruth:
    @pytest.mark.parametrize("keys", [{}, RDN], ids=["single", "rdn"])
    def test_an_image_without_objects_trains(self, keys):
        model, images = build_detector(keys).train(), make_video(2)
        losses = losses_of(model, [clip_of(images, make_targets([]))])
        assert losses["loss_box_reg"] == 0 and losses["loss_rpn_loc"] == 0
        sum(losses.values()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    def test_an_image_with_and_one_without_objects_train_together(self):
        model, images = build_detector(RDN).train(), make_video(3)
        losses = losses_of(model, [clip_of(images[:2], make_targets()), clip_of(images[2:], make_targets([]))])
        assert all(value.isfinite() for value in losses.values()) and losses["loss_box_reg"] > 0


class TestPrecision:
    def test_float64_is_kept_from_the_image_to_the_detections(self):
        model, images = build_detector(RDN, dtype=torch.float64), make_video(2)
        clip = clip_of(images) | {"height": 100, "width": 150}
        found = model([clip])[0]["instances"]
        assert found.pred_boxes.tensor.dtype == found.scores.dtype == torch.float64
        rounded = found.pred_boxes.tensor.float().double()
        assert (rounded != found.pred_boxes.tensor).any(), "the boxes have been through float32"

    def test_float64_trains(self):
        model, images = build_detector(RDN, dtype=torch.float64).train(), make_video(2)
        losses = losses_of(model, [clip_of(images, make_targets())])
        del losses["loss_rpn_cls"]  # the RPN of the door has float32 labels there
        assert all(value.dtype == torch.float64 for value in losses.values())
        sum(losses.values()).backward()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_training_runs_under_autocast(self, dtype):
        model, images = build_detector(RDN).train(), make_video(2)
        with torch.autocast("cpu", dtype=dtype):
            losses = losses_of(model, [clip_of(images, make_targets())])
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values()).backward()

    def test_bfloat16_losses_are_near_those_of_float32(self):
        model, images = build_detector().train(), make_video(1)
        clips = [clip_of(images, make_targets())]
        full = losses_of(model, clips)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = losses_of(model, clips)
        for name in ("loss_rpn_cls", "loss_rpn_loc"):
            torch.testing.assert_close(half[name].float(), full[name], rtol=0.1, atol=0.02)


class TestPixelAggregators:
    @pytest.mark.parametrize("stage", ["res4", "res5"])
    def test_without_supports_it_is_the_image_detector(self, stage):
        model, image = build_detector(pixel_keys(stage)), make_video(1)[0]
        plain = build_detector()
        assert_same_detections(model([{"image": image}])[0]["instances"], plain([{"image": image}])[0]["instances"])

    def test_a_new_res4_goes_to_the_rpn_and_through_res5(self):
        """With the support's res4 in its place, the key frame's detections are those of the support."""
        model, images = build_detector(pixel_keys("res4"), dtype=torch.float64), make_video(2)
        expected = model([{"image": images[1]}])[0]["instances"]
        assert_same_detections(model([clip_of(images)])[0]["instances"], expected, 1e-10)

    def test_a_new_res5_goes_to_the_rois_but_not_to_the_rpn(self):
        model, images = build_detector(pixel_keys("res5"), dtype=torch.float64), make_video(2)
        with torch.no_grad():
            key, support = model.encode([{"image": image} for image in images])
            proposals, _ = model.proposal_generator.propose([IMAGE_SIZE], key.features)
            (expected,), _ = model.roi_heads(None, support.features, proposals)
        assert_same_detections(model([clip_of(images)])[0]["instances"], expected, 1e-10)

    @pytest.mark.parametrize("stage", ["res4", "res5"])
    def test_a_stream_detects_what_clips_detect(self, stage):
        model = build_detector(pixel_keys(stage) | RDN, dtype=torch.float64)
        video, schedule = make_video(4), SlidingWindow(1)
        for t, streamed in enumerate(detect_as_stream(model, video, schedule)):
            clip = model([window_clip(video, t, schedule)])[0]["instances"]
            assert_same_detections(streamed, clip, 1e-10)

    @pytest.mark.parametrize("stage", ["res4", "res5"])
    def test_its_loss_is_averaged_over_the_clips(self, stage):
        model, images = build_detector(pixel_keys(stage)).train(), make_video(4)
        freeze_statistics(model)
        clips = [clip_of(images[:2], make_targets()), clip_of(images[2:], make_targets())]
        both, *each = (losses_of(model, group)["loss_toy"] for group in (clips, clips[:1], clips[1:]))
        torch.testing.assert_close(both, (each[0] + each[1]) / 2)

    def test_feature_maps_are_kept_only_where_level_one_looks_at_them_again(self):
        for keys, kept in (({}, set()), (pixel_keys("res4"), {"res4", "res5"})):
            memory = FrameMemory(NoWindow())
            memory.start("video", 1)
            build_detector(keys).step({"image": make_video(1)[0], "frame_index": 0}, memory)
            assert memory.frame(0).features.keys() == kept

    def test_what_it_carries_is_found_in_the_next_frame_of_the_stream(self):
        """Also where there is a proposal aggregator that carries nothing."""
        for keys in ({}, RDN):
            model = build_detector(keys | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "Counting"})
            memory = FrameMemory(NoWindow())
            memory.start("video", 3)
            for t, image in enumerate(make_video(3)):
                model.step({"image": image, "frame_index": t}, memory)
            assert memory.context(2).carry.keys() == {"count"} and memory.context(2).carry["count"] == 3


class TestStep:
    def test_the_key_image_may_be_left_out_once_memory_holds_the_frame(self):
        model, images, memory = build_detector(RDN), make_video(2), FrameMemory(SlidingWindow(1))
        memory.start("video", 2)
        clip = {"image": images[0], "frame_index": 0, "support": [{"image": images[1], "frame_index": 1}]}
        model.step(clip, memory)
        found = model.step({"frame_index": 1, "height": 128, "width": 192}, memory)["instances"]
        assert found.image_size == (128, 192) and len(found) > 0

    def test_a_frame_that_is_neither_given_nor_remembered_is_named(self):
        memory = FrameMemory(SlidingWindow(1))
        memory.start("video", 3)
        with pytest.raises(ValueError, match=r"frames \[1\]"):
            build_detector().step({"image": make_video(1)[0], "frame_index": 0}, memory)

    def test_nothing_in_memory_holds_a_graph(self):
        model, memory = build_detector(RDN), FrameMemory(NoWindow())
        memory.start("video", 1)
        model.step({"image": make_video(1)[0], "frame_index": 0}, memory)
        proposals = memory.frame(0).proposals
        assert not (proposals.features.requires_grad or proposals.boxes.requires_grad)


def test_the_steps_of_frames_have_other_names_and_still_work():
    model, images = build_detector(RDN), make_video(2)
    with torch.no_grad():
        frames = model.encode([{"image": image, "frame_index": i} for i, image in enumerate(images)])
        with pytest.warns(DeprecationWarning, match="VideoRCNN.enhance is deprecated: use VideoRCNN.enhance_clips"):
            enhanced, results = model.enhance(frames[:1], [TemporalContext()])
        with pytest.warns(DeprecationWarning, match="VideoRCNN.propose is deprecated: use .*propose_frames"):
            proposed, losses = model.propose(frames)
        context = TemporalContext((proposed[1],), (Role.LOCAL,))
        with pytest.warns(DeprecationWarning, match="ProposalAggregator.aggregate is deprecated: use forward_clips"):
            (found,) = model.roi_heads.aggregator.aggregate([proposed[0]], [context])
        expected = model.roi_heads.aggregator(proposed[0].proposals, context)
    assert enhanced == frames[:1] and results == [] and losses == {}
    assert found.value.equal(expected.value)


@PIXEL_AGGREGATOR_REGISTRY.register()
class OfVersionOne(FirstSupport):
    """Says what it wants as version 0.1 had it."""

    stage, enters_anew = "res5", True

    def enter(self, frame, context):
        return {"res5": 2 * frame.features["res5"]}


def test_aggregators_that_were_written_with_the_old_names_work_with_a_warning():
    with pytest.warns(DeprecationWarning) as warnings:
        model = build_detector({"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "OfVersionOne"})
    said = [str(one.message) for one in warnings]
    assert any("OfVersionOne.enter is deprecated: use OfVersionOne.support_features" in one for one in said)
    assert model.pixel_aggregator.per_key_frame
    (frame,) = model.encode([{"image": make_video(1)[0]}])
    maps = model.pixel_aggregator.support_features(frame, TemporalContext())
    assert maps["res5"].equal(2 * frame.features["res5"])

    class Old(ProposalAggregator):
        needs_maps, id_iou = True, 0.25

        def forward(self, query, context):
            return Aggregated(query.features)

    with pytest.warns(DeprecationWarning, match="of a Old is deprecated: use its attribute needs, a ProposalNeeds"):
        assert needs_of(Old()) == ProposalNeeds(pooled_maps=True, track_iou=0.25)


class SlicesOfBatches(TorchDispatchMode):
    """Collects the gradients that are a map of a whole batch, written to in one image."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function in (torch.ops.aten.slice_backward.default, torch.ops.aten.select_backward.default):
            _, shape, dimension, *_ = arguments
            if len(shape) == 4 and shape[0] > 1 and dimension == 0:
                self.shapes.append(shape)
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("keys", [{}, RDN, pixel_keys("res4")], ids=["image detector", "level 2", "level 1"])
def test_the_gradient_of_an_images_maps_is_not_a_batch_of_zeros(keys):
    video, schedule = make_video(4), SlidingWindow(1, 1)
    clips = [window_clip(video, t, schedule) | {"instances": make_targets()} for t in (1, 2)]
    losses = losses_of(build_detector(keys).train(), clips)
    with SlicesOfBatches() as slices:
        sum(losses.values()).backward()
    assert slices.shapes == []
