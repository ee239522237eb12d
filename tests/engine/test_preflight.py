"""What is wrong with datasets is told before a model is built, all of it."""

import numpy as np
import pytest
from PIL import Image

from helpers.loaders import forget
from helpers.models import ROOT
from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog
from vod2.data.checks import check_dataset, open_source
from vod2.engine import VideoTrainer, check_datasets, check_evaluation, check_training, load_config, preflight
from vod2.errors import UserError

NAMES = ("preflight_train", "preflight_val")


@pytest.fixture
def folder(tmp_path):
    for video in range(2):
        for t in range(4):
            Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / f"{video}_{t}.png")
    yield tmp_path
    for name in NAMES:
        if name in DatasetCatalog.list():
            forget(name)


def records_of(folder) -> list[dict]:
    """Two videos of four frames with one elf."""
    dicts = []
    for video in range(2):
        for t in range(4):
            elf = {"bbox": [8, 20, 28, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
            record = {"file_name": str(folder / f"{video}_{t}.png"), "image_id": f"{video}/{t}", "height": 64}
            record |= {"width": 96, "video_id": f"v{video}", "frame_index": t, "video_length": 4, "annotations": [elf]}
            dicts.append(record)
    return dicts


def register(folder, name=NAMES[0], change=lambda dicts: None, classes=("elf",), **metadata) -> None:
    dicts = records_of(folder)
    change(dicts)
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(thing_classes=list(classes), evaluator_type="vid", **metadata)


def config(folder, train=NAMES[:1], test=NAMES[:1], method="FasterRCNN", **keys):
    words = ["DATASETS.TRAIN", str(tuple(train)), "DATASETS.TEST", str(tuple(test)), "MODEL.ROI_HEADS.NUM_CLASSES", "1"]
    words += ["OUTPUT_DIR", str(folder / "out"), "MODEL.DEVICE", "cpu"]
    for key, value in keys.items():
        words += [key.replace("__", "."), value]
    return load_config(str(ROOT / "configs" / "quick" / f"{method}.yaml"), words)


def fault(cfg) -> str:
    with pytest.raises(UserError) as error:
        check_training(cfg)
    return str(error.value)


def test_a_good_dataset_passes(folder):
    register(folder)
    check_training(config(folder))
    assert (folder / "out").is_dir()


def without(field):
    return lambda dicts: dicts[0].pop(field)


def with_note(**values):
    return lambda dicts: dicts[5]["annotations"][0].update(values)


def with_field(**values):
    return lambda dicts: dicts[5].update(values)


WRONG = {
    "no image_id": (without("image_id"), "frame 0 of video 'v0' .*0_0.png.: image_id is missing"),
    "image_id twice": (with_field(image_id="0/0"), "1_1.png.: image_id is '0/0', which another frame has"),
    "frame twice": (with_field(frame_index=0), "frame 0 of video 'v1' .*1_1.png. comes twice"),
    "no file": (with_field(file_name="lost.png"), "file_name is 'lost.png', expected a file that is there"),
    "backslashes": (with_field(file_name="a\\0.png"), "expected a file that is there: write it with slashes"),
    "no height": (without("height"), "height is missing, expected a whole number of pixels"),
    "height of a text": (with_field(height="64"), "height is '64'"),
    "no frame_index": (without("frame_index"), "frame_index is missing, expected a whole number from 0"),
    "frame_index of a text": (with_field(frame_index="1"), "frame_index is '1', expected a whole number"),
    "video_length too short": (with_field(video_length=1), "frame_index is '1 with video_length 1'"),
    "annotations of some": (without("annotations"), "0_0.png. has no annotations, which other frames have"),
    "annotations that are no list": (with_field(annotations={}), "annotations is {}, expected a list of dicts"),
    "category_id from 1": (
        with_note(category_id=1),
        r"annotations\[0\].category_id is 1, expected a place in thing_cla",
    ),
    "negative category_id": (
        with_note(category_id=-1),
        r"category_id is -1, expected a place in thing_classes, 0 to 0",
    ),
    "category_id of a name": (with_note(category_id="elf"), r"category_id is 'elf'"),
    "box with NaN": (
        with_note(bbox=[float("nan"), 1, 2, 3]),
        r"annotations\[0\].bbox is \[nan, 1, 2, 3\], expected four",
    ),
    "infinite box": (with_note(bbox=[1, 1, float("inf"), 3]), r"bbox is \[1, 1, inf, 3\], expected four finite"),
    "inverted box": (
        with_note(bbox=[30, 30, 10, 10]),
        r"bbox is \[30, 30, 10, 10\], expected x1 < x2 and y1 < y2 in XY",
    ),
    "box outside": (
        with_note(bbox=[90, 30, 120, 60]),
        r"bbox is .*expected a box in 96 x 64 pixels .XYXY_ABS.: clip it",
    ),
    "corners called sizes": (
        with_note(bbox=[60, 20, 90, 50], bbox_mode=BoxMode.XYWH_ABS),
        r"in 96 x 64 pixels .XYWH_A",
    ),
    "box of three": (with_note(bbox=[1, 2, 3]), r"bbox is \[1, 2, 3\], expected four numbers"),
    "unknown bbox_mode": (with_note(bbox_mode=4), "bbox_mode is 4, expected BoxMode.XYXY_ABS or BoxMode.XYWH_ABS"),
    "iscrowd": (with_note(iscrowd="no"), "iscrowd is 'no', expected 0 or 1"),
    "ignore": (with_note(ignore=1), "ignore is 1, expected 0, or iscrowd: 1 for a region that is ignored"),
    "track_id of a text": (with_note(track_id="9f1b"), "track_id is '9f1b', expected a whole number"),
    "groups of a text": (with_field(groups="close"), "groups is 'close', expected a sequence of names"),
    "template": (with_field(frame_template="a.png", frame_offset=0), "frame_template is 'a.png', expected a path with"),
    "no objects": (
        lambda dicts: [d.update(annotations=[]) for d in dicts],
        "no frame has annotations, expected objects",
    ),
    "no areas": (lambda dicts: [d["annotations"][0].update(bbox=[9, 9, 9, 20]) for d in dicts], "every box is without"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG.keys())
def test_a_faulty_dict_is_refused_with_dataset_frame_field_and_value(folder, change, message):
    register(folder, change=change)
    with pytest.raises(UserError, match=message) as error:
        check_training(config(folder))
    assert str(error.value).startswith("preflight_train: ") and ": " in str(error.value).split("expected", 1)[1]


GOOD = {
    "numpy": lambda dicts: dicts[5].update(height=np.int64(64), annotations=[]),
    "a number of a video": lambda dicts: [d.update(video_id=int(d["video_id"][1:])) for d in dicts],
    "no video_length": lambda dicts: [d.pop("video_length") for d in dicts],
    "no iscrowd": lambda dicts: [d["annotations"][0].pop("iscrowd") for d in dicts],
    "a pixel outside": with_note(bbox=[80, 20, 97, 40]),
    "a box without area": with_note(bbox=[80, 20, 80, 40]),
    "an array": with_note(bbox=np.array([8.0, 20, 28, 40])),
    "stills": lambda dicts: [d.pop(k) for d in dicts for k in ("video_id", "frame_index", "video_length")],
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD.keys())
def test_what_training_can_take_is_not_refused(folder, change):
    register(folder, change=change)
    check_training(config(folder))


def test_all_faults_come_in_one_list_each_kind_once(folder):
    def spoil(dicts):
        for record in dicts:
            record["annotations"][0]["category_id"] = 1
        dicts[3]["height"] = -2

    register(folder, change=spoil)
    register(folder, NAMES[1], without("file_name"))
    (folder / "file").write_text("")
    cfg = config(folder, test=NAMES[1:], OUTPUT_DIR=str(folder / "file"))
    message = fault(cfg)
    assert message.startswith("the training cannot start, 4 faults:\n  1. preflight_train: frame 0 of video 'v0'")
    assert "(7 more of 8 frames alike)" in message and "height is -2" in message
    assert "preflight_val: frame 0 of video 'v0': file_name is missing" in message
    assert "OUTPUT_DIR" in message and "cannot be written" in message


def test_the_trainer_refuses_before_it_builds_a_model(folder, monkeypatch):
    register(folder, change=with_note(category_id=7))
    monkeypatch.setattr(VideoTrainer, "build_model", lambda cfg: pytest.fail("a model was built"))
    with pytest.raises(UserError, match="category_id is 7"):
        VideoTrainer(config(folder))


@pytest.mark.parametrize(
    "train, val, message",
    [
        (("car", "truck", "bus"), ("car", "bus"), "calls label 1 'bus', preflight_train calls it 'truck'"),
        (("car", "truck", "bus"), ("car", "truck"), "has 2 of the classes that preflight_train has 3 of"),
        (("car", "truck"), ("truck", "car"), "calls label 0 'truck', preflight_train calls it 'car'"),
    ],
)
@pytest.mark.parametrize("both", [False, True], ids=["evaluated", "trained on together"])
def test_classes_of_another_order_are_refused(folder, train, val, message, both):
    register(folder, classes=train)
    register(folder, NAMES[1], classes=val)
    cfg = config(folder, NAMES if both else NAMES[:1], NAMES[1:], MODEL__ROI_HEADS__NUM_CLASSES="3")
    assert message in fault(cfg) and "class_names=['car'" in fault(cfg)


def test_a_dataset_without_names_is_refused_and_one_that_gets_them_when_it_is_read_is_not(folder):
    dicts = records_of(folder)
    DatasetCatalog.register(NAMES[0], lambda: dicts)
    MetadataCatalog.get(NAMES[0]).set(evaluator_type="vid")
    assert "has no class names: set thing_classes" in fault(config(folder))
    check_datasets(config(folder), NAMES[:1])  # nothing is read, so nothing is known

    def read():
        MetadataCatalog.get(NAMES[1]).set(thing_classes=["elf"])
        return dicts

    DatasetCatalog.register(NAMES[1], read)
    check_training(config(folder, NAMES[1:], NAMES[1:]))


def test_what_a_dataset_raises_is_a_fault_with_its_name(folder):
    def broken():
        raise FileNotFoundError("no.json")

    register(folder, NAMES[1])
    DatasetCatalog.register(NAMES[0], broken)
    assert "dataset 'preflight_train' cannot be loaded (FileNotFoundError: no.json)" in fault(config(folder))
    MetadataCatalog.get(NAMES[0])


def test_an_evaluation_that_could_not_run_is_refused(folder):
    register(folder)
    assert "TEST.CONTEXT is 'nobody'" in fault(config(folder, TEST__CONTEXT="nobody"))
    assert "cannot be evaluated: " in fault(config(folder, TEST__VID_PROTOCOL="unheard"))
    assert "TEST.FRAME_KINDS" in fault(config(folder, TEST__FRAME_KINDS="absent.json")) or "absent.json" in fault(
        config(folder, TEST__FRAME_KINDS="absent.json")
    )


def test_cocos_ap_needs_the_name_of_a_file(folder):
    (folder / "v.mp4").write_bytes(b"")

    def on_a_video(dicts):
        for record in dicts:
            del record["file_name"]
            record["video_file"] = str(folder / "v.mp4")

    register(folder, change=on_a_video)
    assert "has no file_name, which COCO's AP asks for" in fault(config(folder))
    check_training(config(folder, TEST__COCO_AP="False"))


def test_what_asks_for_ids_is_not_trained_without_tracks(folder):
    register(folder)
    assert "has a track_id, but MSTAggregator is trained on" in fault(config(folder, method="MST"))
    with_tracks = [record["annotations"][0].update(track_id=3) for record in DatasetCatalog.get(NAMES[0])]
    assert len(with_tracks) == 8
    check_training(config(folder, method="MST"))


def test_a_full_disk_is_told_before(folder, monkeypatch):
    register(folder)
    usage = type("Usage", (), {"free": 5 * 2**20})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    assert "has 5 MiB left, expected at least 256" in fault(config(folder))


def test_of_a_large_dataset_a_part_is_looked_at_with_its_ends():
    assert preflight.evenly_spaced(5, 9) == [0, 1, 2, 3, 4]
    rows = preflight.evenly_spaced(100_000, preflight.SAMPLED)
    assert len(set(rows)) == preflight.SAMPLED and rows[0] == 0 and rows[-1] == 99_999


def test_the_check_of_a_dataset_refuses_the_same_fields(folder):
    register(folder, change=with_note(bbox=[1, 2, 3]))
    with pytest.raises(UserError, match=r"preflight_train: frame 1 of video 'v1' .*bbox is \[1, 2, 3\], expected four"):
        open_source(NAMES[0])
    forget(NAMES[0])
    register(folder, change=with_note(bbox=[30, 30, 10, 10], category_id=9))
    found = check_dataset(open_source(NAMES[0]), progress=False).findings
    assert {finding.kind for finding in found} == {"box_inverted", "unknown_class"}


def test_an_evaluation_alone_is_checked_too(folder):
    register(folder)
    register(folder, NAMES[1], with_note(bbox=[30, 30, 10, 10]))
    check_evaluation(config(folder, train=("nobodys",)))
    with pytest.raises(UserError, match="preflight_val: frame 1 of video 'v1' .*bbox is"):
        check_evaluation(config(folder, test=NAMES[1:]))
