"""Videos annotated in Label Studio; the samples are written here."""

import json
import logging

import pytest

from helpers.checking import check, kinds
from helpers.loaders import assert_loaders_show_the_right_frames, forget
from helpers.tools import key, label_studio_task
from helpers.videos import write_numbered_images, write_numbered_video
from vod2.data.datasets import load_label_studio, register_label_studio
from vod2.errors import UserError

WHOLE = (0, 0, 100, 100)
CAR = ("car", [key(1, (0, 0, 25, 50)), key(3, (50, 25, 25, 50), enabled=False)])
PERSON = ("person", [key(5, (50, 50, 50, 50))])


@pytest.fixture
def write(tmp_path):
    def write_json(tasks, images=6):
        path = tmp_path / "project.json"
        path.write_text(json.dumps(tasks), encoding="utf-8")
        if images:
            write_numbered_images(tmp_path / "clip 1", [f"{index}.png" for index in range(images)])
        return path

    return write_json


def boxes_of(dicts):
    return {
        record["frame_index"]: [(note["bbox"], note["category_id"], note["track_id"]) for note in record["annotations"]]
        for record in dicts
        if record["annotations"]
    }


def test_boxes_are_interpolated_between_keyframes_and_end_with_one_that_is_not_enabled(write, caplog):
    path = write([label_studio_task(CAR, PERSON)])
    with caplog.at_level(logging.WARNING):
        dicts, names = load_label_studio(path)
    assert names == ["car", "person"]
    assert [record["image_id"] for record in dicts] == [f"clip 1/{index:06d}" for index in range(6)]
    assert boxes_of(dicts) == {  # in 48 x 32 pixels
        0: [([0, 0, 12, 16], 0, 0)],
        1: [([12, 4, 24, 20], 0, 0)],
        2: [([24, 8, 36, 24], 0, 0)],
        4: [([24, 16, 48, 32], 1, 1)],
        5: [([24, 16, 48, 32], 1, 1)],
    }
    assert "1 boxes interpolated between keyframes" in caplog.text
    assert "1 boxes held until the video ends" in caplog.text
    assert kinds(check(path)) == set()


def test_a_track_may_come_back(write):
    keys = [key(1, WHOLE), key(2, WHOLE, enabled=False), key(5, WHOLE), key(6, WHOLE, enabled=False)]
    path = write([label_studio_task(("car", keys[::-1]))])  # in any order
    assert sorted(boxes_of(load_label_studio(path)[0])) == [0, 1, 4, 5]


def test_a_rotated_box_is_turned_about_its_corner_in_pixels(write, caplog):
    # 12 x 8 pixels at (24, 16), turned by a quarter clockwise: 8 to the left and 12 down.
    path = write([label_studio_task(("car", [key(1, (50, 50, 25, 25), enabled=False, rotation=90)]))])
    with caplog.at_level(logging.WARNING):
        ((box, _, _),) = boxes_of(load_label_studio(path)[0])[0]
    assert box == pytest.approx([16, 16, 24, 28])
    assert "1 rotated boxes replaced by upright ones around them" in caplog.text


def test_the_frames_may_be_in_a_video_file(write, tmp_path):
    path = write([label_studio_task(("car", [key(1, WHOLE)]))], images=0)
    write_numbered_video(tmp_path / "videos" / "clip 1.mp4", 6)
    name = "label_studio_for_a_test"
    try:
        register_label_studio(name, path, video_root=tmp_path / "videos")
        assert_loaders_show_the_right_frames(name, {"clip 1": 6})
        assert kinds(check(name)) == set()
    finally:
        forget(name)


@pytest.mark.parametrize(
    "address",
    [
        "clip 1.mp4",
        "s3://bucket/x/clip%201.mp4",
        "https://a.b/clip%201.mp4?token=1",
        "/data/local-files/?d=x/clip 1.mp4",
    ],
)
def test_a_video_is_found_by_the_name_of_its_file(write, address):
    path = write([label_studio_task(CAR, video=address)])
    assert load_label_studio(path)[0][0]["video_id"] == "clip 1"


def test_the_annotation_that_counts_is_taken_and_the_others_are_told(write, caplog):
    task = label_studio_task(CAR)
    skipped, first = task["annotations"][0] | {"was_cancelled": True}, label_studio_task(PERSON)["annotations"][0]
    truth = label_studio_task(("truth", [key(1, WHOLE)]))["annotations"][0] | {"ground_truth": True}
    timeline = {"type": "timelinelabels", "value": {"ranges": [{"start": 1, "end": 2}], "timelinelabels": ["x"]}}
    truth["result"].append(timeline)
    task["annotations"] = [skipped, first]
    assert load_label_studio(write([task]))[1] == ["person"]
    task["annotations"] = [skipped, first, truth]
    with caplog.at_level(logging.WARNING):
        assert load_label_studio(write([task, label_studio_task(id=2, annotations=[])]))[1] == ["truth"]
    assert "1 further annotations of a task left out" in caplog.text
    assert "1 tasks without an annotation left out" in caplog.text
    assert "1 results of the type 'timelinelabels' left out" in caplog.text


def test_predictions_are_read_where_they_are_asked_for(write):
    prediction = {"model_version": "a", "result": label_studio_task(CAR)["annotations"][0]["result"]}
    path = write([label_studio_task(annotations=[], predictions=[prediction])])
    assert len(boxes_of(load_label_studio(path, predictions=True)[0])) == 3
    with pytest.raises(UserError, match="none, expected names|expected annotated frames"):
        load_label_studio(path)


def test_another_number_of_frames_is_told(write, caplog):
    with caplog.at_level(logging.WARNING):
        load_label_studio(write([label_studio_task(CAR)], images=5))
    assert "say framesCount 6, but it has 5 frames" in caplog.text


def task_with(**keyframe):
    return [label_studio_task(("car", [key(1, WHOLE) | keyframe]))]


BROKEN = {
    "an object": ({"tasks": []}, r"\[0\]: it is .*, expected a task with 'data' and 'annotations', not JSON-MIN"),
    "JSON-MIN": ([{"video": "a.mp4", "box": []}], "not JSON-MIN"),
    "no video": ([label_studio_task(CAR, data={"a": "x", "b": "y"})], "the address of a video under 'video'"),
    "frame 0": (task_with(frame=0), r"result\[0\]: sequence\[0\]: frame is 0, expected a whole number of at least 1"),
    "no number": (task_with(x="x"), "x is 'x', expected a number"),
    "a flag that is none": (task_with(enabled=1), "enabled is 1, expected true or false"),
    "a frame beyond": (task_with(frame=7), "frame 7 of video 'clip 1', which has 6 frames"),
    "a frame twice": ([label_studio_task(("a", [key(1, WHOLE), key(1, WHOLE)]))], "a second box in frame 1"),
    "a video twice": ([label_studio_task(CAR), label_studio_task(CAR, id=2)], "another video is called 'clip 1', too"),
    "a way out": ([label_studio_task(CAR, video="..mp4")], "expected"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused_with_its_place_and_found_by_the_check(write, case):
    data, message = BROKEN[case]
    path = write(data)
    with pytest.raises(UserError, match=message):
        load_label_studio(path)
    assert check(path, format="label_studio").count("error")
