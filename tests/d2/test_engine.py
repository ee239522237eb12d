"""Trainers, the command line and the set-up of a run."""

import json
import logging

import numpy as np
import pytest
import torch
from torch import nn

from vod2._d2lite.engine import AMPTrainer as LiteAMPTrainer
from vod2.d2 import (
    META_ARCH_REGISTRY,
    DatasetEvaluator,
    DefaultPredictor,
    DefaultTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    get_cfg,
    hooks,
)

BATCH = torch.tensor([[1.0, 2.0], [3.0, -1.0]])


@pytest.fixture(autouse=True)
def own_loggers():
    """Undo what setting up a run does to the loggers: the other tests capture them."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "vod2._d2lite")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers


class Tiny(nn.Module):
    """Two losses of one linear layer, equal in every process and run."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        y = self.layer(x)
        return {"loss_a": (y - 1).square().mean(), "loss_b": 0.1 * y.square().mean()}


class Failing(Tiny):
    def forward(self, x):
        return {"loss_a": self.layer(x).sum(), "loss_b": self.layer(x).sum() * float("nan")}


def trainer(model=None, kind=SimpleTrainer, **kwargs):
    model = model or Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return kind(model, [BATCH] * 50, optimizer, **kwargs)


def test_one_step_descends_the_sum_of_the_losses():
    t = trainer()
    t.train(0, 1)
    # y = 1.5, 1; d loss / dy = (y - 1) + 0.1 y = 0.65, 0.1
    torch.testing.assert_close(t.model.layer.weight.detach(), torch.tensor([[0.405, 0.38]]))
    torch.testing.assert_close(t.model.layer.bias.detach(), torch.tensor([-0.075]))
    latest = t.storage.latest()
    assert latest["loss_a"][0] == pytest.approx(0.125)
    assert latest["total_loss"][0] == pytest.approx(0.125 + 0.1 * 1.625)
    assert latest["data_time"][0] >= 0 and t.iter == 1


def test_a_single_tensor_is_the_total_loss():
    class Single(Tiny):
        def forward(self, x):
            return self.layer(x).sum()

    t = trainer(Single())
    t.train(0, 1)
    assert t.storage.latest()["total_loss"][0] == pytest.approx(2.5)


def test_metrics_are_recorded_with_the_gathering_period():
    t = trainer(gather_metric_period=2)
    t.train(0, 4)
    assert [i for _, i in t.storage.history("total_loss").values()] == [1, 3]


def test_a_nan_loss_ends_the_training_naming_iteration_and_loss():
    with pytest.raises(FloatingPointError, match=r"iteration=5[\s\S]*loss_b'.*nan"):
        trainer(Failing()).train(5, 8)


def test_a_model_in_evaluation_mode_is_not_trained():
    t = trainer()
    t.model.eval()
    with pytest.raises(AssertionError, match="eval mode"):
        t.train(0, 1)


def test_the_state_restores_iteration_and_optimizer():
    first = trainer()
    first.train(0, 2)
    second = trainer()
    second.load_state_dict(first.state_dict())
    momentum = second.optimizer.state_dict()["state"][0]["momentum_buffer"]
    assert second.iter == 2
    assert torch.equal(momentum, first.optimizer.state_dict()["state"][0]["momentum_buffer"])


def test_lite_mixed_precision_on_the_cpu_computes_in_bfloat16_and_keeps_float32_weights():
    seen = []

    class Watched(Tiny):
        def forward(self, x):
            seen.append(self.layer(x).dtype)
            return super().forward(x)

    t = trainer(Watched(), LiteAMPTrainer)
    t.train(0, 1)
    assert seen == [torch.bfloat16] and t.model.layer.weight.dtype == torch.float32
    torch.testing.assert_close(t.model.layer.weight.detach(), torch.tensor([[0.405, 0.38]]), atol=5e-3, rtol=0)
    t.load_state_dict(t.state_dict())


class Score(DatasetEvaluator):
    def evaluate(self):
        return {"task": {"score": 42.0}}


class Trainer(DefaultTrainer):
    @classmethod
    def build_model(cls, cfg):
        return Tiny()

    @classmethod
    def build_train_loader(cls, cfg):
        return [BATCH] * 50

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return [BATCH]

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return Score()


def config(folder, **test):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.MAX_ITER = 6
    cfg.SOLVER.STEPS = (4,)
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.BASE_LR = 0.05
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    for key, value in test.items():
        setattr(cfg.TEST, key, value)
    return cfg


def test_resuming_gives_the_parameters_of_an_uninterrupted_run(tmp_path):
    whole = Trainer(config(tmp_path / "whole"))
    whole.resume_or_load(resume=False)
    whole.train()

    class Interruption(hooks.HookBase):
        def before_step(self):
            if self.trainer.iter == 4:
                raise KeyboardInterrupt

    first = Trainer(config(tmp_path / "parts"))
    first.register_hooks([Interruption()])
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = Trainer(config(tmp_path / "parts"))
    second.resume_or_load(resume=True)
    assert second.start_iter == 3
    second.train()
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert second.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_without_resume_only_the_weights_are_loaded(tmp_path):
    cfg = config(tmp_path / "a")
    Trainer(cfg).train()
    cfg.MODEL.WEIGHTS = str(tmp_path / "a" / "model_final.pth")
    again = Trainer(cfg)
    again.resume_or_load(resume=False)
    assert again.start_iter == 0
    trained = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    assert torch.equal(again.model.layer.weight, trained["layer.weight"])


def test_training_leaves_checkpoints_and_metrics(tmp_path):
    Trainer(config(tmp_path)).train()
    names = {p.name for p in tmp_path.iterdir()}
    assert {"model_0000002.pth", "model_final.pth", "last_checkpoint", "metrics.json"} <= names
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any(line["iteration"] == 5 and "total_loss" in line and "lr" in line for line in lines)


def test_the_evaluation_runs_and_its_results_are_checked_and_returned(tmp_path):
    cfg = config(tmp_path, EXPECTED_RESULTS=[["task", "score", 42.0, 0.1]])
    cfg.DATASETS.TEST = ("nothing_registered",)
    assert Trainer(cfg).train() == {"task": {"score": 42.0}}


def test_testing_without_an_evaluator_gives_an_empty_result(tmp_path):
    class Silent(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            raise NotImplementedError

    cfg = config(tmp_path)
    cfg.DATASETS.TEST = ("nothing_registered",)
    assert Silent.test(cfg, Tiny()) == {}


def test_the_model_is_freed_with_its_trainer(tmp_path):
    import gc
    import weakref

    t = Trainer(config(tmp_path))
    model = weakref.ref(t.model)
    t.train()
    del t
    gc.collect()
    assert model() is None


def test_lite_refuses_settings_that_it_would_not_follow():
    from vod2._d2lite.config import get_cfg as get_lite_cfg
    from vod2._d2lite.engine import DefaultTrainer as LiteTrainer

    cfg = get_lite_cfg()
    cfg.TEST.PRECISE_BN.ENABLED = True
    with pytest.raises(NotImplementedError, match="TEST.PRECISE_BN.ENABLED"):
        LiteTrainer(cfg)


def test_the_command_line_has_the_usual_flags():
    parser = default_argument_parser()
    args = parser.parse_args([])
    assert (args.config_file, args.resume, args.eval_only, args.num_gpus) == ("", False, False, 1)
    assert (args.num_machines, args.machine_rank, args.opts) == (1, 0, [])
    assert args.dist_url.startswith("tcp://127.0.0.1:")
    given = "--config-file a.yaml --resume --eval-only --num-gpus 2 --num-machines 3 --machine-rank 1"
    args = parser.parse_args([*given.split(), "--dist-url", "auto", "SOLVER.BASE_LR", "0.1"])
    assert (args.config_file, args.resume, args.eval_only, args.num_gpus) == ("a.yaml", True, True, 2)
    assert (args.num_machines, args.machine_rank, args.dist_url) == (3, 1, "auto")
    assert args.opts == ["SOLVER.BASE_LR", "0.1"]


def test_the_setup_writes_log_and_configuration_and_seeds(tmp_path):
    cfg = config(tmp_path)
    cfg.SEED = 7
    benchmark = torch.backends.cudnn.benchmark
    drawn = []
    for _ in range(2):
        default_setup(cfg, default_argument_parser().parse_args([]))
        drawn.append(torch.rand(1))
    torch.backends.cudnn.benchmark = benchmark
    assert drawn[0] == drawn[1]
    restored = get_cfg()
    restored.merge_from_file(str(tmp_path / "config.yaml"))
    assert restored.SOLVER == cfg.SOLVER and restored.SEED == 7 and restored.OUTPUT_DIR == str(tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert log.count("World size") == 2 and "PyTorch" in log and "num_gpus=1" in log


def test_the_default_writers_are_three(tmp_path):
    writers = default_writers(str(tmp_path / "new"), 10)
    assert [type(w).__name__ for w in writers] == ["CommonMetricPrinter", "JSONWriter", "TensorboardXWriter"]
    for writer in writers:
        writer.close()


def test_a_single_process_needs_no_ddp():
    model = Tiny()
    assert create_ddp_model(model) is model


@META_ARCH_REGISTRY.register()
class EchoForPredictor(nn.Module):
    """Returns what it is given."""

    def __init__(self, cfg):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batched_inputs):
        return [{**x, "training": self.training} for x in batched_inputs]


@pytest.mark.parametrize(("order", "first_channel"), [("BGR", 10.0), ("RGB", 30.0)])
def test_the_predictor_resizes_orders_the_channels_and_keeps_the_original_size(tmp_path, order, first_channel):
    cfg = config(tmp_path)
    cfg.MODEL.META_ARCHITECTURE = "EchoForPredictor"
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST = order, 8
    image = np.empty((4, 6, 3), np.uint8)
    image[:] = (10, 20, 30)
    seen = DefaultPredictor(cfg)(image)
    assert seen["image"].shape == (3, 8, 12) and seen["image"].dtype == torch.float32
    assert (seen["image"][0] == first_channel).all() and (seen["image"][1] == 20).all()
    assert (seen["height"], seen["width"], seen["training"]) == (4, 6, False)
