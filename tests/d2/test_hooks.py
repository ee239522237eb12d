"""When hooks are called and what they record."""

import json

import pytest
import torch
from torch import nn

from vod2.d2 import DetectionCheckpointer, HookBase, JSONWriter, SimpleTrainer, TrainerBase, hooks


class Idle(TrainerBase):
    def run_step(self):
        pass


class Recorder(HookBase):
    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def _note(self, what):
        self.calls.append((self.name, what, self.trainer.iter))

    def before_train(self):
        self._note("before_train")

    def before_step(self):
        self._note("before_step")

    def after_backward(self):
        self._note("after_backward")

    def after_step(self):
        self._note("after_step")

    def after_train(self):
        self._note("after_train")


class Quadratic(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return {"loss": (self.weight * x).square().sum()}


def trainer():
    model = Quadratic()
    return SimpleTrainer(model, [torch.ones(1)] * 100, torch.optim.SGD(model.parameters(), lr=0.1))


def test_hooks_run_in_registration_order_through_their_life_cycle():
    calls = []
    t = trainer()
    t.register_hooks([Recorder("a", calls), None, Recorder("b", calls)])
    t.train(3, 5)
    steps = [(what, i) for i in (3, 4) for what in ("before_step", "after_backward", "after_step")]
    events = [("before_train", 3), *steps, ("after_train", 5)]
    assert calls == [(name, what, i) for what, i in events for name in "ab"]


def test_after_train_also_runs_when_a_step_fails():
    calls = []

    class Failing(Idle):
        def run_step(self):
            raise RuntimeError("broken")

    t = Failing()
    t.register_hooks([Recorder("a", calls), hooks.EvalHook(0, lambda: calls.append("evaluated"))])
    with pytest.raises(RuntimeError, match="broken"):
        t.train(0, 5)
    assert calls[-1] == ("a", "after_train", 0) and "evaluated" not in calls


def test_evaluation_runs_every_period_and_once_at_the_end():
    when = []
    t = Idle()

    def evaluate():
        when.append(t.iter)
        return {"bbox": {"AP": float(t.iter)}}

    t.register_hooks([hooks.EvalHook(2, evaluate)])
    t.train(0, 6)
    assert when == [1, 3, 6]
    assert t.storage.latest()["bbox/AP"][0] == 6.0


def test_evaluation_at_the_end_can_be_left_out():
    when = []
    t = Idle()
    t.register_hooks([hooks.EvalHook(0, lambda: when.append(t.iter), eval_after_train=False)])
    t.train(0, 3)
    assert when == []


def test_an_evaluation_result_that_is_no_number_is_named():
    t = Idle()
    t.register_hooks([hooks.EvalHook(0, lambda: {"bbox": {"AP": "high"}})])
    with pytest.raises(ValueError, match="bbox/AP"):
        t.train(0, 1)


def test_iteration_times_are_recorded_from_the_third_iteration_on():
    t = Idle()
    t.register_hooks([hooks.IterationTimer()])
    t.train(10, 15)
    assert [i for _, i in t.storage.history("time").values()] == [12, 13, 14]


def test_the_schedule_steps_after_each_iteration_and_the_used_rate_is_recorded():
    t = trainer()
    scheduler = torch.optim.lr_scheduler.StepLR(t.optimizer, 1, gamma=0.5)
    t.register_hooks([hooks.LRScheduler(t.optimizer, scheduler)])
    t.train(0, 3)
    assert [v for v, _ in t.storage.history("lr").values()] == pytest.approx([0.1, 0.05, 0.025])
    assert t.state_dict()["hooks"]["LRScheduler"]["last_epoch"] == 3


def test_writers_write_every_period_and_after_the_last_iteration(tmp_path):
    t = trainer()
    t.register_hooks([hooks.PeriodicWriter([JSONWriter(str(tmp_path / "m.json"))], period=2)])
    t.train(0, 5)
    lines = [json.loads(line) for line in (tmp_path / "m.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 3, 4]


def test_checkpoints_are_written_every_period_and_at_the_end(tmp_path):
    t = trainer()
    t.register_hooks([hooks.PeriodicCheckpointer(DetectionCheckpointer(t.model, str(tmp_path)), 2)])
    t.train(0, 5)
    names = {"model_0000001.pth", "model_0000003.pth", "model_final.pth", "last_checkpoint"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
