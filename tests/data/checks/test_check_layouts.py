"""The check of datasets in MOT's, UAVDT's, YOLO's and COCO's layouts, line by line and entry by entry."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.checking import check, frames, kinds, only, video_file
from helpers.fuzz import fuzz, mutated_bytes, mutated_json
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data.checks.findings import ERROR, WARNING
from vod2.data.checks.formats import FORMATS, open_source
from vod2.data.checks.walk import check_dataset
from vod2.data.datasets import load_uavdt
from vod2.data.datasets.coco_video import load_coco_video, register_coco_video
from vod2.data.datasets.faults import Fault
from vod2.data.datasets.mot import load_mot, register_mot
from vod2.data.datasets.yolo import load_yolo_video, register_yolo_video
from vod2.errors import UserError


@pytest.fixture
def mot(tmp_path):
    folder = tmp_path / "mot" / "train" / "MOT 01"
    frames(folder / "img1", [f"{i:06d}.jpg" for i in (1, 2, 3)])
    (folder / "gt").mkdir()
    (folder / "gt" / "gt.txt").write_text("1,7,1,1,4,4,1,1,1\n2,7,1,1,4,4,1,1,1\n3,7,2,1,40,4,1,1,1\n")
    (folder / "seqinfo.ini").write_text("[Sequence]\nseqLength=3\nimWidth=12\nimHeight=8\nimDir=img1\nimExt=.jpg\n")
    return tmp_path / "mot"


def test_mot_folders_are_checked_line_by_line(mot):
    assert kinds(check(mot)) == {(WARNING, "box_outside")}  # the annotators follow people out of the picture
    truth = mot / "train" / "MOT 01" / "gt" / "gt.txt"
    truth.write_text(
        "1,7,1,1,4,4,1,1,1\n2,7,1,1,4,4,1,3,1\n2,7,1,1,4,4,1,1\nnonsense\n3,7,1,1,-4,4,1,99,1\n9,7,1,1,4,4,1,1,1\n"
    )
    (mot / "train" / "MOT 01" / "img1" / "000002.jpg").unlink()
    found = {(f.kind, f.line or f.frame) for f in check(mot, format="mot").findings}
    assert found == {
        ("track_class", 1),
        ("bad_line", 3),
        ("bad_line", 4),
        ("box_inverted", 2),
        ("unknown_class", 2),
        ("video_length", 6),
        ("missing_frame", 1),
    }


def test_a_broken_description_of_a_sequence_is_named(mot):
    (mot / "train" / "MOT 01" / "seqinfo.ini").write_text("")
    assert only(check(mot), "broken_annotation")[0].file.endswith("seqinfo.ini")


@pytest.mark.parametrize("content", [None, b"no video", "half"])
def test_a_video_file_that_cannot_be_read_is_named(mot, tmp_path, content):
    file = tmp_path / "MOT 01.mp4"
    video_file(file, 3)
    (mot / "train" / "MOT 01" / "seqinfo.ini").write_text("[Sequence]\nseqLength=3\nimWidth=48\nimHeight=32\n")
    source = FORMATS["mot"](mot, video_root=tmp_path)
    assert check_dataset(source, progress=False).findings == []
    if content is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content == "half" else content)
    result = check_dataset(FORMATS["mot"](mot, video_root=tmp_path), progress=False)
    finding = result.findings[0]
    assert (finding.kind, finding.file) == ("unreadable_video" if content else "missing_video", str(file))


def test_frames_that_a_video_file_does_not_have_are_missing(mot, tmp_path):
    video_file(tmp_path / "MOT 01.mp4", 2)
    (mot / "train" / "MOT 01" / "seqinfo.ini").write_text("[Sequence]\nseqLength=3\nimWidth=48\nimHeight=32\n")
    result = check_dataset(FORMATS["mot"](mot, video_root=tmp_path), progress=False)
    assert [(f.frame, f.entries) for f in only(result, "missing_frame")] == [(2, ("MOT 01/000002",))]


def test_uavdt_is_checked_line_by_line(tmp_path):
    frames(tmp_path / "UAV-benchmark-M" / "M0101", ["img000001.jpg", "img000003.jpg"])
    (tmp_path / "GT").mkdir()
    truth = tmp_path / "GT" / "M0101_gt_whole.txt"
    truth.write_text("1,1,1,1,4,4,1,1,1\n1,1,1,1,4,4,1,1,1\n3,1,1,1,4,4,1,1,9\n3,x,1,1,4,4,1,1,1\n")
    found = {(f.kind, f.file, f.line or f.frame) for f in check(tmp_path).findings}
    assert found == {
        ("duplicate_line", str(truth), 2),
        ("bad_line", str(truth), 4),
        ("unknown_class", str(truth), 2),
        ("missing_frame", str(tmp_path / "UAV-benchmark-M" / "M0101" / "img000002.jpg"), 1),
    }


def test_yolo_labels_are_checked_line_by_line(tmp_path):
    frames(tmp_path / "images" / "v", ["0.png", "1.png", "2.png"])
    labels = tmp_path / "labels" / "v"
    labels.mkdir(parents=True)
    (labels / "0.txt").write_text("0 .5 .5 .2 .2 4\n1 .5 .5 .2 .2\n")
    assert check(tmp_path, class_names=["a", "b"]).findings == []
    (labels / "1.txt").write_text("7 .5 .5 .2 .2\n0 .5 .5 .2\n0 5 5 2 2\n")
    (labels / "8.txt").write_text("")
    found = {(f.kind, f.file, f.frame) for f in check(tmp_path, class_names=["a", "b"]).findings}
    one = str(labels / "1.txt")
    assert found == {
        ("unknown_class", one, 1),
        ("bad_line", one, 1),
        ("box_outside", one, 1),
        ("missing_frame", str(labels / "8.txt"), None),
    }


@pytest.fixture
def coco(tmp_path):
    frames(tmp_path / "v", ["0.png", "1.png", "2.png"])
    images = [
        {"id": i, "video_id": 1, "frame_id": i, "file_name": f"v/{i}.png", "height": 8, "width": 12} for i in range(3)
    ]
    annotations = [{"id": i, "image_id": i, "category_id": 5, "bbox": [1, 1, 4, 4], "instance_id": 3} for i in range(3)]
    return {
        "videos": [{"id": 1, "name": "v"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 5, "name": "elf"}],
    }


def check_json(tmp_path, data):
    (tmp_path / "set.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return check(tmp_path / "set.json")


def test_a_json_of_images_is_checked_entry_by_entry(tmp_path, coco):
    assert check_json(tmp_path, coco).findings == []
    coco["annotations"][0]["category_id"] = 6
    coco["annotations"][1]["bbox"] = [1, 1, 40, 4]
    coco["annotations"][2]["bbox"] = [1, 1, 4]
    coco["annotations"] += [{**coco["annotations"][0], "id": 1}, {"id": 9, "image_id": 77}, 3]
    coco["images"].append({**coco["images"][0], "id": 4})
    (tmp_path / "v" / "2.png").unlink()
    found = [(f.kind, f.frame) for f in check_json(tmp_path, coco).findings]
    assert sorted(found, key=str) == sorted(
        [
            ("unknown_class", 0),
            ("box_outside", 1),
            ("broken_annotation", 2),
            ("duplicate_line", None),
            ("duplicate_line", None),
            ("broken_annotation", None),
            ("broken_annotation", None),
            ("missing_frame", 2),
        ],
        key=str,
    )


def test_a_json_of_tracks_is_checked_entry_by_entry(tmp_path, coco):
    del coco["images"]
    coco["videos"] = [{"id": 1, "file_names": [f"v/{i}.png" for i in range(3)], "height": 8, "width": 12}]
    coco["annotations"] = [{"id": 1, "video_id": 1, "category_id": 5, "bboxes": [[1, 1, 4, 4], None, [1, 1, 4, 4]]}]
    assert check_json(tmp_path, coco).findings == []
    coco["annotations"][0]["bboxes"][2] = [1, 1, -4, 4]
    coco["annotations"].append({"id": 2, "video_id": 1, "category_id": 5, "bboxes": []})
    assert {(f.kind, f.frame) for f in check_json(tmp_path, coco).findings} == {
        ("box_inverted", 2),
        ("broken_annotation", None),
    }


@pytest.mark.parametrize("text", ["", "{", "[]", '{"videos": 3}', "\x00"])
def test_broken_json_is_a_finding(tmp_path, text):
    result = check_json(tmp_path, text)
    assert {finding.kind for finding in result.findings} == {"broken_annotation"}


def test_every_registered_layout_is_checked_entry_by_entry(mot, coco, tmp_path):
    (tmp_path / "set.json").write_text(json.dumps(coco | {"annotations": [{"id": 1, "image_id": 9}]}))
    (mot / "train" / "MOT 01" / "gt" / "gt.txt").write_text("x\ny\n")
    frames(tmp_path / "images" / "v", ["0.png"])
    (tmp_path / "labels" / "v").mkdir(parents=True)
    (tmp_path / "labels" / "v" / "0.txt").write_text("x\ny\n")
    register_coco_video("check_me", tmp_path / "set.json")
    register_mot("check_me_2", mot)
    register_yolo_video("check_me_3", tmp_path, ["elf"])
    found = []
    for name in ("check_me", "check_me_2", "check_me_3"):
        try:
            found += [(finding.kind, finding.line) for finding in check(name).findings if finding.severity == ERROR]
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    assert found == [("broken_annotation", None), *[("bad_line", 1), ("bad_line", 2)] * 2]


@pytest.mark.parametrize("layout", ["coco_video", "mot", "yolo", "uavdt"])
def test_the_fixed_list_of_image_ids_is_accepted_by_the_loaders(layout, tmp_path, request):
    options = {}
    if layout == "mot":
        path, broken = request.getfixturevalue("mot"), "mot/train/MOT 01/img1/000002.jpg"
        ids, load = ["MOT 01/000000", "MOT 01/000002"], lambda **list_file: load_mot(path, **list_file).dicts
    elif layout == "coco_video":
        path, broken = tmp_path / "set.json", "v/1.png"
        path.write_text(json.dumps(request.getfixturevalue("coco")))
        ids, load = ["v/000000", "v/000002"], lambda **list_file: load_coco_video(path, **list_file).dicts
    elif layout == "yolo":
        path, broken, options = tmp_path, "images/v/1.png", {"class_names": ["a"]}
        frames(tmp_path / "images" / "v", ["0.png", "1.png", "2.png"])
        (tmp_path / "labels" / "v").mkdir(parents=True)
        (tmp_path / "labels" / "v" / "0.txt").write_text("0 .5 .5 .2 .2\n")
        ids, load = ["v/000000", "v/000002"], lambda **list_file: load_yolo_video(path, ["a"], **list_file).dicts
    else:
        path, broken = tmp_path, "UAV-benchmark-M/M0101/img000002.jpg"
        frames(tmp_path / "UAV-benchmark-M" / "M0101", [f"img00000{i}.jpg" for i in (1, 2, 3)])
        (tmp_path / "GT").mkdir()
        (tmp_path / "GT" / "M0101_gt_whole.txt").write_text("1,1,1,1,4,4,1,1,1\n")
        ids = ["M0101/img000001", "M0101/img000003"]
        load = lambda **list_file: load_uavdt(path, "train", ["M0101"], **list_file)  # noqa: E731
    (tmp_path / broken).write_bytes(b"")
    source = open_source(str(path), format=layout, **options)
    result = check_dataset(source, progress=False)
    assert {finding.file for finding in result.findings if finding.severity == ERROR} == {str(tmp_path / broken)}
    list_file = tmp_path / "good.json"
    source.write_list(list_file, result.bad_entries)
    assert json.loads(list_file.read_text()) == ids
    assert [record["image_id"] for record in load(list_file=list_file)] == ids
    again = check(path, format=layout, list_file=list_file, **options)
    assert again.count(ERROR) == 0 and again.frames == 2


def assert_found(error, result):
    """What a loader stopped at is a finding, in the same words."""
    findings = [finding for finding in result.findings if finding.severity == ERROR]
    assert findings
    if error.kind != "unknown_class":  # classes are looked up after parsing
        value = f"{error.place.entry}: {error.value}" if error.place.entry else error.value
        assert (error.kind, str(error.place.file), error.place.line, value, error.expected) in {
            (finding.kind, finding.file, finding.line, finding.value, finding.expected) for finding in findings
        }


@pytest.mark.parametrize("layout", ["mot", "yolo", "uavdt"])
def test_what_a_loader_of_lines_stops_at_the_check_finds_in_the_same_words(layout, tmp_path, mot):
    if layout == "mot":
        path, file = mot, mot / "train" / "MOT 01" / "gt" / "gt.txt"
        load, valid = lambda: load_mot(path), b"1,7,1,1,4,4,1,1,1\n2,7,1,1,4,4,0,3,1\n3,7,2,1,4,4,1,1,0.1\n"
    elif layout == "yolo":
        path, file = tmp_path, tmp_path / "labels" / "v" / "0.txt"
        frames(tmp_path / "images" / "v", ["0.png"])
        file.parent.mkdir(parents=True)
        load, valid = lambda: load_yolo_video(path, ["a", "b"]), b"0 .5 .5 .2 .2 4\n1 .5 .5 .2 .2\n"
    else:
        path, file = tmp_path, tmp_path / "GT" / "M0101_gt_whole.txt"
        frames(tmp_path / "UAV-benchmark-M" / "M0101", ["img000001.jpg", "img000002.jpg"])
        file.parent.mkdir()
        load, valid = lambda: load_uavdt(path, "train", ["M0101"]), b"1,1,1,1,4,4,1,1,1\n2,1,1,1,4,4,2,3,1\n"
    options = {"class_names": ["a", "b"]} if layout == "yolo" else {}

    @fuzz(60)
    @given(st.binary(max_size=30) | mutated_bytes(valid))
    def compare(content):
        file.write_bytes(content)
        try:
            load()
        except Fault as error:
            assert_found(error, check(path, format=layout, **options))

    compare()


def test_what_the_loader_of_json_stops_at_the_check_finds_in_the_same_words(tmp_path, coco):
    tracks = {key: value for key, value in coco.items() if key != "images"}
    tracks["videos"] = [{"id": 1, "file_names": [f"v/{i}.png" for i in range(3)], "height": 8, "width": 12}]
    tracks["annotations"] = [{"id": 1, "video_id": 1, "category_id": 5, "bboxes": [[1, 1, 4, 4], None, [1, 1, 4, 4]]}]

    @fuzz(100)
    @given(mutated_json(coco) | mutated_json(tracks))
    def compare(data):
        (tmp_path / "set.json").write_text(json.dumps(data))
        try:
            load_coco_video(tmp_path / "set.json")
        except Fault as error:
            assert_found(error, check(tmp_path / "set.json"))
        except UserError:  # no frames or no categories: what there is may be without a fault
            pass

    compare()
