"""tools/plot_results.py on two folders: the classes that changed most."""

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.evaluations import CLASSES, evaluate, make_videos
from helpers.modules import load_module
from vod2.engine.cli import run
from vod2.evaluation.curves import Curve, CurveTable, save_curves

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str):
    return load_module(ROOT / "tools" / f"{name}.py")


plot_results = tool("plot_results")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> dict[str, tuple[Path, dict[str, float]]]:
    """The folder and the metrics of a weak and a strong method."""
    root, found = tmp_path_factory.mktemp("results"), {}
    for name, seed, quality in (("weak", 1, 0.2), ("strong", 3, 0.95)):
        folder = root / name / "inference" / "videos"
        found[name] = folder, evaluate(make_videos(seed, 12, quality=quality), folder)
    return found


def call(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["plot_results.py", *map(str, words)])
    run(plot_results.main)


def rows_of(printed: str) -> dict[str, list[str]]:
    """{class: the other columns} of the table."""
    lines = [line.split(maxsplit=4) for line in printed.splitlines()]
    return {line[0]: line[1:] for line in lines if line and line[0] in CLASSES}


def test_classes_are_sorted_by_their_difference_with_the_intervals_of_the_comparison(
    evaluated, monkeypatch, capsys, tmp_path
):
    (weak, before), (strong, after) = evaluated["weak"], evaluated["strong"]
    tool("compare").main([str(weak), str(strong), "--output", str(tmp_path / "compared")])
    content = json.loads((tmp_path / "compared" / "compare.json").read_text())
    intervals = {row["metric"]: (row["low"], row["high"]) for row in content["differences"]}
    capsys.readouterr()
    call(monkeypatch, weak.parents[1], strong, "--output", tmp_path)  # a folder of one dataset's results will do
    rows = rows_of(capsys.readouterr().out)
    gain = {name: after[f"AP50-{name}"] - before[f"AP50-{name}"] for name in CLASSES}
    assert list(rows) == sorted(CLASSES, key=lambda name: -gain[name])
    for name, row in rows.items():
        low, high = intervals[f"AP50-{name}"]
        interval = "-" if low is None else f"{low:+.1f} to {high:+.1f}"
        assert row == [f"{before[f'AP50-{name}']:.1f}", f"{after[f'AP50-{name}']:.1f}", f"{gain[name]:+.1f}", interval]
    assert any(low is not None for low, _ in intervals.values())
    picture = cv2.imread(str(tmp_path / "class_differences.png"))
    assert picture.std() > 10 and (picture == (87, 139, 46)).all(axis=2).any()  # seagreen


def test_without_ground_truth_there_are_differences_and_no_intervals(evaluated, monkeypatch, capsys, tmp_path):
    folders = [shutil.copytree(folder, tmp_path / name) for name, (folder, _) in evaluated.items()]
    (folders[0] / "truth.npz").unlink()
    call(monkeypatch, *folders)
    rows = rows_of(capsys.readouterr().out)
    assert sorted(rows) == sorted(CLASSES) and all(row[3] == "-" for row in rows.values())
    assert (folders[1] / "class_differences.png").is_file()


def test_the_most_improved_and_the_most_declined_are_drawn_in_panels_of_their_own():
    values = {"a": 10.0, "b": 2.0, "c": 0.0, "d": -1.0, "e": -8.0}
    rows = [plot_results.ClassDifference(name, 50.0, 50.0 + value) for name, value in values.items()]
    rows[0] = rows[0]._replace(low=4.0, high=15.0)
    up, down = plot_results.most_changed(rows, 2)
    assert ([row.name for row in up], [row.name for row in down]) == (["a", "b"], ["e", "d"])
    up, down = plot_results.most_changed(rows, 9)
    assert ([row.name for row in up], [row.name for row in down]) == (["a", "b"], ["e", "d"])
    figure = plot_results.differences_figure(rows, 2, ["one", "two"])
    widths = [[bar.get_width() for bar in axes.patches] for axes in figure.axes]
    assert widths == [[10.0, 2.0], [-8.0, -1.0]]
    assert [axes.get_yticklabels()[0].get_text() for axes in figure.axes] == ["a  50.0 → 60.0", "e  50.0 → 42.0"]


def one_class(precision: list[float], positives: int = 2, name: str = "cat") -> CurveTable:
    curve = Curve(np.linspace(0.9, 0.1, len(precision)), np.array(precision), positives)
    return CurveTable(["all"], [name], [[curve]])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (one_class([1.0, 1.0], name="dog"), "their classes are ['cat'] and ['dog']"),
        (one_class([1.0, 1.0], positives=3), "their numbers of objects are [2] and [3]"),
        (one_class([1.0, 0.5]), "no class has improved or declined"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(monkeypatch, capsys, tmp_path, other, message):
    for name, table in (("a", one_class([1.0, 0.5])), ("b", other)):
        (tmp_path / name).mkdir()
        save_curves(tmp_path / name / "curves.npz", table)
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, tmp_path / "a", tmp_path / "b")
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "b" / "class_differences.png").exists()
