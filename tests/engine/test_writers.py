"""Weights & Biases and MLflow as writers of a training, with stand-ins for the two packages."""

import json
import logging
import os
import sys

import pytest

from helpers import accumulation
from helpers.models import tiny_cfg
from helpers.trackers import FakeMlflow, FakeWandb
from vod2.d2 import EventStorage, HookBase, MetadataCatalog
from vod2.engine import VideoTrainer
from vod2.engine.writers import TRACKERS, build_trackers, check_tracking, start_trackers
from vod2.errors import UserError
from vod2.keys import leaves

FAKES = {"wandb": FakeWandb, "mlflow": FakeMlflow}
KEYS = {
    "SOLVER.MAX_ITER": 3,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.IMS_PER_BATCH": 1,
    "TEST.EVAL_PERIOD": 0,
    "MODEL.ROI_HEADS.NUM_CLASSES": 2,
}


@pytest.fixture(scope="module", autouse=True)
def videos(tmp_path_factory):
    with accumulation.registered_videos(tmp_path_factory.mktemp("videos")):
        MetadataCatalog.get(accumulation.NAME).set(evaluator_type="vid")
        yield


@pytest.fixture(params=list(FAKES))
def tracker(request, monkeypatch):
    fake = FAKES[request.param]()
    monkeypatch.setitem(sys.modules, request.param, fake)
    return fake


def config(folder, tracker, **keys):
    keys = {name.replace("__", "."): value for name, value in keys.items()}
    return accumulation.config(folder, KEYS | {"TRACKING.WRITERS": (tracker.__name__,)} | keys)


class Failing(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            raise KeyError("gone")


def train(cfg, resume=False, fails_at=None):
    trainer = VideoTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.register_hooks([] if fails_at is None else [Failing(fails_at)])
    if fails_at is None:
        trainer.train()
    else:
        with pytest.raises(KeyError):
            trainer.train()
    return trainer


def test_a_training_is_a_run_with_its_configuration_and_every_scalar_once(tmp_path, tracker):
    trainer = train(config(tmp_path, tracker, DATASETS__TEST=(accumulation.NAME,)))
    scalars = tracker.scalars()
    names = {name for _, name, _ in scalars}
    assert len(set(scalars)) == len(scalars)
    assert {"total_loss", "lr", "time", "vid/AP50", "bbox/AP"} <= names
    assert {iteration for _, name, iteration in scalars if name == "vid/AP50"} == {3}
    expected = {key: str(value) for key, value in leaves(trainer.cfg)}
    assert tracker.parameters() == expected and expected["TRACKING.PROJECT"] == "vod2"
    assert tracker.ends() == [True]
    # What the trackers have is what metrics.json has
    lines = [json.loads(line) for line in (tmp_path / "output" / "metrics.json").read_text().splitlines()]
    written = {(name, line["iteration"]) for line in lines for name in line if name != "iteration"}
    assert {(name, iteration) for _, name, iteration in scalars} == written


def test_a_resumed_training_goes_on_in_its_run_and_repeats_nothing(tmp_path, tracker):
    cfg = config(tmp_path, tracker)
    train(cfg, fails_at=2)
    assert tracker.ends() == [False]
    assert {iteration for _, name, iteration in tracker.scalars() if name == "total_loss"} == {1}
    # As if the kill had come within the writing of the second checkpoint: iteration 1 is trained again
    for path in (tmp_path / "output").glob("model_0000001*"):
        path.unlink()
    cfg.SOLVER.BASE_LR = 0.25
    cfg.SOLVER.MAX_ITER = 2
    trainer = train(cfg, resume=True)
    assert trainer.start_iter == 1 and tracker.ends() == [False, True]
    scalars = tracker.scalars()
    assert len({run for run, _, _ in scalars}) == 1 and len(set(scalars)) == len(scalars)
    assert {iteration for _, name, iteration in scalars if name == "total_loss"} == {1}
    if isinstance(tracker, FakeMlflow):  # its parameters cannot change
        (run,) = tracker.runs.values()
        assert run.data.tags == {"changed.SOLVER.BASE_LR": "0.25", "changed.SOLVER.MAX_ITER": "2"}
    else:
        assert tracker.parameters()["SOLVER.BASE_LR"] == "0.25"


def test_a_training_that_begins_anew_is_a_new_run(tmp_path, tracker):
    train(config(tmp_path, tracker, SOLVER__MAX_ITER=1))
    train(config(tmp_path, tracker, SOLVER__MAX_ITER=1), resume=False)
    assert len(tracker.runs) == 2 and len(list((tmp_path / "output").glob("tracking_*"))) == 1


def warnings_of(caplog, tracker) -> list[str]:
    return [record.getMessage() for record in caplog.records if f"{tracker.__name__} failed" in record.getMessage()]


@pytest.mark.parametrize("call", ["log", "finish"])
def test_a_tracker_that_fails_is_told_once_and_stops_nothing(tmp_path, tracker, caplog, call):
    tracker.fails.add(call)
    with caplog.at_level(logging.WARNING, "vod2"):
        train(config(tmp_path, tracker, SOLVER__MAX_ITER=1))
    (told,) = warnings_of(caplog, tracker)
    assert "no route to host" in told and "metrics.json" in told
    assert (tmp_path / "output" / "model_final.safetensors").is_file()


def test_a_run_that_cannot_begin_ends_a_new_training_before_its_first_iteration(tmp_path, tracker):
    tracker.fails.add("init")
    with pytest.raises(UserError, match=rf"{tracker.__name__} cannot begin a run \(Broken: no route to host\): fix"):
        train(config(tmp_path, tracker))
    assert not list((tmp_path / "output").glob("model_*"))


def test_where_one_run_cannot_begin_the_other_is_ended(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb := FakeWandb())
    monkeypatch.setitem(sys.modules, "mlflow", mlflow := FakeMlflow())
    mlflow.fails.add("init")
    trackers = build_trackers(config(tmp_path, wandb, TRACKING__WRITERS=("wandb", "mlflow")))
    trackers[0].file.parent.mkdir()
    with pytest.raises(UserError, match="mlflow cannot begin a run"):
        start_trackers(trackers, 0)
    assert wandb.ends() == [False]


def test_a_run_that_cannot_go_on_is_a_warning_of_the_resumed_training(tmp_path, tracker, caplog):
    train(config(tmp_path, tracker), fails_at=1)
    tracker.fails.add("init")
    with caplog.at_level(logging.WARNING, "vod2"):
        train(config(tmp_path, tracker, SOLVER__MAX_ITER=2), resume=True)
    assert len(warnings_of(caplog, tracker)) == 1
    assert (tmp_path / "output" / "model_final.safetensors").is_file()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run": 3, "written": {}}', '{"run": "a", "written": {"x": "y"}}'])
def test_a_damaged_file_of_the_run_is_a_warning_and_a_new_run(tmp_path, tracker, caplog, content):
    (writer,) = build_trackers(config(tmp_path, tracker))
    writer.file.parent.mkdir()
    writer.file.write_text(content)
    with caplog.at_level(logging.WARNING, "vod2"), EventStorage(5):
        writer.start(5)
        writer.close()
    assert f"tracking_{tracker.__name__}.json" in caplog.text and "begins a new run" in caplog.text
    assert len(tracker.runs) == 1 and json.loads(writer.file.read_text())["written"] == {}


def test_an_evaluation_is_not_taken_for_the_iteration_of_its_number(tmp_path, tracker):
    """MAX_ITER was raised: iteration 4 is that of the evaluation after the end, and the first of the resumed one."""
    (writer,) = build_trackers(config(tmp_path, tracker))
    writer.file.parent.mkdir()
    with EventStorage(4) as storage:
        writer.start(0)
        storage.put_scalar("vid/AP50", 50.0, smoothing_hint=False)
        writer.write()
        writer.close()
    (writer,) = build_trackers(config(tmp_path, tracker, SOLVER__MAX_ITER=8))
    with EventStorage(4) as storage:
        writer.start(4)
        storage.put_scalars(total_loss=1.0)
        storage.put_scalar("vid/AP50", 50.0, smoothing_hint=False)
        writer.write()
        writer.write()
    assert [(name, iteration) for _, name, iteration in tracker.scalars()] == [("vid/AP50", 4), ("total_loss", 4)]


def test_names_that_mlflow_refuses_are_changed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", tracker := FakeMlflow())
    (writer,) = build_trackers(config(tmp_path, tracker))
    writer.file.parent.mkdir()
    with EventStorage() as storage:
        writer.start(0)
        for name in ("vid/AP50 (fast)", "bbox/AP-a//b", "bbox/AP-Straße, 50%"):
            storage.put_scalar(name, 1.0)
        writer.write()
    assert [name for _, name, _ in tracker.scalars()] == ["vid/AP50 _fast_", "bbox/AP-a/b", "bbox/AP-Straße_ 50_"]


def test_names_of_project_and_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb := FakeWandb())
    monkeypatch.setitem(sys.modules, "mlflow", mlflow := FakeMlflow())
    keys = {"TRACKING__WRITERS": ("mlflow", "wandb", "mlflow"), "TRACKING__PROJECT": "elves"}
    for name in ("", "first"):
        writers = build_trackers(config(tmp_path, wandb, **keys, TRACKING__NAME=name))
        assert [writer.package for writer in writers] == ["mlflow", "wandb"]
        writers[0].file.parent.mkdir(exist_ok=True)
        for writer in writers:
            writer.start(0)
    assert [(run["project"], run["name"]) for run in wandb.inits] == [("elves", "output"), ("elves", "first")]
    assert [(run.experiment, run.name) for run in mlflow.runs.values()] == [("elves", "output"), ("elves", "first")]


def test_the_end_of_a_training_waits_a_minute_for_wandb_or_as_long_as_its_own_setting_says(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb := FakeWandb())
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "5")
    (writer,) = build_trackers(config(tmp_path, wandb))
    writer.file.parent.mkdir()
    writer.start(0)
    assert os.environ["WANDB_FINISH_TIMEOUT"] == "5"
    monkeypatch.delenv("WANDB_FINISH_TIMEOUT")
    writer.start(0)
    assert os.environ["WANDB_FINISH_TIMEOUT"] == "60"


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_told_before_a_model_is_built(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(VideoTrainer, "build_model", classmethod(lambda *_: pytest.fail("a model was built")))
    with pytest.raises(UserError) as error:
        VideoTrainer(accumulation.config(tmp_path, KEYS | {"TRACKING.WRITERS": (name,)}))
    assert f'pip install "vod2[{name}]"' in str(error.value)


def test_the_folder_of_a_run_is_not_taken_for_the_package(tmp_path, monkeypatch):
    (tmp_path / "wandb" / "offline-run").mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="a folder without code"):
        check_tracking(tiny_cfg({"TRACKING.WRITERS": ("wandb",)}))
    sys.modules.pop("wandb")


@pytest.mark.parametrize(
    "writers, said", [(("tensorboard",), "expected one of mlflow, wandb"), ((3,), "a list of names")]
)
def test_other_writers_are_refused(tmp_path, writers, said):
    with pytest.raises(UserError, match=rf"TRACKING.WRITERS is .*{said}"):
        VideoTrainer(accumulation.config(tmp_path, {"TRACKING.WRITERS": writers}))
