"""Datasets that are made of other datasets."""

import pytest

from helpers.loaders import forget
from helpers.videos import number_of, write_numbered_video
from vod2.config import add_video_config
from vod2.d2 import DatasetCatalog, MetadataCatalog, get_cfg
from vod2.data import build_video_test_loader
from vod2.data.datasets import register_every_nth
from vod2.errors import UserError


@pytest.fixture
def film(tmp_path):
    """Two registered videos of 10 and 5 frames, whose class names are known when they have been read."""
    lengths = {"a": 10, "b": 5}
    for name, length in lengths.items():
        write_numbered_video(tmp_path / f"{name}.mp4", length)

    def dicts():
        MetadataCatalog.get("film").set(thing_classes=["elf"])
        return [
            {"image_id": f"{name}/{t}", "video_id": name, "frame_index": t, "height": 32, "width": 48}
            | {"video_file": str(tmp_path / f"{name}.mp4"), "annotations": []}
            for name, length in lengths.items()
            for t in range(length)
        ]

    DatasetCatalog.register("film", dicts)
    MetadataCatalog.get("film").set(evaluator_type="uavdt", check_source={"format": "mot"})
    yield "film"
    forget("film")


def test_every_fourth_frame_is_detected_and_the_others_are_its_context(film):
    register_every_nth("film_every4", film, 4)
    try:
        cfg = add_video_config(get_cfg())
        cfg.DATALOADER.NUM_WORKERS = 0
        cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 0
        cfg.VIDEO.TEST_SCHEDULE.NAME, cfg.VIDEO.TEST_SCHEDULE.RADIUS = "SlidingWindow", 2
        clips = [clip for (clip,) in build_video_test_loader(cfg, "film_every4")]
        assert [clip["image_id"] for clip in clips] == ["a/0", "a/4", "a/8", "b/0", "b/4"]
        seen = [[number_of(support["image"]) for support in clip["support"]] for clip in clips]
        assert seen == [[1, 2], [3, 5, 6], [7, 9], [1, 2], [3]]
    finally:
        forget("film_every4")


def test_metadata_is_taken_over_but_for_what_checks_the_files_of_the_other(film):
    register_every_nth("film_every4", film, 4)
    try:
        metadata = MetadataCatalog.get("film_every4")
        assert metadata.evaluator_type == "uavdt" and not hasattr(metadata, "check_source")
        DatasetCatalog.get("film_every4")
        assert metadata.thing_classes == ["elf"]
    finally:
        forget("film_every4")


def test_a_set_whose_frames_cannot_be_found_is_refused_since_there_would_be_no_context(film):
    image = {"video_id": "v", "height": 4, "width": 6}
    DatasetCatalog.register("images", lambda: [image | {"file_name": f"{t}.png", "frame_index": t} for t in (0, 1)])
    register_every_nth("images_every2", "images", 2)
    try:
        with pytest.raises(UserError, match="video 'v' of images has neither video_file nor frame_template"):
            DatasetCatalog.get("images_every2")
    finally:
        forget("images")
        forget("images_every2")


def test_an_unknown_source_and_a_step_of_0_are_refused_at_once(film):
    with pytest.raises(UserError, match="'absent', which is not registered"):
        register_every_nth("new", "absent", 2)
    with pytest.raises(UserError, match="expected a number of at least 1"):
        register_every_nth("new", film, 0)
