"""Several processes: one job, one error, one answer to a signal."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vod2.engine.interruption import EXIT_CODE

TESTS = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}


def start(*words, program=(sys.executable, "-m", "helpers.launched")):
    command = [*program, *map(str, words)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, seconds=240):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def wait_for(path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("mistake", "process 1 of 2 failed: the second process has no data: give it some"),
        pytest.param("bug", "process 1 of 2 failed: a bug of the second process", marks=pytest.mark.slow),
        ("killed", "process 1 of 2 was ended by SIGKILL"),
    ],
)
def test_the_error_of_the_process_that_failed_is_the_last_line(tmp_path, what, named):
    code, _, err = finish(start(what, tmp_path, 2))
    assert code == 2
    assert err.strip().splitlines()[-1].startswith(f"error: {named}")


@pytest.mark.slow
def test_two_jobs_at_once_do_not_meet(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    jobs = [start("count", tmp_path / folder, 2) for folder in ("a", "b")]
    assert [finish(job)[0] for job in jobs] == [0, 0]
    for folder in ("a", "b"):
        assert [json.loads(path.read_text()) for path in (tmp_path / folder).glob("rank*")] == [[0, 1]] * 2


def test_torchrun_starts_one_job(tmp_path):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    code, _, err = finish(start("-m", "helpers.launched", "count", tmp_path, 1, program=torchrun))
    assert code == 0, err
    assert [json.loads(path.read_text()) for path in tmp_path.glob("rank*")] == [[0, 1]] * 2


def test_torchrun_and_num_gpus_together_are_refused(tmp_path):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    code, _, err = finish(start("-m", "helpers.launched", "count", tmp_path, 2, program=torchrun))
    assert code != 0
    assert "leave out --num-gpus" in err


def test_every_process_evaluates_with_the_statistics_of_the_first(tmp_path):
    code, _, err = finish(start("buffers", tmp_path, 2))
    assert code == 0, err
    assert [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)] == [[[1.0] * 3, 7]] * 2


def test_two_processes_train_as_one_with_the_same_batch(tmp_path):
    losses = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        code, _, err = finish(start("training", folder, processes))
        assert code == 0, err
        losses.append(json.loads((folder / "losses.json").read_text()))
    one, two = losses
    assert two[0] == pytest.approx(one[0], rel=1e-6)
    assert two[-1] == pytest.approx(one[-1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_to_the_parent_alone_saves_and_ends_all(tmp_path, number, processes):
    process = start("endless", tmp_path, processes)
    wait_for(tmp_path / "begun", process)
    process.send_signal(number)
    code, _, err = finish(process, 60)
    assert code == EXIT_CODE, err
    assert "Traceback" not in err
    assert (tmp_path / "output" / "last_checkpoint").exists()


@pytest.mark.slow
def test_a_killed_parent_leaves_no_process(tmp_path):
    process = start("endless", tmp_path, 2)
    wait_for(tmp_path / "begun", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while any(is_running(child) for child in children):
        assert time.monotonic() < end
        time.sleep(0.1)


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_process_is_this_one(tmp_path):
    code, _, err = finish(start("count", tmp_path, 1))
    assert code == 0, err
    assert len(list(tmp_path.glob("rank0_*"))) == 1
