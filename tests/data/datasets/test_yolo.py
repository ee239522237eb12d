"""Folders of frames with YOLO labels, written here in both layouts."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.checking import check
from helpers.fuzz import FUZZ, mutated_bytes
from helpers.loaders import assert_loaders_show_the_right_frames, forget
from helpers.models import ROOT
from helpers.videos import numbered_frame, write_numbered_images, write_numbered_video
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data.datasets import load_yolo_video, register_yolo_video
from vod2.data.datasets.yolo import read_class_names
from vod2.engine import check_training, load_config
from vod2.errors import UserError

NAMES = ["elf", "gnome"]
LENGTHS = {"a": 3, "süd 1": 12}


def write_labels(folder, texts):
    """{name of a frame: its labels}."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, text in texts.items():
        (folder / f"{stem}.txt").write_text(text)


def write_set(root, layout, suffix=".png"):
    """Two videos; every frame but the second shows an elf, whose track is 4, in the middle."""
    for video, length in LENGTHS.items():
        stems = [f"frame {index}" for index in range(length)]
        images, labels = {"apart": ("images/train", "labels/train"), "beside": ("train", "train")}[layout]
        write_numbered_images(root / images / video, [stem + suffix for stem in stems])
        texts = {stem: "0 0.5 0.5 0.25 0.5 4\n" for index, stem in enumerate(stems) if index != 1}
        write_labels(root / labels / video, texts)
    return root


@pytest.fixture
def registered():
    name = "yolo_for_a_test"
    yield name
    forget(name)


@pytest.mark.parametrize("layout", ["apart", "beside"])
def test_a_dict_tells_the_frame_its_video_and_its_objects(tmp_path, layout):
    dicts, names = load_yolo_video(write_set(tmp_path, layout), NAMES, split="train")
    assert names == NAMES
    # frame 9 comes before frame 10
    assert [(d["video_id"], d["frame_index"], d["video_length"]) for d in dicts] == [
        (video, index, length) for video, length in LENGTHS.items() for index in range(length)
    ]
    folder = tmp_path / ("images/train" if layout == "apart" else "train")
    assert dicts[-2]["file_name"] == str(folder / "süd 1/frame 10.png")
    assert (dicts[-2]["height"], dicts[-2]["width"], dicts[-2]["image_id"]) == (32, 48, "süd 1/000010")
    (elf,) = dicts[0]["annotations"]
    assert (elf["bbox"], elf["category_id"], elf["track_id"]) == ([18, 8, 30, 24], 0, 4)
    assert dicts[1]["annotations"] == []


def test_a_line_may_lack_its_track_and_blank_lines_do_not_count(tmp_path):
    write_set(tmp_path, "apart")
    write_labels(tmp_path / "labels/train/a", {"frame 0": "\n1 0.5 0.5 1.0 1.0\n\n0 .5 .5 .5 .5 7.0\n"})
    first, second = load_yolo_video(tmp_path, NAMES, split="train").dicts[0]["annotations"]
    assert (first["bbox"], first["category_id"], "track_id" in first) == ([0, 0, 48, 32], 1, False)
    assert second["track_id"] == 7


def test_the_split_may_be_left_out(tmp_path):
    write_numbered_images(tmp_path / "a", ["0.jpg"])
    write_labels(tmp_path / "a", {"0": "1 0.5 0.5 0.5 0.5"})
    assert load_yolo_video(tmp_path, NAMES).dicts[0]["annotations"][0]["category_id"] == 1


def test_a_turned_photograph_has_the_size_that_it_is_shown_in(tmp_path):
    (tmp_path / "a").mkdir()
    image = Image.fromarray(numbered_frame(0))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a/0.jpg", exif=exif)
    first = load_yolo_video(tmp_path, NAMES).dicts[0]
    assert (first["height"], first["width"]) == (48, 32)


@pytest.mark.parametrize(
    "text", ["names: [elf, gnome]", "path: x\nnames:\n  1: gnome\n  0: elf\n", "names: ['elf', 3]"]
)
def test_classes_may_stand_in_a_yaml_file(tmp_path, text):
    path = tmp_path / "data.yaml"
    path.write_text(text)
    assert read_class_names(path) == ["elf", "3" if "3" in text else "gnome"]


@pytest.mark.parametrize("text", ["names: [elf", "- elf", "names: {1: elf}", "names: []", "nc: 2", "? [a]: b\n"])
def test_a_yaml_file_without_classes_is_named(tmp_path, text):
    path = tmp_path / "data.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="data.yaml: "):
        read_class_names(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.25", r"line 1: '0 0.5 0.5 0.25', expected 'class cx cy w h'"),
        ("0 .5 .5 .2 .2\n2 .5 .5 .2 .2", "line 2: class 2, expected one of the 2 classes 0 to 1"),
        ("elf .5 .5 .2 .2", "line 1: class is 'elf', expected a number"),
        ("0 .5 half .2 .2", "line 1: center_y is 'half', expected a number"),
        ("0 24 16 12 16", "line 1: '0 24 16 12 16', expected a box relative to the image"),
        ("0 .5 .5 .2 .2 0.87", "line 1: track is '0.87', expected a whole number"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_value(tmp_path, text, message):
    write_set(tmp_path, "apart")
    write_labels(tmp_path / "labels/train/a", {"frame 2": text})
    with pytest.raises(UserError, match=rf"frame 2\.txt, {message}"):
        load_yolo_video(tmp_path, NAMES, split="train")


def test_boxes_are_clipped_with_a_warning(tmp_path, caplog):
    write_set(tmp_path, "apart")
    write_labels(tmp_path / "labels/train/a", {"frame 0": "0 1.0 0.5 0.5 0.5", "frame 2": "0 0.5 0.5 0 0.5"})
    with caplog.at_level(logging.WARNING):
        dicts = load_yolo_video(tmp_path, NAMES, split="train").dicts
    assert dicts[0]["annotations"][0]["bbox"] == [36, 8, 48, 24] and dicts[2]["annotations"] == []
    assert "frame 0.txt, line 1" in caplog.text


def test_what_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_yolo_video(tmp_path / "nowhere", NAMES)
    with pytest.raises(UserError, match="expected folders of videos"):
        load_yolo_video(tmp_path, NAMES)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.jpg").write_bytes(b"broken")
    with pytest.raises(UserError, match="0.jpg: the image cannot be read"):
        load_yolo_video(tmp_path, NAMES)


def test_anything_is_read_or_refused_with_our_error(tmp_path):
    write_numbered_images(tmp_path / "a", ["0.png"])

    @FUZZ
    @given(st.binary(max_size=40) | mutated_bytes(b"0 0.5 0.5 0.25 0.5 4\n1 0.2 0.2 0.1 0.1\n"))
    def read(content):
        (tmp_path / "a/0.txt").write_bytes(content)
        try:
            load_yolo_video(tmp_path, NAMES)
        except UserError as error:
            assert "0.txt" in str(error)

    read()


@FUZZ
@given(st.binary(max_size=40) | mutated_bytes(b"path: x\nnames:\n  0: elf\n  1: 2001-01-01\n"))
def test_any_yaml_is_read_or_refused_with_our_error(tmp_path, content):
    path = tmp_path / "data.yaml"
    path.write_bytes(content)
    try:
        assert all(isinstance(name, str) for name in read_class_names(path))
    except UserError as error:
        assert "data.yaml" in str(error)


def test_registration_reads_nothing(registered, tmp_path):
    register_yolo_video(registered, tmp_path / "nowhere", tmp_path / "data.yaml")
    with pytest.raises(UserError, match="data.yaml"):
        DatasetCatalog.get(registered)
    (tmp_path / "data.yaml").write_text("names: [elf, gnome]")
    with pytest.raises(UserError, match="nowhere"):
        DatasetCatalog.get(registered)
    assert MetadataCatalog.get(registered).evaluator_type == "vid"


@pytest.mark.parametrize("layout", ["apart", "beside"])
def test_images_are_loaded_for_training_and_evaluation(tmp_path, registered, layout):
    register_yolo_video(registered, write_set(tmp_path, layout, ".jpg"), NAMES, split="train")
    assert MetadataCatalog.get(registered).thing_classes == NAMES
    assert_loaders_show_the_right_frames(registered, LENGTHS)


def test_video_files_are_loaded_for_training_and_evaluation(tmp_path, registered):
    for video, length in LENGTHS.items():
        write_numbered_video(tmp_path / "videos" / f"{video}.mp4", length)
        # As trackers write them: the number of the frame, from 1, at the end.
        write_labels(tmp_path / "labels" / video, {f"{video}_{length - i}": "0 .5 .5 .2 .2 1" for i in range(2)})
    (tmp_path / "data.yaml").write_text("names: [elf, gnome]")
    options = {"video_root": tmp_path / "videos", "first_frame": 1}
    register_yolo_video(registered, tmp_path, tmp_path / "data.yaml", **options)
    assert_loaders_show_the_right_frames(registered, LENGTHS)
    dicts = DatasetCatalog.get(registered)
    assert [d["frame_index"] for d in dicts if d["annotations"]] == [1, 2, 10, 11]


def test_a_label_file_without_a_frame_in_the_video_is_named(tmp_path):
    write_numbered_video(tmp_path / "videos/a.mp4", 3)
    write_labels(tmp_path / "labels/a", {"a_3": "0 .5 .5 .2 .2"})
    options = {"video_root": tmp_path / "videos"}
    with pytest.raises(UserError, match=r"a_3\.txt: .*expected a name that ends in the number of a frame, 0 to 2"):
        load_yolo_video(tmp_path, NAMES, **options)
    assert load_yolo_video(tmp_path, NAMES, **options, first_frame=1).dicts[2]["annotations"] != []


def test_hidden_files_and_folders_are_none_of_the_dataset(tmp_path):
    """What macOS, Jupyter and a Synology leave behind."""
    write_numbered_images(tmp_path / "images" / "cam", ["1.png", "2.png"])
    (tmp_path / "labels" / "cam").mkdir(parents=True)
    for name in ("1.txt", "._1.txt", "._9.txt"):
        (tmp_path / "labels" / "cam" / name).write_text("0 .5 .5 .2 .2 -1\n" if name == "1.txt" else "Mac OS X")
    (tmp_path / "images" / "cam" / "._1.png").write_bytes(b"Mac OS X")
    for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        write_numbered_images(tmp_path / "images" / folder, ["1-checkpoint.png"])
    dicts = load_yolo_video(tmp_path, ["cat"]).dicts
    assert [(d["video_id"], d["frame_index"], d["video_length"]) for d in dicts] == [("cam", 0, 2), ("cam", 1, 2)]
    assert "track_id" not in dicts[0]["annotations"][0]
    result = check(tmp_path)
    assert result.findings == [] and result.videos == 1


def test_a_dataset_whose_names_stand_in_a_file_can_be_trained_on(tmp_path, registered):
    """Its class names are known when it is read, which is before a model is built."""
    write_numbered_images(tmp_path / "images" / "cam", ["1.png"])
    (tmp_path / "labels" / "cam").mkdir(parents=True)
    (tmp_path / "labels" / "cam" / "1.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "data.yaml").write_text("names: [elf]\n", encoding="utf-8-sig")
    register_yolo_video(registered, tmp_path, tmp_path / "data.yaml")
    words = ["DATASETS.TRAIN", f"('{registered}',)", "DATASETS.TEST", f"('{registered}',)", "MODEL.DEVICE", "cpu"]
    words += ["MODEL.ROI_HEADS.NUM_CLASSES", "1", "OUTPUT_DIR", str(tmp_path / "out")]
    check_training(load_config(str(ROOT / "configs" / "quick" / "RDN.yaml"), words))
