"""SOLVER.CLIP_GRADIENTS: what torch does, for either optimizer."""

import pytest
import torch
from torch import nn

from helpers.models import tiny_cfg
from vod2.engine.optimizer import build_video_optimizer
from vod2.errors import UserError


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def keys(name: str, kind: str = "full_model") -> dict:
    return {
        "SOLVER.OPTIMIZER": name,
        "SOLVER.CLIP_GRADIENTS.ENABLED": True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": kind,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.5,
    }


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("factor", [100.0, 1e-3], ids=["above the limit", "below it"])
def test_the_norm_of_all_gradients_together_is_at_most_the_value(name, factor):
    model, expected = make_model(), make_model()
    cfg = tiny_cfg(keys(name))
    optimizer = build_video_optimizer(cfg, model)
    for one in (model, expected):
        (factor * one(torch.ones(1, 3)).sum()).backward()
    nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
    optimizer.step()
    for own, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own.grad, wanted.grad)
    assert cfg.SOLVER.CLIP_GRADIENTS.ENABLED  # the configuration is left as it was


def test_without_it_gradients_stay_as_they_are():
    model = make_model()
    optimizer = build_video_optimizer(tiny_cfg(keys("SGD") | {"SOLVER.CLIP_GRADIENTS.ENABLED": False}), model)
    (100 * model(torch.ones(1, 3)).sum()).backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    optimizer.step()
    assert all(own.grad.equal(was) for own, was in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("kind", ["value", "norm"])
def test_detectron2s_kinds_concern_each_parameter_by_itself(name, kind):
    model, expected = make_model(), make_model()
    optimizer = build_video_optimizer(tiny_cfg(keys(name, kind)), model)
    for one in (model, expected):
        (100 * one(torch.ones(1, 3)).sum()).backward()
    for parameter in expected.parameters():
        if kind == "value":
            nn.utils.clip_grad_value_(parameter, 0.5)
        else:
            nn.utils.clip_grad_norm_(parameter, 0.5)
    optimizer.step()
    for own, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own.grad, wanted.grad)


def test_another_kind_is_refused():
    with pytest.raises(UserError, match="CLIP_TYPE is 'norms': expected 'value', 'norm' or 'full_model'"):
        build_video_optimizer(tiny_cfg(keys("AdamW", "norms")), make_model())
