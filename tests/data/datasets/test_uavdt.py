"""Reading UAVDT, on a small sample in its own layout."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.fuzz import fuzz
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data import VideoIndex
from vod2.data.datasets import UAVDT_SEQUENCES, load_uavdt, register_uavdt
from vod2.data.datasets.uavdt import parse_uavdt_table
from vod2.errors import UserError

SEQUENCES = ("M0203", "M0101")
OBJECTS = """1,1,10,20,30,10,1,1,1
3,1,14,20,30,10,1,2,1
1,2,60,5,30,20,2,4,3
3,7,0,0,5,5,3,3,2
"""
REGIONS = """3,-1,50,0,100,20,-1,-1,-1
1,-1,0,40,20,8,-1,-1,-1
1,-1,50,40,20,8,-1,-1,-1
"""


def write_sequence(root, name, frames=3, objects=OBJECTS, regions=REGIONS, truth="UAV-benchmark-MOTD_v1.0/GT"):
    folder = root / "UAV-benchmark-M" / name
    folder.mkdir(parents=True)
    for number in range(1, frames + 1):
        Image.new("RGB", (80, 48)).save(folder / f"img{number:06d}.jpg")
    (root / truth).mkdir(parents=True, exist_ok=True)
    (root / truth / f"{name}_gt_whole.txt").write_text(objects)
    (root / truth / f"{name}_gt_ignore.txt").write_text(regions)


@pytest.fixture
def root(tmp_path):
    for name in SEQUENCES:
        write_sequence(tmp_path, name)
    return tmp_path


def load(root, sequences=SEQUENCES):
    return load_uavdt(root, "test", sequences, name="uavdt_test")


def test_every_frame_is_a_dict_and_frames_count_from_zero(root):
    dicts = load(root)
    assert [(d["video_id"], d["frame_index"]) for d in dicts] == [(v, i) for v in SEQUENCES for i in range(3)]
    assert len({d["image_id"] for d in dicts}) == 6
    assert {(d["height"], d["width"], d["video_length"]) for d in dicts} == {(48, 80, 3)}
    assert dicts[2]["file_name"] == f"{root}/UAV-benchmark-M/M0203/img000003.jpg"


def test_annotations_carry_class_track_and_attributes(root):
    first, second, third = load(root)[:3]
    keys = ("bbox", "category_id", "track_id", "out_of_view", "occlusion", "occluded", "iscrowd")
    assert [tuple(note[key] for key in keys) for note in first["annotations"]] == [
        ([10, 20, 40, 30], 0, 1, 1, 1, 0, 0),
        ([60, 5, 80, 25], 2, 2, 2, 4, 1, 0),  # clipped to the width of 80
    ]
    assert second["annotations"] == []
    assert [tuple(note[key] for key in keys) for note in third["annotations"]] == [
        ([14, 20, 44, 30], 0, 1, 1, 2, 1, 0),
        ([0, 0, 5, 5], 1, 7, 3, 3, 1, 0),
    ]


def test_ignore_regions_belong_to_their_frame_and_are_clipped(root):
    regions = [d["ignore_regions"] for d in load(root)[:3]]
    assert regions == [[[0, 40, 20, 48], [50, 40, 70, 48]], [], [[50, 0, 80, 20]]]


def test_frames_without_a_dict_are_found_by_the_template_even_with_a_percent_sign_in_the_path(tmp_path):
    write_sequence(tmp_path / "50%d", "M0203")
    dicts = load(tmp_path / "50%d", ["M0203"])
    assert VideoIndex(dicts[:1]).path("M0203", 2) == dicts[2]["file_name"]


def test_the_ground_truth_may_lie_next_to_the_frames(tmp_path):
    write_sequence(tmp_path, "M0203", truth="GT")
    assert len(load(tmp_path, ["M0203"])[0]["annotations"]) == 2


def test_the_official_split_has_thirty_and_twenty_distinct_videos():
    train, test = UAVDT_SEQUENCES["train"], UAVDT_SEQUENCES["test"]
    assert (len(set(train)), len(set(test)), len({*train, *test})) == (30, 20, 50)


def test_the_dataset_is_registered_without_being_read(tmp_path):
    register_uavdt("uavdt_of_a_test", tmp_path, "test")
    try:
        metadata = MetadataCatalog.get("uavdt_of_a_test")
        assert (metadata.thing_classes, metadata.evaluator_type) == (["car", "truck", "bus"], "uavdt")
        with pytest.raises(UserError, match=r"UAV-benchmark-MOTD_v1.0/GT: no such folder.*uavdt_of_a_test"):
            DatasetCatalog.get("uavdt_of_a_test")
    finally:
        DatasetCatalog.remove("uavdt_of_a_test")
        MetadataCatalog.remove("uavdt_of_a_test")


def test_the_builtin_names_are_registered():
    assert {"uavdt_train", "uavdt_test"} <= set(DatasetCatalog.list())


def test_missing_videos_are_counted_and_named(root):
    with pytest.raises(UserError, match=r"lacks 19 of the 20 videos of uavdt_test: M0205, M0208,.*complete"):
        load(root, None)
    with pytest.raises(UserError, match=r"'val'.*train, test"):
        load_uavdt(root, "val")


def test_a_missing_frame_is_named(root):
    (root / "UAV-benchmark-M/M0203/img000002.jpg").unlink()
    with pytest.raises(UserError, match=r"M0203 holds 2 frames, but not img000002\.jpg"):
        load(root)
    for path in (root / "UAV-benchmark-M/M0203").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"M0203 holds 0 frames, but not img000001\.jpg"):
        load(root)


def test_an_unreadable_first_frame_is_named(root):
    (root / "UAV-benchmark-M/M0203/img000001.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(UserError, match=r"M0203/img000001\.jpg: not a readable image"):
        load(root)


def test_a_missing_file_of_objects_is_named_and_one_of_regions_is_warned_of(root, caplog):
    truth = root / "UAV-benchmark-MOTD_v1.0/GT"
    (truth / "M0203_gt_ignore.txt").unlink()
    with caplog.at_level(logging.WARNING):
        assert load(root)[0]["ignore_regions"] == []
    assert "M0203_gt_ignore.txt: no such file" in caplog.text
    (truth / "M0203_gt_whole.txt").unlink()
    with pytest.raises(UserError, match=r"M0203_gt_whole\.txt: the annotations cannot be read \(No such file"):
        load(root)


@pytest.mark.parametrize(
    "line, problem",
    [
        ("1,2,3,4,5,6,1,1", "8 columns, expected the 9 frame,id"),
        ("1,2,3,4,5,six,1,1,1", "not only numbers"),
        ("0,2,3,4,5,6,1,1,1", "out of range, expected frame from 1"),
        ("1,2,3,4,5,6,4,1,1", "out-of-view in 1 to 3"),
        ("1,2,3,4,5,6,1,0,1", "occlusion in 1 to 4"),
        ("1,2.5,3,4,5,6,1,1,1", "all whole but the box"),
        ("1,2,nan,4,5,6,1,1,1", "out of range"),
        ("1e300,2,3,4,5,6,1,1,1", "out of range"),
    ],
)
def test_a_broken_line_is_named_with_what_was_expected(tmp_path, line, problem):
    path = tmp_path / "M0203_gt_whole.txt"
    path.write_text(f"1,1,10,20,30.5,10,1,1,1\r\n\n{line}\n")
    with pytest.raises(UserError, match=rf"M0203_gt_whole\.txt, line 3: '{line}' has .*{problem}"):
        parse_uavdt_table(path)


def test_an_unknown_class_is_named_with_its_line(tmp_path):
    write_sequence(tmp_path, "M0203", objects=OBJECTS + "2,2,3,4,5,6,1,1,4\n")
    with pytest.raises(UserError, match=r"M0203_gt_whole\.txt, line 5: class 4 is unknown, expected 1 to 3"):
        load(tmp_path, ["M0203"])


def test_attributes_of_ignore_regions_may_be_anything_whole(tmp_path):
    path = tmp_path / "M0203_gt_ignore.txt"
    path.write_text("1,-1,10,20,30,10,0,-1,9\n")
    lines, table = parse_uavdt_table(path, attributes=False)
    assert (lines.tolist(), table.tolist()) == ([1], [[1, -1, 10, 20, 30, 10, 0, -1, 9]])


def test_a_frame_beyond_the_video_is_named(tmp_path):
    write_sequence(tmp_path, "M0203", frames=2)
    with pytest.raises(UserError, match=r"M0203_gt_whole\.txt, line 2: frame 3, expected 1 to 2: complete the video"):
        load(tmp_path, ["M0203"])


def test_boxes_without_area_are_dropped_and_counted_with_those_that_leave_the_image(tmp_path, caplog):
    write_sequence(tmp_path, "M0203", objects="1,1,-5,0,20,10,1,1,1\n1,2,3,3,0,10,1,1,1\n1,3,90,3,9,9,1,1,1\n")
    with caplog.at_level(logging.WARNING):
        (note,) = load(tmp_path, ["M0203"])[0]["annotations"]
    assert note["bbox"] == [0, 0, 15, 10]
    assert "1 boxes outside of their image, clipped; 2 without area, dropped" in caplog.text


def test_a_video_without_objects_or_regions_is_fine(tmp_path):
    write_sequence(tmp_path, "M0203", objects="", regions="")
    dicts = load(tmp_path, ["M0203"])
    assert [(d["annotations"], d["ignore_regions"]) for d in dicts] == [([], [])] * 3


NUMBERS = st.one_of(st.integers(-5, 9), st.floats(), st.sampled_from(["", "x", "1_0", "²", "\x00", " 2 "])).map(str)
LINES = st.lists(st.lists(NUMBERS, min_size=7, max_size=10).map(",".join), max_size=4).map("\n".join)


@fuzz(150)
@given(content=st.one_of(st.binary(max_size=200), LINES.map(lambda text: text.encode("utf-8"))))
def test_any_bytes_are_read_or_refused_by_name(tmp_path, content):
    if not (tmp_path / "UAV-benchmark-M").is_dir():
        write_sequence(tmp_path, "M0203", frames=1)
    for kind in ("whole", "ignore"):
        path = tmp_path / f"UAV-benchmark-MOTD_v1.0/GT/M0203_gt_{kind}.txt"
        path.write_bytes(content)
    try:
        (record,) = load(tmp_path, ["M0203"])
    except UserError as error:
        assert "M0203_gt_" in str(error)
        return
    for note in record["annotations"]:
        assert note["category_id"] in (0, 1, 2) and 0 <= note["bbox"][0] < note["bbox"][2] <= 80
