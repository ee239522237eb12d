"""Which layout a folder has, and what is registered for it."""

import json

import pytest

from helpers.own_data import CLASSES, box_at, coco_json, write_layout
from helpers.tools import cvat, cvat_box, cvat_task, cvat_track, key, label_studio_task
from helpers.videos import write_numbered_images, write_numbered_video
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data.discovery import find_layout, register_data, registration_text, role_of
from vod2.engine.registration import register_files
from vod2.errors import UserError

FORMATS = {
    "coco": "coco_video",
    "coco_split": "coco_video",
    "coco_files": "coco_video",
    "mot": "mot",
    "yolo": "yolo",
    "yolo_split": "yolo",
    "vid": "imagenet_vid",
}


def registered(name: str, layout, **options) -> dict[str, list[dict]]:
    register_data(name, layout.format, layout.parts, **options)
    return {part: DatasetCatalog.get(f"{name}_{part}") for part in ("train", "val")}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_layout_is_found_and_gives_the_same_objects(tmp_path, kind):
    layout = find_layout(write_layout(tmp_path / "mine", kind))
    assert layout.format == FORMATS[kind] and not layout.left_out
    assert set(layout.parts) == ({"train", "val"} if kind.endswith("split") else {""})
    parts = registered(f"layouts_{kind}", layout, val_share=0.5)
    names = {part: sorted({record["video_id"].split("/")[-1] for record in of}) for part, of in parts.items()}
    assert names == {"train": ["a1", "b1"], "val": ["a2", "b2"]}, "the last of each class"
    for part, records in parts.items():
        assert MetadataCatalog.get(f"layouts_{kind}_{part}").thing_classes == CLASSES
        for record in records:
            (found,) = record["annotations"]
            x1, y1, x2, y2 = found["bbox"]
            assert (x1, y1, x2, y2) == pytest.approx(box_at(record["frame_index"]), abs=1e-3)
            assert found["category_id"] == record["video_id"].split("/")[-1].startswith("b")


def test_what_is_registered_by_a_file_is_the_same_in_another_process(tmp_path):
    layout = find_layout(write_layout(tmp_path / "mine", "coco"))
    here = registered("layouts_here", layout, val_share=0.3, val_frames=4)
    file = tmp_path / "datasets.py"
    file.write_text(registration_text("layouts_there", layout, 0.3, 4))
    register_files([str(file)])
    assert DatasetCatalog.get("layouts_there_val") == here["val"]
    assert DatasetCatalog.get("layouts_there_train") == here["train"]


def test_a_test_set_is_held_out_where_there_is_no_validation_and_said_to_be_unused_where_there_is(tmp_path):
    root = write_layout(tmp_path / "mine", "coco_split")
    annotations = root / "annotations"
    (annotations / "test.json").write_text(json.dumps(coco_json({"b2": 1}, 6)))
    layout = find_layout(root)
    assert set(layout.parts) == {"train", "val"} and layout.left_out == ("test",)
    (annotations / "instances_val.json").unlink()
    assert find_layout(root).parts["val"]["json_file"].endswith("test.json")


def test_other_json_files_are_not_annotations(tmp_path):
    root = write_layout(tmp_path / "mine", "coco")
    (root / "results.json").write_text('[{"image_id": 1}]')
    (root / "._mine.json").write_text("from macOS")
    assert find_layout(root).parts[""]["json_file"].endswith("mine.json")


def test_yolo_takes_its_names_from_other_lists_too(tmp_path):
    root = write_layout(tmp_path / "mine", "yolo")
    (root / "data.yaml").unlink()
    with pytest.raises(UserError, match="no data.yaml with their names.*--class-names elf,gnome"):
        find_layout(root)
    assert find_layout(root, class_names=CLASSES).parts[""]["class_names"] == CLASSES
    (root / "classes.txt").write_text("elf\n\ngnome\n")
    assert find_layout(root).parts[""]["class_names"] == CLASSES


@pytest.mark.parametrize(
    "name, role",
    [
        ("train", "train"),
        ("instances_val2017", "val"),
        ("valid", "val"),
        ("Test-dev", "test"),
        ("test_drive_train", "train"),
        ("strain", None),
    ],
)
def test_roles_are_words_of_the_name(name, role):
    assert role_of(name) == role


def test_mistakes_are_told_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match="there is no such file or folder"):
        find_layout(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="in no known layout .*give --format"):
        find_layout(tmp_path / "empty")
    with pytest.raises(UserError, match="nothing in it that --format mot reads"):
        find_layout(tmp_path / "empty", "mot")
    root = write_layout(tmp_path / "two", "coco")
    (root / "second.json").write_text(json.dumps(coco_json({"b2": 1}, 6)))
    with pytest.raises(UserError, match="both 'mine' and 'second' look like its only part"):
        find_layout(root)
    root = write_layout(tmp_path / "parts", "coco_split")
    (root / "annotations" / "instances_train.json").rename(root / "annotations" / "instances.json")
    with pytest.raises(UserError, match="expected one that is called train"):
        find_layout(root)
    layout = find_layout(root / "annotations" / "instances.json")
    for share, frames in ((0.0, None), (1.0, None), (0.5, 0)):
        with pytest.raises(UserError, match="expected"):
            register_data("layouts_wrong", layout.format, layout.parts, share, frames)
    with pytest.raises(UserError, match="format 'x' is unknown"):
        register_data("layouts_wrong", "x", layout.parts)


def test_exports_of_annotation_tools_are_found_with_their_videos(tmp_path):
    boxes = [cvat_box(frame, (4, 5, 14, 25)) for frame in range(6)]
    root = tmp_path / "cvat"
    write_numbered_video(root / "clip 1.mp4", 6)
    (root / "job.xml").write_text(cvat(cvat_track(0, "car", *boxes), meta=cvat_task()))
    layout = find_layout(root)
    assert layout.format == "cvat"
    assert layout.parts[""] == {"path": str(root / "job.xml"), "video_root": str(root), "video_suffix": ".mp4"}
    parts = registered("layouts_cvat", layout)
    assert [len(record["annotations"]) for record in parts["train"]] == [1] * 4 and len(parts["val"]) == 2

    root = tmp_path / "studio"
    write_numbered_video(root / "videos" / "clip 1.mp4", 6)
    (root / "project.json").write_text(json.dumps([label_studio_task(("car", [key(1, (0, 0, 25, 50))]))]))
    layout = find_layout(root)
    assert layout.format == "label_studio" and layout.parts[""]["video_root"] == str(root / "videos")
    assert MetadataCatalog.get("layouts_cvat_train").thing_classes == ["car", "person"]
    assert len(registered("layouts_studio", layout)["train"]) == 4


@pytest.mark.parametrize("names", [["a.xml", "b.xml"], ["one/annotations.xml", "two/annotations.xml"]])
def test_several_exports_of_cvat_are_one_dataset(tmp_path, names):
    for number, name in enumerate(names):
        boxes = [cvat_box(frame, (4, 5, 14, 25)) for frame in range(6)]
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        write_numbered_video(tmp_path / f"clip {number}.mp4", 6)
        file.write_text(cvat(cvat_track(0, "car", *boxes), meta=cvat_task(source=f"clip {number}.mp4")))
    layout = find_layout(tmp_path)
    assert layout.format == "cvat" and layout.parts[""]["path"] == str(tmp_path)
    parts = registered(f"layouts_cvat_{len(names[0])}", layout)
    assert {record["video_id"] for record in parts["val"]} == {"clip 1"} and len(parts["train"]) == 6


def test_data_sets_in_folders_of_their_parts_are_found(tmp_path):
    root = tmp_path / "visdrone"
    for part, name in (("VisDrone2019-VID-train", "uav1"), ("VisDrone2019-VID-val", "uav2")):
        write_numbered_images(root / part / "sequences" / name, ["0000001.jpg", "0000002.jpg"])
        (root / part / "annotations").mkdir()
        (root / part / "annotations" / f"{name}.txt").write_text("1,5,4,6,10,12,1,4,0,0\n2,0,0,0,20,8,0,0,0,0\n")
    layout = find_layout(root)
    assert layout.format == "visdrone" and set(layout.parts) == {"train", "val"}
    parts = registered("layouts_visdrone", layout)
    assert parts["val"][1]["ignore_regions"] and MetadataCatalog.get("layouts_visdrone_val").evaluator_type == "vid"

    root = tmp_path / "bdd"
    for part in ("train", "val"):
        write_numbered_images(root / "images" / part / f"b{part}", [f"b{part}-0000001.jpg"])
        (root / "labels" / part).mkdir(parents=True)
        box = {"id": "1", "category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 11, "y2": 12}}
        frame = {"name": f"b{part}-0000001.jpg", "labels": [box], "videoName": f"b{part}", "frameIndex": 0}
        (root / "labels" / part / f"b{part}.json").write_text(json.dumps([frame]))
    layout = find_layout(root / "labels")
    assert layout.format == "bdd" and layout.parts["val"]["image_root"] == str(root / "images" / "val")
    assert len(registered("layouts_bdd", layout)["train"]) == 1


def test_the_table_of_epic_kitchens_is_found(tmp_path):
    header = "noun_class,noun,participant_id,video_id,frame,bounding_boxes\n"
    rows = [f'20,bag,P01,P01_01,{frame},"[(540, 960, 270, 480)]"\n' for frame in range(1, 5)]
    (tmp_path / "EPIC_train_object_labels.csv").write_text(header + "".join(rows))
    write_numbered_images(tmp_path / "P01" / "P01_01", [f"{index:010d}.jpg" for index in range(1, 5)])
    layout = find_layout(tmp_path)
    assert layout.format == "epic"
    assert len(registered("layouts_epic", layout)["val"]) == 1


def test_an_option_that_a_format_lacks_is_refused(tmp_path):
    root = write_layout(tmp_path / "mine", "mot")
    with pytest.raises(UserError, match="--first-frame is no option of the format mot"):
        find_layout(root, first_frame=1)


def test_flat_folders_of_yolo_are_refused_since_nobody_knows_their_videos(tmp_path):
    for place in ("images/train", "labels/train"):
        (tmp_path / "flat" / place).mkdir(parents=True)
    write_numbered_images(tmp_path / "flat" / "images" / "train", ["a_0001.jpg", "a_0002.jpg"])
    (tmp_path / "flat" / "data.yaml").write_text("names: [elf]\n")
    with pytest.raises(UserError, match="images/train: 2 images lie in it, expected a folder for each video"):
        find_layout(tmp_path / "flat")


def test_yolo_is_found_as_roboflow_exports_it_and_with_video_files(tmp_path):
    whole = write_layout(tmp_path / "whole", "yolo_split")
    root = tmp_path / "roboflow"
    for split, name in (("train", "train"), ("valid", "val")):
        (root / split).mkdir(parents=True)
        for part in ("images", "labels"):
            (whole / part / name).rename(root / split / part)
    (whole / "data.yaml").rename(root / "data.yaml")
    layout = find_layout(root)
    assert layout.format == "yolo" and set(layout.parts) == {"train", "val"}
    assert len(registered("layouts_roboflow", layout)["val"]) == 12

    root = write_layout(tmp_path / "files", "yolo")
    (root / "images").rename(tmp_path / "gone")
    for name in ("a1", "a2", "b1", "b2"):
        write_numbered_video(root / "videos" / f"{name}.mp4", 6)
        (root / "videos" / f"{name}.mp4").rename(root / "videos" / f"{name}.MP4")
    layout = find_layout(root)
    assert layout.parts[""]["video_suffix"] == ".MP4"
    assert len(registered("layouts_files", layout)["train"]) == 12


def test_copies_of_mot17_are_used_once(tmp_path, caplog):
    root = write_layout(
        tmp_path / "mine", "mot", {f"MOT17-0{n}-{d}": 0 for n in (2, 4) for d in ("DPM", "FRCNN", "SDP")}
    )
    layout = find_layout(root)
    assert layout.parts[""]["sequences"] == ["MOT17-02-DPM", "MOT17-04-DPM"]
    assert "copies of a sequence with the same images are not used: MOT17-02-FRCNN" in caplog.text


def test_files_whose_names_differ_by_their_part_only_are_two_parts(tmp_path):
    root = write_layout(tmp_path / "mine", "coco_split")
    for split in ("train", "val"):
        (root / "annotations" / f"instances_{split}.json").rename(root / f"2024.05.{split}.json")
    assert set(find_layout(root).parts) == {"train", "val"}
    (root / "annotations" / "2024.05.train.json").write_text((root / "2024.05.train.json").read_text())
    with pytest.raises(UserError, match="two annotation files are called '2024.05.train'"):
        find_layout(root)


def test_the_paths_of_the_registration_do_not_depend_on_where_it_was_made(tmp_path, monkeypatch):
    root = write_layout(tmp_path / "mine", "coco_files")
    monkeypatch.chdir(root)
    layout = find_layout("mine.json", video_root="videos")
    assert layout.parts[""]["video_root"] == str(root / "videos")


def test_why_a_folder_is_in_no_layout_is_said_where_it_is_known(tmp_path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "task.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="task.zip is an archive: unpack it"):
        find_layout(tmp_path / "packed")
    stills = coco_json({"a": 0}, 2)
    del stills["videos"]
    (tmp_path / "stills").mkdir()
    (tmp_path / "stills" / "instances.json").write_text(json.dumps(stills))
    with pytest.raises(UserError, match="instances.json is COCO's JSON of still images: add videos to it"):
        find_layout(tmp_path / "stills")


def test_the_videos_of_a_file_are_those_of_its_own_list(tmp_path):
    """Not a list of the same name that tells something else."""
    root = write_layout(tmp_path / "mine", "coco_files")
    (path,) = root.glob("*.json")
    content = {"info": {"videos": ["day", "night"]}, **json.loads(path.read_text())}
    path.write_text(json.dumps(content))
    assert find_layout(root).parts[""]["video_root"] == str(root / "videos")
