"""`vod2 train --data`: what is run, and what is told; tests/tools/test_own_videos.py trains."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from helpers.counting import count_readings
from helpers.own_data import write_layout
from helpers.tools import key, label_studio_task
from helpers.videos import write_numbered_images, write_numbered_video
from vod2.commands import train, train_data
from vod2.data.datasets import readings
from vod2.errors import UserError


@pytest.fixture
def calls(monkeypatch):
    """What would have been run: (command, words)."""
    made = []
    monkeypatch.setattr(
        train_data, "run_step", lambda step, command, *words: made.append((command, [*map(str, words)]))
    )

    def train_step(step, output, dataset, config, keys, words=()):
        made.append(("train", ["--config-file", str(config), *words, *keys, "OUTPUT_DIR", str(output)]))
        return {}

    monkeypatch.setattr(train_data, "train_step", train_step)
    monkeypatch.setattr(sys, "argv", ["vod2 train"])
    return made


def value(words: list[str], key: str) -> str:
    return words[words.index(key) + 1]


def test_the_single_frame_and_rdn_share_the_iterations_and_the_settings(tmp_path, calls, capsys):
    root = write_layout(tmp_path / "my videos", "coco")
    out = tmp_path / "out"
    train.main(["--data", str(root), "--iterations", "300", "--output", str(out), "SEED", "3"])
    (_, single), (_, rdn), (report, page), (detect, video) = calls
    assert value(single, "SOLVER.MAX_ITER") == "200" and value(rdn, "SOLVER.MAX_ITER") == "100"
    assert value(rdn, "MODEL.WEIGHTS") == str(out / "single_frame" / "model_final.safetensors")
    assert single[1].endswith("configs/data/FasterRCNN.yaml") and rdn[1].endswith("configs/data/RDN.yaml")
    for words in (single, rdn):
        assert value(words, "DATASETS.TRAIN") == "('data_my_videos_train',)" and value(words, "SEED") == "3"
        assert value(words, "MODEL.ROI_HEADS.NUM_CLASSES") == "2"
        assert value(words, "--register") == str(out / "datasets.py")
        assert value(words, "MODEL.ANCHOR_GENERATOR.SIZES").startswith("[[")
    assert (report, detect) == ("report", "detect")
    assert page[:2] == [f"single frame={out / 'single_frame'}", f"RDN={out / 'rdn'}"]
    assert value(video, "--video-input") == str(root / "images" / "a2"), "a held-out one"
    told = capsys.readouterr().out
    assert "objects: gnome" in told and "The last videos of each class, by their names, are held out." in told


def test_a_configuration_is_trained_as_it_is(tmp_path, calls):
    root = write_layout(tmp_path / "mine", "yolo_split")
    words = ["--data", str(root), "--output", str(tmp_path / "out"), "--config-file", "quick/SELSA.yaml"]
    train.main(words)
    ((_, only), *_) = calls
    assert len(calls) == 3 and value(only, "--config-file") == "quick/SELSA.yaml"
    assert "SOLVER.MAX_ITER" not in only and "MODEL.ANCHOR_GENERATOR.SIZES" not in only
    assert value(only, "MODEL.ROI_HEADS.NUM_CLASSES") == "2"
    train.main([*words, "--iterations", "7"])
    assert value(calls[3][1], "SOLVER.MAX_ITER") == "7"


def test_another_folder_of_data_does_not_get_the_same_output(tmp_path, calls):
    first, second = write_layout(tmp_path / "mine", "coco"), write_layout(tmp_path / "other" / "mine", "coco")
    out = ["--output", str(tmp_path / "out")]
    train.main(["--data", str(first), *out])
    train.main(["--data", str(first), *out])  # goes on
    with pytest.raises(UserError, match="is of other data, of another split, or of annotations that have changed"):
        train.main(["--data", str(second), *out])
    file = first / "mine.json"
    file.write_text(file.read_text().replace('"bbox": [8, 20', '"bbox": [9, 20', 1))
    with pytest.raises(UserError, match="annotations that have changed: give another --output"):
        train.main(["--data", str(first), *out])


def test_copies_of_a_training_are_not_replaced_by_those_of_other_data(tmp_path, calls):
    first = write_layout(tmp_path / "first" / "mine", "coco_files")
    second = write_layout(tmp_path / "second" / "mine", "coco_files", count=9)
    out = ["--output", str(tmp_path / "out")]
    train.main(["--data", str(first), *out])
    copy = tmp_path / "out" / "videos" / "a1.mp4"
    before = copy.read_bytes()
    for video in (second / "videos").iterdir():
        os.utime(video, (2e9, 2e9))
    with pytest.raises(UserError, match="is of other data"):
        train.main(["--data", str(second), *out])
    assert not copy.is_symlink() and copy.read_bytes() == before


def test_parts_with_other_lists_of_classes_get_one(tmp_path, calls, capsys):
    root = write_layout(tmp_path / "mine", "coco_split", {"a1": 0, "b1": 1, "b2": 1})
    file = root / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["categories"] = [entry for entry in content["categories"] if entry["name"] == "gnome"]
    file.write_text(json.dumps(content))
    train.main(["--data", str(root), "--output", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert re.search(r"objects: elf +6 +0\n", told) and re.search(r"objects: gnome +6 +6\n", told)
    assert "'class_names': ['elf', 'gnome']" in (tmp_path / "out" / "datasets.py").read_text()


@pytest.mark.parametrize(
    ("layout", "files", "reads", "parses"),
    [
        # Once for the names of the videos, which are not parsed with the rest.
        ("coco", ["mine.json"], 2, 1),
        ("coco_files", ["mine.json"], 2, 1),
        ("coco_split", ["instances_train.json", "instances_val.json"], 2, 1),
        ("label_studio", ["mine.json"], 1, 1),
        ("bdd", ["a.json", "b.json"], 1, 1),
    ],
)
def test_annotations_are_read_once_or_twice_and_forgotten_before_the_training(
    tmp_path, calls, monkeypatch, layout, files, reads, parses
):
    root = tmp_path / "mine"
    if layout == "label_studio":
        write_numbered_video(root / "clip.mp4", 6)
        task = label_studio_task(("car", [key(1, (0, 0, 25, 50))]), video="clip.mp4")
        (root / "mine.json").write_text(json.dumps([task]))
    elif layout == "bdd":
        for name in ("a", "b"):
            write_numbered_images(root / name, ["0000001.jpg"])
            box = {"id": "1", "category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 11, "y2": 12}}
            frame = {"name": "0000001.jpg", "labels": [box], "videoName": name, "frameIndex": 0}
            (root / f"{name}.json").write_text(json.dumps([frame]))
    else:
        write_layout(root, layout)
    counted = count_readings(monkeypatch)
    kept = []
    monkeypatch.setattr(train_data, "_train", lambda task: kept.append(readings._kept) or {"RDN": task.output})
    words = ["--data", str(root), "--output", str(tmp_path / "out")]
    train.main(words + (["--video-root", str(root)] if layout == "label_studio" else []))
    for name in files:
        assert [count[name] for count in counted] == [reads, parses]
    assert kept == [None] and [command for command, _ in calls][0] == "report"


def test_a_long_video_gets_no_page_and_a_cut_one_is_shown_whole(tmp_path, calls, capsys, monkeypatch):
    root = write_layout(tmp_path / "mine", "coco")
    monkeypatch.setattr(train_data, "MOST_SHOWN", 5)
    train.main(["--data", str(root), "--output", str(tmp_path / "out"), "--val-frames", "2"])
    assert [command for command, _ in calls] == ["train", "train", "report"]
    assert "No page of a held-out video" in capsys.readouterr().out
    monkeypatch.setattr(train_data, "MOST_SHOWN", 6)
    train.main(["--data", str(root), "--output", str(tmp_path / "out"), "--val-frames", "2"])
    assert calls[-1][0] == "detect", "its folder has six images, though two frames are evaluated"


def test_what_is_held_out_of_one_video_is_said_to_say_little(tmp_path, calls, capsys):
    root = write_layout(tmp_path / "mine", "coco", {"a1": 0})
    train.main(["--data", str(root), "--output", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "There are too few videos to hold some out" in told


def test_options_of_data_need_data_and_data_does_not_evaluate(tmp_path, calls):
    with pytest.raises(UserError, match="--iterations is for --data PATH"):
        train.main(["--config-file", "quick/RDN.yaml", "--iterations", "5"])
    with pytest.raises(UserError, match="--val-share is for --data PATH"):
        train.main(["--config-file", "quick/RDN.yaml", "--val-share", ".5"])
    root = write_layout(tmp_path / "mine", "coco")
    with pytest.raises(UserError, match="what --data has trained is evaluated by vod2 eval"):
        train.main(["--data", str(root), "--eval-only"])
    with pytest.raises(UserError, match="--iterations 2: expected at least 3"):
        train.main(["--data", str(root), "--iterations", "2"])
    with pytest.raises(UserError, match="SOLVER.MAX_ITER is set by --data: give --iterations"):
        train.main(["--data", str(root), "SOLVER.BASE_LR", "1", "SOLVER.MAX_ITER", "2"])
    with pytest.raises(UserError, match="trains on one machine"):
        train.main(["--data", str(root), "--num-machines", "2"])
    with pytest.raises(UserError, match="--context is for a configuration"):
        train.main(["--data", str(root), "--context", "none"])
    with pytest.raises(UserError, match="--class-names ' ,': expected names"):
        train.main(["--data", str(root), "--class-names", " ,"])
    split = write_layout(tmp_path / "split", "coco_split")
    with pytest.raises(UserError, match="these have one: leave it out"):
        train.main(["--data", str(split), "--val-share", ".5"])
    assert not calls and not Path("output").joinpath("mine").exists()
