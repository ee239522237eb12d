"""The object labels of EPIC-KITCHENS-55; the samples are written here."""

import logging

import cv2
import numpy as np
import pytest

from helpers.checking import check, kinds
from helpers.videos import write_numbered_images, write_numbered_video
from vod2.data.datasets import load_epic
from vod2.errors import UserError

TABLE = """noun_class,noun,participant_id,video_id,frame,bounding_boxes
20,bag,P01,P01_01,1,"[(540, 960, 270, 480), (0, 0, 54, 96)]"
4,knife,P01,P01_01,1,"[(108, 192, 54, 96)]"
20,bag,P01,P01_01,3,[]
4,"knife:butter",P02,P02_03,2,"[(108, 192, 54, 96)]"
"""
NAMES = "noun_id,class_key,nouns\n4,knife,\"['knife', 'knife:butter']\"\n20,bag,\"['bag']\"\n"
BAG, SMALL, KNIFE = [24, 16, 36, 24], [0, 0, 2.4, 1.6], [4.8, 3.2, 7.2, 4.8]  # in 48 x 32 pixels


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "EPIC_train_object_labels.csv"
    file.write_text(TABLE)
    return file


@pytest.fixture
def images(tmp_path):
    write_numbered_images(tmp_path / "P01" / "P01_01", [f"{index:010d}.jpg" for index in range(1, 5)])
    write_numbered_images(tmp_path / "P02_03", [f"frame_{index:010d}.jpg" for index in range(1, 5)])


def boxes_of(dicts):
    return {d["image_id"]: [(pytest.approx(n["bbox"]), n["category_id"]) for n in d["annotations"]] for d in dicts}


def test_rows_are_boxes_of_the_frames_scaled_to_their_size(path, images, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        dicts, names = load_epic(path)
    assert names == ["knife", "bag"]  # by noun class
    assert boxes_of(dicts) == {
        "P01_01/000000": [(BAG, 1), (SMALL, 1), (KNIFE, 0)],
        "P01_01/000002": [],
        "P02_03/000001": [(KNIFE, 0)],
    }
    assert dicts[0]["file_name"] == str(tmp_path / "P01" / "P01_01" / "0000000001.jpg")
    assert dicts[2]["file_name"] == str(tmp_path / "P02_03" / "frame_0000000002.jpg")
    # Frame 2 of the first video has an image, though no row: it is a support.
    assert dicts[0]["frame_template"] % (1 + dicts[0]["frame_offset"]) == dicts[0]["file_name"].replace(
        "1.jpg", "2.jpg"
    )
    assert all("track_id" not in note for record in dicts for note in record["annotations"])
    assert "4 boxes scaled from 1920 x 1080 pixels" in caplog.text
    assert kinds(check(path)) == set()


def test_boxes_are_as_written_in_images_of_full_size(path, tmp_path):
    for name in ("P01_01", "P02_03"):
        (tmp_path / name).mkdir()
        for index in (1, 2, 3):
            cv2.imwrite(str(tmp_path / name / f"{index:010d}.jpg"), np.zeros((1080, 1920, 3), np.uint8))
    assert load_epic(path)[0][0]["annotations"][0]["bbox"] == [960, 540, 1440, 810]


def test_names_come_from_the_table_of_classes(path, images, tmp_path):
    (tmp_path / "EPIC_noun_classes.csv").write_text(NAMES.replace("4,knife,", "0,pan,\"['pan']\"\n4,blade,"))
    assert load_epic(path)[1] == ["pan", "blade", "bag"]
    dicts, names = load_epic(path, class_names=["bag"])
    assert names == ["bag"] and [len(record["annotations"]) for record in dicts] == [2, 0, 0]


def test_the_frames_may_be_in_video_files(path, tmp_path):
    for name in ("P01_01", "P02_03"):
        write_numbered_video(tmp_path / f"{name}.mp4", 4)
    dicts, _ = load_epic(path, video_root=tmp_path, video_suffix=".mp4")
    assert [(record["frame_index"], record["video_length"]) for record in dicts] == [(0, 4), (2, 4), (1, 4)]
    assert {record["video_file"] for record in dicts} == {str(tmp_path / f"{n}.mp4") for n in ("P01_01", "P02_03")}


BROKEN = {
    "code": ("4,knife,P01,P01_01,1,\"[__import__('os')]\"", "bounding_boxes is"),
    "three numbers": ('4,knife,P01,P01_01,1,"[(1, 2, 3)]"', "bounding_boxes is"),
    "no frame": ("4,knife,P01,P01_01,x,[]", "frame is 'x'"),
    "no class": ("knife,knife,P01,P01_01,1,[]", "noun_class is 'knife'"),
    "a field more": ("4,knife,P01,P01_01,1,[],", "expected noun_class,noun"),
    "a way out": ("4,knife,P01,../../x,1,[]", "expected the name of a video"),
    "no image": ("4,knife,P01,P01_09,1,[]", "give image_root, or video_root"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused_with_its_line_and_found_by_the_check(path, images, case):
    line, message = BROKEN[case]
    path.write_text(f"{TABLE}{line}\n")
    with pytest.raises(UserError, match=f"labels.csv, line 6: .*{message}"):
        load_epic(path)
    assert [finding.line for finding in check(path).findings] == [6]


def test_another_table_is_refused(path, images):
    path.write_text(TABLE.replace("noun_class", "verb_class"))
    with pytest.raises(UserError, match="no column noun_class"):
        load_epic(path)
