"""Workers that are processes: replies, deaths, and that they do not outlive the coordinator."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.archives import FakeRunner, refuse
from vod2.archive import LocalWorkers
from vod2.archive.tasks import Broken, Done, Failed, VideoTask
from vod2.archive.workers import Readiness
from vod2.errors import UserError
from vod2.locking import locked_file

TESTS = Path(__file__).resolve().parents[1]


def do(workers, names):
    """Let workers do the tasks; {name: reply}."""
    waiting, flying, replies = list(names), 0, {}
    end = time.monotonic() + 200
    while (waiting or flying) and time.monotonic() < end:
        while waiting and workers.free:
            workers.submit(VideoTask(waiting[0], f"/{waiting.pop(0)}.mp4"))
            flying += 1
        for ended in workers.wait(0.5):
            replies[ended.task.video] = ended.reply
            flying -= 1
    return replies


def test_tasks_are_done_side_by_side_and_a_worker_that_dies_is_replaced():
    """One worker of two is killed by a task; all others are done."""
    workers = LocalWorkers(FakeRunner, ["cpu", "cuda:1"])
    try:
        assert workers.free == 0
        replies = do(workers, ["a", "kill", "b", "broken", "c"])
        assert isinstance(replies["kill"], Failed) and replies["kill"].reason == "its worker died (signal 9)"
        assert isinstance(replies["broken"], Broken)
        assert [type(replies[name]) for name in "abc"] == [Done] * 3
        assert {replies[name].sha256 for name in "abc"} <= {"cpu", "cuda:1"}
    finally:
        workers.close()


def test_a_model_that_cannot_be_made_ends_the_run_with_its_sentence():
    workers = LocalWorkers(refuse, ["cpu"])
    try:
        with pytest.raises(UserError, match=r"weights 'w.pth' do not exist"):
            do(workers, ["a"])
    finally:
        workers.close()


def test_workers_that_go_on_dying_before_they_begin_are_given_up():
    readiness = Readiness("give fewer --workers")
    readiness.died("signal 9")
    readiness.died("signal 9")
    readiness.ready()
    readiness.died("signal 9")
    readiness.died("signal 9")
    with pytest.raises(UserError, match=r"3 workers have died while they loaded the model \(signal 9\): give fewer"):
        readiness.died("signal 9")


COORDINATOR = """
import sys
from pathlib import Path
from helpers.archives import FakeRunner, refuse
from vod2.archive import LocalWorkers
from vod2.archive.tasks import VideoTask
from vod2.locking import locked_file

if __name__ == "__main__":
    with locked_file(Path(sys.argv[1]), "workers") as lock:
        workers = LocalWorkers(FakeRunner, ["cpu"], inherited=[lock])
        while not workers.free:
            workers.wait(0.5)
        print(workers.submit(VideoTask("wait", "/wait.mp4")).split(":")[1], flush=True)
        workers.wait(600)
"""


def test_workers_end_with_a_coordinator_that_is_killed_and_hold_its_lock_until_then(tmp_path):
    (tmp_path / "coordinator.py").write_text(COORDINATOR)
    lock = tmp_path / "archive.lock"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "coordinator.py"), str(lock)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        worker = int(process.stdout.readline())
        os.kill(worker, signal.SIGSTOP)
        process.kill()
        process.wait()
        with pytest.raises(UserError, match=f"in use by process {process.pid} on .* or by workers"):
            with locked_file(lock, "workers"):
                pass
        os.kill(worker, signal.SIGCONT)
        with locked_file(lock, "workers", patience=30):
            assert not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text()
