"""VisDrone-VID and -MOT; the samples are written here."""

import logging

import pytest

from helpers.checking import check, kinds
from helpers.loaders import assert_loaders_show_the_right_frames, forget
from helpers.videos import write_numbered_images
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data.datasets import VISDRONE_CLASSES, load_visdrone, register_visdrone
from vod2.errors import UserError

VIDEO = "uav0000013_00000_v"
# A car, half hidden in its second frame; an ignored region; others; a person of score 0.
LINES = """1,5,4,6,10,12,1,4,0,0
2,5,5,6,10,12,1,4,0,1
1,0,0,0,20,8,0,0,0,0
2,7,30,20,6,6,1,11,0,0
2,8,40,20,6,10,0,1,1,2
3,9,40,20,20,10,1,10,1,2,
"""


@pytest.fixture
def root(tmp_path):
    write_numbered_images(tmp_path / "sequences" / VIDEO, [f"{index:07d}.jpg" for index in range(1, 5)])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / f"{VIDEO}.txt").write_text(LINES)
    return tmp_path


def test_frames_have_their_objects_and_what_the_benchmark_ignores(root, caplog):
    with caplog.at_level(logging.WARNING):
        dicts, names = load_visdrone(root)
    assert names == list(VISDRONE_CLASSES) and len(names) == 10
    assert [record["image_id"] for record in dicts] == [f"{VIDEO}/{index:06d}" for index in range(4)]
    found = [[(n["bbox"], n["category_id"], n["track_id"], n["occluded"]) for n in d["annotations"]] for d in dicts]
    assert found == [
        [([4, 6, 14, 18], 3, 5, 0)],
        [([5, 6, 15, 18], 3, 5, 1)],
        [([40, 20, 48, 30], 9, 9, 1)],  # clipped to 48 pixels
        [],
    ]
    assert [record.get("ignore_regions") for record in dicts] == [
        [[0, 0, 20, 8]],
        [[30, 20, 36, 26], [40, 20, 46, 30]],
        None,
        None,
    ]
    assert "1 boxes outside of their image, clipped" in caplog.text


def test_it_is_registered_with_the_evaluation_that_knows_regions(root, tmp_path):
    name = "visdrone_for_a_test"
    listed = tmp_path / "list.json"
    listed.write_text(f'["{VIDEO}/000000", "{VIDEO}/000001"]')
    try:
        register_visdrone(name, root)
        assert MetadataCatalog.get(name).evaluator_type == "uavdt"
        assert_loaders_show_the_right_frames(name, {VIDEO: 4})
        assert kinds(check(name)) == {("warning", "box_outside")}
        forget(name)
        register_visdrone(name, root, ["car"], list_file=listed)
        assert [len(record["annotations"]) for record in DatasetCatalog.get(name)] == [1, 1]
        # Unlisted frames are supports, and their objects are known.
        reader = MetadataCatalog.get(name).frame_annotations
        assert len(list(reader.read(None))) == 4
    finally:
        forget(name)


BROKEN = {
    "a line": ("1,5,4,6,10,12,1,4,0", "expected frame,target_id,left"),
    "a word": ("1,5,x,6,10,12,1,4,0,0", "left is 'x'"),
    "a category": ("1,5,4,6,10,12,1,12,0,0", "category is '12'"),
    "a frame": ("5,5,4,6,10,12,1,4,0,0", "frame 5, expected 1 to 4"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named(root, case):
    line, message = BROKEN[case]
    (root / "annotations" / f"{VIDEO}.txt").write_text(f"{LINES}{line}\n")
    with pytest.raises(UserError, match=rf"{VIDEO}.txt, line 7: .*{message}"):
        load_visdrone(root)
    assert [finding.line for finding in check(root).findings if finding.severity == "error"] == [7]


def test_what_is_missing_is_named(root):
    (root / "sequences" / VIDEO / "0000002.jpg").unlink()
    with pytest.raises(UserError, match="3 images without number 2"):
        load_visdrone(root)
    assert check(root).count("error") == 1
    with pytest.raises(UserError, match="other: no images"):
        load_visdrone(root, sequences=["other"])
    (root / "annotations" / f"{VIDEO}.txt").unlink()
    assert ("error", "missing_frame") in kinds(check(root))
