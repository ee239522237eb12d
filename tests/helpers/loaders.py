"""From a registered dataset of numbered frames (see `videos`) to what a model gets."""

import itertools

from helpers.videos import number_of
from vod2.config import add_video_config
from vod2.d2 import CfgNode, DatasetCatalog, MetadataCatalog, get_cfg
from vod2.data import build_video_test_loader, build_video_train_loader


def loader_config(name: str, workers: int = 0) -> CfgNode:
    """Two supports near the key frame in training, and a window of 2 frames on either side in inference."""
    cfg = add_video_config(get_cfg())
    cfg.DATASETS.TRAIN = (name,)
    cfg.SEED = 5
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.INPUT.MIN_SIZE_TRAIN = (32,)
    cfg.INPUT.MIN_SIZE_TEST = 32
    cfg.VIDEO.TRAIN_SCHEDULE.NAME = "RandomNear"
    cfg.VIDEO.TEST_SCHEDULE.NAME = "SlidingWindow"
    cfg.VIDEO.TEST_SCHEDULE.RADIUS = 2
    return cfg


def assert_loaders_show_the_right_frames(name: str, lengths: dict[str, int], workers: int = 0) -> None:
    """Five training batches and the test stream of a dataset: every image is the frame that it is said to be."""
    cfg = loader_config(name, workers)
    clips = sum(itertools.islice(iter(build_video_train_loader(cfg)), 5), [])
    assert len(clips) == 10
    for clip in clips:
        assert number_of(clip["image"]) == clip["frame_index"] and clip["video_length"] == lengths[clip["video_id"]]
        assert [number_of(s["image"]) for s in clip["support"]] == [s["frame_index"] for s in clip["support"]]
        assert len(clip["support"]) == 2 and len(clip["instances"]) > 0
    stream = [batch[0] for batch in build_video_test_loader(cfg, name)]
    sent = {}
    for clip in stream:
        if "image" in clip:
            sent[clip["video_id"], clip["frame_index"]] = number_of(clip["image"])
        sent |= {(clip["video_id"], s["frame_index"]): number_of(s["image"]) for s in clip["support"]}
    assert sent == {(video, index): index for video, length in lengths.items() for index in range(length)}


def forget(name: str) -> None:
    """Take a dataset out of the catalogs."""
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
