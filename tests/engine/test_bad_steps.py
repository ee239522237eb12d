"""An update that is not finite is left out; too many in a row end the training with what is needed to go on."""

import logging

import pytest
import torch
from torch import nn

from helpers import accumulation
from vod2.d2 import EventStorage, HookBase
from vod2.engine import VideoTrainer
from vod2.engine.bad_steps import BadSteps, TrainingDiverged, gradients_are_finite, undo_statistics
from vod2.errors import UserError

KEYS = {
    "SOLVER.MAX_ITER": 5,
    "SOLVER.CHECKPOINT_PERIOD": 100,
    "SOLVER.OPTIMIZER": "AdamW",
    "SOLVER.MAX_BAD_STEPS": 2,
    "MODEL.RESNETS.NORM": "BN",
    "TEST.EVAL_PERIOD": 0,
}


@pytest.fixture(scope="module", autouse=True)
def videos(tmp_path_factory):
    with accumulation.registered_videos(tmp_path_factory.mktemp("videos")):
        yield


class Spoil(HookBase):
    """Makes the losses, or the gradients, of some iterations NaN, as a bad frame does."""

    def __init__(self, iterations, what="loss"):
        self.iterations, self.what = iterations, what
        self.kept = {}

    def before_train(self):
        model = self.trainer.model
        real = model.forward

        def forward(batch):
            losses = real(batch)
            if self.trainer.iter not in self.iterations:
                return losses
            name = sorted(losses)[0]
            if self.what == "loss":
                return losses | {name: losses[name] * torch.nan}
            if self.what == "RPN":
                raise FloatingPointError("the RPN predicted boxes that are not finite")
            losses[name].register_hook(lambda gradient: gradient * torch.inf)
            return losses

        model.forward = forward

    def before_step(self):
        self.kept[self.trainer.iter] = state_of(self.trainer)


def state_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def trained(folder, hook, **keys):
    cfg = accumulation.config(folder, KEYS | {name.replace("__", "."): value for name, value in keys.items()})
    torch.manual_seed(0)
    trainer = VideoTrainer(cfg)
    trainer.register_hooks([hook])
    return trainer


@pytest.mark.parametrize("what", ["loss", "gradient", "RPN"])
def test_a_bad_update_changes_nothing_and_is_counted(tmp_path, caplog, what):
    spoil = Spoil({2}, what)
    trainer = trained(tmp_path, spoil)
    with caplog.at_level(logging.WARNING, "vod2"):
        trainer.train()
    before, after = spoil.kept[2], spoil.kept[3]
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert any(not torch.equal(spoil.kept[3][name], spoil.kept[4][name]) for name in before)  # it went on
    assert trainer.storage.latest()["bad_steps"][0] == 1
    assert "iteration 2" in caplog.text
    assert accumulation.NAME in caplog.text  # the frames are named


def test_single_ones_apart_do_not_end_a_training(tmp_path):
    trainer = trained(tmp_path, Spoil({0, 1, 3, 4}))
    trainer.train()
    assert trainer.iter == KEYS["SOLVER.MAX_ITER"]


def test_one_too_many_ends_it_with_frames_losses_and_remedy_in_one_message(tmp_path):
    trainer = trained(tmp_path, Spoil({1, 2, 3}))
    with pytest.raises(TrainingDiverged) as ended:
        trainer.train()
    message = str(ended.value)
    for part in ("iteration 3", "loss_", "nan", accumulation.NAME, "frame ", "SOLVER.BASE_LR", "0.02"):
        assert part in message
    assert "\n" not in message


def test_with_accumulation_one_bad_part_leaves_out_the_whole_update(tmp_path):
    spoil = Spoil({2})
    trained(tmp_path, spoil, SOLVER__ACCUMULATE=2).train()
    before, after = spoil.kept[2], spoil.kept[3]
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    trainer = trained(tmp_path, Spoil(set()))
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        trainer.save("model_final")
    assert not list((tmp_path / "output").glob("model_*"))


def test_a_good_update_ends_a_row_of_bad_ones():
    steps = BadSteps(1, 0.1)
    with EventStorage():
        for iteration in range(0, 6, 2):
            steps.bad(iteration, "losses are not finite", [])
            steps.good()
        steps.bad(6, "losses are not finite", [])
        with pytest.raises(TrainingDiverged):
            steps.bad(7, "losses are not finite", [])


@pytest.mark.parametrize(("number", "finite"), [(1.0, True), (3e38, True), (torch.inf, False), (torch.nan, False)])
def test_gradients_are_looked_at_number_by_number(number, finite):
    layer = nn.Linear(1000, 2)
    layer.weight.grad = torch.full_like(layer.weight, 3e38)
    layer.weight.grad[1, 7] = number
    assert gradients_are_finite(layer.parameters()) is finite


def test_running_statistics_are_put_back_only_when_asked():
    layer = nn.BatchNorm1d(3)
    with undo_statistics(layer):
        layer(torch.randn(4, 3))
    moved = layer.running_mean.clone()
    assert moved.any()
    with undo_statistics(layer) as undo:
        layer(torch.full((4, 3), torch.nan))
        undo.append(True)
    assert torch.equal(layer.running_mean, moved)
    assert layer.num_batches_tracked == 1
