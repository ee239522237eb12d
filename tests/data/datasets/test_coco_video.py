"""Videos with one JSON file, in both kinds; the samples are written here."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.checking import check
from helpers.fuzz import FUZZ, json_values, mutated_json
from helpers.loaders import assert_loaders_show_the_right_frames, forget
from helpers.videos import write_numbered_images, write_numbered_video
from vod2.d2 import COCOEvaluator, DatasetCatalog, MetadataCatalog
from vod2.data.datasets import load_coco_video, register_coco_video
from vod2.errors import UserError

SIZE = {"height": 32, "width": 48}
NAME = "Küche 1"  # with a space and an umlaut


def coco():
    """Two videos of 6 and 2 frames; an elf in every frame, a gnome in frame 2 of the first video."""
    lengths = {5: 6, 9: 2}
    images, annotations = [], []
    for video, length in lengths.items():
        for frame in range(length):
            image = 100 * video + frame
            name = f"{NAME if video == 5 else 'b'}/bild {frame}.png"
            images.append({"id": image, "video_id": video, "frame_id": frame, "file_name": name, **SIZE})
            box = {"bbox": [4, 5, 10 + frame, 20], "category_id": 3, "instance_id": 7, "iscrowd": 0}
            annotations.append({"id": len(annotations), "image_id": image, **box})
    annotations.append({"id": 99, "image_id": 502, "bbox": [1.5, 2, 4, 4], "category_id": 17, "track_id": 8})
    return {
        "videos": [{"id": 5, "name": NAME}, {"id": 9, "name": "b"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 17, "name": "gnome"}, {"id": 3, "name": "elf"}],
    }


def youtube_vis():
    """The same two videos; the gnome is there in frame 2 only."""
    return {
        "videos": [
            {"id": 1, "length": 6, "file_names": [f"{NAME}/bild {i}.png" for i in range(6)], **SIZE},
            {"id": 2, "length": 2, "file_names": [f"b/bild {i}.png" for i in range(2)], **SIZE},
        ],
        "annotations": [
            {"id": 7, "video_id": 1, "category_id": 3, "bboxes": [[4, 5, 10 + i, 20] for i in range(6)]},
            {"id": 8, "video_id": 1, "category_id": 17, "bboxes": [None, None, [1.5, 2, 4, 4], None, None, None]},
            {"id": 9, "video_id": 2, "category_id": 3, "bboxes": [[4, 5, 10, 20], [4, 5, 11, 20]], "iscrowd": 0},
        ],
        "categories": [{"id": 17, "name": "gnome"}, {"id": 3, "name": "elf"}],
    }


@pytest.fixture
def write(tmp_path):
    def write_json(data):
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(data), encoding="utf-8")
        return path

    return write_json


@pytest.fixture
def registered():
    name = "coco_video_for_a_test"
    yield name
    forget(name)


@pytest.mark.parametrize("make", [coco, youtube_vis])
def test_both_kinds_give_the_same_dicts(write, tmp_path, make):
    path = write(make())
    dicts, names = load_coco_video(path, tmp_path / "images")
    assert names == ["elf", "gnome"]  # by the ids 3 and 17
    assert [(d["video_id"], d["frame_index"], d["video_length"]) for d in dicts] == [
        *((NAME, index, 6) for index in range(6)),
        *(("b", index, 2) for index in range(2)),
    ]
    third = dicts[2]
    assert third["file_name"] == str(tmp_path / "images" / NAME / "bild 2.png")
    assert (third["height"], third["width"], third["image_id"]) == (32, 48, f"{NAME}/000002")
    elf, gnome = third["annotations"]
    assert (elf["bbox"], elf["category_id"], elf["track_id"]) == ([4, 5, 16, 25], 0, 7)
    assert (gnome["bbox"], gnome["category_id"], gnome["track_id"]) == ([1.5, 2, 5.5, 6], 1, 8)
    assert [len(d["annotations"]) for d in dicts] == [1, 1, 2, 1, 1, 1, 1, 1]


def test_images_may_come_in_any_order_and_count_from_one(write):
    data = coco()
    for image in data["images"]:
        image["frame_id"] += 1
    data["images"].reverse()
    dicts = load_coco_video(write(data), first_frame=1).dicts
    assert [d["frame_index"] for d in dicts] == [0, 1, 2, 3, 4, 5, 0, 1]
    with pytest.raises(UserError, match=r"images\[0\]: frame_id is 0, expected a whole number of at least 1"):
        load_coco_video(write(coco()), first_frame=1)


def test_chosen_classes_are_kept_in_their_order(write):
    dicts, names = load_coco_video(write(coco()), class_names=["gnome"])
    assert names == ["gnome"]
    assert [[a["category_id"] for a in d["annotations"]] for d in dicts[:3]] == [[], [], [0]]
    with pytest.raises(UserError, match="'goblin' is not among its categories, which are gnome, elf"):
        load_coco_video(write(coco()), class_names=["elf", "goblin"])


def test_an_annotation_without_a_track_has_no_track_id(write):
    data = coco()
    del data["annotations"][0]["instance_id"]
    first = load_coco_video(write(data)).dicts[0]["annotations"][0]
    assert "track_id" not in first


def test_a_test_set_without_annotations_has_none(write):
    data = youtube_vis() | {"annotations": None}
    assert not any("annotations" in record for record in load_coco_video(write(data)).dicts)


def test_sizes_may_be_those_of_the_video(write):
    data = coco()
    for image in data["images"]:
        del image["height"], image["width"]
    data["videos"] = [video | SIZE for video in data["videos"]]
    assert {(d["height"], d["width"]) for d in load_coco_video(write(data)).dicts} == {(32, 48)}


def test_boxes_are_clipped_and_empty_ones_dropped_with_a_warning(write, caplog):
    data = coco()
    data["annotations"][0]["bbox"] = [40, 20, 20, 20]
    data["annotations"][1]["bbox"] = [4, 4, 0, 9]
    with caplog.at_level(logging.WARNING):
        dicts = load_coco_video(write(data)).dicts
    assert dicts[0]["annotations"][0]["bbox"] == [40, 20, 48, 32] and dicts[1]["annotations"] == []
    assert "1 boxes outside of their image, clipped; the first is" in caplog.text
    assert "annotations[1]: bbox" in caplog.text


def changed(data, path, value):
    *parents, last = path
    node = data
    for key in parents:
        node = node[key]
    node[last] = value
    return data


@pytest.mark.parametrize(
    ("make", "path", "value", "message"),
    [
        (coco, ["images", 3, "video_id"], 6, r"images\[3\]: video_id is 6, which is not in the file"),
        (coco, ["images", 3, "width"], "wide", r"images\[3\]: width is 'wide', expected a number"),
        (coco, ["images", 3, "height"], 0, r"images\[3\]: height is 0, expected a whole number of at least 1"),
        (coco, ["images", 3, "frame_id"], 2, r"images\[3\]: video 'Küche 1' has another frame 2"),
        (coco, ["images", 3, "file_name"], None, r"images\[3\]: file name None, expected a text"),
        (coco, ["annotations", 2, "image_id"], 77, r"annotations\[2\]: image_id is 77"),
        (coco, ["annotations", 2, "bbox"], [1, 2, 3], r"annotations\[2\]: bbox is \[1, 2, 3\], expected \[x, y"),
        (coco, ["annotations", 2, "bbox"], [1, 2, 3, None], r"annotations\[2\]: bbox is None, expected a number"),
        (coco, ["annotations", 2, "category_id"], 4, r"annotations\[2\]: bbox: category_id 4 is not among"),
        (coco, ["annotations", 2, "instance_id"], 1.5, r"annotations\[2\]: instance_id is 1.5, expected a whole"),
        (coco, ["categories", 1, "id"], 17, r"categories\[1\]: another entry has the id 17"),
        (coco, ["categories", 1, "name"], "gnome", "'gnome', 'gnome', expected each once: .*give class_names="),
        (coco, ["videos", 1, "name"], NAME, r"videos\[1\]: another video is called 'Küche 1'"),
        (coco, ["videos"], {}, "'videos' is {}, expected a list"),
        (coco, ["images"], [], r"videos\[0\]: file_names is None, expected a list"),
        (youtube_vis, ["annotations", 1, "bboxes"], [None], r"annotations\[1\]: bboxes has 1 boxes, .* 6 frames"),
        (youtube_vis, ["annotations", 2, "video_id"], 3, r"annotations\[2\]: video_id is 3"),
        (youtube_vis, ["videos", 0, "file_names", 2], 5, r"videos\[0\]: frame 2: file name 5"),
    ],
)
def test_what_is_wrong_is_named_with_file_entry_and_value(write, make, path, value, message):
    with pytest.raises(UserError, match=f"annotations.json: .*{message}|annotations.json: {message}"):
        load_coco_video(write(changed(make(), path, value)))


def test_a_missing_file_and_one_that_is_no_json_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.json: .*No such file"):
        load_coco_video(tmp_path / "nowhere.json")
    broken = tmp_path / "broken.json"
    for content in (b"[1", b"\xff\xfe", b"[" * 100_000, b"[]", b"{}"):
        broken.write_bytes(content)
        with pytest.raises(UserError, match="broken.json: "):
            load_coco_video(broken)


@FUZZ
@given(json_values | mutated_json(coco()) | mutated_json(youtube_vis()), st.sampled_from([None, "videos"]))
def test_any_json_is_read_or_refused_with_our_error(tmp_path, data, video_root):
    path = tmp_path / "random.json"
    path.write_text(json.dumps(data))
    try:
        dicts, names = load_coco_video(path, video_root=video_root)
    except UserError as error:
        assert str(path) in str(error)
    else:
        for record in dicts:
            assert 0 <= record["frame_index"] < record["video_length"]
            assert all(0 <= a["category_id"] < len(names) for a in record.get("annotations", []))


def test_registration_reads_nothing_and_classes_come_with_the_first_use(write, registered, tmp_path):
    register_coco_video(registered, tmp_path / "annotations.json", tmp_path)
    assert MetadataCatalog.get(registered).evaluator_type == "vid"
    with pytest.raises(UserError, match="annotations.json"):
        DatasetCatalog.get(registered)
    write(coco())
    for _ in range(2):
        DatasetCatalog.get(registered)
        assert MetadataCatalog.get(registered).thing_classes == ["elf", "gnome"]


def test_given_classes_are_known_before_the_first_use(registered, tmp_path):
    register_coco_video(registered, tmp_path / "annotations.json", class_names=["gnome", "elf"])
    assert MetadataCatalog.get(registered).thing_classes == ["gnome", "elf"]


@pytest.mark.parametrize("make", [coco, youtube_vis])
def test_images_are_loaded_for_training_and_evaluation(write, registered, tmp_path, make):
    for video, length in ((NAME, 6), ("b", 2)):
        write_numbered_images(tmp_path / "images" / video, [f"bild {index}.png" for index in range(length)])
    register_coco_video(registered, write(make()), tmp_path / "images")
    assert_loaders_show_the_right_frames(registered, {NAME: 6, "b": 2})


@pytest.mark.parametrize("make", [coco, youtube_vis])
def test_video_files_are_loaded_for_training_and_evaluation(write, registered, tmp_path, make):
    data = make()
    if "images" not in data:
        for video in data["videos"]:
            del video["file_names"]
        data["videos"][0]["name"], data["videos"][1]["name"] = NAME, "b"
    for video, length in ((NAME, 6), ("b", 2)):
        write_numbered_video(tmp_path / "videos" / f"{video}.mkv", length)
    register_coco_video(registered, write(data), video_root=tmp_path / "videos", video_suffix=".mkv")
    assert_loaders_show_the_right_frames(registered, {NAME: 6, "b": 2})


def test_values_of_the_group_keys_of_videos_and_images_are_groups_in_lower_case(write):
    data = coco()
    data["videos"][0]["distance"], data["videos"][1]["distance"] = "CLOSE", None
    data["images"][1]["weather"] = "Rain"
    dicts, _ = load_coco_video(write(data), group_keys=["distance", "weather"])
    assert [record["groups"] for record in dicts] == [("close",), ("close", "rain"), *[("close",)] * 4, (), ()]
    assert all("groups" not in record for record in load_coco_video(write(data)).dicts)


def test_a_group_that_is_no_name_is_refused_with_its_place(write):
    data = coco()
    data["videos"][1]["distance"] = 5
    with pytest.raises(UserError, match=r"videos\[1\]: distance is 5, expected the name of a group"):
        load_coco_video(write(data), group_keys=["distance"])


@pytest.mark.parametrize("content", [b"", b"no gzip", b"\x1f\x8b\x08\x00cut off"])
def test_a_packed_json_that_is_broken_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "train.json.gz").write_bytes(content)
    with pytest.raises(UserError, match="train.json.gz"):
        load_coco_video(tmp_path / "train.json.gz")


def test_coco_ap_can_be_computed_of_frames_in_video_files(write, tmp_path):
    register_coco_video("films", write(coco()), class_names=["elf", "gnome"], video_root=tmp_path)
    try:
        COCOEvaluator("films", tasks=("bbox",), distributed=False, output_dir=str(tmp_path), allow_cached_coco=False)
        assert {record["file_name"] for record in DatasetCatalog.get("films")} == {
            str(tmp_path / f"{name}.mp4") for name in (NAME, "b")
        }
    finally:
        forget("films")


def layout(tmp_path, where, images):
    """The file at `where`, its frames below the folder `images`."""
    for name in (NAME, "b"):
        write_numbered_images(tmp_path / images / name, [f"bild {index}.png" for index in range(6)])
    path = tmp_path / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco()), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "where, images",
    [
        ("train.json", "."),
        ("train.json", "images"),
        ("annotations/train.json", "images"),
        ("annotations/train.json", "."),
        ("annotations/train.json", "annotations"),
    ],
)
def test_without_a_root_the_images_are_found_by_loader_and_check(tmp_path, where, images):
    path = layout(tmp_path, where, images)
    assert load_coco_video(path).dicts[0]["file_name"] == str(tmp_path / images / NAME / "bild 0.png")
    assert check(path).findings == []


def test_a_root_that_is_given_is_taken(tmp_path):
    path = layout(tmp_path, "annotations/train.json", "images")
    assert load_coco_video(path, tmp_path / "else").dicts[0]["file_name"].startswith(str(tmp_path / "else"))
    assert check(path, image_root=tmp_path / "else").count("error") == 8


def double(data):
    """As Roboflow exports: the name of the project is a category, too."""
    data["categories"].append({"id": 0, "name": "elf", "supercategory": "none"})


FAULTS = {
    "a class twice": (double, "'elf'"),
    "a track of a text": (lambda d: d["annotations"][0].update(instance_id="9f1b-77aa"), "instance_id is '9f1b-77aa'"),
    "a backslash": (lambda d: d["images"][0].update(file_name="b\\bild 0.png"), "slashes instead of backslashes"),
    "an ignored object": (lambda d: d["annotations"][0].update(ignore=1), "ignore is 1, expected 0, or iscrowd: 1"),
    "still images": (lambda d: d.pop("videos"), "there are no 'videos': it is COCO's JSON of still images"),
    "a side of a list": (
        lambda d: d["annotations"][0].update(bbox=[[1], 2, 3, 4]),
        r"bbox is \[1\], expected a number",
    ),
}


@pytest.mark.parametrize("change, message", FAULTS.values(), ids=FAULTS.keys())
def test_what_the_loader_refuses_the_check_finds(tmp_path, change, message):
    path = layout(tmp_path, "train.json", ".")
    data = coco()
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message):
        load_coco_video(path)
    assert check(path).count("error") > 0


@pytest.mark.parametrize(
    "change, options",
    [
        (double, {"class_names": ["elf", "gnome"]}),
        (lambda d: d["annotations"][0].update(bbox=["4", "5", "10", "20"]), {}),
        (lambda d: d["annotations"][0].update(ignore=1, iscrowd=1), {}),
        (lambda d: d["annotations"][0].update(ignore=0), {}),
        (lambda d: None, {"class_names": ["elf", "troll", "gnome"]}),
    ],
    ids=[
        "a class twice, named once",
        "numbers as texts",
        "an ignored crowd",
        "not ignored",
        "a class that never occurs",
    ],
)
def test_what_the_check_passes_the_loader_takes(tmp_path, change, options):
    path = layout(tmp_path, "train.json", ".")
    data = coco()
    change(data)
    path.write_text(json.dumps(data))
    assert check(path, **options).findings == []
    assert load_coco_video(path, **options).class_names == options.get("class_names", ["elf", "gnome"])


def test_the_track_may_be_an_attribute_of_cvat_and_a_negative_one_is_none(write):
    data = coco()
    first, second, third, *_ = data["annotations"]
    for note in (first, second, third):
        del note["instance_id"]
    first["attributes"] = {"track_id": 12, "occluded": True}
    second["instance_id"] = -1
    third["attributes"] = ["nothing"]
    notes = [record["annotations"][0] for record in load_coco_video(write(data)).dicts[:3]]
    assert (notes[0]["track_id"], notes[0]["occluded"]) == (12, 1)
    assert "track_id" not in notes[1] and "track_id" not in notes[2]


def test_classes_of_a_file_that_has_fewer_are_numbered_as_those_of_the_others(write):
    dicts, names = load_coco_video(write(coco()), class_names=["gnome", "troll", "elf"])
    assert names == ["gnome", "troll", "elf"] and dicts[0]["annotations"][0]["category_id"] == 2
    with pytest.raises(UserError, match="class 'troll' is not among its categories"):
        load_coco_video(write(coco()), class_names=["troll", "elf"])


def test_a_text_in_utf_16_is_read(tmp_path):
    path = layout(tmp_path, "train.json", ".")
    path.write_text(json.dumps(coco()), encoding="utf-16")  # as PowerShell writes
    assert len(load_coco_video(path).dicts) == 8
