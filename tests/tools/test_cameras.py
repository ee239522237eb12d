"""`vod2 detect` with several cameras at the same time."""

import json
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from helpers.models import build_detector, tiny_cfg
from helpers.network_camera import address, streaming
from vod2.commands import detect
from vod2.commands.cameras import camera_names, run_together
from vod2.errors import UserError
from vod2.video import Camera


class FakeCamera:
    """Gives numbers until it is closed, or as many as `count`."""

    skipped, reconnections, longest_delay = 2, 0, 0.5

    def __init__(self, count: int = 10**6) -> None:
        self.arrived, self.count, self.closed = 0, count, threading.Event()

    def __iter__(self):
        while self.arrived < self.count and not self.closed.wait(0.01):
            self.arrived += 1
            yield self.arrived

    def close(self) -> None:
        self.closed.set()


def job(name: str, count: int = 10**6) -> SimpleNamespace:
    return SimpleNamespace(name=name, source=FakeCamera(count), done=[])


def work(job, watched) -> None:
    for frame in watched(job.source, None):
        job.done.append(frame)
        if job.name == "broken" and frame == 3:
            raise UserError("the picture has changed")
        if job.name == "bug" and frame == 3:
            raise ZeroDivisionError("a bug")


def test_all_run_to_their_end_and_statistics_are_told(capsys):
    jobs = [job("door", 5), job("yard", 8)]
    run_together(jobs, work)
    assert [len(job.done) for job in jobs] == [5, 8]
    lines = capsys.readouterr().err.splitlines()
    rows = [line.split() for line in lines if line.startswith(("door  ", "yard  "))]
    assert rows == [["door", "5", "2", "0.50", "s", "0"], ["yard", "8", "2", "0.50", "s", "0"]]


def test_one_that_fails_leaves_the_others_alone(capsys):
    jobs = [job("broken"), job("yard", 8)]
    with pytest.raises(UserError, match="1 of 2 cameras failed: the picture has changed"):
        run_together(jobs, work)
    assert len(jobs[1].done) == 8 and jobs[0].source.closed.is_set()
    assert "broken has failed: the picture has changed" in capsys.readouterr().err


def test_a_bug_stays_a_bug():
    with pytest.raises(ZeroDivisionError):
        run_together([job("bug"), job("yard", 4)], work)


def test_ctrl_c_ends_all_of_them_after_their_files_are_whole(ctrl_c):
    # Not endless, so that a Ctrl-C that is lost is a failure and no wait.
    jobs, finished = [job("door", 2000), job("yard", 2000)], []

    def work_slowly(job, watched) -> None:
        work(job, watched)
        time.sleep(0.3)
        finished.append(job.name)

    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_together(jobs, work_slowly)
    timer.join()
    assert sorted(finished) == ["door", "yard"] and all(job.done for job in jobs)


def test_names_are_numbers_or_places():
    assert camera_names(["rtsp://me:secret@door/1"]) == ["camera"]
    assert camera_names(["2", "rtsp://me:secret@door/1"]) == ["camera2", "camera_2"]
    assert len(set(camera_names(["1", "rtsp://a"]))) == 2


@pytest.fixture
def words(tmp_path, monkeypatch) -> list[str]:
    (tmp_path / "tiny.yaml").write_text(tiny_cfg().dump())
    torch.save({"model": build_detector().state_dict()}, tmp_path / "tiny.pth")
    monkeypatch.setattr(sys, "argv", ["vod2 detect"])
    options = ["--config-file", str(tmp_path / "tiny.yaml"), "--confidence-threshold", "0.1", "--lookahead", "0"]
    (tmp_path / "names.txt").write_text("fox\nowl\nelf\ncat\ndog\n")
    options += ["--class-names", str(tmp_path / "names.txt")]
    return [*options, "--opts", "MODEL.WEIGHTS", str(tmp_path / "tiny.pth")]


def test_two_streams_are_detected_at_once_each_in_its_files(tmp_path, words, capsys):
    with streaming() as first, streaming() as second:
        first.frames, second.frames = 12, 20
        sources = [address(first), address(second, user="me:secret@")]
        detect.main(["--webcam", *sources, "--json", str(tmp_path / "{name}.json"), *words])
    for name, frames, server in (("camera_1", 12, first), ("camera_2", 20, second)):
        found = json.loads((tmp_path / f"{name}.json").read_text())
        numbers = [frame["index"] for frame in found["frames"]]
        assert numbers and numbers == sorted(set(numbers)) and numbers[-1] < frames + 5
        assert found["video"] == address(server), "without a password"
    assert "secret" not in capsys.readouterr().err


def test_files_need_the_name_of_the_camera(tmp_path, words):
    with streaming() as server:
        with pytest.raises(UserError, match="is one file for 2 inputs: put {name} into it"):
            detect.main(["--webcam", address(server), "1", "--json", str(tmp_path / "out.json"), *words])


def test_messages_of_a_camera_do_not_tell_its_password():
    with streaming() as server:
        server.frames = 4
        with Camera(address(server, user="me:s@cret@"), patience=2) as camera:
            assert camera.name == address(server)
            assert len([frame for frame in camera if frame is not None]) >= 1
