"""`vod2 link` without a dataset: files of any detector in, linked files and what they gained out."""

import json

import numpy as np
import pytest

from vod2.commands.link import main
from vod2.errors import UserError
from vod2.video import VideoWriter

LINES = [
    {"index": t, "boxes": [[10 + t, 10, 30 + t, 40]] if seen else [], "scores": [s] * seen, "labels": [1] * seen}
    for t, (seen, s) in enumerate([(1, 0.9), (1, 0.3), (0, 0.0), (0, 0.0), (1, 0.9), (1, 0.9)])
]


@pytest.fixture(autouse=True)
def found(tmp_path, monkeypatch):
    """found.jsonl and found.txt: an object in six frames, missing in two of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "found.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    rows = [
        f"{line['index'] + 1},-1,{box[0]},{box[1]},20,30,{score},2,-1,-1\n"
        for line in LINES
        for box, score in zip(line["boxes"], line["scores"], strict=True)
    ]
    (tmp_path / "found.txt").write_text("".join(rows))
    with VideoWriter(tmp_path / "in.mp4", 20, (64, 48)) as video:
        for _ in range(8):
            video.write(np.zeros((48, 64, 3), np.uint8))
    return tmp_path


@pytest.mark.parametrize("linker", ["repp-like", "seqnms", "tubelets", "GreedyLinking"])
def test_a_file_is_linked_filled_and_written_with_what_it_gained(found, capsys, linker):
    main(f"found.jsonl -o out/linked.json --video in.mp4 --fill-gaps 2 --linker {linker}".split())
    content = json.loads((found / "out" / "linked.json").read_text())
    assert (content["fps"], content["width"], content["height"]) == (20.0, 64, 48)
    boxes = [[detection["box"] for detection in frame["detections"]] for frame in content["frames"]]
    assert boxes == [[[10.0 + t, 10.0, 30.0 + t, 40.0]] for t in range(6)] + [[], []]
    detections = [frame["detections"][0] for frame in content["frames"][:6]]
    assert {detection["track"] for detection in detections} == {0}
    assert [detection.get("filled", False) for detection in detections] == [False, False, True, True, False, False]
    told = capsys.readouterr().out
    assert "8 frames: 4 boxes, of which 4 are left, 2 filled; 1 tracks" in told
    assert "flicker     33.33 ->    0.00" in told and "coverage    50.00 ->  100.00" in told


def test_the_output_has_the_format_of_its_suffix_or_of_the_input(found):
    main("found.txt -o linked.txt --fill-gaps 2".split())
    assert (found / "linked.txt").read_text().startswith("1,0,10.00,10.00,20.00,30.00,0.600000,2,")
    main("found.txt -o linked.json --format coco".split())
    results = json.loads((found / "linked.json").read_text())
    assert results[0]["bbox"] == [10.0, 10.0, 20.0, 30.0] and results[0]["track_id"] == 0
    main("linked.json -o again.json".split())
    assert isinstance(json.loads((found / "again.json").read_text()), list), "COCO results stay COCO results"


def test_what_the_file_says_of_its_video_is_written_again(found):
    frames = [
        {
            "index": t,
            "time": t / 30 + 0.001,
            "detections": [{"box": [1, 1, 9, 9], "label": 1, "score": 0.5, "class": "dog"}],
        }
        for t in range(3)
    ]
    head = {"video": "there.mp4", "fps": 30.0, "width": 1920, "height": 1080, "class_names": ["cat", "dog"]}
    (found / "detected.json").write_text(json.dumps(head | {"frames": [*frames, {"index": 3, "detections": []}]}))
    main("detected.json -o linked.json".split())
    content = json.loads((found / "linked.json").read_text())
    assert {key: content[key] for key in head} == head and len(content["frames"]) == 4
    assert [frame["time"] for frame in content["frames"]] == [0.001, 0.034333, 0.067667, 0.1]
    main("linked.json -o linked.jsonl".split())
    line = json.loads((found / "linked.jsonl").read_text().splitlines()[2])
    assert line["detections"][0]["class"] == "dog"


def test_frames_keep_their_numbers_in_the_same_format(found):
    results = [{"image_id": t, "category_id": 0, "bbox": [1, 1, 9, 9], "score": 0.5} for t in (1, 2, 3)]
    (found / "results.json").write_text(json.dumps(results))
    main("results.json -o linked.json --first-frame 1".split())
    assert [row["image_id"] for row in json.loads((found / "linked.json").read_text())] == [1, 2, 3]
    main("results.json -o linked.txt --first-frame 1".split())
    assert [line.split(",")[0] for line in (found / "linked.txt").read_text().splitlines()] == ["1", "2", "3"]


def test_a_linker_of_the_configuration_is_taken(found, capsys):
    (found / "mine.yaml").write_text("MODEL: {VIDEO: {LINKER: {NAME: SeqNMS, RESCORE: max}}}\n")
    main("found.jsonl -o linked.jsonl --config-file mine.yaml".split())
    assert json.loads((found / "linked.jsonl").read_text().splitlines()[1])["detections"][0]["score"] == pytest.approx(
        0.9
    )
    with pytest.raises(SystemExit):
        main("found.jsonl --dataset some".split())
    assert "give --linker" in capsys.readouterr().err


def test_names_of_classes_are_written(found):
    (found / "names.txt").write_text("cat\ndog\n")
    main("found.jsonl -o linked.jsonl --class-names names.txt".split())
    assert json.loads((found / "linked.jsonl").read_text().splitlines()[0])["detections"][0]["class"] == "dog"


def test_boxes_that_are_not_of_this_video_are_told(found, capsys):
    (found / "found.txt").write_text("1,-1,500,10,20,30,0.9,-1,-1,-1\n2,-1,50,10,20,30,0.9,-1,-1,-1\n")
    main("found.txt -o linked.txt --video in.mp4".split())
    assert "1 of 2 boxes of found.txt have their centre outside of the 64 x 48 pixels" in capsys.readouterr().err


WRONG = {
    "no output": ("found.jsonl", "nothing to write: give --output"),
    "the input": ("found.jsonl -o found.jsonl", "would overwrite"),
    "suffix": ("found.jsonl -o linked.csv", "linked.csv: expected .json, .jsonl, .txt or .xml"),
    "BLR": ("found.jsonl -o a.json --linker BLR", "relations"),
    "gaps": ("found.jsonl -o a.json --fill-gaps -1", "--fill-gaps is -1"),
    "rate": ("found.jsonl -o a.json --fps 0", "--fps is 0"),
    "endless rate": ("found.jsonl -o a.json --fps inf", "--fps is inf"),
    "folder": ("found.jsonl -o .", "is a folder"),
    "video": ("found.jsonl -o a.json --video none.mp4", "none.mp4"),
    "names": ("found.jsonl -o a.json --class-names none.txt", "none.txt"),
    "file": ("none.jsonl -o a.json", "none.jsonl"),
    "setting": ("found.jsonl -o a.json --opts LINK_SIMILARITY 7", "LINK_SIMILARITY"),
    "first frame": ("found.jsonl -o a.json --first-frame 3", "--first-frame"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_are_told_and_nothing_is_written(found, words, message):
    with pytest.raises(UserError, match=message):
        main(words.split())
    assert not (found / "a.json").exists() and not (found / "linked.csv").exists()


def test_a_file_without_detections_needs_its_video(found):
    (found / "found.txt").write_text("")
    with pytest.raises(UserError, match="no --video says how many frames"):
        main("found.txt -o linked.txt".split())
    main("found.txt -o linked.txt --video in.mp4".split())
    assert (found / "linked.txt").read_text() == ""


@pytest.mark.parametrize("words", ["--video in.mp4", "--fill-gaps 3", "--format mot", "--first-frame 1"])
def test_options_of_a_video_are_none_of_an_evaluation(words, capsys):
    with pytest.raises(SystemExit):
        main(f"found.jsonl --dataset some {words}".split())
    assert "give it without --dataset" in capsys.readouterr().err
