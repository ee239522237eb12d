"""The aligners that compare cells, as the configuration builds them, and how their locations are optimized."""

import pytest
import torch
from torch import nn

from vod2 import add_video_config
from vod2.d2 import get_cfg
from vod2.engine.optimizer import build_video_optimizer
from vod2.errors import UserError
from vod2.modeling.pixel import build_aligner

NAMES = ["LearnedSampling", "MatchTrans", "NonLocal"]


def make_config(name, **keys):
    cfg = add_video_config(get_cfg())
    cfg.MODEL.ALIGNER.NAME = name
    cfg.MODEL.ALIGNER.EMBEDDING_DIM = 4
    for key, value in keys.items():
        cfg.MODEL.ALIGNER[key] = value
    return cfg


def groups_by_parameter(optimizer):
    return {parameter: group for group in optimizer.param_groups for parameter in group["params"]}


@pytest.mark.parametrize("name", NAMES)
def test_an_aligner_is_built_by_its_name_and_gives_a_map_of_the_source(name):
    aligner = build_aligner(make_config(name), channels=6)
    source, target = torch.rand(2, 1, 6, 5, 7).unbind()
    assert not aligner.needs_images
    assert aligner(source, target).shape == source.shape
    assert not aligner(torch.zeros_like(source), target).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_published_size_has_two_embeddings_and_the_locations(name):
    aligner = build_aligner(make_config(name, EMBEDDING_DIM=256), channels=1024)
    count = sum(parameter.numel() for parameter in aligner.parameters())
    assert count == 2 * (1024 * 256 + 256) + (80 if name == "LearnedSampling" else 0)


def test_the_keys_reach_the_sampling():
    layer = build_aligner(
        make_config("LearnedSampling", NUM_LOCATIONS=25, INIT="uniform", NORMALISER="linear"), 6
    ).layer
    assert layer.locations.shape == (25, 2) and layer.locations.max() == 2 and layer.normaliser == "linear"
    assert isinstance(layer.locations, nn.Parameter)
    fixed = build_aligner(make_config("LearnedSampling", LEARNED=False), 6).layer
    assert not isinstance(fixed.locations, nn.Parameter) and fixed.locations.shape == (40, 2)


def test_a_setting_that_does_not_fit_is_the_users_mistake():
    with pytest.raises(UserError, match=r"MODEL\.ALIGNER: 40 uniform locations"):
        build_aligner(make_config("LearnedSampling", INIT="uniform"), 6)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_locations_get_their_learning_rate_and_no_weight_decay(optimizer):
    cfg = make_config("LearnedSampling", LR_MULTIPLIER=3.0)
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = optimizer, 0.5, 0.1
    model = nn.Sequential(nn.Conv2d(3, 6, 1), build_aligner(cfg, 6))
    groups = groups_by_parameter(build_video_optimizer(cfg, model))
    assert groups.keys() == set(model.parameters())
    locations = model[1].layer.locations
    assert groups[locations]["lr"] == 1.5 and groups[locations]["weight_decay"] == 0.0
    for parameter in set(model.parameters()) - {locations}:
        assert groups[parameter]["lr"] == 0.5 and groups[parameter]["weight_decay"] == 0.1


def test_sgd_moves_the_locations_as_much_faster_as_the_multiplier_says():
    steps = {}
    for multiplier in (1.0, 4.0):
        cfg = make_config("LearnedSampling", LR_MULTIPLIER=multiplier)
        model = build_aligner(cfg, 6)
        optimizer = build_video_optimizer(cfg, model)
        before = model.layer.locations.detach().clone()
        model.layer.locations.grad = torch.ones_like(before)
        optimizer.step()
        steps[multiplier] = model.layer.locations.detach() - before
    torch.testing.assert_close(steps[4.0], 4 * steps[1.0], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_without_exceptions_the_groups_are_as_before(optimizer):
    cfg = make_config("NonLocal")
    cfg.SOLVER.OPTIMIZER = optimizer
    model = build_aligner(cfg, 6)
    built = build_video_optimizer(cfg, model)
    assert len(built.param_groups) == 1 and groups_by_parameter(built).keys() == set(model.parameters())


def test_parameters_that_do_not_learn_stay_out():
    cfg = make_config("LearnedSampling")
    model = build_aligner(cfg, 6)
    model.layer.locations.requires_grad_(False)
    assert model.layer.locations not in groups_by_parameter(build_video_optimizer(cfg, model))


def test_a_model_of_nothing_but_exceptions_has_no_empty_group():
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(2))
    module.lr_multipliers = {"weight": 2.0}
    cfg = make_config("LearnedSampling")
    (group,) = build_video_optimizer(cfg, module).param_groups
    assert group["lr"] == 2 * cfg.SOLVER.BASE_LR and group["weight_decay"] == cfg.SOLVER.WEIGHT_DECAY


def test_a_multiplier_of_no_parameter_is_named():
    module = nn.Linear(2, 2)
    module.lr_multipliers = {"locations": 2.0}
    with pytest.raises(ValueError, match="'locations', expected one of its parameters"):
        build_video_optimizer(make_config("LearnedSampling"), module)
