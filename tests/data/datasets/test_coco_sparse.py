"""COCO-style JSON that annotates or takes only some frames of a video: TAO, and mmtracking's training frames."""

import json
import logging

import pytest

from helpers.checking import check, kinds
from helpers.loaders import forget
from helpers.videos import number_of, write_numbered_images
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data import VideoIndex
from vod2.data.datasets import load_coco_video, register_coco_video
from vod2.data.datasets.frame_files import template_of
from vod2.data.datasets.images import read_image
from vod2.errors import UserError

SIZE = {"height": 32, "width": 48}
VIDEO = "train/YFCC100M/v_f69ebe5b731d3e87c1a3992ee39c3b7e"


def tao():
    """Frames 0, 4 and 8 of nine, as TAO annotates one of each second."""
    images = [
        {"id": index, "video": VIDEO, "video_id": 2, "_scale_task_id": "5de8", "license": 0, "frame_index": index,
         "file_name": f"{VIDEO}/frame{index + 1:04d}.jpg", **SIZE}
        for index in (0, 4, 8)
    ]  # fmt: skip
    annotations = [
        {"id": 10 + index, "image_id": index, "category_id": 805, "track_id": 3, "video_id": 2, "iscrowd": 0,
         "bbox": [index, 2, 10, 12], "area": 120, "segmentation": [[index, 2, index, 14]], "_scale_uuid": "x"}
        for index in (0, 8)
    ]  # fmt: skip
    return {
        "info": {}, "licenses": [], "images": images, "annotations": annotations,
        "videos": [{"id": 2, "name": VIDEO, "neg_category_ids": [1], "not_exhaustive_category_ids": [], **SIZE}],
        "tracks": [{"id": 3, "category_id": 805, "video_id": 2}],
        "categories": [{"id": 805, "name": "person", "synset": "person.n.01"}, {"id": 1, "name": "b"}],
    }  # fmt: skip


def cocovid():
    """Six frames, of which mmtracking trains on two."""
    images = [
        {"id": index + 1, "video_id": 1, "frame_id": index, "file_name": f"v 1/{index:06d}.JPEG", **SIZE,
         "is_vid_train_frame": index in (1, 4)}
        for index in range(6)
    ]  # fmt: skip
    annotations = [
        {"id": index + 1, "video_id": 1, "image_id": index + 1, "category_id": 1, "instance_id": 5, "iscrowd": 0,
         "bbox": [index, 2, 10, 12], "is_vid_train_frame": True, "occluded": False, "generated": False}
        for index in range(6)
    ]  # fmt: skip
    return {
        "categories": [{"id": 1, "name": "airplane", "encode_name": "n02691156"}], "annotations": annotations,
        "videos": [{"id": 1, "name": "v 1", "vid_train_frames": [1, 4]}], "images": images,
    }  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write_json(data):
        path = tmp_path / "set.json"
        path.write_text(json.dumps(data))
        return path

    return write_json


def test_frames_that_tao_does_not_annotate_are_supports_where_they_are_there(write, tmp_path):
    path = write(tao())
    folder = tmp_path / VIDEO
    write_numbered_images(folder, [f"frame{index + 1:04d}.jpg" for index in range(9)])
    dicts, names = load_coco_video(path)
    assert names == ["b", "person"] and [record["frame_index"] for record in dicts] == [0, 4, 8]
    assert {(record["video_length"], record["video_id"]) for record in dicts} == {(9, VIDEO)}
    assert [note["track_id"] for record in dicts for note in record["annotations"]] == [3, 3]
    index = VideoIndex(dicts)
    assert [number_of(read_image(index.path(VIDEO, number))) for number in range(9)] == list(range(9))
    assert kinds(check(path)) == set()
    # Without their images, the nearest annotated frame stands for one.
    for number in range(9):
        if number % 4:
            (folder / f"frame{number + 1:04d}.jpg").unlink()
    index = VideoIndex(load_coco_video(path)[0])
    assert [number_of(read_image(index.path(VIDEO, number))) for number in range(9)] == [0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_only_flagged_frames_are_key_frames_and_the_others_supports(write, tmp_path, caplog):
    path = write(cocovid())
    write_numbered_images(tmp_path / "v 1", [f"{index:06d}.JPEG" for index in range(6)])
    assert len(load_coco_video(path)[0]) == 6
    name = "cocovid_for_a_test"
    try:
        register_coco_video(name, path, key_flag="is_vid_train_frame")
        dicts = DatasetCatalog.get(name)
        assert [record["frame_index"] for record in dicts] == [1, 4] and dicts[0]["video_length"] == 6
        reader = MetadataCatalog.get(name).frame_annotations
        index = VideoIndex([record | {"dataset_name": name} for record in dicts], {name: reader})
        assert [number_of(read_image(index.path("v 1", number))) for number in range(6)] == list(range(6))
        assert [index.annotations("v 1", number)[0]["bbox"][0] for number in range(6)] == list(range(6))
        assert kinds(check(name)) == set() and len(check(name).findings) == 0
    finally:
        forget(name)
    assert caplog.text == ""


def test_names_that_do_not_count_are_told(write, tmp_path, caplog):
    data = cocovid()
    for image in data["images"]:
        image["file_name"] = f"v 1/{chr(97 + image['frame_id'])}.JPEG"
    with caplog.at_level(logging.WARNING):
        dicts, _ = load_coco_video(write(data), key_flag="is_vid_train_frame")
    assert "frame_template" not in dicts[0] and "only key frames are supports" in caplog.text


@pytest.mark.parametrize("value", [None, 1, "true"])
def test_a_flag_that_is_none_is_refused(write, value):
    data = cocovid()
    data["images"][3]["is_vid_train_frame"] = value
    with pytest.raises(UserError, match=r"images\[3\]: is_vid_train_frame is .*, expected true or false"):
        load_coco_video(write(data), key_flag="is_vid_train_frame")


def test_a_template_is_only_what_fits_all_names(tmp_path):
    write_numbered_images(tmp_path, ["a%9.png", "a%10.png", "a%11.png", "07.png", "08.png", "09.png", "010.png"])
    names = {index: str(tmp_path / f"a%{index}.png") for index in (9, 11)}
    template, first = template_of(names)
    assert [template % (index + first) for index in names] == list(names.values())
    assert template % (10 + first) == str(tmp_path / "a%10.png")
    assert template_of({1: str(tmp_path / "07.png"), 3: str(tmp_path / "09.png")})[1] == 6
    assert template_of({7: str(tmp_path / "07.png"), 10: str(tmp_path / "010.png")}) is None  # two and three digits
    assert template_of({7: str(tmp_path / "07.png"), 11: str(tmp_path / "09.png")}) is None  # another distance
    assert template_of({7: str(tmp_path / "07.png"), 9: str(tmp_path / "a%9.png")}) is None
