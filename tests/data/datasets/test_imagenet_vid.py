"""Reading ImageNet VID's layout; the tiny set is written by hand."""

import logging
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.checking import check
from helpers.fuzz import FUZZ, mutated_bytes
from helpers.loaders import forget
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data.datasets import VID_CLASSES, VID_WNIDS, builtin, ilsvrc, load_imagenet_vid, register_imagenet_vid
from vod2.data.datasets.imagenet_vid import FrameRef, derive_frames, read_frame_list
from vod2.data.synthetic import SYNTHETIC_CLASSES, SyntheticConfig, read_deterioration, write_synthetic
from vod2.data.synthetic.vod_synth import VOD_SYNTH_CLASSES
from vod2.errors import UserError
from vod2.evaluation.evaluated import load_evaluated_dataset

FOX = "n02118333"
A, B = "train/ILSVRC2015_VID_train_0000/a", "val/b"


def xml(objects=(), height=32, width=48):
    body = "".join(
        f"<object><trackid>{track}</trackid><name>{name}</name><bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin>"
        f"<ymax>{y2}</ymax><ymin>{y1}</ymin></bndbox><occluded>{occluded}</occluded><generated>0</generated></object>"
        for track, name, (x1, y1, x2, y2), occluded in objects
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{body}</annotation>"


def write_video(root, video, frames, objects=((3, FOX, (1, 2, 30, 20), 0),)):
    data, annotations = root / "Data/VID" / video, root / "Annotations/VID" / video
    data.mkdir(parents=True)
    annotations.mkdir(parents=True)
    for frame in range(frames):
        pixels = np.full((32, 48, 3), frame, np.uint8)
        Image.fromarray(pixels).save(data / f"{frame:06d}.JPEG")
        (annotations / f"{frame:06d}.xml").write_text(xml(objects))


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = tmp_path / "100%d"  # a percent sign must not confuse the template
    write_video(root, A, 31)
    write_video(root, B, 4)
    return root


def test_a_dict_tells_the_frame_its_video_and_its_objects(root):
    first = load_imagenet_vid(root, "val")[0]
    annotation = first.pop("annotations")[0]
    folder = f"{root}/Data/VID/{B}"
    assert first == {
        "file_name": f"{folder}/000000.JPEG",
        "image_id": "val/b/000000",
        "height": 32,
        "width": 48,
        "video_id": B,
        "frame_index": 0,
        "video_length": 4,
        "frame_template": folder.replace("%", "%%") + "/%06d.JPEG",
        "frame_offset": 0,
    }
    assert first["frame_template"] % 3 == f"{folder}/000003.JPEG"
    assert annotation["bbox"] == [1, 2, 30, 20]
    assert (annotation["category_id"], annotation["track_id"], annotation["occluded"]) == (11, 3, 0)
    assert "deterioration" not in annotation


def test_the_thirty_classes_are_in_the_order_of_the_benchmark():
    assert len(VID_CLASSES) == len(VID_WNIDS) == 30
    assert VID_CLASSES[0] == "airplane" and VID_CLASSES[11] == "fox" and VID_CLASSES[29] == "zebra"


def test_without_a_list_fifteen_frames_spread_over_a_training_video_are_taken(root):
    # floor((i + .5) * 31 / 15)
    expected = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29]
    assert [d["frame_index"] for d in load_imagenet_vid(root, "train")] == expected
    assert len(load_imagenet_vid(root, "train", every_frame=True)) == 31


def test_without_a_list_a_short_training_video_gives_all_its_frames(tmp_path):
    write_video(tmp_path, "train/short", 14)
    assert derive_frames(tmp_path, "train") == [FrameRef("train/short", i, 14) for i in range(14)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["train/x 1 10 300", "train/x 1 30 300"], [("train/x", 10, 300), ("train/x", 30, 300)]),
        (["x 1 0 20", "x 1 1 20"], [("train/x", 0, 20), ("train/x", 1, 20)]),
        (["train/x 1 0 20", "train/y 1 0 30"], [("train/x", 0, 20), ("train/y", 0, 30)]),
        (["train/y 3 0 1", "train/z 8 0 1"], [("train/y", 0, 1), ("train/z", 0, 1)]),
        (["train/x 1 0 2"], [("train/x", 0, 2), ("train/x", 1, 2)]),
        (["train/x 1 0 2", "train/y 3 0 1"], [("train/x", 0, 2), ("train/x", 1, 2), ("train/y", 0, 1)]),
    ],
)
def test_lists_of_frames_and_of_videos_are_told_apart(tmp_path, lines, expected):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines) + "\n")
    assert read_frame_list(path, tmp_path, "train") == [FrameRef(*row) for row in expected]


def test_a_list_of_frame_paths_counts_the_video_in_its_folder(root):
    path = root / "frames.txt"
    path.write_text("b/000001 2\nval/b/000003 4\n")
    assert read_frame_list(path, root, "val") == [FrameRef(B, 1, 4), FrameRef(B, 3, 4)]


def test_the_usual_list_is_used_where_it_is_found(root):
    (root / "ImageSets").mkdir()
    (root / "ImageSets/VID_train_15frames.txt").write_text(f"{A} 1 7 31\n{A} 1 9 31\n")
    assert [d["frame_index"] for d in load_imagenet_vid(root, "train")] == [7, 9]


@pytest.mark.parametrize("line", ["train/x one 10 300", "", "1 10 300", "7"])
def test_a_line_in_no_known_format_is_named(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_text(f"train/x 1 10 300\n{line}\ntrain/x 1 30 300\n")
    with pytest.raises(UserError, match=rf"list\.txt, line 2.*'{line}'"):
        read_frame_list(path, tmp_path, "train")


def test_a_frame_may_have_no_objects(tmp_path):
    write_video(tmp_path, B, 2, objects=())
    assert [d["annotations"] for d in load_imagenet_vid(tmp_path, "val")] == [[], []]


def test_names_may_be_readable_and_classes_ones_own(tmp_path):
    write_video(tmp_path, B, 1, objects=[(0, "gnome", (0, 0, 4, 4), 1), (1, "elf", (0, 0, 5, 5), 0)])
    annotations = load_imagenet_vid(tmp_path, "val", ["elf", "gnome"])[0]["annotations"]
    assert [(a["category_id"], a["occluded"]) for a in annotations] == [(1, 1), (0, 0)]


def test_an_unknown_class_is_named_with_the_file_and_what_was_expected(tmp_path):
    write_video(tmp_path, B, 1, objects=[(0, "unicorn", (0, 0, 4, 4), 0)])
    with pytest.raises(UserError, match=r"b/000000\.xml.*'unicorn'.*airplane"):
        load_imagenet_vid(tmp_path, "val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><size>", "broken XML"),
        (xml().replace("<height>32</height>", ""), "size/height of <annotation> is None"),
        (xml([(0, FOX, ("a", 0, 4, 4), 0)]), "bndbox/xmin of <object> is 'a'"),
    ],
)
def test_a_broken_annotation_is_named(root, content, message):
    (root / "Annotations/VID/val/b/000002.xml").write_text(content)
    with pytest.raises(UserError, match=rf"000002\.xml.*{message}"):
        load_imagenet_vid(root, "val")


def test_a_missing_annotation_is_named(root):
    (root / "Annotations/VID/val/b/000002.xml").unlink()
    with pytest.raises(UserError, match=r"000002\.xml: no such annotation file"):
        load_imagenet_vid(root, "val")


def test_boxes_are_clipped_and_those_without_area_dropped_with_one_warning_each(tmp_path, caplog):
    outside, inverted, flat = (-5, 2, 60, 20), (20, 2, 10, 20), (4, 4, 4, 9)
    write_video(tmp_path, B, 2, objects=[(i, FOX, box, 0) for i, box in enumerate([outside, inverted, flat])])
    with caplog.at_level(logging.WARNING, logger=ilsvrc.__name__):
        dicts = load_imagenet_vid(tmp_path, "val")
    assert [[a["bbox"] for a in d["annotations"]] for d in dicts] == [[[0, 2, 48, 20]]] * 2
    counts = sorted(record.getMessage().split(";")[0] for record in caplog.records)
    assert counts == ["2 boxes outside of their image, clipped", "4 boxes without area, dropped"]


def test_a_gap_in_a_video_is_named(root):
    (root / "Data/VID/val/b/000001.JPEG").unlink()
    with pytest.raises(UserError, match=r"val/b holds 3 frames, but not 000001\.JPEG"):
        load_imagenet_vid(root, "val")


def test_a_missing_root_names_folder_dataset_and_remedy(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/Data/VID/val.*imagenet_vid_val.*make_synthetic"):
        load_imagenet_vid(
            tmp_path / "nowhere", "val", name="imagenet_vid_val", remedy="run tools/make_synthetic.py --output x"
        )


def parsed_files(monkeypatch):
    parsed = []
    real = ilsvrc.parse_xml
    monkeypatch.setattr(ilsvrc, "parse_xml", lambda file: parsed.append(file) or real(file))
    return parsed


def test_annotations_are_parsed_once(root, monkeypatch):
    parsed = parsed_files(monkeypatch)
    first = load_imagenet_vid(root, "val")
    assert load_imagenet_vid(root, "val") == first
    assert len(parsed) == 4
    assert [path.name for path in (root / ".vod2_cache").iterdir()] == ["vid-val-derived.npz"]


def test_replaced_annotations_are_parsed_again(root):
    load_imagenet_vid(root, "val")
    file = root / "Annotations/VID/val/b/000000.xml"
    new = file.with_suffix(".new")
    new.write_text(xml())
    os.replace(new, file)
    assert load_imagenet_vid(root, "val")[0]["annotations"] == []


def test_other_classes_are_not_taken_from_the_cache(root):
    load_imagenet_vid(root, "val")
    swapped = [VID_CLASSES[11], *(name for name in VID_CLASSES if name != "fox")]
    assert load_imagenet_vid(root, "val", swapped)[0]["annotations"][0]["category_id"] == 0


def test_a_broken_cache_is_built_again_with_a_warning(root, caplog):
    expected = load_imagenet_vid(root, "val")
    cache = root / ".vod2_cache/vid-val-derived.npz"
    cache.write_bytes(cache.read_bytes()[:200])
    with caplog.at_level(logging.WARNING, logger=ilsvrc.__name__):
        assert load_imagenet_vid(root, "val") == expected
    assert "built again" in caplog.text
    caplog.clear()
    load_imagenet_vid(root, "val")
    assert "built again" not in caplog.text


def test_the_cache_goes_home_where_the_data_cannot_be_written(root, tmp_path, monkeypatch):
    (root / ".vod2_cache").write_text("a file in the place of the folder")
    parsed = parsed_files(monkeypatch)
    load_imagenet_vid(root, "val")
    load_imagenet_vid(root, "val")
    assert len(parsed) == 4
    assert len(list((tmp_path / "home/.cache/vod2").glob("vid-val-derived-*.npz"))) == 1


def test_registration_reads_nothing(tmp_path):
    name = "vid_for_a_test"
    register_imagenet_vid(name, tmp_path / "nowhere", "val", ["elf"])
    try:
        metadata = MetadataCatalog.get(name)
        assert (metadata.thing_classes, metadata.evaluator_type) == (["elf"], "vid")
        with pytest.raises(UserError, match=name):
            DatasetCatalog.get(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_builtin_datasets_may_be_registered_twice():
    builtin.register_builtin_datasets("datasets")
    builtin.register_builtin_datasets("datasets")
    assert {
        "imagenet_vid_train",
        "imagenet_vid_train_all",
        "imagenet_vid_val",
        "imagenet_det_train_30classes",
        "synthetic_train",
        "synthetic_val",
        "vod_synth_1_tiny_train",
        "vod_synth_1_small_val",
        "vod_synth_1_full_det",
    } <= set(DatasetCatalog.list())
    assert MetadataCatalog.get("imagenet_vid_val").thing_classes == list(VID_CLASSES)
    assert MetadataCatalog.get("synthetic_val").thing_classes == list(SYNTHETIC_CLASSES)
    assert MetadataCatalog.get("vod_synth_1_tiny_det").thing_classes == list(VOD_SYNTH_CLASSES[:12])


def test_the_synthetic_set_is_read_with_its_classes_and_deteriorations(tmp_path):
    config = SyntheticConfig(seed=3, train_videos=1, val_videos=1, frames=20, height=96, width=128, classes=6)
    write_synthetic(config, tmp_path / "set")
    dicts = load_imagenet_vid(tmp_path / "set", "val")
    assert [d["frame_index"] for d in dicts] == list(range(20))
    assert all(0 <= a["category_id"] < 6 for d in dicts for a in d["annotations"])
    found = {}
    for d in dicts:
        kinds = {a["track_id"]: a["deterioration"] for a in d["annotations"] if "deterioration" in a}
        if kinds:
            found[d["frame_index"]] = kinds
    sidecar = tmp_path / "set/Annotations/VID" / dicts[0]["video_id"] / "deterioration.json"
    assert found == read_deterioration(sidecar) != {}


def test_a_broken_deterioration_file_is_named(root):
    (root / "Annotations/VID/val/b/deterioration.json").write_text("[1")
    with pytest.raises(UserError, match=r"b/deterioration\.json"):
        load_imagenet_vid(root, "val")


XML = xml([(3, FOX, (1, 2, 30, 20), 0)]).encode()
DECLARED = b'<?xml version="1.0" encoding="utf-16"?>' + XML


@FUZZ
@given(st.binary(max_size=60) | mutated_bytes(XML) | mutated_bytes(DECLARED))
def test_any_annotation_is_read_or_refused_with_our_error(tmp_path, content):
    file = tmp_path / "000000.xml"
    file.write_bytes(content)
    try:
        table = ilsvrc.read_annotations([str(file)], {FOX: 11}, ignore_other_classes=True)
    except UserError as error:
        assert "000000.xml" in str(error)
    else:
        assert table.counts.sum() == len(table.boxes) and (table.sizes >= 0).all()


@pytest.mark.parametrize("encoding", ["utf-8", "no-such-encoding", "utf-32", "big5", "shift_jis"])
def test_an_encoding_that_cannot_be_read_is_named(tmp_path, encoding):
    file = tmp_path / "000000.xml"
    file.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + b"<annotation>\xff</annotation>")
    with pytest.raises(UserError, match=r"000000\.xml"):
        ilsvrc.parse_xml(file)


LISTS = (b"train/x 1 10 300\ntrain/x 1 30 300\n", b"train/y 3 0 1\ntrain/z 8 0 1\n", b"b/000001 2\nval/b/000003 4\n")


@FUZZ
@given(st.binary(max_size=60) | st.sampled_from(LISTS).flatmap(mutated_bytes))
def test_any_list_is_read_or_refused_with_our_error(tmp_path, content):
    file = tmp_path / "list.txt"
    file.write_bytes(content)
    (tmp_path / "Data/VID/val/b").mkdir(parents=True, exist_ok=True)
    try:
        refs = read_frame_list(file, tmp_path, "val")
    except UserError as error:
        assert str(tmp_path) in str(error)
    else:
        assert all(ref.index >= 0 for ref in refs)


def test_an_object_without_a_track_has_none(tmp_path):
    """LabelImg writes no <trackid>: the order in a file says nothing of who is who in the next one."""
    write_video(tmp_path, "val/a", 2, objects=[(3, FOX, (1, 2, 30, 20), 0), (-1, FOX, (1, 2, 30, 20), 0)])
    for file in (tmp_path / "Annotations").rglob("*.xml"):
        file.write_text(file.read_text().replace("<trackid>3</trackid>", ""))
    for _ in range(2):  # the second time from the cache
        for record in load_imagenet_vid(tmp_path, "val"):
            assert len(record["annotations"]) == 2 and not any("track_id" in note for note in record["annotations"])
    name = "imagenet_vid_without_tracks"
    register_imagenet_vid(name, tmp_path, "val")
    try:
        data = load_evaluated_dataset(name)
    finally:
        forget(name)
    assert (data.tracks.track == -1).all() and not {"slow", "medium", "fast"} & data.groups.keys()


def test_hidden_files_and_folders_are_none_of_a_video(tmp_path):
    write_video(tmp_path, "val/a", 2)
    write_video(tmp_path, "val/.ipynb_checkpoints", 1)
    (tmp_path / "Data" / "VID" / "val" / "a" / "._000000.JPEG").write_bytes(b"Mac OS X")
    assert [record["image_id"] for record in load_imagenet_vid(tmp_path, "val")] == ["val/a/000000", "val/a/000001"]
    assert check(tmp_path, split="val").videos == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_may_begin_with_a_byte_order_mark(tmp_path, encoding):
    write_video(tmp_path, "val/a", 2)
    (tmp_path / "list.txt").write_text("val/a/000000 1\nval/a/000001 2\n", encoding=encoding)
    assert len(load_imagenet_vid(tmp_path, "val", list_file=tmp_path / "list.txt")) == 2
