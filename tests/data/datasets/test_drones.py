"""The Drone Detection Dataset: a made-up clone, and the real set where it is there."""

import gzip
import json
import os
import zipfile
from pathlib import Path

import pytest

from helpers.loaders import forget
from helpers.matlab import write_labels
from helpers.videos import write_numbered_video
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data.checks.formats import open_source
from vod2.data.checks.walk import check_dataset
from vod2.data.clips.frames import read_frames
from vod2.data.datasets import load_drones, register_drones
from vod2.data.datasets.drones import drones_root
from vod2.data.datasets.drones_clone import find_clips, prepare_drones, read_distances
from vod2.errors import UserError

REAL = Path(os.environ.get("VOD2_REAL_DIR", "absent"), "drones_ir")
FRAMES = 4
DISTANCES = {"DRONE": ["CLOSE", "DISTANT", "DISTANT", "MEDIUM"], "BIRD": ["MEDIUM"]}


def write_description(path):
    """A workbook with the table of clips, its cells as texts of their own and as numbers."""
    columns = ["SENSOR", "CLASS", "NUMBER", "DISTANCE  BIN"]
    texts = [*columns, "IR", "DRONE", "BIRD", "CLOSE", "MEDIUM", "DISTANT"]

    def cell(column, row, value):
        if isinstance(value, int):
            return f'<c r="{column}{row}"><v>{value}</v></c>'
        return f'<c r="{column}{row}" t="s"><v>{texts.index(value)}</v></c>'

    lines = [columns]
    for category, distances in DISTANCES.items():
        lines += [["IR", category, number, distance] for number, distance in enumerate(distances, start=1)]
    rows = "".join(
        f"<row>{''.join(cell(column, row, value) for column, value in zip('ABCD', line, strict=True))}</row>"
        for row, line in enumerate(lines, start=1)
    )
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(path, "w") as workbook:
        entries = "".join(f"<si><t>{text}</t></si>" for text in texts)
        workbook.writestr("xl/sharedStrings.xml", f"<sst {space}>{entries}</sst>")
        workbook.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}>{rows}</worksheet>")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Four infrared clips of drones and one of a bird, in which a drone passes, too."""
    pytest.importorskip("scipy", reason="SciPy is not installed")
    root = tmp_path_factory.mktemp("clone")
    folder = root / "Data" / "Video_IR"
    folder.mkdir(parents=True)
    for category, distances in DISTANCES.items():
        for number in range(1, len(distances) + 1):
            name = f"IR_{category}_{number:03d}"
            write_numbered_video(folder / f"{name}.mp4", FRAMES)
            frames = [{category: [[1 + index, 5.5, 10, 8]]} for index in range(FRAMES)]
            if category == "BIRD":
                frames[2]["DRONE"] = [[30, 2, 6, 6], [20, 20, 5, 5]]
                frames[3] = {}
            write_labels(folder / f"{name}_LABELS.mat", frames)
    write_description(root / "Data" / "Video_dataset_description.xlsx")
    return root


@pytest.fixture
def prepared(clone, tmp_path):
    prepare_drones(clone, tmp_path, ["ir"])
    return tmp_path / "drones_ir"


def test_the_last_quarter_of_the_numbers_of_each_class_is_held_out(tmp_path):
    for name in [f"IR_DRONE_{n:03d}" for n in range(1, 11)] + [f"IR_AIRPLANE_{n:03d}" for n in (7, 8, 30)]:
        (tmp_path / f"{name}_LABELS.mat").touch()
    splits = find_clips(tmp_path)
    # 7.5 of 10 clips round to 8, 2.25 of 3 to 2.
    assert [clip.name for clip in splits["val"]] == ["IR_AIRPLANE_030", "IR_DRONE_009", "IR_DRONE_010"]
    assert len(splits["train"]) == 10


def test_boxes_count_from_0_and_all_classes_of_a_frame_are_there(prepared):
    dicts, names = load_drones(prepared, "train")
    assert names == ["airplane", "bird", "drone", "helicopter"]
    bird = [record for record in dicts if record["video_id"] == "IR_BIRD_001"]
    found = [[(names[a["category_id"]], a["bbox"]) for a in record["annotations"]] for record in bird]
    assert found[0] == [("bird", [0.0, 4.5, 10.0, 12.5])]
    assert found[2] == [
        ("bird", [2.0, 4.5, 12.0, 12.5]),
        ("drone", [29.0, 1.0, 35.0, 7.0]),
        ("drone", [19.0, 19.0, 24.0, 24.0]),
    ]
    assert found[3] == []
    assert [[a["track_id"] for a in record["annotations"]] for record in bird] == [[0], [0], [0, 1, 2], []]


def test_frames_are_read_from_the_clone_and_belong_to_the_distance_of_their_clip(prepared, clone):
    dicts, _ = load_drones(prepared, "val")
    assert [(record["video_id"], record["frame_index"]) for record in dicts] == [("IR_DRONE_004", i) for i in range(4)]
    assert {record["groups"] for record in dicts} == {("medium",)}
    assert (prepared / "videos").resolve() == clone / "Data" / "Video_IR"
    assert read_frames(dicts[2], [2])[2].shape == (32, 48, 3)


def test_the_registered_set_passes_the_check_and_says_that_identities_were_linked(prepared):
    register_drones("made_up_drones", prepared, "train")
    try:
        result = check_dataset(open_source("made_up_drones"), progress=False)
        assert result.findings == [] and result.frames == 4 * FRAMES
        assert MetadataCatalog.get("made_up_drones").linked_identities
    finally:
        forget("made_up_drones")


def test_a_second_run_keeps_what_is_there_and_the_same_clone_gives_the_same_bytes(clone, tmp_path):
    written = prepare_drones(clone, tmp_path / "a", ["ir"])
    assert [path.name for path in written] == ["train.json.gz", "val.json.gz"]
    assert prepare_drones(clone, tmp_path / "a", ["ir"]) == []
    prepare_drones(clone, tmp_path / "b", ["ir"])
    assert written[0].read_bytes() == (tmp_path / "b" / "drones_ir" / "train.json.gz").read_bytes()


def test_videos_are_copied_when_asked(clone, tmp_path):
    prepare_drones(clone, tmp_path, ["ir"], copy_videos=True)
    videos = tmp_path / "drones_ir" / "videos"
    assert not videos.is_symlink() and len(list(videos.iterdir())) == 5
    assert load_drones(tmp_path / "drones_ir", "val").dicts[0]["video_file"] == str(videos / "IR_DRONE_004.mp4")


@pytest.mark.parametrize("gone", [".mp4", "_LABELS.mat"])
def test_a_clip_that_lacks_a_file_is_an_error_or_left_out_without_moving_the_split(clone, tmp_path, gone):
    folder = tmp_path / "clone" / "Video_IR"
    folder.mkdir(parents=True)
    for path in (clone / "Data" / "Video_IR").iterdir():
        if path.name != f"IR_DRONE_002{gone}":
            (folder / path.name).symlink_to(path)
    with pytest.raises(UserError, match=rf"IR_DRONE_002{gone} is missing \(1 files in all\)"):
        prepare_drones(folder.parent, tmp_path, ["ir"])
    prepare_drones(folder.parent, tmp_path, ["ir"], skip_missing=True)
    splits = [{r["video_id"] for r in load_drones(tmp_path / "drones_ir", split).dicts} for split in ("train", "val")]
    assert splits == [{"IR_BIRD_001", "IR_DRONE_001", "IR_DRONE_003"}, {"IR_DRONE_004"}]
    assert load_drones(tmp_path / "drones_ir", "val").dicts[0]["groups"] == ()  # this clone has no description


def test_labels_of_another_number_of_frames_than_the_video_has_are_refused(clone, tmp_path):
    folder = tmp_path / "Video_IR"
    folder.mkdir()
    write_numbered_video(folder / "IR_DRONE_001.mp4", 3)
    (folder / "IR_DRONE_001_LABELS.mat").symlink_to(clone / "Data" / "Video_IR" / "IR_DRONE_001_LABELS.mat")
    with pytest.raises(UserError, match="labels of 4 frames, but IR_DRONE_001.mp4 has 3"):
        prepare_drones(tmp_path, tmp_path / "out", ["ir"])


def test_a_folder_without_clips_and_a_broken_description_are_errors_that_name_them(tmp_path):
    with pytest.raises(UserError, match="Video_IR: expected clips such as IR_DRONE_001.mp4"):
        find_clips(tmp_path / "Video_IR")
    (tmp_path / "table.xlsx").write_bytes(b"PK no workbook")
    with pytest.raises(UserError, match="table.xlsx: not the table of clips"):
        read_distances(tmp_path / "table.xlsx")


def write_workbook(path, cells):
    """A sheet of one row, given as XML, and one shared string."""
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(path, "w") as workbook:
        workbook.writestr("xl/sharedStrings.xml", f"<sst {space}><si><t>SENSOR</t></si></sst>")
        workbook.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}><row>{cells}</row></worksheet>")


@pytest.mark.parametrize(
    "cells",
    ['<c r="A1" t="s"><v/></c>', "<c><v>7</v></c>"],
    ids=["a text without a number", "a cell without a place"],
)
def test_a_description_with_a_broken_cell_is_an_error_that_names_the_file(tmp_path, cells):
    write_workbook(tmp_path / "table.xlsx", cells)
    with pytest.raises(UserError, match="table.xlsx: not the table of clips"):
        read_distances(tmp_path / "table.xlsx")


def test_an_empty_cell_of_the_description_is_an_empty_text(tmp_path):
    write_workbook(tmp_path / "table.xlsx", '<c r="A1" t="s"><v>0</v></c><c r="B1"><v/></c>')
    assert read_distances(tmp_path / "table.xlsx") == {}


def test_a_set_that_was_not_prepared_says_how_to(tmp_path):
    with pytest.raises(UserError, match=r"train.json.gz: no such file: make it with python datasets/prepare_drones.py"):
        load_drones(tmp_path / "drones_ir", "train")


def test_vod2_real_dir_is_looked_at_first_and_only_where_it_has_the_set(tmp_path, monkeypatch):
    monkeypatch.setenv("VOD2_REAL_DIR", str(tmp_path))
    assert drones_root("datasets", "ir") == os.path.join("datasets", "drones_ir")
    (tmp_path / "drones_ir").mkdir()
    assert drones_root("datasets", "ir") == str(tmp_path / "drones_ir")
    monkeypatch.delenv("VOD2_REAL_DIR")
    assert drones_root("datasets", "ir") == os.path.join("datasets", "drones_ir")


def test_every_tenth_frame_of_the_held_out_clips_is_a_registered_set():
    assert {"drones_ir_train", "drones_ir_val", "drones_ir_val_every10"} <= set(DatasetCatalog.list())


def test_a_packed_json_and_a_plain_one_are_the_same_set(prepared):
    from vod2.data.datasets import load_coco_video

    plain = prepared / "train.json"
    plain.write_bytes(gzip.decompress((prepared / "train.json.gz").read_bytes()))
    assert json.loads(plain.read_text())["videos"][0]["distance"] == "medium"
    options = {"video_root": prepared / "videos", "group_keys": ["distance"]}
    assert load_coco_video(plain, **options) == load_coco_video(prepared / "train.json.gz", **options)


@pytest.mark.skipif(not REAL.is_dir(), reason="VOD2_REAL_DIR does not hold drones_ir")
def test_the_real_infrared_set_has_its_published_size():
    records = {split: load_drones(REAL, split).dicts for split in ("train", "val")}
    assert {split: len({r["video_id"] for r in own}) for split, own in records.items()} == {"train": 274, "val": 91}
    assert sum(len(own) for own in records.values()) == 114095
    assert sum(len(r["annotations"]) for own in records.values() for r in own) == 119475
    assert {group for own in records.values() for r in own for group in r["groups"]} == {"close", "medium", "distant"}
    record = records["val"][100]
    image = read_frames(record, [record["frame_index"]])[record["frame_index"]]
    assert image.shape == (256, 320, 3)
