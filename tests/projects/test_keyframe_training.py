"""Methods that treat keyframes and others differently are trained on every map that a stream gives their heads."""

import functools

import pytest

from helpers.map_kinds import MapKind, kinds_of_stream, kinds_of_training
from helpers.models import LSTS_KEYS, ROOT, build_detector
from vod2.config import add_video_config
from vod2.d2 import CfgNode, get_cfg
from vod2.modeling import VideoRCNN
from vod2.temporal import build_support_schedule, build_training_schedule

LENGTHS = (1, 12, 40, 300)  # a still image, and videos
METHODS = {
    "LSTS_R101": {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator"} | LSTS_KEYS,
    "DFF_R101": {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "DFFAggregator", "MODEL.FLOWNET.WIDTH": 0.03},
}
"""Configurations, whose schedules are tested, and what makes their aggregators tiny."""


def configured(config: str) -> tuple[CfgNode, VideoRCNN]:
    """The configuration, and a tiny detector with its aggregator and its interval."""
    cfg = add_video_config(get_cfg())
    cfg.merge_from_file(str(ROOT / "configs" / f"{config}.yaml"))
    interval = {"VIDEO.TEST_SCHEDULE.INTERVAL": cfg.VIDEO.TEST_SCHEDULE.INTERVAL}
    return cfg, build_detector(METHODS[config] | interval)


@functools.cache
def stream_kinds(config: str) -> set[MapKind]:
    """Of a video of 30 frames."""
    cfg, model = configured(config)
    return kinds_of_stream(model, build_support_schedule(cfg), length=30)


def missing(config: str, form: str = "stream") -> set[MapKind]:
    """What a stream has and 2,500 training clips have not."""
    cfg, model = configured(config)
    cfg.VIDEO.TRAIN_SCHEDULE.TRIPLET = form
    trained = kinds_of_training(model, build_training_schedule(cfg), LENGTHS, clips=2500)
    return stream_kinds(config) - trained.keys()


@pytest.mark.parametrize("config", METHODS)
def test_training_meets_every_map_that_a_stream_produces(config):
    assert missing(config) == set()


def test_a_stream_of_lsts_has_first_keyframes_later_keyframes_and_nine_distances_after_either():
    whole, low = frozenset({"res4"}), frozenset({"low"})
    expected = {MapKind(whole, 0, None), MapKind(whole, 0, 10)}
    expected |= {MapKind(low, distance, gap) for distance in range(1, 10) for gap in (None, 10)}
    assert stream_kinds("LSTS_R101") == expected


def test_the_released_triplet_never_has_a_frame_between_keyframes_that_are_ten_apart():
    low = frozenset({"low"})
    expected = {MapKind(low, distance, 10) for distance in range(1, 10)}
    # nor one farther than half the interval from the first keyframe
    expected |= {MapKind(low, distance, None) for distance in range(6, 10)}
    assert missing("LSTS_R101", "released") == expected


def test_the_online_triplet_never_has_a_later_keyframe_or_a_distance_of_six_and_more():
    expected = {MapKind(frozenset({"res4"}), 0, 10)}
    expected |= {MapKind(frozenset({"low"}), distance, 10) for distance in range(6, 10)}
    assert missing("LSTS_R101", "online") == expected
