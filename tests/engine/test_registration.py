"""--register FILE.py, in the process that parses it and in those that it starts."""

import argparse
import os
import subprocess
import sys

import pytest

from helpers.documents import options_of
from helpers.loaders import forget
from helpers.models import ROOT
from vod2.d2 import DatasetCatalog
from vod2.engine import registration
from vod2.engine.registration import VARIABLE, add_register_option, register_files
from vod2.errors import UserError

FILE = """from beside import NAMES
from vod2.data.datasets import register_yolo_video
register_yolo_video("registered_by_a_file", {root!r}, NAMES)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(registration, "_loaded", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside.py").write_text("NAMES = ['elf']\n")
    (tmp_path / "mine.py").write_text(FILE.format(root=str(tmp_path)))
    yield tmp_path / "mine.py"
    sys.modules.pop("beside", None)
    if "registered_by_a_file" in DatasetCatalog.list():
        forget("registered_by_a_file")


def parse(*words):
    parser = argparse.ArgumentParser()
    add_register_option(parser)
    return parser.parse_args(list(words))


def test_the_file_is_run_once_and_named_to_the_processes_that_follow(file):
    assert parse("--register", str(file)).register == [str(file)]
    assert "registered_by_a_file" in DatasetCatalog.list() and os.environ[VARIABLE] == str(file)
    register_files()  # a second time the catalog would refuse the name


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "there is no such file, expected a Python file"),
        ("a = 1\nb = a.c\n", "mine.py, line 2: AttributeError: "),
        ("a = (\n", "mine.py, line 1: SyntaxError: "),
        ("from vod2 import UserError\nraise UserError('no data')", "mine.py: no data"),
    ],
)
def test_what_is_wrong_with_the_file_is_a_sentence(file, text, message):
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(UserError, match=message):
        parse("--register", str(file))


WITH_DATASETS = "train_net check_dataset link_boxes visualize_data compare plot_embedding plot_failures plot_patches "
WITH_DATASETS += "plot_sampling ablate demo analyze_model"


@pytest.mark.parametrize("tool", WITH_DATASETS.split())
def test_every_tool_that_takes_a_dataset_has_the_option(tool):
    assert "--register" in options_of(f"tools/{tool}.py")


def test_the_check_of_a_dataset_takes_one_that_a_file_registers(file):
    folder = file.parent / "images" / "v"
    folder.mkdir(parents=True)
    (file.parent / "labels" / "v").mkdir(parents=True)
    command = [sys.executable, "tools/check_dataset.py", "registered_by_a_file"]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    without = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert without.returncode == 2 and "load the file that registers it with --register FILE.py" in without.stderr
    command += ["--register", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "no frames, expected at least one" in done.stdout
