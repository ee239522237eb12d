"""Detections as annotation tools import them: what is written is read back by the loaders of their exports."""

import json

import pytest
import torch

from helpers.videos import write_numbered_video
from vod2.d2 import Boxes, Instances
from vod2.data.datasets import load_cvat, load_label_studio
from vod2.evaluation.detection_files import FORMATS, VideoFacts

NAMES = ["car", 'an "elf" & <co>']
# {frame: [(box, label, track)]} of 6 frames of 48 x 32 pixels: track 3 is gone in frame 2, track 8 goes to the end.
FOUND = {
    0: [((1.25, 2.5, 11.123, 12), 0, 3)],
    1: [((2, 3, 12, 13), 0, 3), ((20, 1, 40, 30), 1, 8)],
    2: [((21, 1, 41, 30), 1, 8)],
    3: [((4, 5, 14, 15), 0, 3), ((22, 1, 42, 30), 1, 8)],
    4: [((23, 1, 43, 30), 1, 8)],
    5: [((24, 1, 44, 30), 1, 8)],
}


def instances(rows, linked, filled=()):
    frame = Instances((32, 48))
    frame.pred_boxes = Boxes(torch.tensor([row[0] for row in rows]).reshape(-1, 4))
    frame.scores = torch.full((len(rows),), 0.75)
    frame.pred_classes = torch.tensor([row[1] for row in rows], dtype=torch.int64)
    if linked:
        frame.track_ids = torch.tensor([row[2] for row in rows], dtype=torch.int64)
        frame.filled = torch.tensor([row[2] in filled for row in rows], dtype=torch.bool)
    return frame


def write(kind, path, found, linked=True, filled=None, names=NAMES):
    with FORMATS[kind](path, VideoFacts("videos/clip 1.mp4", 25, (48, 32), names)) as file:
        for index in range(6):
            file.write(index, instances(found.get(index, []), linked, (filled or {}).get(index, ())))


@pytest.fixture
def read(tmp_path):
    write_numbered_video(tmp_path / "clip 1.mp4", 6)

    def read_again(kind, path):
        options = {"video_root": tmp_path}
        if kind == "label_studio":
            return load_label_studio(path, **options, predictions=True)
        return load_cvat(path, **options)

    return read_again


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("kind", ["cvat", "label_studio"])
def test_what_is_written_is_read_again(kind, linked, tmp_path, read, caplog):
    path = tmp_path / "found"
    write(kind, path, FOUND, linked)
    caplog.clear()
    dicts, names = read(kind, path)
    assert names == (NAMES if kind == "cvat" else sorted(NAMES))
    assert len(dicts) == 6 and caplog.text == ""  # nothing had to be made up
    tracks = {}
    for index, record in enumerate(dicts):
        notes = sorted(record["annotations"], key=lambda note: note["bbox"])
        assert [names[note["category_id"]] for note in notes] == [NAMES[label] for _, label, _ in FOUND[index]]
        for note, (box, _, track) in zip(notes, FOUND[index], strict=True):
            assert note["bbox"] == pytest.approx(box, abs=0.0051)
            tracks.setdefault(track, []).append(note["track_id"])
    # A box that was not linked is a track of its own.
    assert [len(set(ids)) for ids in tracks.values()] == ([1, 1] if linked else [3, 5])
    assert len({id for ids in tracks.values() for id in ids}) == (2 if linked else 8)


def test_boxes_that_were_filled_into_gaps_are_no_keyframes_in_cvat(tmp_path):
    write("cvat", tmp_path / "a.xml", FOUND, filled={2: [8]})
    text = (tmp_path / "a.xml").read_text()
    assert text.count('keyframe="0"') == 1 and '<box frame="2" keyframe="0" outside="0"' in text
    assert text.count('outside="1"') == 2  # in frames 2 and 4, where track 3 is gone; track 8 lasts to the end


def test_label_studio_gets_one_prediction_with_scores(tmp_path):
    write("label_studio", tmp_path / "a.json", FOUND)
    (task,) = json.loads((tmp_path / "a.json").read_text())
    assert task["data"] == {"video": "videos/clip 1.mp4"} and "annotations" not in task
    (prediction,) = task["predictions"]
    first, _ = prediction["result"]
    assert (first["from_name"], first["to_name"], first["type"]) == ("box", "video", "videorectangle")
    assert first["score"] == 0.75 and first["value"]["framesCount"] == 6 and first["value"]["duration"] == 0.24
    assert [item["frame"] for item in first["value"]["sequence"]] == [1, 2, 4]
    assert [item["enabled"] for item in first["value"]["sequence"]] == [True, False, False]
    assert first["value"]["sequence"][1] == {
        "frame": 2, "time": 0.08, "enabled": False, "rotation": 0,
        "x": 4.166667, "y": 9.375, "width": 20.833333, "height": 31.25,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["cvat", "label_studio"])
def test_a_video_without_a_detection_and_classes_without_names_are_written(kind, tmp_path, read):
    path = tmp_path / "found"
    write(kind, path, {})
    if kind == "cvat":
        assert not any(record["annotations"] for record in read(kind, path)[0])
    else:
        assert json.loads(path.read_text())[0]["predictions"][0]["result"] == []
    write(kind, path, FOUND, names=["a\x00b"])
    assert len(read(kind, path)[1]) == 2
