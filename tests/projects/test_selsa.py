"""SELSA against the slow reference of its equations, and its configurations."""

import pytest
import torch
from torch import Tensor

from helpers.models import DIM, ROOT, build_detector, make_targets, make_video, tiny_cfg
from helpers.proposals import random_context, random_proposals
from reference.selsa import selsa_head
from vod2 import UserError
from vod2.d2 import EventStorage, ShapeSpec, build_model
from vod2.engine import load_config
from vod2.modeling import ProposalAggregator, VideoROIHeads
from vod2.projects.selsa import SELSAAggregator
from vod2.structures import ProposalSet, Role, TemporalContext

SMALL = 16
FORMS = pytest.mark.parametrize(
    "form",
    [
        pytest.param({}, id="single head"),
        pytest.param({"num_heads": 4, "output_projection": True}, id="heads"),
        pytest.param({"update_supports": True}, id="original supports"),
        pytest.param(
            {"num_heads": 4, "output_projection": True, "update_supports": True}, id="heads, original supports"
        ),
        pytest.param({"num_layers": 1}, id="one layer"),
        pytest.param({"num_layers": 3, "update_supports": True}, id="three layers"),
    ],
)
LINEAR = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SELSAAggregator", "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"}


def make_selsa(**arguments) -> SELSAAggregator:
    """A SELSA head of 16 features whose weights are large enough for every term to matter."""
    torch.manual_seed(0)
    selsa = SELSAAggregator(**({"dim": SMALL, "support_topk": 5} | arguments))
    for parameter in selsa.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return selsa.double()


def reference(selsa: SELSAAggregator, query: ProposalSet, context: TemporalContext) -> Tensor:
    return selsa_head(
        dict(selsa.named_parameters()),
        query,
        context,
        heads=selsa.relation[0].num_heads,
        topk=selsa.support_topk,
        update_supports=selsa.update_supports,
    )


@FORMS
@pytest.mark.parametrize("counts", [[6, 2, 0, 5], [1], [0, 0], []], ids=["ragged", "one", "none in any", "no frames"])
def test_the_head_is_the_equations(form, counts):
    rng = torch.Generator().manual_seed(1)
    query, context = random_proposals(3, SMALL, rng), random_context(counts, SMALL, rng)
    selsa = make_selsa(**form)
    actual = selsa(query, context)
    torch.testing.assert_close(actual.value, reference(selsa, query, context), rtol=1e-10, atol=1e-10)
    assert actual.losses == {} and actual.carry == {} and actual.relations is None


@FORMS
def test_the_gradient_is_that_of_the_equations(form):
    """That of every parameter, of the key frame's proposals and of those of the supports."""
    rng = torch.Generator().manual_seed(2)
    query = random_proposals(3, SMALL, rng, requires_grad=True)
    context = random_context([4, 3], SMALL, rng, requires_grad=True)
    selsa = make_selsa(**form)
    leaves = [*selsa.parameters(), query.features, *(frame.proposals.features for frame in context.frames)]
    grads = [
        torch.autograd.grad(value.square().sum(), leaves)
        for value in (selsa(query, context).value, reference(selsa, query, context))
    ]
    for actual, expected in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_the_forms_differ():
    rng = torch.Generator().manual_seed(3)
    query, context = random_proposals(3, SMALL, rng), random_context([4, 3], SMALL, rng)
    plain, updated = (make_selsa(update_supports=flag)(query, context).value for flag in (False, True))
    assert not torch.allclose(plain, updated, atol=1e-3)


def test_the_later_form_has_an_output_projection_in_each_relation():
    names = set(make_selsa(num_heads=16, output_projection=True).state_dict())
    added = {f"relation.{k}.output.{part}" for k in range(2) for part in ("weight", "bias")}
    assert names - set(make_selsa().state_dict()) == added


@FORMS
def test_kept_relations_are_the_mean_weights_of_the_last_module(form):
    rng = torch.Generator().manual_seed(4)
    query, context = random_proposals(3, SMALL, rng), random_context([6, 2], SMALL, rng)
    kept = make_selsa(keep_relations=True, **form)(query, context)
    assert kept.value.equal(make_selsa(**form)(query, context).value)
    assert kept.relations.shape == (3, 5 + 2) and not kept.relations.requires_grad
    torch.testing.assert_close(kept.relations.sum(dim=1), torch.ones(3, dtype=torch.float64))


def test_kept_relations_of_one_layer_are_the_softmax_of_the_similarities():
    rng = torch.Generator().manual_seed(5)
    query, context = random_proposals(2, SMALL, rng), random_context([3], SMALL, rng)
    selsa = make_selsa(num_layers=1, keep_relations=True)
    relation, key = selsa.relation[0], context.frames[0].proposals.features
    expected = (relation.query(query.features) @ relation.key(key).T / SMALL**0.5).softmax(dim=1)
    torch.testing.assert_close(selsa(query, context).relations, expected, rtol=1e-10, atol=1e-10)


def seen_by_the_aggregator(model, clip: dict) -> tuple[ProposalSet, TemporalContext, Tensor]:
    """Query, context and value of the aggregator's call in a training step."""
    calls = []
    aggregator: ProposalAggregator = model.roi_heads.aggregator
    aggregator.register_forward_hook(lambda module, inputs, out: calls.append((*inputs, out.value)))
    torch.manual_seed(0)
    with EventStorage():
        losses = model([clip])
    assert all(value.isfinite() for value in losses.values())
    (call,) = calls
    return call


@pytest.mark.parametrize("topk", [6, 300])
def test_in_training_the_sampled_rois_look_at_each_other_and_at_the_supports(topk):
    model = build_detector(LINEAR | {"MODEL.VIDEO.SUPPORT_TOPK": topk}, dtype=torch.float64).train()
    images = make_video(2)
    support = [{"frame_index": 0, "role": Role.KEY}, {"image": images[1], "frame_index": 1, "role": Role.GLOBAL}]
    clip = {"image": images[0], "video_id": "v", "frame_index": 0, "support": support, "instances": make_targets()}
    query, context, value = seen_by_the_aggregator(model, clip)
    assert context.roles == (Role.KEY, Role.GLOBAL) and len(query) == 16
    rows = query.scores.argsort(descending=True, stable=True)
    assert context.frames[0].proposals.features.equal(query.features[rows])
    expected = reference(model.roi_heads.aggregator, query, context)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)


def test_the_configuration_keys_arrive():
    keys = {
        "MODEL.SELSA.NUM_LAYERS": 3,
        "MODEL.SELSA.NUM_HEADS": 8,
        "MODEL.SELSA.OUTPUT_PROJECTION": True,
        "MODEL.SELSA.UPDATE_SUPPORTS": True,
        "MODEL.VIDEO.KEEP_RELATIONS": True,
    }
    selsa = SELSAAggregator(tiny_cfg(LINEAR | keys), DIM)
    assert (len(selsa.relation), len(selsa.transform), selsa.support_topk) == (3, 2, 6)
    assert selsa.update_supports and selsa.keep_relations
    assert all(relation.num_heads == 8 and relation.output is not None for relation in selsa.relation)
    assert all(relation.geometry is None for relation in selsa.relation)


def test_a_box_head_that_ends_with_an_activation_is_refused():
    with pytest.raises(UserError, match="set MODEL.ROI_BOX_HEAD.NAME to 'LinearBoxHead'"):
        build_model(tiny_cfg(LINEAR | {"MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead"}))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_layers": 0}, "NUM_LAYERS of at least 1 and SUPPORT_TOPK of at least 0, got 0"),
        ({"support_topk": -2}, "NUM_LAYERS of at least 1 and SUPPORT_TOPK of at least 0, got 2, -2"),
        ({"num_heads": 3}, "3 heads do not divide 16"),
    ],
)
def test_values_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_selsa(**arguments)


LAYERS = ("query", "key", "value")
HEADS_OF = {"SELSA_R101": LAYERS, "SELSA_MultiHead_R101": (*LAYERS, "output")}


@pytest.mark.parametrize("name", HEADS_OF)
def test_the_parameters_of_the_published_heads(name):
    cfg = load_config(str(ROOT / "configs" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"])
    shapes = {"res4": ShapeSpec(channels=1024, stride=16), "res5": ShapeSpec(channels=2048, stride=16)}
    with torch.device("meta"):
        heads = VideoROIHeads(cfg, shapes)
    expected = {"reduce.res5.0": (256, 2048, 1, 1), "box_head.fc1": (1024, 256 * 7 * 7)}
    expected |= {"box_predictor.cls_score": (31, 1024), "box_predictor.bbox_pred": (4, 1024)}
    expected |= {"aggregator.transform.0": (1024, 1024)}
    expected |= {f"aggregator.relation.{k}.{layer}": (1024, 1024) for k in range(2) for layer in HEADS_OF[name]}
    weights = {key: tuple(value.shape) for key, value in heads.state_dict().items() if key.endswith("weight")}
    assert weights == {f"{key}.weight": shape for key, shape in expected.items()}
    assert heads.box_predictor.ohem == 128


@pytest.mark.parametrize("name", [*HEADS_OF, "SELSA_Aug_R101", "SELSA_X101"])
def test_the_published_configurations_train_six_epochs_with_a_drop_after_four(name):
    cfg = load_config(str(ROOT / "configs" / f"{name}.yaml"))
    epoch = 2 * (57_834 + 53_639) / cfg.SOLVER.IMS_PER_BATCH  # with mirror images
    assert abs(cfg.SOLVER.MAX_ITER - 6 * epoch) < 1 and abs(cfg.SOLVER.STEPS[0] - 4 * epoch) < 1
    assert cfg.VIDEO.TRAIN_SCHEDULE.WITH_KEY and cfg.VIDEO.TEST_SCHEDULE.COUNT == 21
    assert cfg.INPUT.VIDEO_AUGMENTATION == ("SSD" if name in ("SELSA_Aug_R101", "SELSA_X101") else "")


def test_the_quick_single_frame_weights_fit_the_quick_selsa():
    states = []
    for name in ("FasterRCNN", "SELSA"):
        model = build_model(load_config(str(ROOT / "configs" / "quick" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"]))
        states.append({key: value.shape for key, value in model.state_dict().items()})
    added = states[1].items() - states[0].items()
    assert not states[0].items() - states[1].items()
    assert added and all(key.startswith("roi_heads.aggregator.") for key, _ in added)
