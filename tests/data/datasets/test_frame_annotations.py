"""Ground truth of frames that the list of a dataset leaves out."""

import itertools
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.loaders import forget, loader_config
from helpers.models import ROOT
from helpers.videos import write_numbered_images, write_numbered_video
from vod2.d2 import CfgNode, DatasetCatalog, MetadataCatalog
from vod2.data import VideoIndex, build_video_train_loader
from vod2.data.datasets import (
    load_imagenet_vid,
    register_coco_video,
    register_every_nth,
    register_imagenet_vid,
    register_mot,
    register_uavdt,
    register_yolo_video,
)
from vod2.data.datasets.frame_annotations import AnnotationCache, FrameAnnotations
from vod2.engine import VideoTrainer, load_config
from vod2.errors import UserError
from vod2.modeling import PROPOSAL_AGGREGATOR_REGISTRY, asks_for_ids
from vod2.modeling.object_ids import object_ids
from vod2.structures import UNKNOWN

NAME = "frame_annotations_for_a_test"
LENGTH = 300
VIDEO = "train/ILSVRC2015_VID_train_0000/fox"


@pytest.fixture(autouse=True)
def registered(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    for name in (NAME, f"{NAME}_nth"):
        if name in DatasetCatalog.list():
            forget(name)


def box_of(frame: int) -> list[float]:
    """Where the fox of the VID-like set stands."""
    return [4.0 + frame / 20, 6.0, 24.0 + frame / 20, 26.0]


def write_vid(root: Path, without: tuple[int, ...] = ()) -> Path:
    """One training video of 300 frames with one fox, of which the usual list would name 15; the images are one file."""
    data, annotations = root / "Data/VID" / VIDEO, root / "Annotations/VID" / VIDEO
    data.mkdir(parents=True)
    annotations.mkdir(parents=True)
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(root / "image.JPEG")
    for frame in range(LENGTH):
        os.link(root / "image.JPEG", data / f"{frame:06d}.JPEG")
        sides = zip(("xmin", "ymin", "xmax", "ymax"), box_of(frame), strict=True)
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
        thing = f"<object><trackid>3</trackid><name>n02118333</name><bndbox>{box}</bndbox></object>"
        if frame not in without:
            size = "<size><width>48</width><height>32</height></size>"
            (annotations / f"{frame:06d}.xml").write_text(f"<annotation>{size}{thing}</annotation>")
    return root


def mst_config(name: str, config: str = "MST_R101", workers: int = 0) -> CfgNode:
    """The published configuration on another dataset, with small images."""
    cfg = load_config(str(ROOT / f"configs/{config}.yaml"))
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.DATASETS.MAX_IMAGES_PER_CLASS = (name,), 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.SEED, cfg.DATALOADER.NUM_WORKERS = (32,), 3, workers
    return cfg


def training_clips(cfg: CfgNode, count: int) -> list[dict]:
    batches = iter(VideoTrainer.build_train_loader(cfg))
    return list(itertools.islice(itertools.chain.from_iterable(batches), count))


def tells_all_ids(clip: dict) -> bool:
    """Whether every frame of a clip says which object its boxes show."""
    frames = [clip, *clip["support"]]
    ids = [
        object_ids(frame["instances"].gt_boxes.tensor, frame["instances"], 0.5)
        for frame in frames
        if "instances" in frame
    ]
    return len(ids) == len(frames) and all((one != UNKNOWN).all() for one in ids)


class TestImageNetVID:
    def test_the_clips_of_mst_know_the_objects_of_all_their_frames(self, tmp_path):
        """Supports come from 37 frames around the key frame, of which the list has one or two."""
        register_imagenet_vid(NAME, write_vid(tmp_path), "train")
        clips = training_clips(mst_config(NAME), 100)
        assert np.mean([tells_all_ids(clip) for clip in clips]) >= 0.95
        listed = {record["frame_index"] for record in DatasetCatalog.get(NAME)}
        supports = [support for clip in clips for support in clip["support"]]
        assert len(listed) == 15 and np.mean([one["frame_index"] in listed for one in supports]) < 0.2
        for support in supports:
            targets = support["instances"]
            scale = targets.image_size[1] / 48  # flipped or not, the width is the same
            assert targets.gt_track_ids.tolist() == [3] and targets.gt_classes.tolist() == [11]
            box = targets.gt_boxes.tensor[0] / scale
            left, _, right, _ = box_of(support["frame_index"])
            assert box[0].item() == pytest.approx(left, abs=1e-3) or box[0].item() == pytest.approx(
                48 - right, abs=1e-3
            )

    def test_a_frame_is_annotated_as_if_the_list_had_it(self, tmp_path):
        register_imagenet_vid(NAME, write_vid(tmp_path), "train")
        index = VideoIndex(named(DatasetCatalog.get(NAME)), {NAME: MetadataCatalog.get(NAME).frame_annotations})
        for record in load_imagenet_vid(tmp_path, "train", every_frame=True):
            assert index.annotations(VIDEO, record["frame_index"]) == record["annotations"]

    def test_a_missing_file_makes_its_frame_unknown_and_no_other(self, tmp_path):
        register_imagenet_vid(NAME, write_vid(tmp_path, without=(100, 101)), "train")
        index = VideoIndex(named(DatasetCatalog.get(NAME)), {NAME: MetadataCatalog.get(NAME).frame_annotations})
        assert [index.annotations(VIDEO, t) is None for t in (99, 100, 101, 102)] == [False, True, True, False]

    def test_a_broken_file_is_named(self, tmp_path):
        register_imagenet_vid(NAME, write_vid(tmp_path), "train")
        (tmp_path / "Annotations/VID" / VIDEO / "000123.xml").write_text("<annotation>")
        index = VideoIndex(named(DatasetCatalog.get(NAME)), {NAME: MetadataCatalog.get(NAME).frame_annotations})
        with pytest.raises(UserError, match=r"000123\.xml: broken XML"):
            index.annotations(VIDEO, 123)

    def test_nothing_is_read_for_a_method_that_does_not_ask(self, tmp_path, monkeypatch):
        register_imagenet_vid(NAME, write_vid(tmp_path), "train")
        monkeypatch.setattr(AnnotationCache, "__call__", None)  # not callable: it would fail
        clips = training_clips(mst_config(NAME, "RDN_R101"), 20)
        listed = {record["frame_index"] for record in DatasetCatalog.get(NAME)}
        for support in (support for clip in clips for support in clip["support"]):
            assert ("instances" in support) == (support["frame_index"] in listed)

    def test_clips_do_not_depend_on_the_number_of_workers(self, tmp_path):
        register_imagenet_vid(NAME, write_vid(tmp_path), "train")
        alone, three = (training_clips(mst_config(NAME, workers=workers), 12) for workers in (0, 3))
        for one, other in zip(alone, three, strict=True):
            for a, b in zip([one, *one["support"]], [other, *other["support"]], strict=True):
                assert a["frame_index"] == b["frame_index"]
                assert a["instances"].gt_boxes.tensor.equal(b["instances"].gt_boxes.tensor)


def named(dicts: list[dict]) -> list[dict]:
    """As the loader has them: each with the name of its dataset."""
    return [{**record, "dataset_name": NAME} for record in dicts]


def register_small_uavdt(root: Path, **options) -> None:
    """Only one sequence of the official split is written, so the readers are asked for that one."""
    folder, truth = root / "UAV-benchmark-M/M0101", root / "GT"
    write_numbered_images(folder, [f"img{number:06d}.jpg" for number in range(1, 5)])
    truth.mkdir()
    lines = [f"{number},9,{number},4,20,10,1,1,2" for number in range(1, 5)]
    (truth / "M0101_gt_whole.txt").write_text("\n".join(lines))
    (truth / "M0101_gt_ignore.txt").write_text("")
    register_uavdt(NAME, root, "train", **options)


def register_small_mot(root: Path, **options) -> None:
    folder = root / "train/walk"
    write_numbered_images(folder / "img1", [f"{number:06d}.jpg" for number in range(1, 5)])
    (folder / "gt").mkdir()
    lines = [f"{number},9,{number},4,20,10,1,1,1" for number in range(1, 5)]
    (folder / "gt/gt.txt").write_text("\n".join(lines))
    ini = "[Sequence]\nimDir=img1\nseqLength=4\nimWidth=48\nimHeight=32\nimExt=.jpg\n"
    (folder / "seqinfo.ini").write_text(ini)
    register_mot(NAME, root, **options)


def register_small_coco(root: Path, **options) -> None:
    write_numbered_video(root / "walk.mp4", 4)
    size = {"height": 32, "width": 48}
    images = [{"id": t, "video_id": 1, "frame_id": t, "file_name": f"{t}.png", **size} for t in range(4)]
    boxes = [{"image_id": t, "bbox": [t + 1, 4, 20, 10], "category_id": 1, "instance_id": 9} for t in range(4)]
    content = {"videos": [{"id": 1, "name": "walk"}], "images": images, "annotations": boxes}
    (root / "a.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "elf"}]}))
    register_coco_video(NAME, root / "a.json", video_root=root, **options)


def register_small_yolo(root: Path, **options) -> None:
    write_numbered_video(root / "walk.mp4", 4)
    labels = root / "labels/walk"
    labels.mkdir(parents=True)
    for t in range(4):
        (labels / f"{t}.txt").write_text(f"0 {(t + 11) / 48} {9 / 32} {20 / 48} {10 / 32} 9\n")
    register_yolo_video(NAME, root, ["elf"], video_root=root, **options)


SMALL_SETS = {
    "uavdt": (register_small_uavdt, "M0101", "M0101/img{:06d}", 1),
    "mot": (register_small_mot, "walk", "walk/{:06d}", 0),
    "coco_video": (register_small_coco, "walk", "walk/{:06d}", 0),
    "yolo": (register_small_yolo, "walk", "walk/{:06d}", 0),
}
"""Four frames of 32 x 48 pixels; object 9 has the box [t + 1, 4, t + 21, 14] in frame t."""


@pytest.fixture
def one_sequence(monkeypatch):
    """UAVDT's official training split as that one sequence."""
    monkeypatch.setattr("vod2.data.datasets.uavdt.UAVDT_SEQUENCES", {"train": ("M0101",)})


@pytest.mark.usefixtures("one_sequence")
@pytest.mark.parametrize("name", SMALL_SETS)
class TestOtherFormats:
    def test_a_frame_that_the_list_leaves_out_keeps_its_objects(self, tmp_path, name):
        register, video, image_id, first = SMALL_SETS[name]
        (tmp_path / "list.json").write_text(json.dumps([image_id.format(1 + first)]))
        register(tmp_path, list_file=tmp_path / "list.json")
        dicts = named(DatasetCatalog.get(NAME))
        assert [record["frame_index"] for record in dicts] == [1]
        index = VideoIndex(dicts, {NAME: MetadataCatalog.get(NAME).frame_annotations})
        for t in range(4):
            (found,) = index.annotations(video, t)
            assert found["bbox"] == pytest.approx([t + 1, 4, t + 21, 14]) and found["track_id"] == 9
        assert index.annotations(video, 4) is None

    def test_a_set_of_every_nth_frame_reads_the_frames_between(self, tmp_path, name):
        register, video, _, _ = SMALL_SETS[name]
        register(tmp_path)
        register_every_nth(f"{NAME}_nth", NAME, 2)
        cfg = loader_config(f"{NAME}_nth")
        clips = next(iter(build_video_train_loader(cfg, all_annotations=True)))
        frames = [support for clip in clips for support in clip["support"]]
        assert len(frames) == 4 and all(one["instances"].gt_track_ids.tolist() == [9] for one in frames)

    def test_the_reader_is_small_and_can_be_sent_to_a_process(self, tmp_path, name):
        SMALL_SETS[name][0](tmp_path)
        reader = MetadataCatalog.get(NAME).frame_annotations
        stored = pickle.dumps(reader)
        assert len(stored) < 2000 and pickle.loads(stored) == reader


class Counting(FrameAnnotations):
    """Frame t of a video has t objects; counts what is read."""

    def __init__(self):
        self.parts = []

    def part(self, video_id, index):
        return video_id, index

    def read(self, part):
        self.parts.append(part)
        yield {"video_id": part[0], "frame_index": part[1], "annotations": [{"bbox": [0, 0, 1, 1]}] * part[1]}


class TestAnnotationCache:
    def test_what_was_asked_for_last_is_not_read_again(self):
        reader = Counting()
        cache = AnnotationCache(reader)
        assert [len(cache("v", t)) for t in (3, 5, 3)] == [3, 5, 3]
        assert reader.parts == [("v", 3), ("v", 5)]

    def test_it_holds_no_more_than_its_bytes_and_forgets_what_was_asked_for_longest_ago(self):
        reader = Counting()
        cache = AnnotationCache(reader, max_bytes=2000)
        for t in (1, 2, 3, 1, 4, 5, 6, 7):
            cache("v", t)
            assert cache.stored_bytes <= 2000
        known = len(reader.parts)
        cache("v", 7)
        assert len(reader.parts) == known
        cache("v", 1)
        assert len(reader.parts) == known + 1

    def test_a_part_that_is_larger_is_kept_alone(self):
        reader = Counting()
        cache = AnnotationCache(reader, max_bytes=1)
        assert len(cache("v", 9)) == len(cache("v", 9)) == 9
        assert reader.parts == [("v", 9)]

    def test_a_caller_may_change_what_it_was_given(self):
        cache = AnnotationCache(Counting())
        cache("v", 2).clear()
        assert len(cache("v", 2)) == 2


class TestWhoAsks:
    @pytest.mark.parametrize("name", sorted(dict(PROPOSAL_AGGREGATOR_REGISTRY)))
    def test_an_aggregator_with_a_least_iou_of_ids_says_so_beforehand(self, name):
        cfg = load_config(str(ROOT / "configs/quick/HVRNet.yaml"))
        cfg.defrost()
        cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME = name
        kind = PROPOSAL_AGGREGATOR_REGISTRY.get(name)
        assert asks_for_ids(cfg) == (kind(cfg, 64).needs.track_iou is not None)

    def test_one_of_a_sequence_is_enough(self):
        cfg = load_config(str(ROOT / "configs/ablations/mst.yaml:MEGA_k"))
        assert asks_for_ids(cfg) and not asks_for_ids(load_config(str(ROOT / "configs/MEGA_R101.yaml")))

    def test_without_instance_level_mst_does_not_ask(self):
        assert not asks_for_ids(load_config(str(ROOT / "configs/ablations/mst.yaml:f")))
