"""Methods that treat keyframes and others differently are trained on every map that a stream gives their heads."""

import functools

import pytest
from helpers.map_kinds import MapKind, kinds_of_stream, kinds_of_training
from helpers.models import LSTS_KEYS, ROOT, build_detector

from vod2.config import add_video_config
from vod2.d2 import get_cfg
from vod2.temporal import build_support_schedule, build_training_schedule

LENGTHS = (1, 12, 40, 300)  # a still image, and videos
METHODS = {
    "LSTS_R101": {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator"} | LSTS_KEYS,
    "DFF_R101": {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "DFFAggregator", "MODEL.FLOWNET.WIDTH": 0.03},
}
"""Configurations, whose schedules are tested, and what makes their aggregators tiny."""


@functools.cache
def met(config: str, form: str) -> tuple[set[MapKind], dict[MapKind, int]]:
    """The kinds of a stream of 30 frames, and how often each kind is in 2,500 training clips."""
    cfg = add_video_config(get_cfg())
    cfg.merge_from_file(str(ROOT / "configs" / f"{config}.yaml"))
    cfg.VIDEO.TRAIN_SCHEDULE.TRIPLET = form
    model = build_detector(METHODS[config] | {"VIDEO.TEST_SCHEDULE.INTERVAL": cfg.VIDEO.TEST_SCHEDULE.INTERVAL})
    stream = kinds_of_stream(model, build_support_schedule(cfg), length=30)
    return stream, kinds_of_training(model, build_training_schedule(cfg), LENGTHS, clips=2500)


def missing(config: str, form: str = "stream") -> set[MapKind]:
    stream, trained = met(config, form)
    return stream - trained.keys()


@pytest.mark.parametrize("config", METHODS)
def test_training_meets_every_map_that_a_stream_produces(config):
    assert missing(config) == set()


def test_a_stream_of_lsts_has_first_keyframes_later_keyframes_and_nine_distances_after_either():
    whole, low = frozenset({"res4"}), frozenset({"low"})
    expected = {MapKind(whole, 0, None), MapKind(whole, 0, 10)}
    expected |= {MapKind(low, distance, gap) for distance in range(1, 10) for gap in (None, 10)}
    assert met("LSTS_R101", "stream")[0] == expected


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
