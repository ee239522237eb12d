"""Which videos are held out."""

import pytest

from vod2.data.discovery import first_frames, split_videos
from vod2.errors import UserError


def video(name: str, labels: list[int], length: int = 4) -> list[dict]:
    """A video whose frames have the objects `labels`."""
    return [
        {"video_id": name, "frame_index": index, "video_length": length}
        | {"annotations": [{"category_id": label} for label in labels]}
        for index in range(length)
    ]


def test_of_each_class_the_last_videos_are_held_out_by_natural_order():
    records = []
    for number in (10, 2, 1, 9, 3, 4, 11, 8):
        records += video(f"cat{number}", [0, 0, 1])
    records += [*video("dog1", [1]), *video("dog2", [1, 0]), *video("fox", [2])]
    split = split_videos(records, 0.25)
    # dog2 has as many cats as dogs: the lower label counts, so it is a ninth cat.
    assert split.videos == {"cat11", "dog2"} and not split.cuts
    train, held_out = split.train(records), split.held_out(records)
    assert {record["video_id"] for record in held_out} == split.videos
    assert len(train) + len(held_out) == len(records)
    assert {record["video_id"] for record in train}.isdisjoint(split.videos)


def test_a_class_never_loses_all_of_its_videos():
    records = [*video("a1", [0]), *video("a2", [0])]
    assert split_videos(records, 0.9).videos == {"a2"}


def test_videos_without_objects_are_split_too_but_do_not_make_a_validation_set_alone():
    records = [*video("a", [0]), *video("empty1", []), *video("empty2", [])]
    split = split_videos(records, 0.25)
    assert split.cuts == {"a": 3} and not split.videos
    assert {record["video_id"] for record in split.train(records)} == {"a", "empty1", "empty2"}


def test_one_video_is_cut_and_training_does_not_see_behind_the_cut():
    records = video("a", [0], length=10)
    split = split_videos(records, 0.25)
    assert split.cuts == {"a": 7}
    train, held_out = split.train(records), split.held_out(records)
    assert [record["frame_index"] for record in train] == list(range(7))
    assert {record["video_length"] for record in train} == {7}
    assert [record["frame_index"] for record in held_out] == [7, 8, 9]
    assert {record["video_length"] for record in held_out} == {10}


def test_too_little_is_said():
    with pytest.raises(UserError, match="1 frames have objects, too few"):
        split_videos(video("a", [0], length=1), 0.25)


def of_videos(records: list[dict]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for record in records:
        found.setdefault(record["video_id"], []).append(record["frame_index"])
    return found


def test_the_first_frames_of_each_video_and_where_they_end():
    records = [*video("a", [0], length=99), *video("b", [0], length=2), *video("c", [0], length=99)]
    few = first_frames(records, 92)
    assert of_videos(few) == {"a": [*range(30)], "b": [0, 1], "c": [*range(60)]}, "c gets what b leaves over"
    assert {record["video_id"]: record["video_length"] for record in few} == {"a": 30, "b": 2, "c": 60}
    assert records[0]["video_length"] == 99, "the dicts of the dataset are not changed"
    assert first_frames(records, 1000) == records


def test_too_many_videos_for_the_frames_are_thinned_out_and_keep_enough_to_look_at():
    records = []
    for number in range(10):
        records += video(f"v{number}", [0], length=50)
    few = first_frames(records, 90)
    assert of_videos(few) == {"v1": [*range(30)], "v5": [*range(30)], "v8": [*range(30)]}
    assert of_videos(first_frames(records, 7)) == {"v5": [*range(7)]}


def test_a_long_video_begins_with_its_first_object():
    records = video("a", [], length=100)
    for index in (60, 61, 80):
        records[index]["annotations"] = [{"category_id": 0}]
    few = first_frames(records, 30)
    assert of_videos(few) == {"a": [*range(60, 90)]} and few[0]["video_length"] == 90
    assert of_videos(first_frames(records, 60)) == {"a": [*range(60, 100)]}
