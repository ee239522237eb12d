"""BDD100K's tracks; the samples are written here."""

import json
import logging

import pytest

from helpers.checking import check, kinds
from helpers.loaders import assert_loaders_show_the_right_frames, forget
from helpers.videos import write_numbered_images
from vod2.data.datasets import BDD_CLASSES, load_bdd, register_bdd
from vod2.errors import UserError

NAME = "0000f77c-6257be58"


def label(id, category, box, crowd=False, occluded=False):
    sides = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    attributes = {"crowd": crowd, "occluded": occluded, "truncated": False}
    return {"id": id, "category": category, "attributes": attributes, "box2d": sides}


def frames(name=NAME, count=3):
    """A car in every frame, in the second one a crowd and another vehicle; the third one has labels that are null."""
    boxes = [[label("00000001", "car", (1.5, 2, 11.5, 12))] for _ in range(count)]
    crowd, other = label("7", "pedestrian", (20, 2, 40, 12), crowd=True), label("8", "other vehicle", (0, 20, 9, 30))
    boxes[1] += [crowd | {"id": "7"}, other]
    boxes[1][0] = label("00000001", "car", (2.5, 2, 12.5, 12), occluded=True)
    found = [
        {"name": f"{name}-{index + 1:07d}.jpg", "labels": rows, "videoName": name, "frameIndex": index}
        for index, rows in enumerate(boxes)
    ]
    found[-1]["labels"] = None
    return found


@pytest.fixture
def images(tmp_path):
    for name in (NAME, "b"):
        write_numbered_images(tmp_path / "images" / name, [f"{name}-{index + 1:07d}.jpg" for index in range(3)])
    return tmp_path / "images"


def rows(dicts):
    keys = ("bbox", "category_id", "track_id", "occluded", "iscrowd")
    return [[tuple(note[key] for key in keys) for note in record["annotations"]] for record in dicts]


EXPECTED = [
    [([1.5, 2, 11.5, 12], 2, 1, 0, 0)],
    [([2.5, 2, 12.5, 12], 2, 1, 1, 0), ([20, 2, 40, 12], 0, 7, 0, 1)],
    [],
]


def test_a_folder_of_files_and_one_file_of_all_videos_give_the_same(tmp_path, images):
    folder = tmp_path / "labels"
    folder.mkdir()
    for name in (NAME, "b"):
        (folder / f"{name}.json").write_text(json.dumps(frames(name)))
    dicts, names = load_bdd(folder, images)
    assert names == list(BDD_CLASSES) and rows(dicts) == EXPECTED * 2
    assert [record["image_id"] for record in dicts[:3]] == [f"{NAME}/{index:06d}" for index in range(3)]
    assert [record.get("ignore_regions") for record in dicts[:3]] == [None, [[0, 20, 9, 30]], None]
    assert {(record["height"], record["width"], record["video_length"]) for record in dicts} == {(32, 48, 3)}
    one = tmp_path / "all.json"
    one.write_text(json.dumps({"frames": frames() + frames("b")}))
    assert load_bdd(one, images) == (dicts, names)
    assert kinds(check(folder, image_root=images)) == kinds(check(one, image_root=images)) == set()


def test_old_keys_and_the_categories_of_the_file_are_known(tmp_path, images):
    old = [{"name": f["name"], "video_name": NAME, "index": f["frameIndex"], "labels": f["labels"]} for f in frames()]
    old[0]["labels"] = [label(3, "tram", (1, 2, 3, 4)), {"id": "9", "category": "lane", "poly2d": []}]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    assert load_bdd(path, images)[1] == ["car", "pedestrian", "tram"]
    tree = [{"name": "vehicle", "subcategories": [{"name": "tram"}, {"name": "car"}]}, {"name": "pedestrian"}]
    path.write_text(json.dumps({"frames": old, "config": {"categories": tree}}))
    assert load_bdd(path, images)[1] == ["tram", "car", "pedestrian"]


def test_a_class_that_a_later_file_names_is_no_ignored_region_of_an_earlier_one(tmp_path, images):
    config = {"categories": [{"name": name} for name in ("car", "other vehicle", "pedestrian")]}
    folder = tmp_path / "labels"
    folder.mkdir()
    found = []
    for first in (NAME, "b"):  # the one with the "config" is read first, then last
        for name in (NAME, "b"):
            data = {"frames": frames(name)} | ({"config": config} if name == first else {})
            (folder / f"{name}.json").write_text(json.dumps(data))
        found.append(load_bdd(folder, images))
    assert found[0] == found[1]
    dicts, names = found[0]
    assert names == ["car", "other vehicle", "pedestrian"]
    assert not any("ignore_regions" in record for record in dicts)
    assert [note["category_id"] for note in dicts[4]["annotations"]] == [0, 2, 1]


def test_loaders_show_the_right_frames(tmp_path, images):
    path = tmp_path / "all.json"
    path.write_text(json.dumps([f | {"labels": f["labels"] or frames()[0]["labels"]} for f in frames()]))
    name = "bdd_for_a_test"
    try:
        register_bdd(name, path, image_root=images)
        assert_loaders_show_the_right_frames(name, {NAME: 3})
        assert kinds(check(name)) == set()
    finally:
        forget(name)


def broken(position, **values):
    data = frames()
    data[position] |= values
    return data


BROKEN = {
    "an object": ({"a": 1}, "expected a list of frames, or an object with 'frames'"),
    "no video": (broken(0, videoName=None), r"\[0\]: videoName is None"),
    "a way out": (broken(0, name="../../../x.jpg"), r"\[0\]: name is '../../../x.jpg', expected a name below"),
    "no number": (broken(1, frameIndex="x"), r"\[1\]: frameIndex is 'x'"),
    "a frame twice": (broken(1, frameIndex=0), "has another frame 0"),
    "half a box": (broken(0, labels=[{"id": 1, "category": "car", "box2d": {"x1": 1}}]), "y1 of box2d is None"),
    "no category": (broken(0, labels=[{"id": 1}]), r"\[0\]: labels\[0\]: it is .*, expected a label with a 'category'"),
    "an image that is not there": (broken(0, name="x.jpg"), "x.jpg is not there"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused_with_its_place_and_found_by_the_check(tmp_path, images, case, caplog):
    data, message = BROKEN[case]
    path = tmp_path / "all.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message), caplog.at_level(logging.ERROR):
        load_bdd(path, images)
    assert check(path, format="bdd", image_root=images).count("error")
