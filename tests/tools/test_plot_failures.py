"""tools/plot_failures.py: which frames are chosen, and what is drawn of them."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.evaluations import evaluate
from helpers.modules import load_module
from vod2.d2 import BoxMode, DatasetCatalog
from vod2.engine.cli import run
from vod2.evaluation import judged_frames
from vod2.evaluation.failures import judge, lost_objects, worst_frames
from vod2.evaluation.runs import read_run
from vod2.visualization import class_color

TOOL = Path(__file__).resolve().parents[2] / "tools" / "plot_failures.py"
plot_failures = load_module(TOOL)

BOXES = np.array([[20.0, 20, 120, 120], [200, 20, 300, 120], [20, 200, 120, 300]])
"""The objects of every frame: a cat, a dog and a fox."""
NOTHING_THERE = [300.0, 300, 390, 390]
# What each method finds of the frames of three videos: numbers of objects, and "x" a false detection.
FOUND = {
    "first": {"a/0": "012", "a/1": "012", "a/2": "0", "b/0": "01", "b/1": "01", "c/0": "1", "c/1": "0x"},
    "second": {"a/0": "0", "a/1": "", "a/2": "0", "b/0": "0", "b/1": "0x", "c/0": "0", "c/1": "012"},
}


def detections(found: str) -> np.ndarray:
    rows = [[*(NOTHING_THERE if one == "x" else BOXES[int(one)]), 0.9, 0 if one == "x" else int(one)] for one in found]
    rows += [[*box, 0.4, label] for label, box in enumerate(BOXES)]  # too unsure to count
    return np.array(rows)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two evaluations, and the registered dataset with its images, all gray."""
    folder, records = tmp_path_factory.mktemp("failures"), []
    for name in FOUND["first"]:
        video, frame = name.split("/")
        path = folder / f"{video}_{frame}.png"
        cv2.imwrite(str(path), np.full((400, 400, 3), 90, np.uint8))
        notes = [
            {"bbox": box.tolist(), "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "track_id": label, "iscrowd": 0}
            for label, box in enumerate(BOXES)
        ]
        notes[2]["iscrowd"] = int(name == "b/0")
        record = {"file_name": str(path), "image_id": name, "video_id": video, "frame_index": int(frame)}
        records.append(record | {"video_length": 3, "height": 400, "width": 400, "annotations": notes})
    for method, found in FOUND.items():
        frames = [(record, detections(found[record["image_id"]])) for record in records]
        evaluate(frames, folder / method / "inference" / "failing", name="failing")
    DatasetCatalog.register("failing", lambda: records)
    yield folder
    DatasetCatalog.remove("failing")


def call(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["plot_failures.py", *map(str, words)])
    run(plot_failures.main)


@pytest.fixture
def evaluations(root) -> tuple:
    runs = [read_run(root / name) for name in FOUND]
    return runs[0], *(judge(one, 0.5) for one in runs)


def test_objects_that_one_method_finds_alone_are_counted_in_each_frame(evaluations):
    one, first, second = evaluations
    lost = lost_objects(first, second, one.data.truth, len(one.data.image_ids))
    # c/0: one of each kind cancel out; the crowd of b/0 does not count
    assert dict(zip(one.data.image_ids, lost.tolist(), strict=True)) == {
        "a/0": 2,
        "a/1": 3,
        "a/2": 0,
        "b/0": 1,
        "b/1": 1,
        "c/0": 0,
        "c/1": -2,
    }


@pytest.mark.parametrize(
    ("count", "per_video", "expected"),
    [
        (9, 1, ["a/1", "b/1"]),  # of the equal frames of b the one with a false detection
        (9, 2, ["a/1", "a/0", "b/1", "b/0"]),
        (3, 3, ["a/1", "a/0", "b/1"]),
        (1, 1, ["a/1"]),
    ],
)
def test_the_worst_frames_come_first_and_no_more_than_asked_for_of_a_video(evaluations, count, per_video, expected):
    one, first, second = evaluations
    frames = worst_frames(first, second, one, count, per_video)
    assert [one.data.image_ids[frame] for frame in frames] == expected


def test_what_is_found_missed_and_false_is_drawn_in_the_colours_of_the_classes(evaluations):
    one, first, second = evaluations
    image, scale = np.full((400, 400, 3), 90, np.uint8), judged_frames.WIDTH / 400
    frame = one.data.image_ids.index("b/1")

    def side(picture, box, color):
        """The share of the lower edge of a box that has the colour."""
        x1, _, x2, y2 = np.rint(scale * np.array(box)).astype(int)
        return (picture[y2, x1 : x2 + 1] == color).all(axis=1).mean()

    drawn = judged_frames.draw_judged(image, second, frame, one)
    assert drawn.shape == (560, 560, 3)
    assert side(drawn, BOXES[0], class_color(0)) == 1 == side(drawn, NOTHING_THERE, class_color(0))
    for label in (1, 2):
        assert 0.3 < side(drawn, BOXES[label], class_color(label)) < 0.7
    drawn = judged_frames.draw_judged(image, first, frame, one)
    assert side(drawn, BOXES[1], class_color(1)) == 1 and side(drawn, NOTHING_THERE, class_color(0)) == 0


def test_the_labels_tell_false_detections_and_missed_objects(evaluations, monkeypatch):
    one, _, second = evaluations
    texts = []
    monkeypatch.setattr(judged_frames, "draw_box", lambda canvas, box, text, color, dashed=False: texts.append(text))
    frame = one.data.image_ids.index("b/1")
    judged_frames.draw_judged(np.zeros((400, 400, 3), np.uint8), second, frame, one)
    assert sorted(texts) == sorted(["dog missed", "fox missed", "cat .90", "cat .90 false"])


def test_a_picture_has_a_row_for_each_frame_and_the_table_its_numbers(root, monkeypatch, capsys, tmp_path):
    call(monkeypatch, root / "first", root / "second", "--output", tmp_path / "out.png", "--names", "RDN", "single")
    picture = cv2.imread(str(tmp_path / "out.png"))
    assert picture.shape[1] == 2 * judged_frames.WIDTH and 2 * 560 < picture.shape[0] < 2 * 620
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["a/1", "3", "3", "0", "0", "0"] in lines and ["b/1", "3", "2", "1", "0", "1"] in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "absent"], "dataset 'absent', whose images are to be drawn, is not registered"),
        (["--score", "0.95"], "in no frame does first find more objects than second"),
        (["--count", "0"], "--count 0: expected at least 1"),
        (["--score", "7"], "--score 7.0"),
        (["--output", "out.gif"], "ends in .png"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(root, monkeypatch, capsys, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, root / "first", root / "second", *words)
    assert stop.value.code == 2 and message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_images_of_another_dataset_are_refused(root, monkeypatch, capsys):
    DatasetCatalog.register("other_failing", lambda: [])
    try:
        with pytest.raises(SystemExit) as stop:
            call(monkeypatch, root / "first", root / "second", "--dataset", "other_failing")
    finally:
        DatasetCatalog.remove("other_failing")
    assert stop.value.code == 2 and "has no frame 'a/1'" in capsys.readouterr().err
