"""CSMN against the slow reference of its two modules."""

from dataclasses import replace

import pytest
import torch

import vod2
from helpers.models import (
    DIM,
    ROOT,
    assert_same_detections,
    build_detector,
    freeze_statistics,
    make_targets,
    make_video,
    tiny_cfg,
)
from helpers.proposals import MAP_SHAPE, random_context, random_proposals
from helpers.streams import detect_as_stream, window_clip
from reference.csmn import encoded_map, encoded_sample, patch_weights, patches_of, spfa_head
from reference.selsa import selsa_head
from vod2.d2 import EventStorage, ShapeSpec, get_cfg
from vod2.engine import load_config
from vod2.engine.rows import config_name, load_rows
from vod2.errors import UserError
from vod2.modeling import propose_frames
from vod2.projects.csmn import SPFAAggregator, StCIE
from vod2.projects.selsa import SELSAAggregator
from vod2.structures import POOLED_MAPS, Clip, Frame, Role, TemporalContext
from vod2.temporal import FrameMemory, GlobalSample, SlidingWindow

SMALL, CHANNELS = 8, 6
STCIE = {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "StCIE", "MODEL.CSMN.STCIE.RELATION_DIM": 8}
SHAPES = {"res4": ShapeSpec(channels=4, stride=16), "res5": ShapeSpec(channels=CHANNELS, stride=16)}


def make_stcie(**arguments) -> StCIE:
    torch.manual_seed(0)
    stcie = StCIE(**({"stage": "res5", "channels": CHANNELS, "stride": 16, "relation_dim": 4} | arguments))
    for parameter in stcie.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return stcie.double()


def make_frames(count: int, size: tuple[int, int] = (32, 48)) -> list[Frame]:
    """Frames of one size whose maps have 4 x 5 cells: 2 x 3 of the image, the others of the padding."""
    rng = torch.Generator().manual_seed(1)
    return [
        Frame("video", index, size, {"res5": torch.randn(1, CHANNELS, 4, 5, generator=rng, dtype=torch.float64)})
        for index in range(count)
    ]


def context_of(frames: list[Frame]) -> TemporalContext:
    return TemporalContext(tuple(frames), (Role.GLOBAL,) * len(frames))


def make_spfa(**arguments) -> SPFAAggregator:
    torch.manual_seed(0)
    values = {"dim": SMALL, "channels": MAP_SHAPE[0], "side": MAP_SHAPE[1], "patches": 4, "support_topk": 5}
    spfa = SPFAAggregator(**(values | arguments))
    for parameter in spfa.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return spfa.double()


class TestStCIE:
    @pytest.mark.parametrize("normaliser", ["count", "softmax"])
    @pytest.mark.parametrize("temporal", [True, False])
    def test_the_map_takes_context_from_the_cells_of_the_images(self, normaliser, temporal):
        stcie, frames = make_stcie(normaliser=normaliser, temporal=temporal), make_frames(3)
        sources = [frame.features["res5"][0, :, :2, :3] for frame in (frames if temporal else frames[:1])]
        state = {name.removeprefix("attention."): value for name, value in stcie.state_dict().items()}
        expected = encoded_map(state, frames[0].features["res5"][0], sources, normaliser)
        actual = stcie(frames[0], context_of(frames))
        torch.testing.assert_close(actual.value["res5"][0], expected, rtol=1e-10, atol=1e-10)
        assert actual.losses == {} and actual.carry == {}

    def test_what_the_padding_of_a_support_holds_does_not_matter(self):
        stcie, frames = make_stcie(), make_frames(2)
        expected = stcie(frames[0], context_of(frames)).value["res5"]
        other = frames[1].features["res5"].clone()
        other[..., 2:, :], other[..., 3:] = 7, -7
        changed = frames[1].with_(features={"res5": other})
        assert stcie(frames[0], context_of([frames[0], changed])).value["res5"].equal(expected)

    def test_supports_may_be_of_other_sizes(self):
        stcie, (key, support) = make_stcie(), make_frames(2)
        large = support.with_(image_size=(49, 80))  # 4 x 5 cells
        state = {name.removeprefix("attention."): value for name, value in stcie.state_dict().items()}
        expected = encoded_map(state, key.features["res5"][0], [large.features["res5"][0]])
        actual = stcie(key, context_of([large])).value["res5"][0]
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("temporal", [True, False])
    def test_without_supports_the_map_itself_is_returned(self, temporal):
        (key,) = make_frames(1)
        assert make_stcie(temporal=temporal)(key, TemporalContext()).value["res5"] is key.features["res5"]

    def test_supports_do_not_matter_to_the_spatial_context(self):
        stcie, frames = make_stcie(temporal=False), make_frames(3)
        alone = stcie(frames[0], context_of(frames[:1])).value["res5"]
        assert stcie(frames[0], context_of(frames)).value["res5"].equal(alone)

    @pytest.mark.parametrize("normaliser", ["count", "softmax"])
    def test_all_maps_of_a_sample_attend_to_each_other(self, normaliser):
        stcie, frames = make_stcie(normaliser=normaliser), make_frames(3, size=(64, 80))
        state = {name.removeprefix("attention."): value for name, value in stcie.state_dict().items()}
        expected = encoded_sample(state, [frame.features["res5"][0] for frame in frames], normaliser)
        _, found = stcie.forward_clip(frames[0], context_of(frames), range(len(frames)))
        for one, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(one["res5"][0], wanted, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("temporal", [True, False])
    def test_a_support_that_enters_takes_from_those_that_are_there_and_from_itself(self, temporal):
        stcie, frames = make_stcie(supports="entering", temporal=temporal), make_frames(3)
        entered = stcie.support_features(frames[2], context_of(frames[:2]))["res5"]
        assert entered.equal(stcie(frames[2], context_of(frames)).value["res5"])
        assert make_stcie(supports="plain").support_features(frames[2], context_of(frames[:2])) == {}

    def test_an_unknown_form_of_supports_is_refused(self):
        with pytest.raises(ValueError, match="SUPPORTS is 'all', expected one of sample, entering, plain"):
            make_stcie(supports="all")

    def test_the_configuration_keys_arrive(self):
        keys = {"STAGE": "res4", "RELATION_DIM": 7, "NORMALISER": "softmax", "TEMPORAL": False, "SUPPORTS": "plain"}
        stcie = StCIE(tiny_cfg({f"MODEL.CSMN.STCIE.{name}": value for name, value in keys.items()}), SHAPES)
        assert (stcie.stage, stcie.stride, stcie.temporal) == ("res4", 16, False)
        assert not stcie.encodes_supports and not stcie.per_key_frame
        assert stcie.attention.normaliser == "softmax"
        assert stcie.attention.source_relation.weight.shape == (7, 4, 1, 1)

    @pytest.mark.parametrize("stage", ["res3", "res6"])
    def test_another_stage_is_refused(self, stage):
        with pytest.raises(UserError, match=f"STAGE is '{stage}': expected 'res4' or 'res5'.*OUT_FEATURES res4, res5"):
            StCIE(tiny_cfg({"MODEL.CSMN.STCIE.STAGE": stage}), SHAPES)

    @pytest.mark.parametrize(
        "keys, changes",
        [
            pytest.param({}, False, id="res5"),
            pytest.param({"MODEL.RPN.IN_FEATURES": ["res5"]}, True, id="res5, RPN on res5"),
            pytest.param({"MODEL.CSMN.STCIE.STAGE": "res4"}, True, id="res4"),
            pytest.param(
                {"MODEL.CSMN.STCIE.STAGE": "res4", "MODEL.CSMN.STCIE.RPN": False}, False, id="res4, RPN on plain res4"
            ),
        ],
    )
    def test_the_rpn_sees_the_encoded_map_only_where_it_is_before_the_rpn(self, keys, changes):
        model, images = build_detector(STCIE | keys), make_video(2)
        with torch.no_grad():
            frames = model.encode([{"image": image} for image in images])
            (clip,), _ = model.enhance_clips([Clip(frames[0], context_of(frames))])
            enhanced = clip.key
            plain, encoded = (
                model.proposal_generator.propose([frame.image_size], frame.features)[0][0].objectness_logits
                for frame in (frames[0], enhanced)
            )
        assert not enhanced.features["res5"].equal(frames[0].features["res5"])
        assert plain.equal(encoded) != changes


class TestSPFA:
    @pytest.mark.parametrize("patches, importance", [(4, "learned"), (9, "learned"), (4, "fixed")])
    @pytest.mark.parametrize("counts", [[2, 0, 6], [0, 0], []], ids=["ragged", "none in any frame", "no frames"])
    def test_the_head_is_the_papers_sum(self, patches, importance, counts):
        rng = torch.Generator().manual_seed(2)
        query, context = random_proposals(2, SMALL, rng), random_context(counts, SMALL, rng)
        spfa, grid = make_spfa(patches=patches, importance=importance), round(patches**0.5)
        expected = spfa_head(spfa.state_dict(), query, context, grid=grid, topk=5)
        actual = spfa(query, context)
        torch.testing.assert_close(actual.value, expected, rtol=1e-10, atol=1e-10)
        assert actual.losses == {} and actual.carry == {} and actual.relations is None

    @pytest.mark.parametrize("counts", [[2, 0, 6], []], ids=["ragged", "no frames"])
    def test_a_single_patch_is_selsa(self, counts):
        """With its weights and without importance, whatever IMPORTANCE says; nothing of a RoI's parts is needed."""
        rng = torch.Generator().manual_seed(2)
        query, context = random_proposals(3, SMALL, rng), random_context(counts, SMALL, rng)
        spfa = make_spfa(patches=1, keep_relations=True)
        selsa = SELSAAggregator(dim=SMALL, support_topk=5, keep_relations=True).double()
        selsa.load_state_dict(spfa.state_dict())
        expected = selsa_head(spfa.state_dict(), query, context, topk=5)
        actual = spfa(replace(query, fields={}), context)
        torch.testing.assert_close(actual.value, expected, rtol=1e-10, atol=1e-10)
        assert actual.relations.equal(selsa(query, context).relations)
        assert not spfa.needs.pooled_maps and make_spfa().needs.pooled_maps

    def test_relations_are_what_a_proposal_takes_from_each_support_in_the_last_aggregation(self):
        rng = torch.Generator().manual_seed(6)
        query, context = random_proposals(2, SMALL, rng), random_context([3, 2], SMALL, rng)
        spfa, support = make_spfa(keep_relations=True), context.proposals(5)
        relations = spfa(query, context).relations
        assert relations.shape == (2, 5) and relations.sum(dim=1).allclose(torch.ones(2, dtype=torch.float64))
        for i in range(2):
            weights = patch_weights(query.fields[POOLED_MAPS][i], support.fields[POOLED_MAPS], 2)  # (4, 5)
            scores = [
                spfa.importance[1].score.weight[0] @ patch for patch in patches_of(query.fields[POOLED_MAPS][i], 2)
            ]
            alpha = torch.stack(scores).softmax(dim=0)
            torch.testing.assert_close(relations[i], alpha @ weights, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(spfa.weights(query, support)[i], weights, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(spfa.patch_importance(query)[i], alpha, rtol=1e-10, atol=1e-10)

    def test_a_fixed_importance_is_the_same_for_all_patches(self):
        query = random_proposals(2, SMALL, torch.Generator().manual_seed(6))
        assert make_spfa(importance="fixed").patch_importance(query).eq(0.25).all()

    @pytest.mark.parametrize("ask", ["weights", "patch_importance"])
    def test_a_single_patch_has_neither_weights_nor_importance_to_show(self, ask):
        query = random_proposals(2, SMALL, torch.Generator().manual_seed(6))
        with pytest.raises(ValueError, match="PATCHES 1 a proposal has no patches"):
            getattr(make_spfa(patches=1), ask)(*([query, query] if ask == "weights" else [query]))

    def test_proposals_beyond_support_topk_do_not_matter(self):
        rng = torch.Generator().manual_seed(3)
        query, context = random_proposals(3, SMALL, rng), random_context([8, 8], SMALL, rng)
        cut = [frame.with_(proposals=frame.proposals.top(5)) for frame in context.frames]
        spfa = make_spfa()
        assert spfa(query, context).value.equal(spfa(query, TemporalContext(tuple(cut), context.roles)).value)

    def test_the_gradient_agrees_with_finite_differences(self):
        rng = torch.Generator().manual_seed(4)
        query, context = random_proposals(2, SMALL, rng), random_context([3], SMALL, rng)
        spfa = make_spfa()

        def run(features, maps):
            return spfa(
                type(query).of_frame(query.boxes, features, query.scores, (64, 96), {POOLED_MAPS: maps}), context
            ).value

        assert torch.autograd.gradcheck(
            run, (query.features.requires_grad_(), query.fields[POOLED_MAPS].requires_grad_())
        )

    def test_only_what_is_learned_has_parameters(self):
        fc = {"transform.0.weight", "transform.0.bias"}
        assert set(make_spfa().state_dict()) == fc | {"importance.0.score.weight", "importance.1.score.weight"}
        assert set(make_spfa(importance="fixed").state_dict()) == fc

    def test_proposals_without_maps_are_refused(self):
        rng = torch.Generator().manual_seed(5)
        query = random_proposals(2, SMALL, rng)
        bare = type(query).of_frame(query.boxes, query.features, query.scores, (64, 96))
        with pytest.raises(ValueError, match="expected proposals with maps"):
            make_spfa()(bare, TemporalContext())

    def test_the_configuration_keys_arrive(self):
        keys = {"PATCHES": 9, "IMPORTANCE": "fixed", "TEMPERATURE": 0.5}
        keys = {f"MODEL.CSMN.SPFA.{name}": value for name, value in keys.items()}
        other = {"MODEL.VIDEO.SUPPORT_TOPK": 8, "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"}
        spfa = SPFAAggregator(tiny_cfg(keys | other), DIM)
        assert (spfa.attention.grid, spfa.attention.temperature, spfa.support_topk) == (3, 0.5, 8)
        assert spfa.importance is None and spfa.transform[0].weight.shape == (DIM, DIM)

    @pytest.mark.parametrize("reduced, channels", [(0, MAP_SHAPE[0]), (10, 10)])
    def test_a_patch_has_the_channels_that_are_pooled(self, reduced, channels):
        keys = {"MODEL.VIDEO.REDUCE_CHANNELS": reduced, "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"}
        before = torch.get_rng_state()
        keys |= {"MODEL.CSMN.SPFA.PATCHES": 4}
        spfa = SPFAAggregator.from_config(tiny_cfg(keys), DIM)
        assert spfa["channels"] == channels
        assert torch.get_rng_state().equal(before), "looking up the channels must not change what is drawn after it"

    def test_the_defaults_are_those_of_the_paper(self):
        cfg = vod2.add_video_config(get_cfg())
        cfg.merge_from_file(str(ROOT / "configs" / "CSMN_R101.yaml"))
        spfa = SPFAAggregator(cfg, 1024)
        assert spfa.attention.grid == 3 and spfa.attention.temperature is None and spfa.support_topk == 300
        assert spfa.importance[0].score.in_features == 256 * 3 * 3

    def test_a_head_with_an_activation_is_refused(self):
        with pytest.raises(UserError, match="MODEL.ROI_BOX_HEAD.NAME to 'LinearBoxHead'"):
            SPFAAggregator(tiny_cfg({"MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead"}), DIM)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"patches": 5}, r"square of 1 to 3 \(POOLER_RESOLUTION\), got 5"),
            ({"patches": 16}, "got 16"),
            ({"patches": -4}, "got -4"),
            ({"importance": "none"}, "IMPORTANCE is 'none', expected 'learned' or 'fixed'"),
            ({"temperature": -1.0}, "TEMPERATURE above 0, got -1.0"),
            ({"support_topk": -1}, "SUPPORT_TOPK of at least 0, got -1"),
        ],
    )
    def test_values_that_make_no_sense_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            make_spfa(**arguments)


CSMN = STCIE | {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SPFAAggregator",
    "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
    "MODEL.CSMN.SPFA.PATCHES": 4,
}
TOPK = 6  # SUPPORT_TOPK of the tiny detector
ON_RES4 = {"MODEL.CSMN.STCIE.STAGE": "res4"}


def clip_of(images: list, **fields) -> dict:
    """The first image as key frame and its own support, then the others."""
    others = [{"image": image, "frame_index": i, "role": Role.GLOBAL} for i, image in enumerate(images[1:], start=1)]
    support = [{"frame_index": 0, "role": Role.KEY}, *others]
    return {"image": images[0], "video_id": "video", "frame_index": 0, "support": support, **fields}


def head_calls(model) -> list[tuple]:
    """Becomes the (query, context) of each call of the proposal aggregator."""
    calls = []
    model.roi_heads.aggregator.register_forward_hook(lambda module, inputs, output: calls.append(inputs))
    return calls


def sample_by_reference(model, images: list) -> list[Frame]:
    """The frames of a sample of images with the maps that the reference makes of them, and proposals made of these."""
    stage = model.pixel_aggregator.stage
    frames = model.encode([{"image": image, "frame_index": i} for i, image in enumerate(images)])
    state = {name.removeprefix("attention."): x for name, x in model.pixel_aggregator.state_dict().items()}
    maps = [x[None] for x in encoded_sample(state, [frame.features[stage][0] for frame in frames])]
    later = [{"res5": model.backbone.res5(x)} if stage == "res4" else {} for x in maps]
    own = [{stage: x} if model.pixel_aggregator.replaces_stage else {} for x in maps]
    encoded = [frame.with_(features=frame.features | a | b) for frame, a, b in zip(frames, own, later, strict=True)]
    return [propose_frames(model.proposal_generator, model.roi_heads, [frame])[0][0] for frame in encoded]


class TestTogether:
    @pytest.mark.parametrize(
        "keys",
        [{}, ON_RES4, ON_RES4 | {"MODEL.CSMN.STCIE.RPN": False}],
        ids=["res5", "res4", "res4, RPN on plain res4"],
    )
    @pytest.mark.parametrize("how", ["clip", "stream"])
    def test_proposals_of_key_frame_and_supports_are_made_of_maps_that_attend_to_each_other(self, how, keys):
        model, images = build_detector(CSMN | keys, dtype=torch.float64), make_video(3)
        calls = head_calls(model)
        with torch.no_grad():
            expected = sample_by_reference(model, images)
            if how == "clip":
                model([clip_of(images)])
            else:
                next(detect_as_stream(model, images, GlobalSample(3)))
        query, context = calls[0]
        assert [frame.index for frame in context.frames] == [0, 1, 2]
        supports = [frame.proposals.top(TOPK) for frame in context.frames]
        wanted = [frame.proposals.top(TOPK) for frame in expected]
        for own, one in zip([query, *supports], [expected[0].proposals, *wanted], strict=True):
            torch.testing.assert_close(own.boxes, one.boxes, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(own.features, one.features, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(own.fields[POOLED_MAPS], one.fields[POOLED_MAPS], rtol=1e-9, atol=1e-9)

    def test_in_training_the_maps_are_those_of_inference(self):
        """The same clip: what is pooled of the supports does not depend on the mode; nor does the key frame's map."""
        model, images = build_detector(CSMN, dtype=torch.float64), make_video(3)
        with torch.no_grad():
            expected = sample_by_reference(model, images)
        freeze_statistics(model.train())
        seen = []
        embed = model.roi_heads.embed
        model.roi_heads.embed = lambda features, proposals: seen.append(features["res5"]) or embed(features, proposals)
        with EventStorage():
            model([clip_of(images, instances=make_targets())])
        (maps,) = seen
        for row, frame in zip(maps, expected, strict=True):
            torch.testing.assert_close(row, frame.features["res5"][0], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("supports, changes", [("sample", True), ("entering", False), ("plain", False)])
    def test_only_where_a_sample_attends_to_itself_a_later_key_frame_changes_a_support(self, supports, changes):
        model, images = build_detector(CSMN | {"MODEL.CSMN.STCIE.SUPPORTS": supports}), make_video(3)
        calls = head_calls(model)
        list(detect_as_stream(model, images, SlidingWindow(2, lookahead=0)))
        first, second = (calls[t][1].frames[0].proposals for t in (1, 2))  # frame 0 as a support of frames 1 and 2
        assert first.boxes.equal(second.boxes)
        assert first.features.equal(second.features) != changes

    @pytest.mark.parametrize(
        "keys",
        [{}, ON_RES4, ON_RES4 | {"MODEL.CSMN.STCIE.RPN": False}],
        ids=["res5", "res4", "res4, RPN on plain res4"],
    )
    def test_a_sample_without_the_key_frame_is_embedded_once_for_all_that_look_at_it(self, keys):
        """Frames are those of clips with the whole sample; a key frame that is one of the sample makes its own."""
        model, images = build_detector(CSMN | keys, dtype=torch.float64), make_video(6)
        schedule = GlobalSample(2, include_key=False)
        sample = [support.index for support in schedule.window(0, len(images), "video")]
        outside = [t for t in range(len(images)) if t not in sample]
        counts = []
        embed = model.roi_heads.embed
        model.roi_heads.embed = lambda features, boxes: counts.append(len(boxes)) or embed(features, boxes)
        found = list(detect_as_stream(model, images, schedule))
        # A key frame of the sample is embedded once, as key frame and as its own support.
        assert len(outside) == 4 and sum(counts) == len(sample) + len(outside) + 2 * len(sample)

        for t, detections in enumerate(found):
            with torch.no_grad():
                (whole,) = model([window_clip(images, t, schedule)])
            assert_same_detections(detections, whole["instances"], 1e-9)

    def test_other_weights_or_another_precision_make_the_supports_anew(self):
        model, images = build_detector(CSMN), make_video(6)
        schedule = GlobalSample(2, include_key=False)
        outside = [t for t in range(6) if t not in {support.index for support in schedule.window(0, 6, "video")}]

        def detected(shares: bool):
            memory = FrameMemory(schedule)
            memory.start("video", 6)
            found = []
            for number, t in enumerate(outside[:3]):
                if not shares:
                    memory.start("video", 6)
                for index in memory.missing(t):
                    model.remember([{"image": images[index], "frame_index": index}], [memory])
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=number == 0):
                    model.roi_heads.box_head.fc1.weight.mul_(1.5 if number == 2 else 1)
                    found.append(model.detect_from(memory, {"frame_index": t})["instances"])
            with torch.no_grad():
                model.roi_heads.box_head.fc1.weight.div_(1.5)
            return found

        for one, other in zip(detected(shares=True), detected(shares=False), strict=True):
            assert_same_detections(one, other, 1e-5)

    def test_a_subclass_with_its_own_supports_has_them_in_a_stream_too(self):
        class Mine(StCIE):
            def forward_clip(self, key, context, supports):
                result, maps = super().forward_clip(key, context, supports)
                return result, [{name: x + key.index for name, x in each.items()} for each in maps]

        model, images = build_detector(CSMN, dtype=torch.float64), make_video(5)
        model.pixel_aggregator.__class__ = Mine
        schedule = GlobalSample(2, include_key=False)
        for t, detections in enumerate(detect_as_stream(model, images, schedule)):
            with torch.no_grad():
                (whole,) = model([window_clip(images, t, schedule)])
            assert_same_detections(detections, whole["instances"], 1e-9)

    def test_another_sample_is_embedded_anew(self):
        """What a live stream has seen grows, and with it the frame that is drawn of it."""
        model, images = build_detector(CSMN, dtype=torch.float64), make_video(6)
        schedule = GlobalSample(1, include_key=False, lookahead=0)
        drawn = {schedule.window(t, None, "video")[0].index for t in range(len(images))}
        assert len(drawn) > 1
        for t, detections in enumerate(detect_as_stream(model, images, schedule)):
            with torch.no_grad():
                (whole,) = model([window_clip(images, t, schedule)])
            assert_same_detections(detections, whole["instances"], 1e-9)

    def test_a_support_that_has_entered_is_encoded_and_a_plain_one_is_not(self):
        pooled = {}
        for supports in ("entering", "plain"):
            keys = CSMN | {"MODEL.CSMN.STCIE.SUPPORTS": supports}
            # In float32 a batch of images rounds differently from one image on some processors.
            model, images = build_detector(keys, dtype=torch.float64), make_video(3)
            calls = head_calls(model)
            list(detect_as_stream(model, images, SlidingWindow(2, lookahead=0)))
            pooled[supports] = calls[2][1].frames[1].proposals
            with torch.no_grad():
                frames = model.encode([{"image": image, "frame_index": i} for i, image in enumerate(images)])
                one = frames[1]
                if supports == "entering":  # frame 1 was given the context of frame 0 and of itself
                    (clip,), _ = model.enhance_clips([Clip(frames[1], context_of(frames[:2]))])
                    one = clip.key
                (done,), _ = propose_frames(model.proposal_generator, model.roi_heads, [one])
            torch.testing.assert_close(
                pooled[supports].fields[POOLED_MAPS], done.proposals.fields[POOLED_MAPS], rtol=1e-5, atol=1e-5
            )
        maps = [pooled[supports].fields[POOLED_MAPS] for supports in ("entering", "plain")]
        assert not torch.allclose(*maps, atol=1e-3)

    def test_the_encoded_map_of_the_key_frame_reaches_the_head_in_training(self):
        """Its RoIs are pooled from it, so that the loss moves the content of stCIE, which begins with 0."""
        model, images = build_detector(CSMN).train(), make_video(2)
        freeze_statistics(model)
        torch.nn.init.zeros_(model.pixel_aggregator.attention.source_content.weight)
        with EventStorage():
            losses = model([clip_of(images, instances=make_targets())])
        sum(losses.values()).backward()
        assert model.pixel_aggregator.attention.source_content.weight.grad.ne(0).any()


ROWS = ROOT / "configs" / "ablations" / "csmn.yaml"
CONFIGS = [*sorted((ROOT / "configs").rglob("CSMN*.yaml")), *(f"{ROWS}:{name}" for name in load_rows(ROWS).rows)]


@pytest.mark.parametrize("path", CONFIGS, ids=config_name)
def test_every_configuration_loads_and_names_known_parts(path):
    cfg = load_config(str(path))
    aggregator = cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME
    if aggregator:
        assert aggregator in ("SPFAAggregator", "SELSAAggregator") and cfg.MODEL.ROI_BOX_HEAD.NAME == "LinearBoxHead"
    else:  # Faster R-CNN + stCIE
        assert cfg.MODEL.VIDEO.PIXEL_AGGREGATOR.NAME == "StCIE"
        assert cfg.MODEL.ROI_BOX_HEAD.NAME == "FastRCNNConvFCHead"
    assert cfg.VIDEO.TRAIN_SCHEDULE.WITH_KEY and cfg.VIDEO.TEST_SCHEDULE.INCLUDE_KEY
