"""A training that was interrupted ends with the bits of one that was not."""

import logging
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from helpers import accumulation
from helpers.models import tiny_cfg
from vod2.d2 import HookBase, MetadataCatalog
from vod2.engine import VideoTrainer
from vod2.engine.resume import changed_keys
from vod2.errors import UserError

KEYS = {
    "SOLVER.MAX_ITER": 6,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.OPTIMIZER": "AdamW",
    "SOLVER.WARMUP_ITERS": 3,
    "SOLVER.BASE_LR": 1e-3,
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
    "TEST.EVAL_PERIOD": 0,
}


@pytest.fixture(scope="module", autouse=True)
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    with accumulation.registered_videos(folder):
        yield


class Power(Exception):
    """It has gone."""


class Failing(HookBase):
    """Ends a training in the middle of an iteration, as far as its state goes."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            raise Power


class Rates(HookBase):
    def __init__(self):
        self.used = {}

    def before_step(self):
        self.used[self.trainer.iter] = self.trainer.optimizer.param_groups[0]["lr"]


def run(folder, resume=False, fails_at=None, hooks=(), **keys):
    keys = {name.replace("__", "."): value for name, value in keys.items()}
    cfg = accumulation.config(folder, KEYS | keys)
    torch.manual_seed(0)  # initial weights
    trainer = VideoTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.register_hooks([*hooks, *([] if fails_at is None else [Failing(fails_at)])])
    if fails_at is None:
        trainer.train()
    else:
        with pytest.raises(Power):
            trainer.train()
    return trainer


def final(folder):
    tensors = {}
    for part in ("model_final.safetensors", "model_final.state.safetensors"):
        tensors |= load_file(folder / "output" / part)
    return tensors


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a training that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


@pytest.mark.parametrize("fails_at", [3, 5])
def test_final_weights_and_optimizer_are_bit_equal(whole, tmp_path, fails_at):
    run(tmp_path, fails_at=fails_at)
    resumed = run(tmp_path, resume=True)
    assert resumed.start_iter == fails_at - fails_at % 2
    assert_same_bits(final(tmp_path), final(whole))


def test_the_number_of_workers_may_change(whole, tmp_path):
    run(tmp_path, fails_at=3, DATALOADER__NUM_WORKERS=2)
    run(tmp_path, resume=True, DATALOADER__NUM_WORKERS=1)
    assert_same_bits(final(tmp_path), final(whole))


def test_a_training_whose_seed_is_drawn_resumes_with_that(tmp_path):
    run(tmp_path / "a", SEED=-1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for name in ("model_final", "model_0000005"):
        for path in (tmp_path / "b" / "output").glob(f"{name}*"):
            path.unlink()
    run(tmp_path / "b", resume=True, SEED=-1)
    assert_same_bits(final(tmp_path / "b"), final(tmp_path / "a"))


def test_a_damaged_last_checkpoint_is_left_out_with_a_warning_that_names_both(whole, tmp_path, caplog):
    run(tmp_path, fails_at=5)
    path = tmp_path / "output" / "model_0000003.state.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with caplog.at_level(logging.WARNING, "vod2"):
        run(tmp_path, resume=True)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "model_0000003.state.safetensors" in told
    assert "model_0000001.safetensors" in told
    assert_same_bits(final(tmp_path), final(whole))


def test_another_learning_rate_is_said_and_used(tmp_path, caplog):
    run(tmp_path, fails_at=3)
    rates = Rates()
    with caplog.at_level(logging.WARNING, "vod2"):
        run(tmp_path, resume=True, hooks=[rates], SOLVER__BASE_LR=1e-4)
    assert "SOLVER.BASE_LR: 0.001 -> 0.0001" in caplog.text
    expected = Rates()
    run(tmp_path / "fresh", hooks=[expected], SOLVER__BASE_LR=1e-4)
    assert rates.used == pytest.approx({step: rate for step, rate in expected.used.items() if step >= 2})


def test_unchanged_settings_are_not_spoken_of(tmp_path, caplog):
    run(tmp_path, fails_at=3)
    with caplog.at_level(logging.WARNING, "vod2"):
        run(tmp_path, resume=True)
    assert "another configuration" not in caplog.text


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"SOLVER.OPTIMIZER": "SGD"}, "SOLVER.OPTIMIZER"),
        ({"MODEL.ROI_HEADS.NUM_CLASSES": 7}, "MODEL.ROI_HEADS.NUM_CLASSES"),
        ({"MODEL.ROI_BOX_HEAD.FC_DIM": 24}, "box_head"),
        ({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": ""}, "another model"),
    ],
)
def test_what_a_checkpoint_cannot_take_on_is_refused(tmp_path, keys, named):
    run(tmp_path, fails_at=3)
    with pytest.raises(UserError, match=named):
        run(tmp_path, resume=True, **{key.replace(".", "__"): value for key, value in keys.items()})


def test_classes_in_another_order_are_refused(tmp_path):
    run(tmp_path, fails_at=3)
    metadata = MetadataCatalog.get(accumulation.NAME)
    classes = metadata.thing_classes
    try:
        del metadata.thing_classes
        metadata.thing_classes = classes[::-1]
        with pytest.raises(UserError, match="number 0 is 'elf' there and 'gnome' here"):
            run(tmp_path, resume=True)
    finally:
        del metadata.thing_classes
        metadata.thing_classes = classes


def test_a_training_that_is_complete_says_so(whole, caplog):
    with caplog.at_level(logging.WARNING, "vod2"):
        run(whole, resume=True)
    assert "nothing is left to train" in caplog.text


def test_a_final_checkpoint_whose_writing_was_interrupted_is_written_on_resuming(whole, tmp_path):
    run(tmp_path)
    (tmp_path / "output" / "model_final.state.safetensors").unlink()
    run(tmp_path, resume=True)
    assert_same_bits(final(tmp_path), final(whole))


def test_a_checkpoint_as_detectron2_writes_it_is_resumed(tmp_path, caplog):
    trainer = run(tmp_path, fails_at=3)
    output = tmp_path / "output"
    trainer.iter = 1
    data = {"model": load_file(output / "model_0000001.safetensors"), "iteration": 1}
    state = {name: value for name, value in trainer.state_dict().items() if name != "samples"}
    for path in output.glob("model_*"):
        path.unlink()
    torch.save(data | {"trainer": state}, output / "model_0000001.pth")
    (output / "last_checkpoint").write_text("model_0000001.pth")
    with caplog.at_level(logging.WARNING, "vod2"):
        resumed = run(tmp_path, resume=True)
    assert resumed.start_iter == 2
    assert "begin anew" in caplog.text


def test_so_many_checkpoints_are_kept(tmp_path):
    run(tmp_path, SOLVER__CHECKPOINT_KEEP=2)
    names = sorted(path.name for path in (tmp_path / "output").glob("model_*.checkpoint.json"))
    assert names == [f"model_{name}.checkpoint.json" for name in ("0000003", "0000005", "final")]


def test_temporary_files_of_a_killed_run_are_removed(tmp_path):
    left = tmp_path / "output" / ".vod2-00000000-1-model_0000001-abcd.safetensors"
    left.parent.mkdir()
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    run(tmp_path, SOLVER__MAX_ITER=1)
    assert not left.exists()


@pytest.mark.parametrize("stored", ["- a list", "[" * 5000, "a: &x [*x]"])
def test_a_manifest_without_a_configuration_is_a_sentence(stored):
    with pytest.raises(UserError, match="holds no configuration"):
        changed_keys(stored, tiny_cfg({}))
