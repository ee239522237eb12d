"""Two trainings do not write into one folder."""

import errno
import fcntl
import logging
import subprocess
import sys

import pytest
import torch

from helpers import accumulation
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.engine import VideoTrainer
from vod2.engine.machines import output_for_training
from vod2.errors import UserError

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
    accumulation.register_videos(tmp_path)
    yield
    DatasetCatalog.remove(accumulation.NAME)
    MetadataCatalog.remove(accumulation.NAME)


@pytest.mark.usefixtures("videos")
def test_a_second_training_of_a_folder_is_refused_until_the_first_has_ended(tmp_path, holder):
    torch.manual_seed(0)
    trainer = VideoTrainer(accumulation.config(tmp_path, {}))
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
        with pytest.raises(subprocess.CalledProcessError) as refused:
            subprocess.run([sys.executable, "-c", HOLDER, str(tmp_path)], check=True, capture_output=True, text=True)
        assert "in use by process" in refused.value.stderr
    holder(tmp_path)


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING, "vod2"), output_for_training(str(tmp_path)):
        pass
    assert "No locks available" in caplog.text
