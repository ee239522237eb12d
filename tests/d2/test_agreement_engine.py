"""Where both backends are present, they do the same."""

import importlib
import inspect
import logging

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

BACKENDS = ("detectron2", "vod2._d2lite")


@pytest.fixture(autouse=True)
def own_loggers():
    """Undo what setting up a run does to the loggers: the other tests capture them."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "vod2._d2lite")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers


def both(module):
    return tuple(importlib.import_module(f"{name}.{module}") for name in BACKENDS)


def configs(**solver):
    result = tuple(module.get_cfg() for module in both("config"))
    for cfg in result:
        cfg.SOLVER.MAX_ITER = 12
        cfg.SOLVER.STEPS = (6, 9)
        cfg.SOLVER.WARMUP_ITERS = 4
        for key, value in solver.items():
            setattr(cfg.SOLVER, key, value)
    return result


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    net.again = net[0]  # runs last, and has the same parameters under a second name
    return net


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"])
@pytest.mark.parametrize("method", ["linear", "constant"])
@pytest.mark.parametrize("rescale", [False, True])
def test_schedules_agree(name, method, rescale):
    rates = []
    settings = {"LR_SCHEDULER_NAME": name, "WARMUP_METHOD": method, "RESCALE_INTERVAL": rescale, "BASE_LR_END": 1e-5}
    for solver, cfg in zip(both("solver"), configs(**settings), strict=True):
        optimizer = solver.build_optimizer(cfg, network())
        scheduler = solver.build_lr_scheduler(cfg, optimizer)
        rates.append([])
        for _ in range(11):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    assert rates[1] == pytest.approx(rates[0], rel=1e-12)


@pytest.mark.parametrize("norm_decay", [0.0, 1e-4])
@pytest.mark.parametrize(("factor", "bias_decay"), [(1.0, None), (2.0, 0.5)])
def test_optimizers_have_equal_groups(norm_decay, factor, bias_decay):
    described = []
    settings = {"WEIGHT_DECAY_NORM": norm_decay, "BIAS_LR_FACTOR": factor, "WEIGHT_DECAY_BIAS": bias_decay}
    for solver, cfg in zip(both("solver"), configs(**settings), strict=True):
        net = network()
        names = {parameter: name for name, parameter in net.named_parameters()}
        groups = solver.build_optimizer(cfg, net).param_groups
        keys = ("lr", "weight_decay", "momentum", "nesterov")
        described.append([([names[p] for p in g["params"]], [g[key] for key in keys]) for g in groups])
    assert described[0] == described[1]


class Losses(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        y = self.net(x)
        return {"loss_a": y.square().mean(), "loss_b": (y - 1).abs().mean()}


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 4, generator=generator) for _ in range(12)]


def run(folder, backend, steps, resume=False):
    """A DefaultTrainer of one backend on `Losses`."""
    defaults = importlib.import_module(f"{backend}.engine.defaults")

    class Trainer(defaults.DefaultTrainer):
        @classmethod
        def build_model(cls, cfg):
            return Losses()

        @classmethod
        def build_train_loader(cls, cfg):
            return batches()

    cfg = configs(CHECKPOINT_PERIOD=6)[BACKENDS.index(backend)]
    cfg.OUTPUT_DIR = str(folder)
    trainer = Trainer(cfg)
    trainer.max_iter = steps
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_training_gives_equal_parameters_and_metrics(tmp_path):
    theirs, ours = (run(tmp_path / name, name, 12) for name in BACKENDS)
    for a, b in zip(theirs.model.parameters(), ours.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    a, b = theirs.storage.latest(), ours.storage.latest()
    assert set(a) == set(b)
    for name in ("total_loss", "loss_a", "loss_b", "lr"):
        assert a[name][0] == pytest.approx(b[name][0], rel=1e-5) and a[name][1] == b[name][1]


@pytest.mark.parametrize(("first", "second"), [BACKENDS, BACKENDS[::-1]])
def test_a_run_can_change_the_backend_half_way(tmp_path, first, second):
    run(tmp_path, first, 6)
    trainer = run(tmp_path, second, 12, resume=True)
    assert trainer.start_iter == 6
    assert trainer.scheduler.last_epoch == 12


def test_command_lines_agree():
    parsers = [module.default_argument_parser() for module in both("engine.defaults")]
    flags = [{(tuple(a.option_strings), a.dest, a.default, a.type, a.nargs) for a in p._actions} for p in parsers]
    assert flags[0] == flags[1]


@pytest.mark.parametrize(
    "path",
    [
        "engine.train_loop:SimpleTrainer",
        "engine.train_loop:AMPTrainer",
        "engine.train_loop:TrainerBase.train",
        "engine.hooks:IterationTimer",
        "engine.hooks:PeriodicWriter",
        "engine.hooks:PeriodicCheckpointer",
        "engine.hooks:EvalHook",
        "engine.hooks:LRScheduler",
        "engine.defaults:DefaultPredictor",
        "engine.defaults:DefaultTrainer",
        "engine.defaults:DefaultTrainer.test",
        "engine.defaults:create_ddp_model",
        "engine.defaults:default_setup",
        "engine.defaults:default_writers",
        "engine.launch:launch",
        "checkpoint:DetectionCheckpointer",
        "solver:get_default_optimizer_params",
        "solver:build_optimizer",
        "solver:build_lr_scheduler",
        "utils.comm:gather",
        "utils.comm:all_gather",
        "utils.comm:reduce_dict",
        "utils.env:seed_all_rng",
        "utils.events:EventStorage",
        "utils.events:EventStorage.put_scalar",
        "utils.events:EventStorage.put_scalars",
        "utils.events:EventStorage.latest_with_smoothing_hint",
        "utils.events:JSONWriter",
        "utils.events:TensorboardXWriter",
        "utils.events:CommonMetricPrinter",
        "utils.logger:setup_logger",
        "utils.logger:log_first_n",
        "utils.logger:log_every_n_seconds",
    ],
)
def test_signatures_agree_in_the_parameters_that_the_stand_in_has(path):
    module, name = path.split(":")
    described = []
    for found in both(module):
        for part in name.split("."):
            found = getattr(found, part)
        parameters = inspect.signature(found).parameters.values()
        described.append([(p.name, p.kind, p.default) for p in parameters])
    theirs, ours = described
    names = {name for name, _, _ in ours}
    assert ours == [parameter for parameter in theirs if parameter[0] in names]
