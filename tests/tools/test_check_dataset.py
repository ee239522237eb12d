"""The check of a dataset, from the command line."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from helpers.checking import write_clean_set
from vod2.data.datasets import load_imagenet_vid

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "check_dataset.py"
VIDEO = "train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return write_clean_set(tmp_path_factory.mktemp("clean") / "set")


@pytest.fixture
def root(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "set")


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(TOOL))["main"]


def run(main, *arguments):
    """The exit code."""
    try:
        main(list(map(str, arguments)))
    except SystemExit as end:
        return end.code
    return 0


def test_a_clean_set_ends_with_0_and_is_shown(clean, main, tmp_path, capsys):
    assert run(main, clean, "--output-dir", tmp_path / "out") == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert report["findings"] == [] and report["counts"] == {"error": {}, "warning": {}}
    assert (report["format"], report["videos"], report["images_read"]) == ("imagenet_vid", 3, 15)
    assert Image.open(tmp_path / "out" / "check.png").size == (4 * 320, 214)


def test_a_broken_set_ends_with_1_and_says_what_is_where(root, main, tmp_path, capsys):
    image = root / "Data" / "VID" / VIDEO / "000001.JPEG"
    image.write_bytes(image.read_bytes()[:200])
    good = tmp_path / "good.txt"
    assert run(main, root, "--split", "train", "--output-dir", tmp_path / "out", "--fix-list", good) == 1
    out = capsys.readouterr().out
    assert f"{image}, frame 1: " in out and "1 errors" in out
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert report["counts"] == {"error": {"unreadable_image": 1}, "warning": {}}
    (finding,) = report["findings"]
    assert set(finding) == {"severity", "kind", "file", "line", "frame", "value", "expected"}
    assert (finding["severity"], finding["kind"], finding["file"]) == ("error", "unreadable_image", str(image))
    loaded = [record["image_id"] for record in load_imagenet_vid(root, "train", list_file=good)]
    assert len(loaded) == 9 and f"{VIDEO}/000001" not in loaded


def test_warnings_alone_end_with_0(root, main, capsys):
    file = root / "Annotations" / "VID" / VIDEO / "000001.xml"
    text = file.read_text()
    edge = text.split("<xmin>")[1].split("<")[0]
    file.write_text(text.replace(f"<xmin>{edge}<", "<xmin>-0.5<", 1))
    assert run(main, root) == 0
    assert "box_outside" in capsys.readouterr().out


def test_a_list_of_several_splits_cannot_be_fixed_at_once(root, tmp_path):
    command = [sys.executable, TOOL, root, "--fix-list", tmp_path / "good.txt"]
    ended = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert ended.returncode == 2 and "--split train|val" in ended.stderr and "Traceback" not in ended.stderr


def test_a_folder_that_is_not_there_ends_with_2(main, tmp_path):
    command = [sys.executable, TOOL, tmp_path / "nowhere"]
    ended = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert ended.returncode == 2 and "nowhere" in ended.stderr and "Traceback" not in ended.stderr
