"""MOTChallenge folders, written here in their real layout."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.checking import check
from helpers.fuzz import FUZZ, mutated_bytes
from helpers.loaders import assert_loaders_show_the_right_frames, forget
from helpers.videos import write_numbered_images, write_numbered_video
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data.datasets import MOT17_CLASSES, load_mot, register_mot
from vod2.errors import UserError

INI = """[Sequence]
name={name}
imDir=img1
frameRate=30
seqLength={length}
imWidth=48
imHeight=32
imExt=.jpg
"""
WALK = "1,2,5,6,10,12,1,1,0.8\n3,2,6,6,10,12,1,1,0.2\n1,9,1,1,4,4,0,8,1\n2,2,5.5,6,10,12,1,1,1\n"


def write_sequence(root, name, gt=WALK, length=4):
    folder = root / "train" / name
    write_numbered_images(folder / "img1", [f"{frame:06d}.jpg" for frame in range(1, length + 1)])
    (folder / "gt").mkdir()
    (folder / "gt/gt.txt").write_text(gt)
    (folder / "seqinfo.ini").write_text(INI.format(name=name, length=length), encoding="utf-8")
    return folder


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "MOT 100%d"  # neither a space nor a percent sign must confuse the template
    write_sequence(root, "straße 2", length=3)
    write_sequence(root, "A")
    return root


@pytest.fixture
def registered():
    name = "mot_for_a_test"
    yield name
    forget(name)


def test_a_dict_tells_the_frame_its_video_and_its_objects(root):
    dicts, names = load_mot(root)
    assert names == list(MOT17_CLASSES.values())
    assert [(d["video_id"], d["frame_index"], d["video_length"]) for d in dicts] == [
        *(("A", index, 4) for index in range(4)),
        *(("straße 2", index, 3) for index in range(3)),
    ]
    third = dicts[2]
    assert third["file_name"] == third["frame_template"] % (2 + third["frame_offset"])
    assert third["file_name"] == str(root / "train/A/img1/000003.jpg")
    assert (third["height"], third["width"], third["image_id"]) == (32, 48, "A/000002")
    (walker,) = third["annotations"]
    assert (walker["bbox"], walker["category_id"], walker["track_id"]) == ([6, 6, 16, 18], 0, 2)
    assert [[a["occluded"] for a in d["annotations"]] for d in dicts[:4]] == [[0], [0], [1], []]


def test_sequences_and_classes_are_ones_own(root):
    write_sequence(root, "B", gt="1,1,0,0,9,9,1,5,1\n1,2,0,0,8,8,1,2,1\n")
    options = {"sequences": ["B"], "classes": {5: "gnome", 2: "elf"}}
    dicts, names = load_mot(root, **options)
    assert names == ["gnome", "elf"] and [a["category_id"] for a in dicts[0]["annotations"]] == [0, 1]
    dicts, names = load_mot(root, **options, keep_classes=["elf"])
    assert names == ["elf"] and [a["track_id"] for a in dicts[0]["annotations"]] == [2]
    with pytest.raises(UserError, match="keep_classes has 'troll', expected some of gnome, elf"):
        load_mot(root, **options, keep_classes=["troll"])


def test_rows_of_confidence_zero_are_ignored_whatever_they_say(root):
    (root / "train/A/gt/gt.txt").write_text("1,1,0,0,9,9,0,77,1\n99,1,0,0,9,9,0,1,1\n")
    assert [d["annotations"] for d in load_mot(root, sequences=["A"]).dicts] == [[]] * 4


def test_boxes_are_clipped_and_empty_ones_dropped_with_a_warning(root, caplog):
    (root / "train/A/gt/gt.txt").write_text("1,1,-5,2,20,10,1,1,1\n1,2,50,2,20,10,1,1,1\n")
    with caplog.at_level(logging.WARNING):
        first = load_mot(root, sequences=["A"]).dicts[0]
    assert [a["bbox"] for a in first["annotations"]] == [[0, 2, 15, 12]]
    assert "gt.txt, line 1" in caplog.text and "gt.txt, line 2" in caplog.text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("gt/gt.txt", WALK + "1,2,5,6,10,12,1,1", r"gt.txt, line 5: '1,2,5,6,10,12,1,1', expected frame,id,left"),
        ("gt/gt.txt", "1,2,five,6,10,12,1,1,1", "gt.txt, line 1: left is 'five', expected a number"),
        ("gt/gt.txt", "5,2,5,6,10,12,1,1,1", "gt.txt, line 1: frame 5, expected 1 to 4"),
        ("gt/gt.txt", "1,2.5,5,6,10,12,1,1,1", "gt.txt, line 1: id is 2.5, expected a whole number"),
        ("gt/gt.txt", "1,2,5,6,10,12,1,77,1", "gt.txt, line 1: class 77 is unknown, expected one of 1, 2"),
        ("seqinfo.ini", "[Sequence]\nimWidth=4\nimHeight=4", "seqinfo.ini: seqLength is None, expected a number"),
        ("seqinfo.ini", INI.format(name="A", length=0), "seqinfo.ini: seqLength is '0', expected a whole number of at"),
        ("seqinfo.ini", "seqLength=3", "seqinfo.ini: "),
        ("seqinfo.ini", "[Other]", r"seqinfo.ini: its sections are \['Other'\], expected a section \[Sequence\]"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_value(root, file, content, message):
    (root / "train/A" / file).write_text(content)
    with pytest.raises(UserError, match=message):
        load_mot(root)


def test_what_is_missing_is_named(root):
    (root / "train/A/gt/gt.txt").unlink()
    with pytest.raises(UserError, match=r"A/gt/gt.txt: the ground truth cannot be read \(No such file"):
        load_mot(root)
    with pytest.raises(UserError, match="val: no such folder"):
        load_mot(root, "val")
    (root / "empty").mkdir()
    with pytest.raises(UserError, match="empty: expected folders with a seqinfo.ini"):
        load_mot(root, "empty")


@pytest.mark.parametrize("file", ["gt/gt.txt", "seqinfo.ini"])
def test_anything_is_read_or_refused_with_our_error(tmp_path, file):
    folder = write_sequence(tmp_path, "A")
    valid = (folder / file).read_bytes()

    @FUZZ
    @given(st.binary(max_size=60) | mutated_bytes(valid))
    def read(content):
        (folder / file).write_bytes(content)
        try:
            load_mot(tmp_path)
        except UserError as error:
            assert str(tmp_path) in str(error)

    read()


def test_registration_reads_nothing(registered, tmp_path):
    register_mot(registered, tmp_path / "nowhere", classes={1: "elf", 2: "gnome"}, keep_classes=["gnome"])
    assert MetadataCatalog.get(registered).thing_classes == ["gnome"]
    with pytest.raises(UserError, match="nowhere"):
        DatasetCatalog.get(registered)


def test_images_are_loaded_for_training_and_evaluation(root, registered):
    register_mot(registered, root)
    assert_loaders_show_the_right_frames(registered, {"A": 4, "straße 2": 3})


def test_video_files_are_loaded_for_training_and_evaluation(root, registered, tmp_path):
    for name, length in (("A", 4), ("straße 2", 3)):
        write_numbered_video(tmp_path / "videos" / f"{name}.mp4", length)
    register_mot(registered, root, video_root=tmp_path / "videos")
    assert_loaders_show_the_right_frames(registered, {"A": 4, "straße 2": 3})


def test_images_have_the_names_that_are_there(tmp_path):
    """DanceTrack's have eight digits, some exports none in front, and imExt is not always right."""
    for sequence, names in (
        ("eight", ["00000001.jpg", "00000002.jpg"]),
        ("short", [f"{number}.jpg" for number in range(1, 13)]),
        ("png", ["000001.PNG", "000002.PNG"]),
        ("zero", ["000000.jpg", "000001.jpg"]),
    ):
        folder = tmp_path / "train" / sequence
        write_numbered_images(folder / "img1", names)
        (folder / "img1" / "._000001.jpg").write_bytes(b"")
        (folder / "gt").mkdir()
        (folder / "gt/gt.txt").write_text("2,7,5,6,10,12,1,1,1\n")
        (folder / "seqinfo.ini").write_text(INI.format(name=sequence, length=len(names)))
        dicts = load_mot(tmp_path, sequences=[sequence]).dicts
        assert [Path(record["file_name"]).name for record in dicts] == names
        assert [record["frame_template"] % (t + record["frame_offset"]) for t, record in enumerate(dicts)] == [
            record["file_name"] for record in dicts
        ]
        assert [len(record["annotations"]) for record in dicts][:2] == [0, 1]
    assert check(tmp_path, format="mot", class_names=["pedestrian"]).count("error") == 0


def write_cvat(root, name="task_7", labels="car\n", gt="1,3,5.0,6.0,10.0,12.0,1,1,1.0\n"):
    """What CVAT writes: no seqinfo.ini, the names of the classes in labels.txt."""
    folder = root / "train" / name
    write_numbered_images(folder / "img1", [f"{frame:06d}.PNG" for frame in range(1, 4)])
    (folder / "gt").mkdir()
    (folder / "gt" / "gt.txt").write_text(gt)
    (folder / "gt" / "labels.txt").write_text(labels)
    return folder


def test_a_sequence_without_a_description_is_what_its_images_and_labels_say(tmp_path):
    write_cvat(tmp_path)
    dicts, names = load_mot(tmp_path)
    assert names == ["car"]
    assert [(d["video_length"], d["height"], d["width"], d["frame_index"]) for d in dicts] == [
        (3, 32, 48, index) for index in range(3)
    ]
    assert dicts[0]["file_name"].endswith("img1/000001.PNG") and dicts[0]["annotations"][0]["track_id"] == 3
    assert check(tmp_path).findings == []
    write_sequence(tmp_path, "A", gt="")
    assert sorted({d["video_id"] for d in load_mot(tmp_path).dicts}) == ["A", "task_7"]
    assert check(tmp_path).videos == 2


def test_labels_that_number_the_classes_otherwise_are_refused(tmp_path):
    write_cvat(tmp_path, labels="car\ntruck\n")
    assert load_mot(tmp_path, classes={1: "car", 2: "truck"}).class_names == ["car", "truck"]
    with pytest.raises(UserError, match=r"labels.txt, line 1: class 1 is 'car', but 'car' is 2 .*classes={1: 'car', 2"):
        load_mot(tmp_path, classes={1: "truck", 2: "car"})
    with pytest.raises(UserError, match=r"labels.txt, line 1: class 1 is 'car', but 'car' is 2"):
        check(tmp_path, class_names=["truck", "car"])


def test_a_sequence_without_images_is_named(tmp_path):
    folder = write_cvat(tmp_path)
    for image in (folder / "img1").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=r"task_7/seqinfo.ini: there is no such file, nor an image img1/000001.jpg"):
        load_mot(tmp_path)
    assert {finding.kind for finding in check(tmp_path).findings} == {"missing_frame"}


def test_a_negative_id_is_no_track(root):
    (root / "train/A/gt/gt.txt").write_text("1,-1,5,6,10,12,1,1,1\n1,-1,20,6,10,12,1,1,1\n")
    first = load_mot(root, sequences=["A"]).dicts[0]
    assert len(first["annotations"]) == 2 and not any("track_id" in a for a in first["annotations"])
    assert check(root).findings == []  # two objects without a track are not one object twice


def test_hidden_folders_are_no_sequences(root):
    write_sequence(root, ".ipynb_checkpoints")
    write_sequence(root, "__MACOSX")
    assert {d["video_id"] for d in load_mot(root).dicts} == {"A", "straße 2"}
    assert check(root).videos == 2
