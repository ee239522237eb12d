"""The check of a dataset: one broken thing at a time in a clean set of drawn videos, found by name."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers.checking import (
    LIST,
    TRAIN,
    annotation,
    check,
    edit,
    image,
    kinds,
    only,
    set_box,
    write_clean_set,
)
from helpers.videos import numbered_frame, write_numbered_video
from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog
from vod2.data.checks.findings import ERROR, WARNING
from vod2.data.checks.formats import open_source
from vod2.data.checks.report import table, write_contact_sheet
from vod2.data.checks.walk import box_problem, check_dataset
from vod2.data.datasets import load_imagenet_vid, register_imagenet_vid
from vod2.errors import UserError


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    return write_clean_set(tmp_path_factory.mktemp("clean") / "set")


@pytest.fixture
def root(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "set")


def test_a_clean_set_has_no_findings_and_everything_was_seen(clean):
    result = check(clean)
    assert result.findings == []
    assert (result.videos, result.frames, result.images_read) == (3, 15, 15) and result.objects > 0


@pytest.mark.parametrize(
    ("content", "value"), [(b"", "empty file"), (b"no image", "cannot identify"), (None, "truncated")]
)
def test_a_broken_image_is_named(root, content, value):
    file = image(root)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    (finding,) = only(check(root), "unreadable_image")
    assert (finding.file, finding.frame, finding.severity) == (str(file), 2, ERROR)
    assert value in finding.value


def test_a_missing_frame_is_named(root):
    image(root, frame=3).unlink()
    (finding,) = only(check(root), "missing_frame")
    assert (finding.file, finding.frame) == (str(image(root, frame=3)), 3)


def test_a_missing_last_frame_is_found_by_the_length_in_the_list(root):
    image(root, frame=4).unlink()
    result = check(root)
    assert kinds(result) == {(ERROR, "video_length"), (ERROR, "missing_frame")}
    assert {finding.file for finding in result.findings} == {str(image(root).parent), str(image(root, frame=4))}


def test_a_missing_video_is_named(root):
    shutil.rmtree(image(root).parent)
    assert only(check(root), "missing_video")[0].file == str(image(root).parent)


@pytest.mark.parametrize("content", ["", "<annotation><size>", "<annotation></annotation>", "\x00\x01"])
def test_a_broken_annotation_is_named(root, content):
    annotation(root).write_text(content)
    (finding,) = only(check(root), "broken_annotation")
    assert (finding.file, finding.frame) == (str(annotation(root)), 2)


def test_a_missing_annotation_is_named(root):
    annotation(root).unlink()
    assert only(check(root), "missing_annotation")[0].file == str(annotation(root))


@pytest.mark.parametrize(
    ("sides", "kind"),
    [
        ({"xmax": 300}, "box_outside"),
        ({"xmin": -50}, "box_outside"),
        ({"xmin": 40, "xmax": 20}, "box_inverted"),
        ({"xmin": 20, "xmax": 20}, "box_degenerate"),
    ],
)
def test_a_bad_box_is_named_with_its_corners(root, sides, kind):
    set_box(annotation(root), **sides)
    (finding,) = only(check(root), kind)
    assert (finding.file, finding.frame, finding.severity) == (str(annotation(root)), 2, ERROR)
    assert all(str(value) in finding.value for value in sides.values())


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 10, 5), None),
        ((0, 0, 10.9, 5), WARNING),
        ((-1, 0, 10, 5), WARNING),
        ((0, 0, 11.1, 5), ERROR),
        ((20, 0, 30, 5), ERROR),
        ((0, 0, float("inf"), 5), ERROR),
    ],
)
def test_a_box_may_leave_its_image_by_one_pixel_with_a_warning(box, expected):
    problem = box_problem(box, (5, 10))
    assert (problem and problem[0]) == expected


def test_boxes_may_leave_their_image_in_formats_that_follow_objects_out_of_sight():
    assert box_problem((-9, 0, 30, 5), (5, 10), may_leave=True)[:2] == (WARNING, "box_outside")


def test_an_unknown_class_is_named(root):
    file = annotation(root)
    name = file.read_text().split("<name>")[1].split("<")[0]
    edit(file, f"<name>{name}<", "<name>unicorn<")
    result = check(root)
    assert kinds(result) >= {(ERROR, "unknown_class")}
    finding = next(finding for finding in result.findings if finding.kind == "unknown_class")
    assert finding.file == str(file) and "unicorn" in finding.value and name in finding.expected


def test_a_track_that_changes_its_class_is_named_where_it_differs(root):
    file = annotation(root)
    names = json.loads((root / "synthetic.json").read_text())["class_names"]
    old = file.read_text().split("<name>")[1].split("<")[0]
    new = next(name for name in names if name != old)
    edit(file, f"<name>{old}<", f"<name>{new}<")
    (finding,) = only(check(root), "track_class")
    assert (finding.file, finding.frame) == (str(file), 2) and new in finding.value and old in finding.expected


def test_a_track_id_twice_in_a_frame_is_named(root):
    file = annotation(root)
    text = file.read_text()
    thing = text[text.index("<object>") : text.index("</object>") + len("</object>")]
    file.write_text(text.replace(thing, thing + thing, 1))
    assert only(check(root), "duplicate_track")[0].file == str(file)


def test_an_image_of_another_size_is_named_with_both_sizes(root):
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(image(root), format="JPEG")
    result = check(root)
    assert kinds(result) == {(ERROR, "size_mismatch"), (ERROR, "mixed_sizes")}
    assert all(f.file == str(image(root)) and "48 x 32" in f.value and "96 x 64" in f.expected for f in result.findings)


def test_mixed_sizes_are_found_even_where_the_annotation_agrees(root):
    Image.fromarray(np.zeros((128, 192, 3), np.uint8)).save(image(root), format="JPEG")
    edit(annotation(root), "<width>96<", "<width>192<")
    edit(annotation(root), "<height>64<", "<height>128<")
    assert only(check(root), "mixed_sizes")[0].file == str(image(root))


def test_an_empty_video_is_a_warning(root):
    for frame in range(5):
        file = annotation(root, frame=frame)
        text = file.read_text()
        file.write_text(text[: text.index("<object>")] + text[text.rindex("</object>") + len("</object>") :])
    (finding,) = only(check(root), "empty_video")
    assert finding.severity == WARNING and TRAIN.format(0) in finding.value


def test_duplicate_and_broken_lines_are_named_with_their_numbers(root):
    list_file = root / LIST
    lines = list_file.read_text().splitlines()
    list_file.write_text("\n".join([*lines, lines[0], "what is this"]) + "\n")
    findings = {finding.kind: finding for finding in check(root).findings}
    assert set(findings) == {"duplicate_line", "bad_line"}
    assert (findings["duplicate_line"].file, findings["duplicate_line"].line) == (str(list_file), len(lines) + 1)
    assert "line 1 too" in findings["duplicate_line"].expected
    assert (findings["bad_line"].line, findings["bad_line"].value) == (len(lines) + 2, "'what is this'")


def test_names_with_spaces_and_other_alphabets_are_read_and_reported(root):
    for part in ("Data", "Annotations"):
        (root / part / "VID" / TRAIN.format(0)).rename(root / part / "VID" / "train" / "Füchse im Wald")
    edit(root / LIST, TRAIN.format(0), "train/Füchse im Wald", -1)
    assert check(root).findings == []
    assert len(load_imagenet_vid(root, "train")) == 10
    broken = root / "Data" / "VID" / "train" / "Füchse im Wald" / "000001.JPEG"
    broken.write_bytes(b"")
    result = check(root)
    assert only(result, "unreadable_image")[0].file == str(broken)
    assert "Füchse im Wald/000001.JPEG" in table(result)


def test_everything_is_found_in_one_walk(root):
    image(root, frame=0).write_bytes(b"")
    annotation(root, frame=1).write_text("")
    annotation(root, frame=3).write_text("<annotation>")
    set_box(annotation(root, video=1), xmax=500)
    image(root, video=1, frame=4).unlink()
    found = {(f.kind, f.file) for f in check(root).findings}
    assert found >= {
        ("unreadable_image", str(image(root, frame=0))),
        ("broken_annotation", str(annotation(root, frame=1))),
        ("broken_annotation", str(annotation(root, frame=3))),
        ("box_outside", str(annotation(root, video=1))),
        ("missing_frame", str(image(root, video=1, frame=4))),
    }


def test_without_a_list_frames_are_those_of_the_folders(root):
    shutil.rmtree(root / "ImageSets")
    assert check(root).frames == 15
    image(root, frame=1).unlink()
    assert only(check(root), "missing_frame")[0].frame == 1


def test_only_some_images_of_each_video_are_decoded_if_so_wished(root):
    image(root, frame=0).write_bytes(b"")  # of 5 frames, the one in the middle is decoded
    image(root, frame=1).unlink()
    result = check_dataset(open_source(str(root)), max_images_per_video=1, progress=False)
    assert only(result, "missing_frame")[0].frame == 1 and result.images_read == 3


@pytest.mark.parametrize("list_given", [True, False])
def test_the_fixed_list_has_no_bad_entries_and_is_accepted_by_the_loader(root, tmp_path, list_given):
    if list_given:
        edit(root / LIST, TRAIN.format(0), TRAIN.format(0), 1)
        (root / LIST).write_text((root / LIST).read_text() + (root / LIST).read_text().splitlines()[0] + "\n")
    else:
        shutil.rmtree(root / "ImageSets")
    image(root, frame=0).write_bytes(b"")
    annotation(root, video=1, frame=3).write_text("")
    source = open_source(str(root), split="train")
    result = check_dataset(source, progress=False)
    assert source.write_list(tmp_path / "good.txt", result.bad_entries) == 8
    loaded = [record["image_id"] for record in load_imagenet_vid(root, "train", list_file=tmp_path / "good.txt")]
    expected = [f"{TRAIN.format(v)}/{i:06d}" for v in range(2) for i in range(5) if (v, i) not in {(0, 0), (1, 3)}]
    assert loaded == expected
    assert kinds(check(root, split="train", list_file=tmp_path / "good.txt")) == {(ERROR, "unreadable_image")}


def test_a_list_of_one_good_frame_is_not_taken_for_a_whole_video(root, tmp_path):
    for video, frame in [(0, 1), (0, 2), (0, 3), (0, 4), *((1, frame) for frame in range(5))]:
        annotation(root, video, frame).unlink()
    source = open_source(str(root), split="train")
    source.write_list(tmp_path / "good.txt", check_dataset(source, progress=False).bad_entries)
    assert len(load_imagenet_vid(root, "train", list_file=tmp_path / "good.txt")) == 1


def test_a_set_without_a_good_frame_gives_no_list(root, tmp_path):
    source = open_source(str(root), split="train")
    with pytest.raises(UserError, match="no entry"):
        source.write_list(tmp_path / "good.txt", set())  # nothing was walked
    assert not (tmp_path / "good.txt").exists()


def test_a_registered_set_is_checked_with_its_own_options(root):
    register_imagenet_vid("check_me", root, "train", ["elf"], every_frame=True)
    try:
        result = check("check_me")
    finally:
        DatasetCatalog.remove("check_me")
        MetadataCatalog.remove("check_me")
    assert result.videos == 2 and {finding.kind for finding in result.findings} == {"unknown_class"}


def test_any_registered_set_can_be_checked(tmp_path):
    records = []
    for index in range(3):
        file = tmp_path / f"{index}.png"
        Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(file)
        box = {"bbox": [1, 1, 4, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": index, "track_id": index}
        records.append({"file_name": str(file), "image_id": index, "height": 8, "width": 12, "annotations": [box]})
    (tmp_path / "1.png").write_bytes(b"")
    DatasetCatalog.register("plain", lambda: records)
    MetadataCatalog.get("plain").thing_classes = ["a", "b"]
    try:
        source = open_source("plain")
        result = check_dataset(source, progress=False)
    finally:
        DatasetCatalog.remove("plain")
        MetadataCatalog.remove("plain")
    assert {(f.kind, f.file) for f in result.findings} == {
        ("unreadable_image", str(tmp_path / "1.png")),
        ("unknown_class", str(tmp_path / "2.png")),
    }
    source.write_list(tmp_path / "ids.json", result.bad_entries)
    assert json.loads((tmp_path / "ids.json").read_text()) == [0]


def test_a_registered_set_of_video_files_is_checked_down_to_the_file(tmp_path):
    videos = {"good": write_numbered_video(tmp_path / "good.mp4", 3), "bad": tmp_path / "bad.mp4"}
    videos["bad"].write_bytes(b"no video")
    common = {"height": numbered_frame(0).shape[0], "width": numbered_frame(0).shape[1], "video_length": 3}
    records = [
        common | {"video_file": str(file), "image_id": f"{name}/{t}", "video_id": name, "frame_index": t}
        for name, file in videos.items()
        for t in range(3)
    ]
    DatasetCatalog.register("files", lambda: records)
    try:
        result = check_dataset(open_source("files"), progress=False)
    finally:
        DatasetCatalog.remove("files")
        MetadataCatalog.remove("files")
    assert {f.file for f in result.findings if f.severity == ERROR} == {str(videos["bad"])}


def test_still_images_are_checked_as_videos_of_one_frame(tmp_path):
    folder = tmp_path / "Annotations/DET/train"
    folder.mkdir(parents=True)
    data = tmp_path / "Data/DET/train"
    data.mkdir(parents=True)
    thing = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>7</ymax></bndbox></object>"
    for name, things in {"a": ["n02958343", "n99999999"], "b": ["n02958343"]}.items():
        Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(data / f"{name}.JPEG")
        objects = "".join(map(thing.format, things))
        (folder / f"{name}.xml").write_text(f"<a><size><width>12</width><height>8</height></size>{objects}</a>")
    (tmp_path / "list.txt").write_text("train/a 1\ntrain/b 1\ntrain/a 1\n")
    (repeated,) = only(check(tmp_path, list_file=tmp_path / "list.txt"), "duplicate_line")
    assert (repeated.line, repeated.severity) == (3, WARNING)  # the published list has such lines, too
    (data / "b.JPEG").write_bytes(b"")
    source = open_source(str(tmp_path), list_file=tmp_path / "list.txt")
    result = check_dataset(source, progress=False)
    assert result.objects == 2
    source.write_list(tmp_path / "good.txt", result.bad_entries)
    assert (tmp_path / "good.txt").read_text() == "train/a 1\ntrain/a 1\n"


def test_the_contact_sheet_marks_broken_boxes_red_and_good_ones_green(root, tmp_path):
    set_box(annotation(root), xmax=500)
    result = check(root)
    write_contact_sheet(tmp_path / "sheet.png", result.examples)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    first, second = sheet[:180, :320], sheet[:180, 320:640]

    def is_red(tile):
        return ((tile == (220, 0, 0)).all(axis=2)).any()

    assert is_red(first) and not is_red(second) and (second == (0, 160, 60)).all(axis=2).any()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("/nowhere", {}, "neither a folder"),
        (".", {}, "known layout"),
        (".", {"format": "papyrus"}, "papyrus"),
        (".", {"format": "imagenet_vid"}, "expected a folder"),
    ],
)
def test_what_cannot_be_checked_is_said(source, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        open_source(source, **options)
