"""What every schedule in the registries promises, whatever it is."""

import numpy as np
import pytest
from helpers.models import tiny_cfg

from vod2.structures import Frame, Role
from vod2.temporal import (
    SUPPORT_SCHEDULE_REGISTRY,
    TRAINING_SCHEDULE_REGISTRY,
    FrameMemory,
    KeyframeTriplet,
    RandomVideo,
    SupportSchedule,
    build_support_schedule,
    build_training_schedule,
)

SUPPORT_NAMES = [name for name, _ in SUPPORT_SCHEDULE_REGISTRY]
UNIONS = [
    "SlidingWindow+GlobalSample",
    "SlidingWindow+RollingGlobal",
    "Keyframes+NoWindow",
    "SlidingWindow+SlidingWindow",
]
TRAINING_NAMES = [name for name, _ in TRAINING_SCHEDULE_REGISTRY]
LENGTHS = [1, 2, 3, 11]


def make_support_schedule(name: str, **keys) -> SupportSchedule:
    values = {"NAME": name, "RADIUS": 2, "COUNT": 3, "INTERVAL": 4} | keys
    return build_support_schedule(tiny_cfg({f"VIDEO.TEST_SCHEDULE.{key}": value for key, value in values.items()}))


def make_training_schedule(name: str):
    return build_training_schedule(tiny_cfg({"VIDEO.TRAIN_SCHEDULE.NAME": name, "VIDEO.TRAIN_SCHEDULE.RADIUS": 3}))


@pytest.fixture(
    params=[
        *SUPPORT_NAMES,
        *UNIONS,
        "causal GlobalSample",
        "causal SlidingWindow+GlobalSample",
        "causal SlidingWindow+RollingGlobal",
    ]
)
def schedule(request) -> SupportSchedule:
    name = request.param.removeprefix("causal ")
    return make_support_schedule(name) if name == request.param else make_support_schedule(name, LOOKAHEAD=0)


@pytest.mark.parametrize("length", LENGTHS)
def test_every_window_stays_in_the_video_and_within_the_lookahead(schedule, length):
    for t in range(length):
        for index, role in schedule.window(t, length, "video"):
            assert type(index) is int and 0 <= index < length and isinstance(role, Role)
            assert schedule.lookahead is None or index <= t + schedule.lookahead


def test_the_same_question_has_the_same_answer(schedule):
    windows = [schedule.window(t, 11, "video") for t in range(11)]
    assert [schedule.window(t, 11, "video") for t in reversed(range(11))] == windows[::-1]


@pytest.mark.parametrize("length", LENGTHS)
def test_what_is_new_is_the_window_and_the_frame_less_what_the_last_frame_left(schedule, length):
    left = set()
    for t in range(length):
        new = schedule.new(t, length, "video", previous=t - 1 if t else None)
        wanted = {index for index, _ in schedule.window(t, length, "video")} | {t}
        assert new == sorted(wanted - left)
        left = wanted


@pytest.mark.parametrize("length", LENGTHS)
def test_memory_fed_with_what_is_new_holds_exactly_the_window_and_the_frame(schedule, length):
    memory = FrameMemory(schedule)
    memory.start("video", length)
    for t in range(length):
        for index in schedule.new(t, length, "video", previous=t - 1 if t else None):
            assert index not in memory, f"frame {index} is read twice"
            memory.put(Frame("video", index, (32, 32)))
        window = schedule.window(t, length, "video")
        context = memory.context(t)
        assert [(frame.index, role) for frame, role in zip(context.frames, context.roles, strict=True)] == window
        assert {index for index in range(length) if index in memory} == {index for index, _ in window} | {t}
        assert len(memory) == len({index for index, _ in window} | {t})
        assert memory.missing(t) == []


@pytest.mark.parametrize("edge", ["clip", "repeat"])
@pytest.mark.parametrize("lookahead", [-1, 0, 1, 5])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_sliding_window_reads_every_frame_of_a_video_once(length, lookahead, edge):
    schedule = make_support_schedule("SlidingWindow", LOOKAHEAD=lookahead, EDGE=edge)
    read = [i for t in range(length) for i in schedule.new(t, length, previous=t - 1 if t else None)]
    assert sorted(read) == list(range(length))


def test_a_stream_without_length_is_for_causal_schedules_only(schedule):
    if schedule.lookahead == 0:
        assert schedule.window(5, None, "video") == schedule.window(5, 100, "video")
        return
    with pytest.raises(ValueError, match="unknown length; give the length, or use a causal schedule"):
        schedule.window(5, None, "video")


@pytest.mark.parametrize("t", [-1, 11])
def test_a_frame_outside_the_video_is_refused(schedule, t):
    with pytest.raises(ValueError, match=f"frame {t} is not in a video of 11 frames"):
        schedule.window(t, 11, "video")


@pytest.mark.parametrize("name", TRAINING_NAMES)
@pytest.mark.parametrize("length", LENGTHS)
def test_training_supports_are_frames_of_the_video_and_always_as_many(name, length):
    schedule, rng = make_training_schedule(name), np.random.default_rng(0)
    counts = set()
    for t in range(length):
        supports = schedule.sample(t, length, rng)
        assert all(type(index) is int and 0 <= index < length for index, _ in supports)
        assert all(isinstance(role, Role) for _, role in supports)
        counts.add(len(supports))
    assert len(counts) == 1


@pytest.mark.parametrize("name", TRAINING_NAMES)
def test_the_generator_alone_decides_the_training_supports(name):
    schedule = make_training_schedule(name)
    first, second = (
        [schedule.sample(t, 11, rng) for t in range(11)] for rng in (np.random.default_rng(5), np.random.default_rng(5))
    )
    assert first == second


@pytest.mark.parametrize("name", TRAINING_NAMES)
def test_training_refuses_a_frame_outside_the_video(name):
    with pytest.raises(ValueError, match="frame 11 is not in a video of 11 frames"):
        make_training_schedule(name).sample(11, 11, np.random.default_rng(0))


@pytest.mark.parametrize("name", TRAINING_NAMES)
def test_a_still_image_is_its_own_support(name):
    assert {index for index, _ in make_training_schedule(name).sample(0, 1, np.random.default_rng(0))} <= {0}


def test_a_keyframe_triplet_reaches_back_exactly_as_far_as_lsts_does():
    schedule, rng = KeyframeTriplet(interval=10), np.random.default_rng(0)
    clips = [schedule.sample(50, 60, rng) for _ in range(2000)]
    assert {tuple(role for _, role in clip) for clip in clips} == {(Role.KEYFRAME, Role.MEMORY)}
    assert {new.index - 50 for new, _ in clips} == set(range(-10, 0))
    assert {old.index - new.index for new, old in clips} == set(range(-15, -10))


def test_a_keyframe_triplet_is_clipped_to_the_start_of_the_video():
    schedule, rng = KeyframeTriplet(interval=4), np.random.default_rng(0)
    clips = [[index for index, _ in schedule.sample(2, 60, rng)] for _ in range(200)]
    assert {new for new, _ in clips} == {0, 1} and {old for _, old in clips} == {0}


def test_the_interval_of_a_keyframe_triplet_is_a_key():
    cfg = tiny_cfg({"VIDEO.TRAIN_SCHEDULE.NAME": "KeyframeTriplet", "VIDEO.TRAIN_SCHEDULE.INTERVAL": 1})
    new, old = build_training_schedule(cfg).sample(9, 10, np.random.default_rng(0))
    assert (new.index, old.index) == (8, 6)
    with pytest.raises(ValueError, match="interval of at least 1, got 0"):
        KeyframeTriplet(0)


def test_random_frames_of_a_video_may_leave_out_the_key_frame():
    rng = np.random.default_rng(0)
    others = [sorted(i for i, _ in RandomVideo(3, include_key=False).sample(1, 4, rng)) for _ in range(20)]
    assert others == [[0, 2, 3]] * 20
    assert [i for i, _ in RandomVideo(2, include_key=False).sample(0, 1, rng)] == [0, 0]
