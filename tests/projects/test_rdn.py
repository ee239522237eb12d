"""RDN against the slow reference of its equations."""

import numpy as np
import pytest
import torch

import vod2
from helpers.models import DIM, IMAGE_SIZE, ROOT, build_detector, make_targets, make_video, tiny_cfg
from helpers.proposals import random_boxes, random_context, random_proposals
from helpers.streams import detect_as_stream
from reference.rdn import rdn_head, relation_features
from vod2.d2 import EventStorage, get_cfg
from vod2.engine import load_config
from vod2.layers import GeometryBias, RelationAttention, RelationModules
from vod2.projects.rdn import RDNAggregator
from vod2.structures import Frame, ProposalSet, Role, TemporalContext
from vod2.temporal import SlidingWindow, build_support_schedule, build_training_schedule

HEADS, SMALL = 4, 16


def make_rdn(dtype: torch.dtype = torch.float64, **arguments) -> RDNAggregator:
    """An RDN head of 16 features whose weights are large enough for every term to matter."""
    torch.manual_seed(0)
    values = {"relations": RelationModules(SMALL, HEADS, geometry_dim=16)}
    rdn = RDNAggregator(**(values | {"support_topk": 5, "advanced_ratio": 0.4} | arguments))
    for parameter in rdn.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return rdn.to(dtype)


def assert_equals_reference(rdn: RDNAggregator, query, context, advanced_topk: int) -> None:
    arguments = {"heads": HEADS, "topk": rdn.support_topk, "advanced_topk": advanced_topk, "pool": rdn.advanced_pool}
    expected = rdn_head(rdn.state_dict(), query, context, **arguments)
    actual = rdn(query, context)
    torch.testing.assert_close(actual.value, expected, rtol=1e-10, atol=1e-10)
    assert actual.losses == {} and actual.carry == {}


@pytest.mark.parametrize("geometry", [True, False])
@pytest.mark.parametrize("n, m", [(4, 7), (1, 1), (3, 0)])
def test_the_relation_module_is_equation_one(geometry, n, m):
    torch.manual_seed(0)
    layer = RelationAttention(SMALL, HEADS, GeometryBias(HEADS, 16) if geometry else None).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    rng = torch.Generator().manual_seed(1)
    query, key = (torch.randn(count, SMALL, generator=rng, dtype=torch.float64) for count in (n, m))
    query_boxes, key_boxes = random_boxes(n, rng), random_boxes(m, rng)
    expected = relation_features(layer.state_dict(), query, key, query_boxes, key_boxes, heads=HEADS)
    torch.testing.assert_close(layer(query, key, query_boxes, key_boxes), expected, rtol=1e-10, atol=1e-10)


def test_scale_and_wavelength_reach_the_embedding():
    layer = RelationAttention(SMALL, HEADS, GeometryBias(HEADS, 16, scale=10.0, wavelength=50.0)).double()
    torch.nn.init.normal_(layer.geometry.projection.weight, std=0.4)
    rng = torch.Generator().manual_seed(1)
    features, boxes = torch.randn(5, SMALL, generator=rng, dtype=torch.float64), random_boxes(5, rng)
    arguments = (features, features, boxes, boxes)
    expected = relation_features(layer.state_dict(), *arguments, heads=HEADS, scale=10.0, wavelength=50.0)
    torch.testing.assert_close(layer(*arguments), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("advanced, pool, advanced_topk", [(False, "all", 0), (True, "all", 6), (True, "frame", 2)])
@pytest.mark.parametrize("num_basic", [0, 1, 2, 3])
def test_the_head_is_equations_two_to_seven(num_basic, advanced, pool, advanced_topk):
    """40% of R^s, 3 frames of 5 proposals: 6 of them all, or 2 of each frame."""
    rng = torch.Generator().manual_seed(2)
    query, context = random_proposals(4, SMALL, rng), random_context([6, 6, 6], SMALL, rng)
    rdn = make_rdn(num_basic=num_basic, advanced=advanced, advanced_pool=pool)
    assert_equals_reference(rdn, query, context, advanced_topk)


def test_public_code_has_a_layer_between_the_two_steps_of_the_advanced_stage():
    rng = torch.Generator().manual_seed(2)
    query, context = random_proposals(4, SMALL, rng), random_context([6, 6, 6], SMALL, rng)
    assert_equals_reference(make_rdn(advanced_fc=True), query, context, advanced_topk=6)
    assert make_rdn(advanced=False, advanced_fc=True).refine_transform is None


@pytest.mark.parametrize(
    "counts, advanced_topk",
    [
        pytest.param([7, 2, 0, 5], 5, id="ragged"),
        pytest.param([1, 3], 2, id="fewer than SUPPORT_TOPK"),
        pytest.param([1], 1, id="at least one"),
        pytest.param([0, 0], 0, id="none in any frame"),
        pytest.param([6], 2, id="one frame"),
        pytest.param([], 0, id="no frames"),
    ],
)
def test_the_number_of_proposals_may_differ_from_frame_to_frame(counts, advanced_topk):
    """40% of R^s, in which a frame has at most 5."""
    rng = torch.Generator().manual_seed(3)
    query, context = random_proposals(3, SMALL, rng), random_context(counts, SMALL, rng)
    assert_equals_reference(make_rdn(), query, context, advanced_topk)
    assert_equals_reference(make_rdn(advanced_pool="frame"), query, context, advanced_topk=2)


def test_a_frame_that_stands_twice_in_the_context_counts_twice():
    rng = torch.Generator().manual_seed(4)
    query, context = random_proposals(3, SMALL, rng), random_context([6, 6], SMALL, rng)
    doubled = TemporalContext(context.frames + context.frames[:1], context.roles + context.roles[:1])
    rdn = make_rdn()
    assert_equals_reference(rdn, query, doubled, advanced_topk=6)
    assert not torch.allclose(rdn(query, doubled).value, rdn(query, context).value)


def test_proposals_beyond_support_topk_do_not_matter():
    rng = torch.Generator().manual_seed(5)
    query, context = random_proposals(3, SMALL, rng), random_context([8, 8], SMALL, rng)
    cut = [frame.with_(proposals=frame.proposals.top(5)) for frame in context.frames]
    rdn = make_rdn(support_topk=5)
    assert rdn(query, context).value.equal(rdn(query, TemporalContext(tuple(cut), context.roles)).value)


@pytest.mark.parametrize("pool, expected", [("all", [0, 1, 2, 4]), ("frame", [0, 1, 4, 5])])
def test_the_advanced_pool_is_a_share_of_all_support_proposals_or_of_those_of_each_frame(pool, expected):
    """Half of 2 frames of 4; three of the best four are of the first frame. By hand."""
    scores = torch.tensor([9.0, 8.0, 5.0, 1.0, 6.0, 4.0, 3.0, 2.0])
    sets = [ProposalSet.of_frame(torch.rand(4, 4), torch.rand(4, SMALL), part, IMAGE_SIZE) for part in scores.split(4)]
    frames = tuple(Frame("video", index, IMAGE_SIZE, proposals=proposals) for index, proposals in enumerate(sets))
    context = TemporalContext(frames, (Role.LOCAL, Role.LOCAL))
    rdn = make_rdn(support_topk=4, advanced_ratio=0.5, advanced_pool=pool)
    assert rdn._advanced_pool(ProposalSet.cat(sets), context).scores.equal(scores[expected])


def test_no_parameter_is_shared_between_relation_modules():
    """Every relation has its own weights, in both stages: 4 of them for N_b = 2, with 8 tensors each, and one h()."""
    rdn = make_rdn(num_basic=2)
    assert len(list(rdn.parameters())) == 4 * 8 + 2
    assert len(list(make_rdn(num_basic=2, advanced=False).parameters())) == 2 * 8 + 2
    assert len(list(make_rdn(num_basic=0).parameters())) == 2 * 8


def test_without_any_stage_the_features_pass_unchanged():
    rng = torch.Generator().manual_seed(7)
    query = random_proposals(3, SMALL, rng)
    rdn = make_rdn(num_basic=0, advanced=False)
    assert rdn(query, random_context([4], SMALL, rng)).value.equal(query.features)


def test_the_gradient_agrees_with_finite_differences():
    rng = torch.Generator().manual_seed(8)
    query, context = random_proposals(2, SMALL, rng), random_context([3, 2], SMALL, rng)
    rdn = make_rdn(support_topk=3)

    def run(features):
        return rdn(type(query).of_frame(query.boxes, features, query.scores, (64, 96)), context).value

    assert torch.autograd.gradcheck(run, query.features.requires_grad_())


WITHIN_A_FRAME = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
    "MODEL.RDN.ADVANCED": False,
    "MODEL.VIDEO.SUPPORT_TOPK": 300,
}


def within_a_frame(rdn: RDNAggregator, query: ProposalSet) -> torch.Tensor:
    """The basic stage of the reference on the key frame's own proposals."""
    order = query.scores.argsort(descending=True, stable=True)
    own = TemporalContext((Frame("video", 0, IMAGE_SIZE, proposals=query[order]),), (Role.KEY,))
    return rdn_head(rdn.state_dict(), query, own, heads=HEADS, topk=300, advanced_topk=1, pool="all")


@pytest.mark.parametrize("training", [True, False])
def test_relation_within_a_frame_is_the_basic_stage_on_the_key_frame_s_own_proposals(training):
    """A training clip as the mapper makes it of NoSupport and WITH_KEY, and a stream whose window is the key frame."""
    model, calls = build_detector(WITHIN_A_FRAME, dtype=torch.float64).train(training), []
    rdn = model.roi_heads.aggregator
    rdn.register_forward_hook(lambda module, inputs, out: calls.append((inputs[0], out.value)))
    image = make_video(1)[0]
    if training:
        support = [{"frame_index": 0, "role": Role.KEY}]
        with EventStorage():
            model([{"image": image, "frame_index": 0, "support": support, "instances": make_targets()}])
    else:
        list(detect_as_stream(model, [image], SlidingWindow(0)))
    ((query, value),) = calls
    assert len(query) == 16
    torch.testing.assert_close(value, within_a_frame(rdn, query), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(value, rdn(query, TemporalContext()).value)


@pytest.mark.parametrize("name, proposals", [("Relation_R101", 300), ("quick/Relation", 50)])
def test_the_configurations_of_relation_within_a_frame_look_at_the_key_frame_alone(name, proposals):
    cfg = load_config(str(ROOT / "configs" / f"{name}.yaml"))
    assert cfg.MODEL.VIDEO.SUPPORT_TOPK == cfg.MODEL.RPN.POST_NMS_TOPK_TEST == proposals
    assert not cfg.MODEL.RDN.ADVANCED
    assert build_training_schedule(cfg).sample(4, 9, np.random.default_rng(0)) == [(4, Role.KEY)]
    assert [index for index, _ in build_support_schedule(cfg).window(4, None)] == [4]


def test_the_configuration_keys_arrive():
    keys = {
        "MODEL.RDN.NUM_BASIC": 3,
        "MODEL.RDN.ADVANCED": False,
        "MODEL.RDN.ADVANCED_RATIO": 0.5,
        "MODEL.RDN.ADVANCED_POOL": "frame",
        "MODEL.VIDEO.SUPPORT_TOPK": 8,
        "MODEL.VIDEO.RELATION.NUM_HEADS": 2,
        "MODEL.VIDEO.RELATION.GEOMETRY_DIM": 24,
        "MODEL.VIDEO.RELATION.GEOMETRY_SCALE": 10.0,
        "MODEL.VIDEO.RELATION.GEOMETRY_WAVELENGTH": 50.0,
    }
    rdn = RDNAggregator(tiny_cfg(keys), DIM)
    assert (len(rdn.basic), len(rdn.transform), rdn.refine, rdn.distill) == (3, 2, None, None)
    assert (rdn.support_topk, rdn.advanced_ratio, rdn.advanced_pool) == (8, 0.5, "frame")
    for relation in rdn.basic:
        assert relation.num_heads == 2 and relation.query.in_features == DIM
        assert relation.geometry.projection.weight.shape == (2, 24)
        assert (relation.geometry.scale, relation.geometry.wavelength) == (10.0, 50.0)


def test_the_defaults_are_those_of_the_paper():
    assert RDNAggregator(tiny_cfg({"MODEL.RDN.ADVANCED_FC": True}), DIM).refine_transform.in_features == DIM
    rdn = RDNAggregator(vod2.add_video_config(get_cfg()), 1024)
    assert (len(rdn.basic), rdn.support_topk, rdn.refine_transform) == (2, 75, None)
    assert (rdn.advanced_ratio, rdn.advanced_pool) == (0.2, "all")
    assert rdn.basic[0].num_heads == 16 and rdn.basic[0].geometry.projection.in_features == 64


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_basic": -1}, "NUM_BASIC and SUPPORT_TOPK of at least 0, got -1"),
        ({"support_topk": -2}, "NUM_BASIC and SUPPORT_TOPK of at least 0, got 2, -2"),
        ({"advanced_ratio": 0.0}, r"ADVANCED_RATIO in \(0, 1\], got 0"),
        ({"advanced_ratio": 1.5}, r"ADVANCED_RATIO in \(0, 1\], got 1.5"),
        ({"advanced_pool": "video"}, "ADVANCED_POOL 'all' or 'frame', got 'video'"),
        ({"relations": RelationModules(SMALL, num_heads=3)}, "3 heads do not divide 16"),
        ({"relations": RelationModules(SMALL, HEADS, geometry_dim=12)}, "multiple of 8"),
    ],
)
def test_values_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_rdn(**arguments)
