"""Two trainings do not write into one folder."""

import errno
import fcntl
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from helpers import accumulation
from vod2.engine import VideoTrainer, machines
from vod2.engine.machines import output_for_training
from vod2.errors import UserError
from vod2.locking import locked_file

ROOT = Path(__file__).resolve().parents[2]

# Holds the lock of a folder until it is killed.
HOLDER = """
import sys, time
from vod2.engine.machines import output_for_training
with output_for_training(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def holder():
    started = []

    def start(folder):
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def videos(tmp_path):
    with accumulation.registered_videos(tmp_path):
        yield


@pytest.mark.usefixtures("videos")
def test_a_second_training_of_a_folder_is_refused_until_the_first_has_ended(tmp_path, holder, monkeypatch):
    torch.manual_seed(0)
    trainer = VideoTrainer(accumulation.config(tmp_path, {}))
    monkeypatch.setattr(machines, "_PATIENCE", 0.0)
    process = holder(trainer.cfg.OUTPUT_DIR)
    with pytest.raises(UserError, match=f"in use by process {process.pid} on .*give another OUTPUT_DIR"):
        trainer.train()
    assert trainer.iter == 0
    process.kill()
    process.wait()
    trainer.train()
    assert trainer.iter == trainer.max_iter


def test_it_may_be_entered_within_itself_and_ends_with_the_outer_one(tmp_path, holder):
    with output_for_training(str(tmp_path)):
        with output_for_training(str(tmp_path / ".")):
            pass
        with pytest.raises(UserError, match="in use by process"), locked_file(tmp_path / "training.lock", "processes"):
            pass
    holder(tmp_path)


def test_train_net_is_refused_before_it_changes_a_file(tmp_path, holder):
    (tmp_path / "config.yaml").write_text("of the first training")
    holder(tmp_path)
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "OUTPUT_DIR", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 2 and "in use by process" in done.stderr
    assert (tmp_path / "config.yaml").read_text() == "of the first training"
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "training.lock"]


def test_it_waits_for_the_workers_of_a_killed_process(tmp_path, holder):
    process = holder(tmp_path)
    threading.Timer(1.0, process.kill).start()
    with output_for_training(str(tmp_path)):
        assert process.wait() < 0


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING, "vod2"), output_for_training(str(tmp_path)):
        pass
    assert "No locks available" in caplog.text
