"""Archives of tiny videos, detectors for them, and workers that need no processes."""

import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from helpers.models import TINY, build_detector, tiny_cfg
from helpers.videos import moving_frames, write_video
from vod2.archive import Signature
from vod2.archive.tasks import Broken, Done, Ended, Failed, Reply, Task
from vod2.checkpoint.public_file import sha256
from vod2.d2 import CfgNode, build_model
from vod2.engine import load_config
from vod2.engine.random_weights import draw_weights

QUICK = Path(__file__).resolve().parents[2] / "configs" / "quick"
WINDOW = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
    "VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow",
    "VIDEO.TEST_SCHEDULE.RADIUS": 2,
}
"""A tiny RDN whose frames look at two frames before and after."""


def write_archive(folder: Path, whole: int, broken: int) -> Path:
    """A folder with `whole` videos of 3 to 6 frames in two subfolders, and at most 5 that cannot be read."""
    for number in range(whole):
        place = folder / f"day{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        write_video(place / f"{number:03}.mp4", moving_frames(3 + number % 4))
    for make in (_empty, _text, _half, _two_sizes, _no_images)[:broken]:
        make(folder)
    return folder


def _empty(folder: Path) -> None:
    (folder / "empty.mp4").touch()


def _text(folder: Path) -> None:
    (folder / "text.mp4").write_text("this is no video\n" * 50)


def _half(folder: Path) -> None:
    content = write_video(folder / "half.mp4", moving_frames(6)).read_bytes()
    (folder / "half.mp4").write_bytes(content[: len(content) // 2])


def _two_sizes(folder: Path) -> None:
    (folder / "sizes").mkdir()
    for number, side in enumerate((48, 48, 64)):
        cv2.imwrite(str(folder / "sizes" / f"{number}.png"), np.zeros((side, 64, 3), np.uint8))


def _no_images(folder: Path) -> None:
    (folder / "torn").mkdir()
    (folder / "torn" / "0.png").write_text("no picture")


def write_detector(folder: Path, keys: dict | None = None) -> Path:
    """The configuration file of a tiny detector, with weights that find something; `keys` instead of `WINDOW`."""
    keys = WINDOW if keys is None else keys
    cfg = tiny_cfg(keys | {"MODEL.WEIGHTS": str(folder / "weights.pth"), "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05})
    torch.save({"model": build_detector(keys).state_dict()}, cfg.MODEL.WEIGHTS)
    (folder / "detector.yaml").write_text(cfg.dump())
    return folder / "detector.yaml"


def quick_cfg(folder: Path, name: str, **keys: object) -> CfgNode:
    """configs/quick/<name>.yaml made tiny, with drawn weights; `keys` by their last part in VIDEO.TEST_SCHEDULE."""
    settings = TINY | {f"VIDEO.TEST_SCHEDULE.{key}": value for key, value in keys.items()}
    words = [str(word) for pair in settings.items() for word in pair]
    cfg = load_config(str(QUICK / f"{name}.yaml"), [*words, "MODEL.WEIGHTS", str(folder / "weights.pth")])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(cfg)
    draw_weights(model)
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    return cfg


class FakeWorkers:
    """Workers that answer as a function says, one task at a time, in this process."""

    def __init__(self, answer: Callable[[Task], Reply], count: int = 2) -> None:
        self.answer, self.count = answer, count
        self.tasks: list[Task] = []
        self._flying: deque[Task] = deque()

    @property
    def free(self) -> int:
        return self.count - len(self._flying)

    def submit(self, task: Task) -> str:
        self.tasks.append(task)
        self._flying.append(task)
        return "here:1"

    def wait(self, seconds: float) -> list[Ended]:
        task = self._flying.popleft()
        return [Ended(task, self.answer(task), "here:1")]

    def close(self) -> None:
        """There is nothing to end."""


class FakeRunner:
    """Does as the name of the video says: kill.mp4 kills its process, broken.mp4 is broken, others are done."""

    def __init__(self, device: str) -> None:
        self.device = device

    def run(self, task: Task) -> Reply:
        name = Path(task.path).stem
        if name.startswith("kill"):
            os.kill(os.getpid(), 9)
        if name.startswith("wait"):
            time.sleep(600)
        if name.startswith("broken"):
            return Broken("it is broken")
        if name.startswith("fail"):
            return Failed("out of luck")
        return Done(1, self.device, Signature(1, 1))


def rows_of(manifest: Path) -> dict[str, sqlite3.Row]:
    """{name of the video: its row}, read as somebody else than the coordinator would."""
    connection = sqlite3.connect(f"file:{manifest}?mode=ro", uri=True, timeout=60)
    connection.row_factory = sqlite3.Row
    try:
        return {Path(row["path"]).name: row for row in connection.execute("SELECT * FROM videos")}
    finally:
        connection.close()


def assert_archive_is_whole(output: Path, done: int, failed: int) -> None:
    """Every video has ended; results are those of the done ones, once each, as their hashes say, and nothing else."""
    rows = rows_of(output / "manifest.sqlite").values()
    assert sorted(row["status"] for row in rows) == ["done"] * done + ["failed"] * failed
    results = {path for path in (output / "results").rglob("*") if path.is_file()}
    named = {output / row["result"] for row in rows if row["status"] == "done"}
    assert results == named and len(named) == done
    for row in rows:
        if row["status"] == "failed":
            assert row["error"] and "\n" not in row["error"] and row["sha256"] is None
            continue
        path = output / row["result"]
        assert sha256(str(path)) == row["sha256"]
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["frame_index"] for line in lines] == list(range(row["frames"]))
        assert {line["video"] for line in lines} == {row["path"]}
    assert not [path for path in output.glob("temporary/*/*")]
