"""Names in the files of a dataset that lead out of its folder are refused; links that its owner made are followed."""

import json
import os

import pytest
from PIL import Image

from helpers.checking import check
from vod2.data.checks import ERROR
from vod2.data.datasets.coco_video import load_coco_video
from vod2.data.datasets.files import leads_out
from vod2.data.datasets.imagenet_det import parse_det_list
from vod2.data.datasets.imagenet_vid import read_frame_list
from vod2.data.datasets.mot import read_seqinfo
from vod2.errors import UserError


def write(path, file_name, name="v"):
    """COCO-style JSON of one frame."""
    image = {"id": 0, "video_id": 1, "frame_id": 0, "file_name": file_name, "height": 8, "width": 12}
    content = {"videos": [{"id": 1, "name": name}], "images": [image], "categories": [{"id": 1, "name": "elf"}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8)).save(path)
    return path


@pytest.mark.parametrize("name", ["../../0.png", "a/../../../0.png", "/etc/passwd"])
def test_a_name_of_an_image_that_leaves_the_dataset_is_refused_by_loader_and_check(tmp_path, name):
    path = write(tmp_path / "set" / "annotations" / "set.json", name)
    with pytest.raises(UserError, match=rf"images\[0\]: file name '{name}', expected a file below .*set: correct it"):
        load_coco_video(path)
    assert any(name in finding.value for finding in check(path).findings if finding.severity == ERROR)
    with pytest.raises(UserError, match="expected a file below .*images or .*set: correct it, or give image_root='/'"):
        load_coco_video(path, image_root=tmp_path / "set" / "images")


def test_a_name_may_lead_to_the_folder_beside_that_of_the_json(tmp_path):
    path = write(tmp_path / "set" / "annotations" / "set.json", "../images/0.png")
    image = picture(tmp_path / "set" / "images" / "0.png")
    (record,) = load_coco_video(path).dicts
    assert os.path.samefile(record["file_name"], image)


def test_an_absolute_name_is_taken_where_the_root_has_it(tmp_path):
    image = picture(tmp_path / "elsewhere" / "0.png")
    path = write(tmp_path / "set" / "a" / "set.json", str(image))
    for root in (tmp_path / "elsewhere", "/"):
        (record,) = load_coco_video(path, image_root=root).dicts
        assert record["file_name"] == str(image)


def test_a_link_to_another_disk_is_followed(tmp_path):
    picture(tmp_path / "disk" / "v" / "0.png")
    path = write(tmp_path / "set" / "set.json", "images/v/0.png")
    (tmp_path / "set" / "images").symlink_to(tmp_path / "disk")
    assert check(path).count(ERROR) == 0
    (record,) = load_coco_video(path).dicts
    assert os.path.isfile(record["file_name"])


@pytest.mark.parametrize("name", ["../other", "/videos/a"])
def test_a_name_of_a_video_file_that_leaves_its_folder_is_refused(tmp_path, name):
    path = write(tmp_path / "set.json", "0.png", name)
    assert load_coco_video(path).dicts[0]["video_id"] == name  # of images it is a name, and no path
    with pytest.raises(UserError, match=rf"videos\[0\]: name is '{name}', expected a file in video_root"):
        load_coco_video(path, video_root=tmp_path)


@pytest.mark.parametrize("line", ["../../../etc 1 3 10", "../../../etc/000003 1"])
def test_a_list_of_frames_that_leaves_the_dataset_is_refused(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"list\.txt, line 1: .*expected a video in the dataset's folder"):
        read_frame_list(tmp_path / "list.txt", tmp_path, "val")


def test_a_list_with_a_video_of_more_frames_than_any_has_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("val/a 1 0 999999999\n")
    with pytest.raises(UserError, match=r"list\.txt, line 1: .*expected at most 4194304 frames"):
        read_frame_list(tmp_path / "list.txt", tmp_path, "val")


def test_a_list_of_images_that_leaves_the_dataset_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("train/a 1\n../../etc/passwd 2\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: .*expected a path in the dataset's folder"):
        list(parse_det_list(tmp_path / "list.txt"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("imDir=../../b", "imDir is '../../b', expected a folder in that of the sequence"),
        ("imDir=/etc", "imDir is '/etc', expected a folder in that of the sequence"),
        ("imExt=/../../0.jpg", "imExt is '/../../0.jpg', expected a suffix such as .jpg"),
        (
            "seqLength=1000000000000",
            "seqLength is '1000000000000', expected a whole number of at least 1 and at most 4194304",
        ),
        ("imWidth=1e400", "imWidth is '1e400', expected a whole number of at least 1 and at most 2147483647"),
    ],
)
def test_a_sequence_whose_description_leaves_it_or_a_limit_is_refused(tmp_path, entry, message):
    values = {"seqLength": 2, "imWidth": 12, "imHeight": 8} | dict([entry.split("=")])
    text = "".join(f"{key}={value}\n" for key, value in values.items())
    (tmp_path / "seqinfo.ini").write_text(f"[Sequence]\n{text}")
    with pytest.raises(UserError) as refused:
        read_seqinfo(tmp_path / "seqinfo.ini")
    assert message in str(refused.value)


def test_what_leaves_a_folder():
    assert not any(map(leads_out, ("a", "a/b.png", "a/../b.png", "...", "..a/b", ".")))
    assert all(map(leads_out, ("..", "../a", "a/../../b", "/a", "a/../..")))
