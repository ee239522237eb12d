"""From annotated videos to a trained detector and its report, as a user calls it, in processes of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.own_data import CLASSES, write_layout

LAYOUTS = [
    "coco_files",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("coco", "coco_split", "mot", "yolo", "yolo_split", "vid")
    ),
]


def vod2(folder: Path, *words: str | Path) -> str:
    """The output of `vod2 WORDS` in a folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "vod2", *map(str, words)]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert not ended.returncode, ended.stdout[-2000:] + ended.stderr[-2000:]
    return ended.stdout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_own_videos_become_a_detector_and_a_report(tmp_path, layout):
    write_layout(tmp_path / "mine", layout)
    opts = ["SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    words = ["train", "--data", "mine", "--iterations", "6", "--val-frames", "8", "--output", "out", *opts]
    told = vod2(tmp_path, *words)
    out = tmp_path / "out"
    for run in ("single_frame", "rdn"):
        assert (out / run / "model_final.safetensors").is_file()
        assert "AP50" in json.loads((out / run / "inference/data_mine_val/results.json").read_text())["vid"]
    report = (out / "report.html").read_text()
    assert "Against single frame" in report and report.count("data:image/jpeg") >= 6
    assert "<video" in (out / "video.html").read_text()
    # What is told at the end works as it stands.
    command = re.search(r"vod2 detect (--config-file \S+) .*(--opts .+)$", told.strip().splitlines()[-1])
    video = next((tmp_path / "mine" / "videos").glob("*.mp4"), None) or next((tmp_path / "mine").rglob("a2"))
    if layout == "mot":
        video = video / "img1"
    found = ["--json", "found.json", "--confidence-threshold", "0"]
    vod2(tmp_path, "detect", *command[1].split(), "--video-input", video, *found, *command[2].split())
    assert json.loads((tmp_path / "found.json").read_text())["class_names"] == CLASSES
    if layout == "coco_files":
        again = vod2(tmp_path, *words)
        assert "train and evaluate" not in again and "== Report" in again, "what is finished is not trained again"
