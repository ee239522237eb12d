"""Files of detections: every format that is read, what is written of it, and what is refused."""

import json

import pytest
import torch

from vod2.detections import link, read_detections
from vod2.detections.files import FIRST_FRAME
from vod2.errors import UserError
from vod2.evaluation.detection_files import FORMATS, VideoFacts

BOX = [10.0, 20.0, 40.5, 60.0]
MOT = "1,-1,10,20,30.5,40,0.75,-1,-1,-1\n\n3,5,10,20,30.5,40,0.5,4,-1,-1\n"
COCO = [
    {"image_id": 0, "category_id": 0, "bbox": [10, 20, 30.5, 40], "score": 0.75},
    {"image_id": 2, "category_id": 3, "bbox": [10, 20, 30.5, 40], "score": 0.5, "track_id": 5},
]
LINES = [
    {"index": 0, "boxes": [BOX], "scores": [0.75], "labels": [0]},
    {"frame": 2, "detections": [{"box": BOX, "score": 0.5, "label": 3, "track": 5}]},
]
FILES = {
    "found.txt": ("mot", MOT),
    "results.json": ("coco", json.dumps(COCO)),
    "found.jsonl": ("jsonl", "\n".join(map(json.dumps, LINES)) + "\n"),
    "found.json": ("json", json.dumps({"frames": LINES, "class_names": ["a", "b"]})),
}


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows(frames):
    return [
        list(zip(f.pred_boxes.tensor.tolist(), f.scores.tolist(), f.pred_classes.tolist(), strict=True)) for f in frames
    ]


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_frames(tmp_path, name):
    kind, text = FILES[name]
    found = read_detections(write(tmp_path, name, text))
    assert found.kind == kind
    assert rows(found.frames) == [[(BOX, 0.75, 0)], [], [(BOX, 0.5, 3)]]
    assert found.frames[0].image_size == (60, 41)
    assert not found.frames[2].has("track_ids")
    assert found.facts.class_names == (["a", "b"] if kind == "json" else [])
    assert found.first == (1 if kind == "mot" else 0)


def test_lines_of_an_archive_are_read_for_one_video(tmp_path):
    line = {"video": "a.mp4", "frame_index": 1, "time": 0.04, "boxes": [BOX], "scores": [0.5], "labels": [3]}
    path = write(tmp_path, "a.jsonl", json.dumps(line) + "\n")
    assert rows(read_detections(path).frames) == [[], [(BOX, 0.5, 3)]]
    path = write(tmp_path, "two.jsonl", json.dumps(line) + "\n" + json.dumps(line | {"video": "b.mp4"}) + "\n")
    with pytest.raises(UserError, match=r"two.jsonl, line 2: a frame of 'b.mp4', expected those of one video"):
        read_detections(path)


def test_the_video_says_how_many_frames_there_are_and_their_size(tmp_path):
    found = read_detections(write(tmp_path, "found.txt", MOT), 5, (480, 640))
    assert len(found.frames) == 5 and {frame.image_size for frame in found.frames} == {(480, 640)}


def test_the_first_frame_may_have_another_number(tmp_path):
    entries = [entry | {"image_id": entry["image_id"] + 100} for entry in COCO]
    found = read_detections(write(tmp_path, "results.json", json.dumps(entries)), 3, first_frame=100)
    assert [len(frame) for frame in found.frames] == [1, 0, 1]


@pytest.mark.parametrize("kind", FIRST_FRAME)
def test_what_is_written_is_read_again(tmp_path, kind):
    seen = ([BOX], [0.5], [3])
    frames = link([seen, ([], [], []), seen], fill_gaps=1)
    path = tmp_path / f"found.{dict(mot='txt', coco='json').get(kind, kind)}"
    with FORMATS[kind](path, VideoFacts("in.mp4", 25, (64, 64))) as file:
        for index, frame in enumerate(frames):
            file.write(index, frame)
    found = read_detections(path)
    assert found.kind == kind
    for frame, expected in zip(found.frames, frames, strict=True):
        assert torch.allclose(frame.pred_boxes.tensor, expected.pred_boxes.tensor, atol=0.01)
        assert torch.allclose(frame.scores, expected.scores, atol=1e-6)
        assert frame.pred_classes.equal(expected.pred_classes)
    if kind != "mot":
        assert path.read_text().count('"filled"') == 1


WRONG = {
    "missing": ("none.json", None, "No such file"),
    "suffix": ("found.xml", "<a/>", r"\.jsonl"),
    "no JSON": ("a.json", "{", "no JSON"),
    "another object": ("a.json", '{"images": []}', "`frames`"),
    "names": ("a.json", '{"frames": [], "class_names": [1]}', "a list of names"),
    "a text as id": ("a.json", json.dumps([COCO[0] | {"image_id": "v1/0"}]), "must be a frame's number"),
    "no bbox": ("a.json", '[{"image_id": 0, "category_id": 0, "score": 1}]', "'bbox'"),
    "three numbers": ("a.json", json.dumps([COCO[0] | {"bbox": [1, 2, 3]}]), "4 numbers"),
    "negative width": ("a.json", json.dumps([COCO[0] | {"bbox": [1, 2, -3, 4]}]), "ends before it begins"),
    "negative label": ("a.json", json.dumps([COCO[0] | {"category_id": -2}]), "label -2"),
    "half a label": ("a.json", json.dumps([COCO[0] | {"category_id": 1.5}]), "category_id is 1.5"),
    "a number as entry": ("a.json", "[3]", r"\[0\]: 3"),
    "NaN": ("a.json", '[{"image_id": 0, "category_id": 0, "bbox": [0, 0, NaN, 1], "score": 1}]', "bbox is nan|NaN"),
    "class 0": ("a.txt", "1,-1,10,20,30,40,1,0,-1,-1\n", "class 0, expected a class from 1 on"),
    "fps": ("a.json", '{"frames": [], "fps": 0}', "fps is 0"),
    "evaluation": ("detections.npz", "", "need --dataset"),
    "six columns": ("a.txt", "1,-1,10,20,30,40\n", "line 1"),
    "no number": ("a.txt", MOT + "4,-1,x,20,30,40,1\n", "line 4"),
    "frame 0": ("a.txt", "0,-1,10,20,30,40,1\n", "frame 0, expected 1 to"),
    "lengths": ("a.jsonl", '{"index": 0, "boxes": [], "scores": [1], "labels": []}\n', "line 1: .*different lengths"),
    "no index": ("a.jsonl", '{"detections": []}\n', "'frame'"),
    "a list of numbers": ("a.jsonl", '{"index": 0, "detections": [1]}\n', "`box`"),
    "a far frame": (
        "a.jsonl",
        '{"index": 1e18, "detections": []}',
        "number of the frame is 1e\\+18|1000000000000000000",
    ),
}


@pytest.mark.parametrize(("name", "text", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_file_of_detections_is_refused_with_its_place(tmp_path, name, text, message):
    path = tmp_path / name if text is None else write(tmp_path, name, text)
    with pytest.raises(UserError, match=message) as error:
        read_detections(path)
    assert name in str(error.value)


def test_a_wrong_number_of_a_frame_does_not_ask_for_millions_of_frames(tmp_path):
    path = write(tmp_path, "found.txt", MOT.replace("3,5", "4000000,5"))
    with pytest.raises(UserError, match=r"line 3: a detection in frame 4000000, expected 1 to 250000.*give --video"):
        read_detections(path)


def test_frames_that_are_listed_without_detections_count(tmp_path):
    counts = [0, 1, 0, 0, 0]
    lines = [{"index": t, "boxes": [BOX] * n, "scores": [0.5] * n, "labels": [0] * n} for t, n in enumerate(counts)]
    found = read_detections(write(tmp_path, "found.jsonl", "\n".join(map(json.dumps, lines))))
    assert [len(frame) for frame in found.frames] == counts


def test_what_the_file_says_of_its_video_is_kept(tmp_path):
    frames = [{"index": 0, "time": 0.5, "detections": [{"box": BOX, "score": 0.5, "label": 3, "class": "dog"}]}]
    head = {"video": "in.mp4", "fps": 30, "width": 1920, "height": 1080}
    facts = read_detections(write(tmp_path, "found.json", json.dumps(head | {"frames": frames}))).facts
    assert (facts.video, facts.fps, facts.size, facts.times) == ("in.mp4", 30.0, (1080, 1920), {0: 0.5})
    assert facts.class_names == ["class 0", "class 1", "class 2", "dog"]


def test_json_may_hold_any_character(tmp_path):
    line = {"index": 0, "detections": [{"box": BOX, "score": 0.5, "label": 0, "class": "a\u2028b\u0085"}]}
    found = read_detections(write(tmp_path, "found.jsonl", json.dumps(line, ensure_ascii=False) + "\r\n"))
    assert found.facts.names == {0: "a\u2028b\u0085"}


def test_a_detection_beyond_the_video_is_refused(tmp_path):
    path = write(tmp_path, "found.txt", MOT)
    with pytest.raises(UserError, match=r"found.txt, line 3: a detection in frame 3, expected 1 to 2.*--first-frame"):
        read_detections(path, 2)
