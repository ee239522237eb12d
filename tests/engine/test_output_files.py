"""No file that is read is written over, under whatever name it is given."""

import os
import runpy
import sys
from pathlib import Path

import pytest

from vod2.engine.output_files import refuse_inputs
from vod2.errors import UserError

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def source(tmp_path, monkeypatch):
    path = tmp_path / "film" / "in.mp4"
    path.parent.mkdir()
    path.write_text("mine")
    (path.parent / "0.png").write_text("a frame")
    (path.parent / "out.json").write_text("of the last time")
    monkeypatch.chdir(tmp_path)
    return path


@pytest.mark.parametrize(
    ("name", "read"),
    [
        *(
            (name, "film/in.mp4")
            for name in ("film/in.mp4", "film/../film/in.mp4", "symbolic", "hard", "folder/in.mp4")
        ),
        *((name, "film") for name in ("film/0.png", "film/../film/0.png", "folder/0.png")),
    ],
)
def test_another_spelling_or_a_link_is_still_the_input(source, tmp_path, name, read):
    (tmp_path / "symbolic").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "folder").symlink_to(source.parent)
    with pytest.raises(UserError, match=r"--output: .* would overwrite film.*, which this command reads"):
        refuse_inputs("--output", [name], [None, "", "absent", read])


def test_the_same_name_in_another_case_is_the_input_where_the_disk_says_so(source):
    upper = source.with_name("IN.mp4")
    if upper.exists():  # macOS, Windows
        with pytest.raises(UserError, match="which this command reads"):
            refuse_inputs("--output", [upper], [source])
    else:
        refuse_inputs("--output", [upper], [source])


def test_new_files_and_other_files_may_be_written(source, tmp_path):
    (tmp_path / "old.mp4").write_text("of last time")
    refuse_inputs("--output", ["new.mp4", "old.mp4", "film/new.mp4", "film/out.json"], [source, "film"])


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("plot_sampling", ["--config-file", "a.yaml", "--weights", "w.png"]),
        ("plot_embedding", ["--config-file", "a.yaml", "--weights", "w.png"]),
    ],
)
def test_a_picture_is_not_written_over_the_weights(source, tmp_path, monkeypatch, tool, words):
    (tmp_path / "w.png").write_bytes(b"weights")
    os.symlink("w.png", tmp_path / "link.png")
    monkeypatch.setattr(sys, "argv", [tool, *words, "--output", "link.png"])
    with pytest.raises(UserError, match="which this command reads"):
        runpy.run_path(str(TOOLS / f"{tool}.py"))["main"]()
    assert (tmp_path / "w.png").read_bytes() == b"weights"
