"""MST against the slow reference of its equations, and its three levels in a detector.

N: reference proposals, M: support proposals, T: frames of a context.
"""

from dataclasses import replace

import pytest
import torch

import vod2
from helpers.models import (
    IMAGE_SIZE,
    ROOT,
    assert_same_detections,
    build_detector,
    freeze_statistics,
    make_video,
    tiny_cfg,
    tracked,
)
from helpers.proposals import random_context, random_proposals
from helpers.streams import detect_as_stream, step_clip, window_clip
from reference.mst import align, frame_level, mst_head
from vod2.d2 import EventStorage, ShapeSpec, build_model, get_cfg
from vod2.engine import load_config
from vod2.errors import UserError
from vod2.layers import RelationModules
from vod2.modeling import ProposalNeeds
from vod2.modeling.object_ids import object_ids
from vod2.modeling.pixel import ALIGNER_REGISTRY, Aligner, build_pixel_aggregator
from vod2.projects.mst import MSTAggregator, MSTFrames
from vod2.structures import TRACK_IDS, UNKNOWN, Frame, Role, TemporalContext
from vod2.temporal import FrameMemory, SlidingWindow

HEADS, SMALL, CHANNELS = 4, 16, 8
FRAMES = {
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "MSTFrames",
    "MODEL.ALIGNER.NAME": "DAlign",
    "MODEL.ALIGNER.WIDTH": 4,
    "MODEL.MST.KEY_STRIDE": 2,
}
TO_REFERENCE = {"MODEL.MST.FRAME": False, "MODEL.MST.ALIGN_TO": "reference"}
MST = FRAMES | {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MSTAggregator"}


@ALIGNER_REGISTRY.register()
class BrightnessAligner(Aligner):
    """Adds to the source how much brighter the target's image is, so that one sees which images it was given."""

    needs_images = True

    def __init__(self, cfg, channels):
        super().__init__()

    def forward(self, source, target, source_image=None, target_image=None):
        return source + (target_image - source_image).mean(dim=(1, 2, 3), keepdim=True)


def make_head(**arguments) -> MSTAggregator:
    """An MST head of 16 features whose weights are large enough for every term to matter."""
    torch.manual_seed(0)
    values = {"relations": RelationModules(SMALL, HEADS, geometry_dim=16, scale=10.0, scaled=False)}
    head = MSTAggregator(**(values | {"support_topk": 5, "topk": 3, "ratio": 0.3} | arguments))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return head.double()


def assert_equals_reference(head: MSTAggregator, query, context, **options) -> None:
    """The supports of `random_context` are by descending scores."""
    supports = [frame.proposals for frame in context.frames]
    numbers = {"topk": head.topk, "ratio": head.ratio, "scale": 10.0, "wavelength": 1000.0} | options
    numbers |= {"best": head.support_topk, "pool": head.instance_pool or 1000}
    expected = mst_head(head.state_dict(), query, supports, heads=HEADS, **numbers)
    torch.testing.assert_close(head(query, context).value, expected, rtol=1e-9, atol=1e-9)


def with_ids(query, context, own: list[int], others: list[list[int]]):
    """The same proposals, which now tell what they show."""
    frames = [
        frame.with_(proposals=frame.proposals.with_fields(track_ids=torch.tensor(ids, dtype=torch.int64)))
        for frame, ids in zip(context.frames, others, strict=True)
    ]
    return query.with_fields(track_ids=torch.tensor(own)), TemporalContext(tuple(frames), context.roles)


class TestProposalAndInstanceLevel:
    @pytest.mark.parametrize("instance", [False, True])
    @pytest.mark.parametrize("num_proposal", [0, 1, 2, 3])
    def test_the_head_is_equations_seven_to_twelve(self, num_proposal, instance):
        rng = torch.Generator().manual_seed(2)
        query, context = random_proposals(5, SMALL, rng), random_context([6, 6, 6], SMALL, rng)
        assert_equals_reference(make_head(num_proposal=num_proposal, instance=instance), query, context)

    @pytest.mark.parametrize("counts", [[7, 2, 0, 5], [1, 3], [0, 0], [1], []])
    def test_the_number_of_proposals_may_differ_from_frame_to_frame(self, counts):
        rng = torch.Generator().manual_seed(3)
        assert_equals_reference(make_head(), random_proposals(4, SMALL, rng), random_context(counts, SMALL, rng))

    @pytest.mark.parametrize(
        "scaled, aspect, pool", [(True, False, 0), (False, True, 0), (False, False, 2), (False, False, 6)]
    )
    def test_scale_aspect_ratios_and_the_pool_of_the_instance_level_are_keys(self, scaled, aspect, pool):
        rng = torch.Generator().manual_seed(2)
        query, context = random_proposals(4, SMALL, rng), random_context([6, 7], SMALL, rng)
        relations = RelationModules(SMALL, HEADS, geometry_dim=16, scale=10.0, scaled=scaled)
        head = make_head(relations=relations, aspect=aspect, instance_pool=pool)
        assert_equals_reference(head, query, context, scaled=scaled, terms=3 if aspect else 2)

    def test_the_instance_level_looks_at_proposals_that_the_proposal_level_does_not(self):
        """R^s of equation 12 are all proposals, R^st of equation 10 the best of each frame."""
        rng = torch.Generator().manual_seed(9)
        query, context = random_proposals(1, SMALL, rng), random_context([8], SMALL, rng)
        (frame,) = context.frames
        features = frame.proposals.features.clone()
        features[5:] += 1
        changed = TemporalContext((frame.with_(proposals=replace(frame.proposals, features=features)),), context.roles)
        for instance, same in ((False, True), (True, False)):
            head = make_head(instance=instance, ratio=1.0)
            assert head(query, context).value.equal(head(query, changed).value) == same

    def test_with_ids_the_head_is_that_of_training(self):
        rng = torch.Generator().manual_seed(4)
        query, context = random_proposals(5, SMALL, rng), random_context([3, 2], SMALL, rng)
        query, context = with_ids(query, context, [7, -1, 2, 5, 7], [[7, 2, -1], [7, -1]])
        assert_equals_reference(make_head(), query, context)

    def test_only_proposals_whose_object_a_support_shows_are_updated(self):
        """The background (-1) is not an object; nobody else shows object 5."""
        rng = torch.Generator().manual_seed(4)
        query, context = random_proposals(4, SMALL, rng), random_context([3, 2], SMALL, rng)
        query, context = with_ids(query, context, [7, -1, 2, 5], [[7, 2, -1], [7, -1]])
        value = make_head(num_proposal=0)(query, context).value
        assert value.ne(query.features).any(dim=1).tolist() == [True, False, True, False]

    def test_a_support_that_nobody_has_annotated_is_no_support_by_id_and_changes_nothing_for_the_others(self):
        rng = torch.Generator().manual_seed(4)
        query, context = random_proposals(3, SMALL, rng), random_context([3, 2], SMALL, rng)
        query, context = with_ids(query, context, [7, -1, -2], [[7, 2, -1], [-2, -2]])
        assert_equals_reference(make_head(), query, context)
        first = TemporalContext(context.frames[:1], context.roles[:1])
        head = make_head(num_proposal=0)
        torch.testing.assert_close(head(query, context).value, head(query, first).value)
        assert head(query, context).value.ne(query.features).any(dim=1).tolist() == [True, False, False]

    @pytest.mark.parametrize("own, others", [([-2, -2, -2], [[7, 2], [-1]]), ([7, -1, 7], [[-2, -2], [-2]])])
    def test_where_one_side_knows_nothing_the_head_is_that_of_inference(self, own, others):
        rng = torch.Generator().manual_seed(4)
        query, context = random_proposals(3, SMALL, rng), random_context([2, 1], SMALL, rng)
        expected = make_head()(query, context).value
        assert make_head()(*with_ids(query, context, own, others)).value.equal(expected)

    def test_a_support_of_another_object_does_not_matter(self):
        rng = torch.Generator().manual_seed(5)
        query, context = random_proposals(2, SMALL, rng), random_context([3], SMALL, rng)
        query, context = with_ids(query, context, [7, 7], [[7, 2, -1]])
        (frame,) = context.frames
        features = frame.proposals.features.clone()
        features[1:] += 1
        changed = frame.with_(proposals=replace(frame.proposals, features=features))
        head = make_head(num_proposal=0)
        expected = head(query, context).value
        torch.testing.assert_close(head(query, TemporalContext((changed,), context.roles)).value, expected)

    def test_at_test_the_proposals_of_the_highest_objectness_are_updated(self):
        rng = torch.Generator().manual_seed(6)
        query, context = random_proposals(6, SMALL, rng), random_context([4], SMALL, rng)
        query = replace(query, scores=torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2, 0.7]))
        value = make_head(num_proposal=0, topk=3)(query, context).value
        assert value.ne(query.features).any(dim=1).nonzero()[:, 0].tolist() == [1, 3, 5]

    @pytest.mark.parametrize("ratio, expected", [(0.2, 2), (1.0, 10), pytest.param(0.01, 1, id="at least one")])
    def test_each_looks_at_a_share_of_all_supports(self, ratio, expected):
        rng = torch.Generator().manual_seed(7)
        query, context = random_proposals(4, SMALL, rng), random_context([5, 5], SMALL, rng)
        head = make_head(ratio=ratio)
        rows, mask = head._same_object(query.features, query, context.proposals())
        assert rows.tolist() == [0, 1, 2] and mask.sum(dim=1).tolist() == [expected] * 3

    def test_the_gradient_agrees_with_finite_differences(self):
        rng = torch.Generator().manual_seed(8)
        query, context = random_proposals(2, SMALL, rng), random_context([3, 2], SMALL, rng)
        head = make_head(ratio=1.0)
        run = lambda features: head(replace(query, features=features), context).value  # noqa: E731
        assert torch.autograd.gradcheck(run, (query.features.requires_grad_(),))

    def test_the_defaults_are_those_of_the_paper(self):
        head = MSTAggregator(vod2.add_video_config(get_cfg()), 1024)
        assert (len(head.relations), head.support_topk, head.topk, head.ratio) == (2, 75, 20, 0.2)
        assert head.needs == ProposalNeeds(track_iou=0.5, support_pool=0)  # all of R^s
        for relation in (*head.relations, head.instance):
            assert relation.num_heads == 16 and relation.scale == 1.0
            assert not relation.geometry.position and not relation.geometry.aspect

    def test_without_instance_level_no_ids_are_asked_for(self):
        assert make_head(instance=False).needs == ProposalNeeds()

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"num_proposal": -1}, "at least 0, got -1, 5, 3, 0"),
            ({"topk": -2}, "at least 0, got 2, 5, -2, 0"),
            ({"instance_pool": -1}, "at least 0, got 2, 5, 3, -1"),
            ({"ratio": 0.0}, r"RATIO in \(0, 1\], got 0.0"),
            ({"id_iou": 1.5}, r"ID_IOU in \[0, 1\], got 1.5"),
        ],
    )
    def test_values_that_make_no_sense_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            make_head(**arguments)


def make_frames(keys: dict | None = None) -> MSTFrames:
    cfg = tiny_cfg(FRAMES | (keys or {}))
    torch.manual_seed(0)
    module = build_pixel_aggregator(cfg, {"res4": ShapeSpec(channels=CHANNELS, stride=16)})
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


def make_frame(index: int, size: tuple[int, int] = (3, 4)) -> Frame:
    rng = torch.Generator().manual_seed(index)
    value = torch.randn(1, CHANNELS, *size, generator=rng, dtype=torch.float64)
    return Frame("video", index, IMAGE_SIZE, {"res4": value})


def context_of(*indices: int, role: Role = Role.LOCAL) -> TemporalContext:
    return TemporalContext(tuple(make_frame(i) for i in indices), (role,) * len(indices))


def expected_map(module: MSTFrames, own: int, others: list[int], stride: int = 2) -> torch.Tensor:
    """Equations 1 to 6: the frame `own` takes from itself and from the others, aligned to it."""
    target = make_frame(own).features["res4"][0]
    maps = [target]
    for other in others:
        source = make_frame(other).features["res4"][0]
        maps.append(source if module.align is None else align(module.align.layers.state_dict(), source, target))
    return frame_level(module.attend.state_dict(), target, maps, heads=HEADS, stride=stride)[None]


class TestFrameLevel:
    @pytest.mark.parametrize("residual", [False, True])
    @pytest.mark.parametrize("modulated", [False, True])
    def test_what_alignment_gives_replaces_the_map_or_is_added_to_it_as_the_keys_say(self, residual, modulated):
        keys = {"MODEL.ALIGNER.RESIDUAL": residual, "MODEL.ALIGNER.MODULATED": modulated}
        state = make_frames(keys).align.layers.state_dict()
        assert len(state["align.sampling.bias"]) == (27 if modulated else 18)
        source, target = make_frame(2).features["res4"], make_frame(3).features["res4"]
        expected = align(state, source[0], target[0], residual)
        torch.testing.assert_close(make_frames(keys).align(source, target)[0], expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("aligner", ["DAlign", ""])
    def test_the_map_of_a_key_frame_is_equations_one_to_six(self, aligner):
        module = make_frames({"MODEL.ALIGNER.NAME": aligner})
        found = module(make_frame(3), context_of(2, 3, 5))
        expected = expected_map(module, 3, [2, 5])
        torch.testing.assert_close(found.value["res4"], expected, rtol=1e-9, atol=1e-9)
        assert found.losses == {} and found.carry == {}

    def test_a_still_image_looks_at_its_copies(self):
        """Otherwise a training step on still images would leave parameters without a gradient."""
        module = make_frames()
        value = module(make_frame(0), context_of(0, 0)).value["res4"]
        torch.testing.assert_close(value, expected_map(module, 0, [0, 0]), rtol=1e-9, atol=1e-9)

    def test_a_support_that_enters_is_enhanced_by_what_is_there(self):
        module = make_frames()
        entered = module.support_features(make_frame(4), context_of(2, 3))["res4"]
        torch.testing.assert_close(entered, expected_map(module, 4, [2, 3]), rtol=1e-9, atol=1e-9)

    def test_with_the_reference_as_only_query_a_support_stays_as_it_is(self):
        frame = make_frame(4)
        entered = make_frames({"MODEL.MST.QUERY": "reference"}).support_features(frame, context_of(2, 3))
        assert entered["res4"].equal(frame.features["res4"])

    def test_without_frame_level_a_support_is_aligned_to_the_key_frame(self):
        module = make_frames({"MODEL.MST.FRAME": False})
        source, target = make_frame(4), make_frame(9)
        context = TemporalContext((make_frame(3), target), (Role.LOCAL, Role.KEY))
        expected = align(module.align.layers.state_dict(), source.features["res4"][0], target.features["res4"][0])
        torch.testing.assert_close(module.support_features(source, context)["res4"][0], expected, rtol=1e-9, atol=1e-9)
        assert module(target, context_of(4)).value["res4"].equal(target.features["res4"])

    def test_without_frame_level_and_key_frame_it_is_aligned_to_the_nearest_frame(self):
        module = make_frames({"MODEL.MST.FRAME": False})
        source = make_frame(4)
        expected = align(module.align.layers.state_dict(), *(make_frame(i).features["res4"][0] for i in (4, 3)))
        torch.testing.assert_close(module.support_features(source, context_of(1, 3, 6))["res4"][0], expected)
        assert module.support_features(source, TemporalContext())["res4"].equal(source.features["res4"])

    def test_an_aligner_that_looks_at_images_is_given_them(self):
        """It brings each support to where the brightness says."""
        model = build_detector(MST | {"MODEL.ALIGNER.NAME": "BrightnessAligner"}, dtype=torch.float64)
        video = [torch.full((3, *IMAGE_SIZE), value, dtype=torch.uint8) for value in (10, 60, 200)]
        frames = model.encode([{"image": image, "frame_index": i} for i, image in enumerate(video)])
        aligned = model.pixel_aggregator._aligned(frames[1:], frames[0])
        std = model.pixel_std.flatten().double()
        for value, frame, level in zip(aligned, frames[1:], (60, 200), strict=True):
            moved = ((10 - level) / std).mean()
            torch.testing.assert_close(value, frame.features["res4"][0] + moved, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(
        "keys, message",
        [
            ({"MODEL.MST.QUERY": "none"}, "expected 'all' or 'reference', got 'none'"),
            ({"MODEL.MST.FRAME": False, "MODEL.ALIGNER.NAME": ""}, "there is nothing to do"),
            ({"MODEL.VIDEO.RELATION.NUM_HEADS": 3}, "3 heads do not divide 8"),
            ({"MODEL.MST.ALIGN_TO": "both"}, "expected 'neighbour' or 'reference', got 'both'"),
            ({"MODEL.MST.ALIGN_TO": "reference"}, "is for MODEL.MST.FRAME False"),
        ],
    )
    def test_values_that_make_no_sense_are_refused(self, keys, message):
        with pytest.raises(UserError, match=message):
            make_frames(keys)


def training_clip(support_tracks: list[int] | None = (5, 8)) -> dict:
    """Three frames with the same two objects, of which the tracks are known."""
    video = make_video(3)
    support = [
        {"image": image, "frame_index": i, "role": Role.LOCAL, "instances": tracked(support_tracks)}
        for i, image in ((0, video[0]), (2, video[2]))
    ]
    return {"image": video[1], "video_id": "video", "frame_index": 1, "instances": tracked([5, 8]), "support": support}


def trained_proposals(keys: dict, clip: dict):
    """Query and context that level 2 is given in a training step, and the losses."""
    model, given = build_detector(keys, dtype=torch.float64).train(), []
    model.roi_heads.aggregator.register_forward_hook(lambda module, arguments, output: given.append(arguments))
    torch.manual_seed(0)
    with EventStorage():
        losses = model([clip])
    return *given[0], losses


class TestTraining:
    def test_proposals_of_key_frame_and_supports_tell_which_object_they_show(self):
        query, context, _ = trained_proposals(MST, training_clip())
        assert query.fields[TRACK_IDS].equal(object_ids(query.boxes, tracked([5, 8]), 0.5))
        assert {5, 8, -1} >= set(query.fields[TRACK_IDS].tolist()) > {-1}  # the ground truth itself is among the RoIs
        for frame in context.frames:
            assert frame.proposals.fields[TRACK_IDS].equal(object_ids(frame.proposals.boxes, tracked([5, 8]), 0.5))

    def test_without_tracks_nobody_claims_to_know(self):
        query, context, losses = trained_proposals(MST, training_clip(None))
        assert (query.fields[TRACK_IDS] != UNKNOWN).all() and (context.proposals().fields[TRACK_IDS] == UNKNOWN).all()
        assert all(value.isfinite() for value in losses.values())

    def test_where_no_support_shows_the_object_every_parameter_still_has_a_gradient(self):
        """Processes that train together wait for each other's gradients."""
        model = build_detector(MST, dtype=torch.float64).train()
        with EventStorage():
            sum(model([training_clip((1, 2))]).values()).backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []

    @pytest.mark.parametrize("query, reached", [("all", True), ("reference", False)])
    def test_the_proposals_of_a_support_are_made_of_what_it_took_from_the_rest_of_the_clip(self, query, reached):
        def support_features(image):
            clip = training_clip()
            clip["support"][1]["image"] = image
            model = build_detector(MST | {"MODEL.MST.QUERY": query}, dtype=torch.float64).train()
            freeze_statistics(model)
            given = []
            model.roi_heads.aggregator.register_forward_hook(lambda module, arguments, output: given.append(arguments))
            with EventStorage():
                model([clip])
            return given[0][1].frames[0].proposals.features

        same = support_features(make_video(3)[2]), support_features(make_video(1, seed=9)[0])
        assert (same[0].shape != same[1].shape or not torch.allclose(*same)) == reached


def stream_and_clips(keys: dict, schedule: SlidingWindow, length: int = 5):
    model, video = build_detector(keys, dtype=torch.float64), make_video(length)
    for t, streamed in enumerate(detect_as_stream(model, video, schedule)):
        yield streamed, model([window_clip(video, t, schedule)])[0]["instances"]


class TestStreams:
    """With QUERY "all" a support keeps the proposals that it entered with: a stream is a clip with the same history."""

    def test_a_stream_is_a_clip_that_holds_the_whole_video(self):
        for streamed, clip in stream_and_clips(MST, SlidingWindow(9)):
            assert_same_detections(streamed, clip, 1e-10)

    @pytest.mark.parametrize("schedule", [SlidingWindow(1), SlidingWindow(2, lookahead=0)], ids=["both", "causal"])
    def test_with_the_reference_as_only_query_any_window_will_do(self, schedule):
        for streamed, clip in stream_and_clips(MST | {"MODEL.MST.QUERY": "reference"}, schedule):
            assert_same_detections(streamed, clip, 1e-10)

    @pytest.mark.parametrize("schedule", [SlidingWindow(1), SlidingWindow(2, lookahead=0)], ids=["both", "causal"])
    def test_supports_that_are_aligned_to_each_reference_anew_make_of_any_stream_its_clips(self, schedule):
        """Table III (e) as the paper has it."""
        for streamed, clip in stream_and_clips(MST | TO_REFERENCE, schedule):
            assert_same_detections(streamed, clip, 1e-10)

    def test_with_the_reference_as_goal_every_other_frame_is_aligned_to_each_key_frame(self):
        model, video, schedule = (
            build_detector(MST | TO_REFERENCE, dtype=torch.float64),
            make_video(4),
            SlidingWindow(9),
        )
        entered, enter = [], model.pixel_aggregator.support_features

        def watched(frame, context):
            entered.append((frame, model.pixel_aggregator._target(frame, context), enter(frame, context)))
            return entered[-1][2]

        model.pixel_aggregator.support_features = watched
        list(detect_as_stream(model, video, schedule))
        pairs = [(i, t) for t in range(4) for i in range(4) if i != t]
        assert [(frame.index, key.index) for frame, key, _ in entered] == pairs
        state = model.pixel_aggregator.align.layers.state_dict()
        frame, key, found = entered[6]
        expected = align(state, frame.features["res4"][0], key.features["res4"][0])
        torch.testing.assert_close(found["res4"][0], expected, rtol=1e-6, atol=1e-6)

    def test_the_memory_keeps_maps_as_the_backbone_made_them(self):
        model, video, memory = build_detector(MST, dtype=torch.float64), make_video(4), FrameMemory(SlidingWindow(2))
        memory.start("video", 4)
        for t in range(3):
            model.step(step_clip(video, t, memory), memory)
        for frame in memory.cached_context().frames:
            (plain,) = model.encode([{"image": video[frame.index]}])
            torch.testing.assert_close(frame.features["res4"], plain.features["res4"], rtol=1e-12, atol=1e-12)

    def test_what_is_held_comes_in_the_order_of_time(self):
        memory = FrameMemory(SlidingWindow(2))
        memory.start("video", 4)
        for index in (2, 0, 1):
            memory.put(make_frame(index))
        assert [frame.index for frame in memory.cached_context().frames] == [0, 1, 2]

    def test_a_support_enters_against_the_window_before_it(self):
        """With radius T these are 2T + 1 frames: the window of the last key frame."""
        model, video, memory = build_detector(MST), make_video(9), FrameMemory(SlidingWindow(2))
        memory.start("video", 9)
        seen, enter = {}, model.pixel_aggregator.support_features

        def watched(frame, context):
            seen[frame.index] = [one.index for one in context.frames]
            return enter(frame, context)

        model.pixel_aggregator.support_features = watched
        for t in range(9):
            model.step(step_clip(video, t, memory), memory)
        assert seen[0] == [] and seen[2] == [0, 1] and seen[7] == [2, 3, 4, 5, 6]

    def test_a_stream_of_thirty_frames_stays_bounded_and_finite(self):
        model, video, memory = build_detector(MST), make_video(30), FrameMemory(SlidingWindow(3))
        memory.start("video", 30)
        for t in range(30):
            found = model.step(step_clip(video, t, memory), memory)["instances"]
            assert len(found) > 0 and found.scores.isfinite().all() and found.pred_boxes.tensor.isfinite().all()
            memory.context(t)
            assert len(memory) <= 7
            assert all(frame.features.keys() == {"res4"} for frame in memory.cached_context().frames)

    def test_it_begins_as_the_detector_that_it_is_put_into(self):
        """Alignment and frame level begin with 0: their first result is the key frame's own map."""
        module = build_pixel_aggregator(tiny_cfg(FRAMES), {"res4": ShapeSpec(channels=CHANNELS, stride=16)}).double()
        frame = make_frame(3)
        assert module(frame, context_of(2, 4)).value["res4"].equal(frame.features["res4"])
        assert module.support_features(frame, context_of(2, 4))["res4"].equal(frame.features["res4"])


class TestPublishedConfigurations:
    def test_the_whole_model_has_the_parameters_of_table_iv(self):
        """65.027 M with RoI features that are averaged before their fully connected layer, 165.7 M without."""
        cfg = load_config(str(ROOT / "configs/MST_R101.yaml"))
        cfg.defrost()
        cfg.MODEL.DEVICE = "meta"
        for head, expected in (("AveragedBoxHead", 65.027e6), ("FastRCNNConvFCHead", 65.027e6 + 48 * 2048 * 1024)):
            cfg.MODEL.ROI_BOX_HEAD.NAME = head
            with torch.device("meta"):
                count = sum(parameter.numel() for parameter in build_model(cfg).parameters())
            assert count == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("row", ["FasterRCNN", "FGFA", "RDN_Base", "RDN", "MEGA"])
    def test_a_row_of_table_two_is_the_method_on_uavdt(self, row):
        cfg = load_config(str(ROOT / f"configs/ablations/mst.yaml:UAVDT_{row}"))
        assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("uavdt_train",), ("uavdt_test",))
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
        method = {"FasterRCNN": "", "FGFA": "FGFAAggregator"}.get(row, f"{row.partition('_')[0]}Aggregator")
        video = cfg.MODEL.VIDEO
        assert (video.PIXEL_AGGREGATOR if row == "FGFA" else video.PROPOSAL_AGGREGATOR).NAME == method


class TestTrainedOnAllProposals:
    @pytest.mark.parametrize("pool, count", [(0, 20), (9, 9), (3, 6)])
    def test_supports_in_training_have_the_proposals_that_the_instance_level_looks_at(self, pool, count):
        """The detector makes 20 of a frame; its proposal level looks at 6."""
        _, context, _ = trained_proposals(MST | {"MODEL.MST.INSTANCE_POOL": pool}, training_clip())
        assert context.proposals().counts().tolist() == [count, count]
