"""Optimizer groups and learning-rate schedules, with values computed by hand."""

import math

import pytest
import torch
from torch import nn

from vod2.d2 import build_lr_scheduler, build_optimizer, get_cfg, get_default_optimizer_params


def config(**solver):
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = 1.0
    cfg.SOLVER.MAX_ITER = 12
    cfg.SOLVER.STEPS = (6, 9)
    cfg.SOLVER.WARMUP_ITERS = 4
    cfg.SOLVER.WARMUP_FACTOR = 0.1
    for key, value in solver.items():
        setattr(cfg.SOLVER, key, value)
    return cfg


def rates(cfg, count=12):
    """The learning rate at iterations 0, ..., count - 1."""
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    scheduler = build_lr_scheduler(cfg, optimizer)
    values = []
    for _ in range(count):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_linear_warmup_reaches_the_full_rate_and_steps_multiply_it_by_gamma():
    expected = [0.1, 0.325, 0.55, 0.775, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    assert rates(config()) == pytest.approx(expected)


def test_constant_warmup_keeps_the_factor():
    assert rates(config(WARMUP_METHOD="constant"))[:6] == pytest.approx([0.1] * 4 + [1, 1])


def test_without_warmup_the_first_rate_is_the_full_one():
    assert rates(config(WARMUP_ITERS=0))[0] == 1.0


def test_cosine_follows_half_a_cosine_after_the_warmup():
    values = rates(config(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=0.05))
    expected = [0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * i / 12)) for i in range(4, 12)]
    assert values[4:] == pytest.approx(expected)
    assert values[0] == pytest.approx(0.1)
    assert values[2] == pytest.approx((0.1 + expected[0]) / 2)


def test_rescaled_interval_squeezes_the_whole_cosine_behind_the_warmup():
    values = rates(config(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=0.05, RESCALE_INTERVAL=True))
    assert values[4:] == pytest.approx([0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])


def test_fixed_gamma_decays_at_equal_distances():
    cfg = config(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR", NUM_DECAYS=3, WARMUP_ITERS=0)
    expected = [1] * 3 + [0.1] * 3 + [0.01] * 3 + [0.001] * 2
    assert rates(cfg, count=11) == pytest.approx(expected)


def test_steps_beyond_the_end_are_ignored():
    assert rates(config(STEPS=(6, 30), WARMUP_ITERS=0)) == pytest.approx([1] * 6 + [0.1] * 6)


def test_an_unknown_schedule_is_named_in_the_error():
    with pytest.raises(ValueError, match="Sawtooth"):
        rates(config(LR_SCHEDULER_NAME="Sawtooth"))


def test_the_schedule_continues_from_its_state():
    cfg = config()
    first = build_optimizer(cfg, nn.Linear(1, 1))
    scheduler = build_lr_scheduler(cfg, first)
    for _ in range(5):
        first.step()
        scheduler.step()
    assert set(scheduler.state_dict()) == {"base_lrs", "last_epoch"}
    second = build_optimizer(cfg, nn.Linear(1, 1))
    resumed = build_lr_scheduler(cfg, second)
    resumed.load_state_dict(scheduler.state_dict())
    second.step()
    resumed.step()
    assert second.param_groups[0]["lr"] == pytest.approx(0.1)


def model():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    net.again = net[0]  # the same parameters under a second name
    return net


def settings(group):
    return {key: value for key, value in group.items() if key != "params"}


def test_parameters_are_grouped_by_their_settings():
    net = model()
    groups = get_default_optimizer_params(
        net, base_lr=1.0, weight_decay=0.1, weight_decay_norm=0.0, bias_lr_factor=2.0, weight_decay_bias=0.5
    )
    assert [settings(g) for g in groups] == [
        {"lr": 1.0, "weight_decay": 0.1},
        {"lr": 2.0, "weight_decay": 0.5},
        {"lr": 1.0, "weight_decay": 0.0},
    ]
    expected = [[net[0].weight, net[2].weight], [net[0].bias, net[1].bias, net[2].bias], [net[1].weight]]
    assert [[id(p) for p in g["params"]] for g in groups] == [[id(p) for p in row] for row in expected]


def test_frozen_parameters_are_left_out():
    net = model()
    net[0].requires_grad_(False)
    (group,) = get_default_optimizer_params(net)
    assert settings(group) == {} and len(group["params"]) == 4


def test_lr_factor_func_scales_by_parameter_name():
    groups = get_default_optimizer_params(model(), base_lr=1.0, lr_factor_func=lambda name: 10 if name[0] == "2" else 1)
    assert [(g["lr"], len(g["params"])) for g in groups] == [(1.0, 4), (10.0, 2)]


def test_overrides_win_by_parameter_name():
    groups = get_default_optimizer_params(model(), base_lr=1.0, overrides={"weight": {"lr": 3.0}})
    assert [(g["lr"], len(g["params"])) for g in groups] == [(3.0, 3), (1.0, 3)]


def test_bias_settings_that_conflict_or_lack_a_rate_are_errors():
    with pytest.raises(ValueError, match="base_lr"):
        get_default_optimizer_params(model(), bias_lr_factor=2.0)
    with pytest.raises(ValueError, match="bias"):
        get_default_optimizer_params(model(), weight_decay_bias=0.1, overrides={"bias": {"weight_decay": 0.2}})


def test_the_optimizer_takes_its_settings_from_the_configuration():
    optimizer = build_optimizer(config(MOMENTUM=0.7, NESTEROV=True, WEIGHT_DECAY=0.02), model())
    assert isinstance(optimizer, torch.optim.SGD)
    decays = [(g["weight_decay"], g["momentum"], g["nesterov"]) for g in optimizer.param_groups]
    assert decays == [(0.02, 0.7, True), (0.0, 0.7, True)]  # the second: normalization


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("value", [[-0.1, -0.1], [0.0, -0.01]]), ("norm", [[-0.06, -0.08], [0.0, -0.0002]])],
)
def test_gradients_are_clipped_per_parameter_before_the_step(kind, expected):
    cfg = config(MOMENTUM=0.0, WEIGHT_DECAY=0.0)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.1
    layer = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(layer.weight)
    layer.weight.grad = torch.tensor([[3.0, 4.0], [0.0, 0.01]])
    build_optimizer(cfg, layer).step()
    torch.testing.assert_close(layer.weight.detach(), torch.tensor(expected), atol=1e-5, rtol=1e-3)


def test_an_unknown_clip_type_is_an_error():
    cfg = config()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "everything"
    with pytest.raises(ValueError, match="everything"):
        build_optimizer(cfg, model())
