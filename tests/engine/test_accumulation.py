"""SOLVER.ACCUMULATE against as many processes, and SOLVER.REFERENCE_WORLD_SIZE."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from helpers import accumulation
from helpers.models import ROOT
from vod2.d2 import AMPTrainer, EventStorage, SimpleTrainer, comm
from vod2.data import build_video_train_loader
from vod2.data.clips import build
from vod2.engine import VideoTrainer, micro_batches, scaled_to_devices
from vod2.engine.accumulation import AccumulatingAMPTrainer, AccumulatingTrainer, accumulating
from vod2.engine.bad_steps import TrainingDiverged
from vod2.errors import UserError


@pytest.fixture
def videos(tmp_path):
    with accumulation.registered_videos(tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def by_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "helpers.accumulation", str(folder), "2"],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.fixture(scope="module")
def by_one_process(tmp_path_factory):
    return accumulation.train_all(tmp_path_factory.mktemp("one"), {"SOLVER.ACCUMULATE": 2})


def relative_error(found: dict, wanted: dict) -> float:
    assert found.keys() == wanted.keys()
    difference = sum((found[name] - wanted[name]).double().square().sum() for name in wanted)
    return float((difference / sum(one.double().square().sum() for one in wanted.values())).sqrt())


@pytest.mark.parametrize("case", accumulation.CASES)
def test_one_process_that_accumulates_twice_has_the_gradients_of_two_processes(case, by_two_processes, by_one_process):
    found, wanted = by_one_process[case], by_two_processes[case]
    assert len(wanted["gradients"]) == len(found["gradients"]) == accumulation.UPDATES
    for one, other in zip(found["gradients"], wanted["gradients"], strict=True):
        assert relative_error(one, other) < 1e-6
    assert relative_error(found["weights"], wanted["weights"]) < 1e-6
    for name, value in wanted["losses"].items():
        assert found["losses"][name] == pytest.approx(value, rel=1e-5)


def clips_of(batch):
    supports = [tuple(one["frame_index"] for one in clip["support"]) for clip in batch]
    return [(clip["image_id"], seen, int(clip["image"].sum())) for clip, seen in zip(batch, supports, strict=True)]


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("case", accumulation.CASES)
def test_micro_batches_are_the_batches_of_as_many_processes(case, grouping, videos, monkeypatch):
    keys = accumulation.CASES[case] | {"DATALOADER.ASPECT_RATIO_GROUPING": grouping}
    if "triplets" not in case:
        keys |= {"SOLVER.IMS_PER_BATCH": 12}

    def plain_loader(*, dataset, sampler, total_batch_size, **_):
        items = (dataset[item] for item in sampler)
        while True:
            yield list(itertools.islice(items, total_batch_size // comm.get_world_size()))

    monkeypatch.setattr(build, "build_detection_train_loader", plain_loader)

    def batches(rank: int, world: int, parts: int) -> list[list]:
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world)
        size = (keys.get("SOLVER.IMS_PER_BATCH", 4) // 2) * world * parts
        cfg = accumulation.config(videos, keys | {"SOLVER.ACCUMULATE": parts, "SOLVER.IMS_PER_BATCH": size})
        loader = build_video_train_loader(cfg)
        return [[clips_of(part) for part in micro_batches(one, parts)] for one in itertools.islice(loader, 3)]

    alone = [batches(rank, 4, 1) for rank in range(4)]
    for rank in range(2):
        together = batches(rank, 2, 2)
        for update, parts in enumerate(together):
            assert parts == [alone[rank + 2 * part][update][0] for part in range(2)]


def test_a_batch_that_cannot_be_cut_is_refused(videos):
    with pytest.raises(UserError, match="3 clips cannot be cut into SOLVER.ACCUMULATE = 2"):
        micro_batches([1, 2, 3], 2)
    cfg = accumulation.config(videos, {"SOLVER.ACCUMULATE": 3})
    with pytest.raises(UserError, match="IMS_PER_BATCH is 4, expected a multiple of the 1 processes times .* is 3"):
        build_video_train_loader(cfg)
    triplets = accumulation.CASES["triplets of videos"]
    with pytest.raises(UserError, match="times SOLVER.ACCUMULATE = 3: set it to 12"):
        build_video_train_loader(accumulation.config(videos, triplets | {"SOLVER.ACCUMULATE": 3}))
    with pytest.raises(UserError, match="SOLVER.ACCUMULATE is 0"):
        VideoTrainer(accumulation.config(videos, {"SOLVER.ACCUMULATE": 0}))
    precise = {"SOLVER.ACCUMULATE": 2, "TEST.PRECISE_BN.ENABLED": True}
    with pytest.raises(UserError, match="PRECISE_BN"):
        VideoTrainer(accumulation.config(videos, precise))


def test_iterations_are_updates_also_for_the_learning_rate_and_after_resuming(videos):
    keys = {"SOLVER.ACCUMULATE": 2, "SOLVER.MAX_ITER": 3, "SOLVER.STEPS": (1, 2), "SOLVER.CHECKPOINT_PERIOD": 2}
    cfg = accumulation.config(videos, keys | {"SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR"})
    first = VideoTrainer(cfg)
    first.max_iter = 2
    first.train()
    assert [group["lr"] for group in first.optimizer.param_groups][0] == pytest.approx(0.02 * cfg.SOLVER.GAMMA**2)
    momentum = next(iter(first.optimizer.state_dict()["state"].values()))["momentum_buffer"]
    again = VideoTrainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 2
    torch.testing.assert_close(
        next(iter(again.optimizer.state_dict()["state"].values()))["momentum_buffer"], momentum, rtol=0, atol=0
    )
    again.train()
    assert again.iter == 3 and isinstance(again._trainer, AccumulatingTrainer)


class Quadratic(nn.Module):
    """loss = mean over the batch of (weight * x)^2 / 2: the gradient is weight * mean(x^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.layer.weight, 2.0)

    def forward(self, batch: list[float]) -> torch.Tensor:
        return self.layer(torch.tensor(batch)[:, None]).float().square().mean() / 2


@pytest.mark.parametrize("kind", [SimpleTrainer, AMPTrainer])
def test_the_gradient_is_the_mean_over_the_micro_batches(kind):
    model = Quadratic()
    scaler = {"grad_scaler": torch.amp.GradScaler(enabled=False)} if kind is AMPTrainer else {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = accumulating(kind(model, [[1.0, 2.0, 3.0, 4.0]], optimizer, **scaler), 2)
    assert isinstance(trainer, AccumulatingAMPTrainer) == (kind is AMPTrainer)
    with EventStorage():
        trainer.run_step()
    # Of [1, 3] and [2, 4]: 2 * (5 + 10) / 2, exact in half precision
    assert model.layer.weight.grad.item() == 15.0 and model.layer.weight.item() == 2.0 - 0.5 * 15.0


def test_a_loss_that_is_not_finite_stops_before_the_update():
    model = Quadratic()
    trainer = accumulating(SimpleTrainer(model, [[1.0, float("nan")]], torch.optim.SGD(model.parameters(), lr=0.5)), 2)
    with EventStorage(), pytest.raises(TrainingDiverged):
        trainer.run_step()
    assert model.layer.weight.item() == 2.0


class TestReferenceWorldSize:
    KEYS = {
        "SOLVER.REFERENCE_WORLD_SIZE": 8,
        "SOLVER.IMS_PER_BATCH": 16,
        "SOLVER.BASE_LR": 0.02,
        "SOLVER.MAX_ITER": 900,
        "SOLVER.STEPS": (600, 800),
        "SOLVER.WARMUP_ITERS": 100,
        "SOLVER.CHECKPOINT_PERIOD": 50,
        "TEST.EVAL_PERIOD": 30,
    }

    def scaled(self, folder, **more):
        return scaled_to_devices(accumulation.config(folder, self.KEYS | {f"SOLVER.{k}": v for k, v in more.items()}))

    @pytest.mark.parametrize("processes, parts", [(2, 1), (1, 2)])
    def test_a_quarter_of_the_devices_sees_a_quarter_of_the_batch_four_times_as_often(
        self, tmp_path, monkeypatch, processes, parts
    ):
        monkeypatch.setattr(comm, "get_world_size", lambda: processes)
        cfg = self.scaled(tmp_path, ACCUMULATE=parts)
        solver = cfg.SOLVER
        assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (4, 0.005, 3600)
        assert (solver.STEPS, solver.WARMUP_ITERS) == ((2400, 3200), 400)
        assert (solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (200, 120)
        assert solver.REFERENCE_WORLD_SIZE == 0  # followed: not to be followed again

    def test_accumulating_for_the_missing_devices_changes_nothing(self, tmp_path):
        cfg = self.scaled(tmp_path, ACCUMULATE=8)
        assert cfg.SOLVER.IMS_PER_BATCH == 16 and cfg.SOLVER.MAX_ITER == 900 and cfg.SOLVER.STEPS == (600, 800)

    def test_without_it_the_configuration_is_the_same_object(self, tmp_path):
        cfg = accumulation.config(tmp_path, {"SOLVER.ACCUMULATE": 4})
        assert scaled_to_devices(cfg) is cfg

    def test_a_batch_that_the_reference_cannot_share_is_an_error(self, tmp_path):
        with pytest.raises(UserError, match="REFERENCE_WORLD_SIZE is 3.*IMS_PER_BATCH = 16 evenly"):
            self.scaled(tmp_path, REFERENCE_WORLD_SIZE=3)

    def test_the_trainer_follows_it_once(self, videos):
        keys = {"SOLVER.REFERENCE_WORLD_SIZE": 4, "SOLVER.IMS_PER_BATCH": 8, "SOLVER.MAX_ITER": 4}
        cfg = accumulation.config(videos, keys | {"SOLVER.ACCUMULATE": 2})
        cfg.freeze()
        trainer = VideoTrainer(cfg)
        assert trainer.max_iter == 8 and trainer.cfg.SOLVER.IMS_PER_BATCH == 4 and trainer.cfg.is_frozen()
        assert cfg.SOLVER.IMS_PER_BATCH == 8
        assert len(next(iter(trainer.data_loader))) == 4
