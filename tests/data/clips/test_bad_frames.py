"""Frames that cannot be read: another one stands in, they are counted, and too many of them stop the training.

Every pixel of frame i has the value 20 i.
"""

import itertools
import logging
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from vod2.config import add_video_config
from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog, get_cfg
from vod2.data import VideoIndex, build_video_test_loader, build_video_train_loader
from vod2.data.clips.bad_frames import BadFrames
from vod2.errors import UserError

FRAMES = 7


@pytest.fixture
def make(tmp_path):
    """make(videos) registers "frames" with so many videos of FRAMES frames, and returns their dicts."""

    def make_dataset(videos=1, template=True):
        dicts = []
        for video, index in itertools.product(range(videos), range(FRAMES)):
            file = tmp_path / f"{video}" / f"{index:06d}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((32, 48, 3), 20 * index, np.uint8)).save(file)
            box = {"bbox": [1.0, 1.0, 20.0 + index, 9.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
            record = {
                "file_name": str(file),
                "image_id": f"{video}/{index}",
                "height": 32,
                "width": 48,
                "video_id": str(video),
                "frame_index": index,
                "video_length": FRAMES,
                "annotations": [box],
            }
            if template:
                record |= {"frame_template": f"{tmp_path}/{video}/%06d.png", "frame_offset": 0}
            dicts.append(record)
        DatasetCatalog.register("frames", lambda: dicts)
        MetadataCatalog.get("frames").thing_classes = ["thing"]
        return dicts

    yield make_dataset
    if "frames" in DatasetCatalog.list():
        DatasetCatalog.remove("frames")
        MetadataCatalog.remove("frames")


def config(**keys):
    cfg = add_video_config(get_cfg())
    cfg.DATASETS.TRAIN = ("frames",)
    cfg.SEED = 3
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (32,)
    cfg.INPUT.MIN_SIZE_TEST = 32
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.DATASETS.ON_BAD_FRAME = "skip"
    cfg.VIDEO.TRAIN_SCHEDULE.NAME = "RandomNear"
    cfg.VIDEO.TRAIN_SCHEDULE.RADIUS = 2
    cfg.VIDEO.TEST_SCHEDULE.NAME = "SlidingWindow"
    cfg.VIDEO.TEST_SCHEDULE.RADIUS = 1
    cfg.merge_from_list([part for key, value in keys.items() for part in (key.replace("__", "."), value)])
    return cfg


def value(image):
    """Which frame an image shows."""
    return round(float(image[0].float().median()) / 20)


def clips(cfg, count):
    return [clip for (clip,) in itertools.islice(iter(build_video_train_loader(cfg)), count)]


def describe(clip):
    return clip["image_id"], [support["frame_index"] for support in clip["support"]]


def break_frame(record, how="truncated"):
    with open(record["file_name"], "rb") as file:
        content = file.read()
    if how == "other size":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(record["file_name"])
    elif how == "enormous":  # its header says 50,000 x 50,000
        header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
        checksum = struct.pack(">I", zlib.crc32(header))
        with open(record["file_name"], "wb") as file:
            file.write(content[:8] + struct.pack(">I", 13) + header + checksum + content[33:])
    else:
        with open(record["file_name"], "wb") as file:
            file.write(content[: len(content) // 2] if how == "truncated" else b"")


def test_by_default_the_first_bad_frame_stops_the_training(make):
    dicts = make()
    break_frame(dicts[3])
    with pytest.raises(UserError, match=r"000003\.png"):
        clips(config(DATASETS__ON_BAD_FRAME="error"), 20)


@pytest.mark.parametrize("how", ["truncated", "empty", "other size", "enormous"])
def test_another_frame_of_the_same_video_takes_the_place_of_a_bad_one(make, how):
    dicts = make(videos=2)
    break_frame(dicts[3], how)
    seen = set()
    for clip in clips(config(), 60):
        for frame in (clip, *clip["support"]):
            assert value(frame["image"]) == frame["frame_index"]
            assert frame["instances"].gt_boxes.tensor.tolist() == [[1, 1, 20 + frame["frame_index"], 9]]
        assert clip["image_id"] == f"{clip['video_id']}/{clip['frame_index']}"
        seen.update((clip["video_id"], frame["frame_index"]) for frame in (clip, *clip["support"]))
    assert seen == {(d["video_id"], d["frame_index"]) for d in dicts} - {("0", 3)}


def test_the_stand_in_depends_on_the_seed_and_not_on_the_workers(make):
    dicts = make(videos=2)
    for position in (1, 3, 10):
        break_frame(dicts[position])
    runs = [list(map(describe, clips(config(DATALOADER__NUM_WORKERS=n), 24))) for n in (0, 2)]
    assert runs[0] == runs[1]


def test_clips_without_bad_frames_are_the_same_under_both_policies(make):
    make(videos=2)
    runs = [list(map(describe, clips(config(DATASETS__ON_BAD_FRAME=policy), 12))) for policy in ("error", "skip")]
    assert runs[0] == runs[1]


def test_a_bad_file_is_counted_and_logged_once(make, caplog):
    dicts = make()
    break_frame(dicts[3])
    with caplog.at_level(logging.WARNING, "vod2.data.clips.bad_frames"):
        clips(config(DATASETS__MAX_BAD_FRAMES=1), 40)
    messages = [record.getMessage() for record in caplog.records if record.name == "vod2.data.clips.bad_frames"]
    assert len(messages) == 1 and "000003.png" in messages[0] and "1 of at most 1" in messages[0]


def test_more_bad_files_than_the_limit_stop_the_training_with_their_list(make):
    dicts = make()
    for position in (1, 3, 5):
        break_frame(dicts[position])
    clips(config(DATASETS__MAX_BAD_FRAMES=3), 30)
    with pytest.raises(UserError, match="MAX_BAD_FRAMES = 2") as error:
        clips(config(DATASETS__MAX_BAD_FRAMES=2), 30)
    assert all(f"00000{position}.png" in str(error.value) for position in (1, 3, 5))


def test_a_video_without_a_good_frame_is_replaced_by_another_one(make):
    dicts = make(videos=2)
    for record in dicts[:FRAMES]:
        break_frame(record)
    assert {clip["video_id"] for clip in clips(config(), 20)} == {"1"}


def test_a_video_file_that_cannot_be_decoded_is_replaced_by_another_one(make, tmp_path):
    dicts = make(videos=2, template=False)
    for video in ("0", "1"):
        writer = cv2.VideoWriter(str(tmp_path / f"{video}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (48, 32))
        for index in range(FRAMES):
            writer.write(np.full((32, 48, 3), 20 * index, np.uint8))
        writer.release()
    for record in dicts:
        del record["file_name"]
        record["video_file"] = str(tmp_path / f"{record['video_id']}.mp4")
    (tmp_path / "0.mp4").write_bytes((tmp_path / "0.mp4").read_bytes()[:-200])
    found = clips(config(DATASETS__MAX_BAD_FRAMES=1), 12)
    assert {clip["video_id"] for clip in found} == {"1"}
    assert all(value(frame["image"]) == frame["frame_index"] for clip in found for frame in (clip, *clip["support"]))


def test_a_dataset_without_a_good_frame_stops_the_training(make):
    for record in make():
        break_frame(record)
    with pytest.raises(UserError, match="nothing of the dataset"):
        clips(config(), 1)


def test_a_key_frame_with_objects_is_not_replaced_by_one_without(make):
    dicts = make()
    break_frame(dicts[3])
    for position in (2, 4):
        dicts[position]["annotations"] = []
    cfg = config(DATALOADER__FILTER_EMPTY_ANNOTATIONS=False)
    for clip in clips(cfg, 40):
        assert clip["frame_index"] in (2, 4) or len(clip["instances"]) == 1
    bad = BadFrames("skip", 9, VideoIndex(dicts))

    def read(record, index):
        if index == 3:
            raise UserError("3.png: bad")
        return index

    assert {bad.read_key(read, dicts[3], np.random.default_rng(seed))[1] for seed in range(9)} == {1, 5}


def test_without_a_template_stand_ins_are_listed_frames(make):
    dicts = make(template=False)
    break_frame(dicts[3])
    for clip in clips(config(DATASETS__MAX_BAD_FRAMES=1), 30):
        assert all(value(frame["image"]) == frame["frame_index"] != 3 for frame in (clip, *clip["support"]))


def test_in_a_stream_the_nearest_readable_image_is_repeated_under_the_bad_frames_number(make):
    dicts = make()
    for position in (0, 3, 4, 6):
        break_frame(dicts[position])
    images = {}
    for (clip,) in build_video_test_loader(config(), "frames"):
        if "image" in clip:
            images[clip["frame_index"]] = value(clip["image"])
        images |= {support["frame_index"]: value(support["image"]) for support in clip["support"]}
    assert images == {0: 1, 1: 1, 2: 2, 3: 2, 4: 5, 5: 5, 6: 5}


def test_a_stream_without_a_readable_frame_stops(make):
    for record in make():
        break_frame(record)
    with pytest.raises(UserError, match="no frame of video '0'"):
        list(build_video_test_loader(config(), "frames"))


def test_a_video_file_counts_once_however_many_of_its_frames_are_bad():
    def read(record, index):
        raise UserError(f"frame {index}: bad")

    clip = {"video_id": "v", "frame_index": 0, "video_length": 9, "video_file": "v.mp4"}
    bad = BadFrames("skip", 1)
    with pytest.raises(UserError, match="no frame of video"):
        bad.read(read, clip, 0)
    assert len(bad) == 1


def test_a_bug_is_not_taken_for_a_bad_frame():
    def read(record, index):
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        BadFrames("skip", 9).read(read, {"video_id": "v", "frame_index": 0, "video_length": 9}, 0)


def test_an_unknown_policy_is_named():
    with pytest.raises(UserError, match="'ignore'"):
        BadFrames("ignore")
