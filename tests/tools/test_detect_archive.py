"""The command line of archives: options, exit codes, kills, and a second run."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.archives import WINDOW, FakeWorkers, assert_archive_is_whole, rows_of, write_archive, write_detector
from helpers.videos import moving_frames, write_video
from vod2.archive import Counts
from vod2.commands import archive as tool
from vod2.engine import cli

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "detect_archive.py"


@pytest.fixture
def archive(tmp_path, monkeypatch, capsys):
    """Calls the tool in this process, with workers of this process; returns its exit code and what it says."""
    monkeypatch.chdir(tmp_path)
    write_detector(tmp_path)
    workers = lambda make, devices, inherited: FakeWorkers(make(devices[0]).run, len(devices))  # noqa: E731
    monkeypatch.setattr(tool, "LocalWorkers", workers)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*words, keys=()) -> tuple[int, str]:
        words = ["--config-file", "detector.yaml", "--output", "out", "--device", "cpu", "--workers", "1", *words]
        monkeypatch.setattr(sys, "argv", ["detect_archive.py", *words, "--opts", *keys])
        try:
            cli.run(tool.main)
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


def test_all_videos_are_detected_and_broken_ones_are_failures(archive, tmp_path):
    write_archive(tmp_path / "in", 3, 5)
    code, said = archive("--input", "in", "--confidence-threshold", "0.1")
    assert code == 1 and "8 videos: 3 done, 5 failed, 0 left" in said
    assert said.count("failed: ") == 5 and "SELECT path, error FROM videos WHERE status = 'failed'" in said
    assert_archive_is_whole(tmp_path / "out", 3, 5)
    assert {row["attempts"] for row in rows_of(tmp_path / "out" / "manifest.sqlite").values()} == {1}


def test_a_second_run_does_what_is_new_has_changed_or_is_asked_for_and_nothing_else(archive, tmp_path):
    write_archive(tmp_path / "in", 3, 1)
    manifest = tmp_path / "out" / "manifest.sqlite"
    archive("--input", "in")
    before = rows_of(manifest)
    code, said = archive("--input", "in")
    assert code == 1 and "4 videos: 3 done, 1 failed, 0 to do" in said and rows_of(manifest) == before

    write_video(tmp_path / "in" / "day0" / "000.mp4", moving_frames(7))
    write_video(tmp_path / "in" / "empty.mp4", moving_frames(3))
    code, said = archive("--input", "in/day0", "in/empty.mp4")
    assert code == 0 and "2 videos have changed since they were looked at" in said
    after = rows_of(manifest)
    assert after["000.mp4"]["frames"] == 7 and after["001.mp4"] == before["001.mp4"]
    assert_archive_is_whole(tmp_path / "out", 4, 0)

    (tmp_path / "out" / after["001.mp4"]["result"]).write_text("")
    (tmp_path / "out" / after["002.mp4"]["result"]).unlink()
    code, said = archive("--input", "nowhere", "--skip-scan", "--verify")
    assert code == 0 and "2 results are gone or have been changed" in said
    assert_archive_is_whole(tmp_path / "out", 4, 0)


def test_failed_videos_are_tried_again_where_that_is_asked_for(archive, tmp_path):
    write_archive(tmp_path / "in", 1, 1)
    archive("--input", "in")
    code, said = archive("--input", "in", "--retry-failed")
    assert code == 1 and "1 videos that had failed are tried again" in said and "1 to do" in said


def test_long_videos_are_cut_with_the_least_overlap_and_joined(archive, tmp_path):
    """By hand: segments of 8 frames that share 5 (2 before, 2 after, 1 for tracks) begin at 0, 3, 6 ... of 20."""
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "long.mp4", moving_frames(20))
    code, _ = archive("--input", "in", "--segment-frames", "8", "--link", "4", "--confidence-threshold", "0.1")
    assert code == 0
    assert_archive_is_whole(tmp_path / "out", 1, 0)
    (row,) = rows_of(tmp_path / "out" / "manifest.sqlite").values()
    assert (row["frames"], row["attempts"]) == (20, 1)
    lines = [json.loads(line) for line in (tmp_path / "out" / row["result"]).read_text().splitlines()]
    assert all(len(line["track_ids"]) == len(line["boxes"]) for line in lines)


def test_other_settings_in_one_folder_are_refused(archive, tmp_path):
    write_archive(tmp_path / "in", 1, 0)
    archive("--input", "in")
    code, said = archive("--input", "in", "--confidence-threshold", "0.7", keys=["VIDEO.TEST_SCHEDULE.RADIUS", "1"])
    assert code == 2 and "--confidence-threshold (0.5 before, now 0.7)" in said
    assert "VIDEO.TEST_SCHEDULE.RADIUS (2 before, now 1)" in said


@pytest.mark.parametrize(
    "words, keys, message",
    [
        (["--input", "gone"], [], "'gone' does not exist"),
        (["--input", "nothing"], [], "there is no video in it"),
        (["--input", "in"], ["MODEL.WEIGHTS", ""], "every worker would draw other weights"),
        (["--input", "in"], ["MODEL.WEIGHTS", "gone.pth"], "weights 'gone.pth' do not exist"),
        (["--input", "in", "--segment-frames", "9", "--overlap", "3"], [], "--overlap is 3, expected at least 4"),
        (["--input", "in", "--segment-frames", "4"], [], "--segment-frames is 4, expected at least 5"),
        (
            ["--input", "in", "--segment-frames", "9"],
            ["VIDEO.TEST_SCHEDULE.NAME", "GlobalSample", "VIDEO.TEST_SCHEDULE.RADIUS", "18"],
            "'GlobalSample', which samples all frames of the video until now",
        ),
        (["--input", "in", "--overlap", "3"], [], "give --segment-frames, too"),
        (["--input", "in", "--retries", "-1"], [], "--retries is -1: expected at least 0"),
        (["--input", "in", "--link", "1"], [], "--link is 1: expected at least 2 frames"),
    ],
)
def test_a_mistake_is_told_before_any_worker_begins(archive, tmp_path, words, keys, message):
    write_archive(tmp_path / "in", 1, 0)
    (tmp_path / "nothing").mkdir()
    code, said = archive(*words, keys=keys)
    assert code == 2 and message in said and "Traceback" not in said
    assert not (tmp_path / "out" / "results").exists()


def test_the_first_signal_asks_and_the_second_interrupts(archive):
    asked = []
    tool._stop_on_signals(lambda: asked.append(True))
    signal.raise_signal(signal.SIGTERM)
    assert asked == [True]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_run_that_is_interrupted_leaves_nothing_running(archive, tmp_path, monkeypatch):
    write_archive(tmp_path / "in", 2, 0)
    closed = []

    class Interrupted(FakeWorkers):
        def wait(self, seconds):
            raise KeyboardInterrupt

        def close(self):
            closed.append(True)

    monkeypatch.setattr(tool, "LocalWorkers", lambda make, devices, inherited: Interrupted(None, 1))
    code, said = archive("--input", "in")
    assert code == 130 and "interrupted" in said and closed == [True]
    rows = rows_of(tmp_path / "out" / "manifest.sqlite").values()
    assert [row["status"] for row in rows] == ["pending"] * 2 and sum(row["attempts"] for row in rows) == 1
    assert not (tmp_path / "out" / "temporary").exists()


def test_a_model_that_carries_state_is_cut_with_a_warning(archive, tmp_path):
    write_detector(
        tmp_path,
        {
            "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MEGAAggregator",
            "VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow",
            "VIDEO.TEST_SCHEDULE.RADIUS": 1,
        },
    )
    write_archive(tmp_path / "in", 1, 0)
    code, said = archive("--input", "in", "--segment-frames", "9")
    assert code == 0 and "warning: this model carries state from frame to frame" in said


class Run:
    """The tool as a process of its own, with real workers."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.manifest = folder / "out" / "manifest.sqlite"
        self._said = open(folder / "said.txt", "a")
        command = [sys.executable, str(TOOL), "--config-file", "detector.yaml", "--input", "in", "--output", "out"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command += ["--device", "cpu", "--confidence-threshold", "0.1", *words]
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stderr=self._said)

    def rows(self) -> dict[str, sqlite3.Row]:
        """Of the manifest; none before it has been made."""
        try:
            return rows_of(self.manifest)
        except sqlite3.OperationalError:
            return {}

    def counts(self) -> Counts:
        states = [row["status"] for row in self.rows().values()]
        return Counts(*(states.count(state) for state in Counts._fields))

    def wait_until(self, ended: int) -> None:
        """Until so many videos are done or have failed, or the process has ended."""
        while self.process.poll() is None:
            counts = self.counts()
            if counts.done + counts.failed >= ended:
                return
            time.sleep(0.02)

    def kill_a_worker(self) -> None:
        """Kill workers until one has died at a video; returns then, or when the process has ended."""
        while self.process.poll() is None:
            for name, row in self.rows().items():
                if row["status"] == "running":
                    with contextlib.suppress(ProcessLookupError):  # it has died before
                        os.kill(int(row["worker"].split(":")[1]), signal.SIGKILL)
                    if self._has_failed(name, row["failures"]):
                        return
            time.sleep(0.01)

    def _has_failed(self, name: str, before: int) -> bool:
        """Whether the death is a failure of the video; a worker may have sent its answer just before it was killed."""
        while self.process.poll() is None:
            row = self.rows()[name]
            if row["failures"] > before:
                return True
            if row["status"] in ("done", "failed"):
                return False
            time.sleep(0.02)
        return False

    def end(self) -> int:
        try:
            return self.process.wait(600)
        finally:
            self._said.close()

    def kill(self) -> None:
        self.process.kill()
        self.end()


def survive(folder: Path, done: int, failed: int, kills: int, *words: str) -> None:
    """Kill coordinator and worker so often at moments that are drawn, and start again with the same words."""
    rng = random.Random(0)
    ended = 0
    for number in range(kills):
        run = Run(folder, *words)
        for what in (run.kill_a_worker, run.kill):
            ended = min(ended + rng.randint(1, max((done + failed) // (3 * kills), 1)), done + failed - 2)
            run.wait_until(ended)
            time.sleep(rng.uniform(0, 0.1))
            what()
        before = {name: row for name, row in rows_of(run.manifest).items() if row["status"] in ("done", "failed")}
        assert 0 < len(before) < done + failed, f"kill {number} came too late to prove anything"
    run = Run(folder, *words)
    assert run.end() == int(failed > 0), (folder / "said.txt").read_text()
    assert_archive_is_whole(folder / "out", done, failed)
    after = rows_of(run.manifest)
    assert {name: after[name] for name in before} == before, "what had ended was done again"
    assert sum(row["failures"] for row in after.values()) >= 1, "no death of a worker was noticed"
    # A video is begun again only by a death or by a kill of the coordinator: with two workers, at most two each time.
    assert sum(row["attempts"] for row in after.values()) <= done + failed + 3 * kills


@pytest.mark.timeout(900)
def test_kills_of_coordinator_and_worker_lose_and_repeat_nothing(tmp_path):
    write_detector(tmp_path, WINDOW)
    write_archive(tmp_path / "in", 16, 2)
    survive(tmp_path, 16, 2, 1, "--workers", "1")


def test_a_signal_lets_what_runs_finish(tmp_path):
    write_detector(tmp_path, WINDOW)
    write_archive(tmp_path / "in", 12, 0)
    run = Run(tmp_path, "--workers", "1")
    run.wait_until(1)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 130
    counts = run.counts()
    assert counts.running == counts.failed == 0 and 1 <= counts.done < 12
    assert "run the same command again" in (tmp_path / "said.txt").read_text()
    results = [path for path in (tmp_path / "out" / "results").rglob("*.jsonl")]
    assert len(results) == counts.done


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sixty_videos_survive_two_kills_of_coordinator_and_worker(tmp_path):
    write_detector(tmp_path, WINDOW)
    write_archive(tmp_path / "in", 55, 5)
    survive(tmp_path, 55, 5, 2, "--workers", "2")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sixty_videos_survive_two_kills_of_coordinator_and_actor_on_ray(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'vod2[ray]'")
    write_detector(tmp_path, WINDOW)
    write_archive(tmp_path / "in", 55, 5)
    survive(tmp_path, 55, 5, 2, "--workers", "2", "--ray")
