"""vod2 as a user meets it: its wheel in an environment of its own, each command in an empty folder."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from helpers.browser import Browser, missing
from helpers.installed import Installed
from helpers.models import ROOT, build_detector, tiny_cfg
from helpers.own_data import CLASSES, write_layout
from helpers.videos import moving_frames, write_video

LENGTH = 6
LAYOUTS = [
    "coco_files",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("coco", "coco_split", "mot", "yolo", "yolo_split", "vid")
    ),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_own_videos_become_a_detector_and_a_report(installed, tmp_path, layout):
    def vod2(*words: str | Path) -> str:
        return installed.command(*words, cwd=tmp_path)

    write_layout(tmp_path / "mine", layout)
    opts = ["SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    words = ["train", "--data", "mine", "--iterations", "6", "--val-frames", "8", "--output", "out", *opts]
    told = vod2(*words)
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
    vod2("detect", *command[1].split(), "--video-input", video, *found, *command[2].split())
    assert json.loads((tmp_path / "found.json").read_text())["class_names"] == CLASSES
    if layout == "coco_files":
        again = vod2(*words)
        assert "train and evaluate" not in again and "== Report" in again, "what is finished is not trained again"


def test_the_demo_shows_what_other_frames_are_good_for(installed, tmp_path):
    told = installed.command("demo", cwd=tmp_path)
    metrics = json.loads((tmp_path / "output/demo/metrics.json").read_text())
    assert metrics["RDN"]["AP50-deteriorated"] > metrics["single frame"]["AP50-deteriorated"] + 10
    readme = (ROOT / "README.md").read_text()
    number = r"([\d.]+)"
    in_terminal, in_table = " +".join([number] * 4), r" \| ".join([number] * 4)
    for name in ("single frame", "RDN"):
        (printed,) = re.findall(rf"^{name} +{in_terminal}$", told, flags=re.MULTILINE)
        (row,) = re.findall(rf"^\| {name} \| {in_table} \|$", readme, flags=re.MULTILINE)
        # Another processor rounds otherwise, which may move a box over a threshold.
        assert [*map(float, printed)] == pytest.approx([*map(float, row)], abs=1), name
    report = (tmp_path / "output/demo/report.html").read_text()
    assert "Against single frame" in report and report.count("data:image/jpeg") >= 6
    assert "<video" in (tmp_path / "output/demo/video.html").read_text()
    assert (tmp_path / "output/demo/video.mp4").stat().st_size


def test_the_results_of_another_detector_are_linked_and_filled(installed, tmp_path):
    """MOT text: an object moves right, and its detector has missed it in two frames."""
    seen = [0, 1, 4, 5]
    (tmp_path / "found.txt").write_text("".join(f"{t + 1},-1,{10 + t},10,20,30,0.9,1,-1,-1\n" for t in seen))
    write_video(tmp_path / "in.mp4", moving_frames(LENGTH))
    told = installed.command(*"link found.txt -o linked.json --video in.mp4 --fill-gaps 2".split(), cwd=tmp_path)
    assert "6 frames: 4 boxes, of which 4 are left, 2 filled; 1 tracks" in told
    frames = json.loads((tmp_path / "linked.json").read_text())["frames"]
    assert [[detection["box"] for detection in frame["detections"]] for frame in frames] == [
        [[10.0 + t, 10.0, 30.0 + t, 40.0]] for t in range(LENGTH)
    ]


@contextmanager
def served(installed: Installed, folder: Path) -> Iterator[str]:
    """The address of `vod2 serve` with a tiny detector; it must end well on Ctrl-C and leave nothing."""
    (folder / "tiny.yaml").write_text(tiny_cfg().dump())
    torch.save({"model": build_detector().state_dict()}, folder / "tiny.pth")
    (folder / "names.txt").write_text("fox\nowl\nelf\ncat\ndog\n")
    words = "--port 0 --work work --config-file tiny.yaml --class-names names.txt --opts MODEL.WEIGHTS tiny.pth".split()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [installed.program, "serve", *words], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert list((folder / "work").iterdir()) == []
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_video_is_uploaded_in_a_browser_and_its_report_seen(installed, tmp_path, ctrl_c):
    if reason := missing():
        pytest.skip(reason)
    video = write_video(tmp_path / "in.mp4", moving_frames(LENGTH))
    with served(installed, tmp_path) as address, Browser() as browser:
        browser.open(address)
        browser.wait("return document.getElementById('about').textContent.includes('MiB')")
        browser.run(
            "const list = new DataTransfer(); list.items.add(new File([new Uint8Array(arguments[0])], 'cat.mp4'));"
            "const file = document.getElementById('file'); file.files = list.files; file.onchange()",
            list(video.read_bytes()),
        )
        link = browser.wait(
            "const link = document.querySelector('a.main'); return link && !link.hidden ? link.href : ''", seconds=60
        )
        browser.open(link)
        browser.wait("return video.readyState >= 2 && !video.seeking")
        assert browser.run("return document.querySelector('h1').textContent") == "cat.mp4"
