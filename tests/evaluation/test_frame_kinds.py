"""The file that names deteriorated frames: what may stand in it, and what is refused."""

import json

import pytest

from vod2.errors import UserError
from vod2.evaluation import read_frame_kinds

DATASET = [
    {"image_id": f"{video}/{i}", "video_id": video, "frame_index": i, "video_length": 10}
    for video in ("a", "b")
    for i in (0, 3, 6, 9)
] + [{"image_id": 77}]


def read(tmp_path, content):
    path = tmp_path / "kinds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_frame_kinds(path, DATASET)


def test_frames_are_named_by_number_range_and_image_id(tmp_path):
    kinds = read(
        tmp_path,
        {"a": {"3": ["blur"], "2-6": ["fog", "blur"], "7": ["rain"]}, "b/9": ["fog"], "77": {"blur": 0.5}},
    )
    # Frames 2, 4, 5 and 7 of the video are not in the dataset.
    assert kinds == {"a/3": ("blur", "fog"), "a/6": ("fog", "blur"), "b/9": ("fog",), 77: ("blur",)}


def test_nothing_may_be_named(tmp_path):
    assert read(tmp_path, {}) == {} and read(tmp_path, {"a": {}, "b/0": []}) == {"b/0": ()}


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "kinds.json: the file of deteriorated frames cannot be read"),
        ([1], "kinds.json holds a list, expected an object"),
        ({"c": {"0": ["fog"]}}, "'c' is neither a video_id nor an image_id.*'a'.*'a/0'"),
        ({"a": ["fog"]}, "'a' is .*'fog'.*expected frames such as"),
        ({"a": {"10": ["fog"]}}, "'a': frame '10': the video has 10 frames"),
        ({"a": {"6-3": ["fog"]}}, "'a': frame '6-3': expected a number from 0 or a range"),
        ({"a": {"first": ["fog"]}}, "'a': frame 'first': expected a number"),
        ({"a": {"0": "fog"}}, "'a': frame '0' is 'fog', expected a list of names"),
        ({"b/0": [1]}, r"'b/0' is \[1\], expected a list of names"),
    ],
)
def test_mistakes_are_told_with_file_and_entry(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="none.json"):
        read_frame_kinds(tmp_path / "none.json", DATASET)


def test_an_image_id_that_is_also_the_name_of_its_video_names_either(tmp_path):
    dataset = [{"image_id": "v", "video_id": "v", "frame_index": 0}]
    for content in ({"v": ["fog"]}, {"v": {"0": ["fog"]}}):
        path = tmp_path / "kinds.json"
        path.write_text(json.dumps(content))
        assert read_frame_kinds(path, dataset) == {"v": ("fog",)}
