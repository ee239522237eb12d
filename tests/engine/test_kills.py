"""kill -9 at any moment: after resuming, weights and optimizer have the bits of a training that was not killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.killed_training import FLUSHES

TESTS = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}


def start(folder, *words, workers=0):
    command = [
        sys.executable,
        "-m",
        "helpers.killed_training",
        str(folder),
        "--workers",
        str(workers),
        *map(str, words),
    ]
    return subprocess.Popen(command, env=ENVIRONMENT, cwd=TESTS, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def run(folder, *words, workers=0):
    process = start(folder, *words, workers=workers)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors.decode()


def final(folder):
    output = folder / "output"
    return load_file(output / "model_final.safetensors") | load_file(output / "model_final.state.safetensors")


def differing(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    code, errors = run(folder)
    assert code == 0, errors
    return final(folder)


def kill_at_a_random_moment(folder, seconds, workers):
    process = start(folder, "--slow", 0.1, workers=workers)
    while not (folder / "begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()  # not for its workers, which take seconds to notice
    process.stderr.close()
    (folder / "begun").unlink()


def assert_ends_as(whole, folder, workers=0):
    code, errors = run(folder, workers=workers)
    assert code == 0, errors
    assert differing(final(folder), whole) == []
    assert list((folder / "output").glob(".vod2-*")) == []  # nothing of the killed processes is left


# In the middle of the weights of the first checkpoint, of the manifest of the second, and between two of its files.
@pytest.mark.parametrize("at", [1, FLUSHES + 5, FLUSHES + 2])
def test_killed_while_it_writes_a_checkpoint(whole, tmp_path, at):
    code, _ = run(tmp_path, "--at", at)
    assert code == -signal.SIGKILL
    assert_ends_as(whole, tmp_path)


def test_a_disk_that_is_full_ends_the_training_in_one_sentence(whole, tmp_path):
    code, _ = run(tmp_path, "--at", FLUSHES + 2)  # the first checkpoint is whole
    assert code == -signal.SIGKILL
    code, errors = run(tmp_path, "--largest", 400_000)  # the weights fit, the state of the optimizer does not
    assert code == 3
    assert "Traceback" not in errors
    assert "model_0000003.safetensors" in errors.splitlines()[-1]
    assert_ends_as(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("at", range(2 * FLUSHES + 1, 2 * FLUSHES + 11))
def test_killed_at_every_point_of_writing_a_checkpoint(whole, tmp_path, at):
    code, _ = run(tmp_path, "--at", at)
    assert code == -signal.SIGKILL
    assert_ends_as(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_ten_times_at_random_moments(whole, tmp_path, workers):
    moments = random.Random(workers)
    for _ in range(10):
        kill_at_a_random_moment(tmp_path, moments.uniform(0, 1.5), workers)
    assert_ends_as(whole, tmp_path, workers)
