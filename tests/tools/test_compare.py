"""tools/compare.py: folders of evaluations in, differences with intervals out; what cannot be compared is refused."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.evaluations import CLASSES, evaluate, make_videos
from helpers.modules import load_module
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
VIDEOS = 12


@pytest.fixture(scope="module")
def compare():
    return load_module(ROOT / "tools" / "compare.py").main


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, float]]:
    """The metrics of four evaluations, by their folder: weak (two seeds) and strong (two seeds)."""
    folder = tmp_path_factory.mktemp("results")
    found = {}
    for name, seed, quality in (("weak", 1, 0.2), ("weak_1", 2, 0.2), ("strong", 3, 0.95), ("strong_1", 4, 0.95)):
        path = folder / name / "inference" / "videos"
        found[str(path)] = evaluate(make_videos(seed, VIDEOS, quality=quality), path)
    return found


@pytest.fixture
def folders(results, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return list(results)


def rows_of(content, method):
    return {row["metric"]: row for row in content["differences"] if row["method"] == method}


def test_a_better_method_is_shown_with_its_interval_and_files_are_written(compare, folders, results, capsys):
    compare([folders[0], folders[2], "--output", "out", "--resamples", "200"])
    printed = capsys.readouterr().out
    content = json.loads(Path("out", "compare.json").read_text())
    assert content["baseline"] == "weak" and list(content["methods"]) == ["weak", "strong"]
    rows = rows_of(content, "strong")
    weak, strong = results[folders[0]], results[folders[2]]
    for name, row in rows.items():
        assert row["value"] == pytest.approx(strong[name]) and row["baseline"] == pytest.approx(weak[name]), name
        assert row["difference"] == pytest.approx(strong[name] - weak[name])
    assert rows["AP50"]["verdict"] == "better" and rows["AP50"]["low"] > 0 and rows["AP50"]["videos"] == VIDEOS
    assert {"AP50-any-class", "AP50-blur", "AP50-fast", "AP50-far", "AP50-cat", "flicker", "delay"} < rows.keys()
    assert "## strong against weak" in printed and "flicker (lower is better)" in printed
    assert printed.startswith(Path("out", "compare.md").read_text().rstrip())
    assert cv2.imread("out/compare.png").std() > 10


def test_a_method_does_not_differ_from_itself(compare, folders, capsys):
    again = Path("again") / "inference" / "videos"
    evaluate(make_videos(1, VIDEOS, quality=0.2), again)
    compare([f"a={folders[0]}", "b=again", "--output", "out", "--resamples", "100"])
    for name, row in rows_of(json.loads(Path("out", "compare.json").read_text()), "b").items():
        assert row["difference"] == 0 and row["verdict"] in ("no difference shown", "too few videos"), name
    assert "no difference shown" in capsys.readouterr().out


def test_several_runs_of_a_method_are_averaged_and_resampled(compare, folders, results):
    words = [f"weak={folders[0]},{folders[1]}", f"strong={folders[2]},{folders[3]}", "--resamples", "200"]
    compare([*words, "--output", "a"])
    content = json.loads(Path("a", "compare.json").read_text())
    row = rows_of(content, "strong")["AP50"]
    means = [np.mean([results[folder]["AP50"] for folder in pair]) for pair in (folders[:2], folders[2:])]
    assert row["difference"] == pytest.approx(means[1] - means[0])
    runs = content["methods"]["strong"]["metrics"]["AP50"]
    assert runs == pytest.approx([results[folder]["AP50"] for folder in folders[2:]])
    compare([*words, "--output", "b"])
    assert Path("a", "compare.json").read_text() == Path("b", "compare.json").read_text()
    compare([*words, "--output", "c", "--seed", "1"])
    other = rows_of(json.loads(Path("c", "compare.json").read_text()), "strong")["AP50"]
    assert other["difference"] == row["difference"] and other["low"] != row["low"]


def test_paired_runs_are_drawn_together(compare, folders, capsys):
    """Of the same runs under two names every resample has the same difference, 0."""
    again = []
    for run, seed in enumerate((1, 2)):
        again.append(Path(f"again_{run}") / "inference" / "videos")
        evaluate(make_videos(seed, VIDEOS, quality=0.2), again[-1])
    words = [f"a={folders[0]},{folders[1]}", f"b={again[0]},{again[1]}", "--output", "out", "--resamples", "100"]
    compare(words)
    apart = rows_of(json.loads(Path("out", "compare.json").read_text()), "b")["AP50"]
    compare([*words, "--paired-runs"])
    content = json.loads(Path("out", "compare.json").read_text())
    together = rows_of(content, "b")["AP50"]
    assert apart["low"] < 0 < apart["high"] and together["low"] == together["high"] == 0
    assert content["paired_runs"] is True
    assert "runs, which are paired" in capsys.readouterr().out
    with pytest.raises(UserError, match="as many runs of each method"):
        compare([f"a={folders[0]},{folders[1]}", f"b={again[0]}", "--paired-runs"])


def test_the_baseline_and_names_are_chosen(compare, folders, capsys):
    compare([*folders[:3], "--names", "a", "b", "c", "--baseline", "c", "--resamples", "100"])
    printed = capsys.readouterr().out
    assert "## a against c" in printed and "## b against c" in printed


def test_with_few_videos_no_interval_is_given(compare, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        evaluate(make_videos(len(name), videos=4), Path(name), metadata={"linked_identities": True})
    compare("a b --resamples 100 --output out".split())
    content = json.loads(Path("out", "compare.json").read_text())
    assert {row["verdict"] for row in content["differences"]} == {"too few videos"}
    assert content["differences"][0]["low"] is None and content["linked_identities"] is True
    assert "Identities are linked from boxes" in capsys.readouterr().out


def test_results_of_something_else_are_refused_with_what_differs(compare, folders, tmp_path):
    videos = make_videos(1, VIDEOS, quality=0.2)
    other = [(dict(record), found) for record, found in videos]
    other[3][0]["annotations"] = other[3][0]["annotations"][1:]
    groups = [(record | {"groups": ["far"]}, found) for record, found in videos]
    for name, frames, options, message in (
        ("dataset", videos, {"name": "others"}, "the dataset \\('videos', 'others'\\)"),
        ("fewer", videos[:-1], {}, "the number of frames \\(96, 95\\)"),
        ("order", videos[1:] + videos[:1], {}, "their frames \\(frame 0 of the dataset is '0/0', '0/1'\\)"),
        ("protocol", videos, {"protocol": "fixed"}, "TEST.VID_PROTOCOL"),
        ("groups_by", videos, {"groups": "objects"}, "TEST.VID_GROUPS"),
        ("annotations", other, {}, "the annotations"),
        ("groups", groups, {}, "the group 'far'"),
    ):
        evaluate(frames, tmp_path / name, **options)
        with pytest.raises(UserError, match=f"cannot be compared, they differ in .*{message}"):
            compare([folders[0], name])


def test_frames_that_only_one_of_them_evaluated_are_named(compare, folders, tmp_path):
    with np.load(Path(folders[0], "detections.npz")) as file:
        arrays = dict(file)
    evaluate(make_videos(1, VIDEOS, quality=0.2), tmp_path / "part")
    arrays["evaluated"][5] = False
    np.savez(tmp_path / "part" / "detections.npz", **arrays)
    with pytest.raises(UserError, match="were evaluated \\(96, 95; '0/5' only in the first\\)"):
        compare([folders[0], "part"])


def test_folders_by_older_versions_are_told_and_read_with_the_registered_dataset(compare, folders, results, tmp_path):
    for number, folder in enumerate(folders[:3:2]):
        with np.load(Path(folder, "detections.npz")) as file:
            arrays = {name: values for name, values in file.items() if name != "evaluated"}
        (tmp_path / f"old{number}").mkdir()
        np.savez(tmp_path / f"old{number}" / "detections.npz", **arrays)
    with pytest.raises(UserError, match="truth.npz does not exist.*evaluate again, or name the registered dataset"):
        compare(["old0", "old1"])
    (tmp_path / "kinds.json").write_text(json.dumps({f"v{video}": {"0-3": ["rain"]} for video in range(VIDEOS)}))
    records = [record for record, _ in make_videos(1, VIDEOS)]
    DatasetCatalog.register("videos", lambda: records)
    MetadataCatalog.get("videos").set(thing_classes=CLASSES)
    try:
        compare("old0 old1 --dataset videos --frame-kinds kinds.json --output out --resamples 100".split())
    finally:
        DatasetCatalog.remove("videos")
        MetadataCatalog.remove("videos")
    rows = rows_of(json.loads(Path("out", "compare.json").read_text()), "old1")
    assert rows["AP50"]["value"] == pytest.approx(results[folders[2]]["AP50"]) and "AP50-rain" in rows


@pytest.mark.parametrize(
    "words, message",
    [
        (["{0}"], "nothing to be compared with"),
        (["{0}", "nothing"], "nothing holds no detections.npz"),
        (["{0}", "a={0}"], "is given twice"),
        (["a={0}", "a={1}"], "two methods are called 'a'"),
        (["{0}", "{1}", "--names", "a"], "1 names for 2 methods"),
        (["{0}", "{1}", "--baseline", "a"], "--baseline is 'a': expected one of weak, weak_1"),
        (["{0}", "{1}", "--resamples", "5"], "--resamples is 5"),
        (["{0}", "{1}", "--confidence", "95"], "--confidence is 95"),
        (["{0}", "{1}", "--seed", "-1"], "--seed is -1"),
        (["{0}", "{1}", "--dataset", "no_such"], "'no_such' is not registered"),
        (["{0}", "{1}", "--protocol", "fixed"], "for --dataset"),
        (["{0}", "broken"], "broken.*holds no detections"),
        (["{0}", "two"], "two holds results of 2 datasets"),
    ],
)
def test_mistakes_are_told_with_what_to_do(compare, folders, tmp_path, words, message):
    for path in ("broken", "two/inference/a", "two/inference/b"):
        Path(path).mkdir(parents=True)
        Path(path, "detections.npz").write_bytes(b"PK nonsense")
    with pytest.raises(UserError, match=message):
        compare([word.format(*folders) for word in words])
