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
    kinds = [dict(SUPPORT_SCHEDULE_REGISTRY)[part] for part in name.split("+")]
    read = {key for kind in kinds for key in kind.reads.values()}
    small = {key: value for key, value in {"RADIUS": 2, "COUNT": 3, "INTERVAL": 4}.items() if key in read}
    values = {"NAME": name} | small | keys
    return build_support_schedule(tiny_cfg({f"VIDEO.TEST_SCHEDULE.{key}": value for key, value in values.items()}))


def make_training_schedule(name: str):
    values = {"NAME": name}
    if "RADIUS" in dict(TRAINING_SCHEDULE_REGISTRY)[name].reads.values():
        values["RADIUS"] = 3
    return build_training_schedule(tiny_cfg({f"VIDEO.TRAIN_SCHEDULE.{key}": value for key, value in values.items()}))


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
    # The first keyframe of a video has no other before it.
    assert len(counts) == 1 or (name == "KeyframeTriplet" and counts == {1, 2})


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


def triplets(form: str, t: int = 50, length: int = 60, interval: int = 10) -> list[dict[Role, int]]:
    schedule, rng = KeyframeTriplet(interval, form), np.random.default_rng(0)
    return [{role: index for index, role in schedule.sample(t, length, rng)} for _ in range(2000)]


def distances(form: str, **video) -> tuple[set[int], set[int], set[int]]:
    """new - t, old - t and old - new of all triplets with two keyframes."""
    t, pairs = video.get("t", 50), set()
    for roles in triplets(form, **video):
        new = roles.get(Role.KEYFRAME, t)
        assert (Role.KEY in roles) == (new == t) and roles.get(Role.KEY, t) == t
        pairs.add((new - t, roles[Role.MEMORY] - t))
    return {new for new, _ in pairs}, {old for _, old in pairs}, {old - new for new, old in pairs}


def test_the_stream_triplet_has_the_distances_of_a_stream_and_gaps_on_either_side_of_the_interval():
    new, _, gap = distances("stream")
    assert new == set(range(-9, 1)) and gap == set(range(-15, -4))


def test_the_online_triplet_reaches_back_from_the_key_frame_and_never_is_it():
    new, old, _ = distances("online")
    assert new == set(range(-10, 0)) and old == set(range(-15, -10))


def test_the_released_triplet_may_take_its_memory_from_frames_to_come():
    new, old, _ = distances("released")
    assert new == set(range(-5, 5)) and old == set(range(-10, -5))
    assert {roles.get(Role.KEYFRAME, 58) for roles in triplets("released", t=58)} == set(range(53, 60))


def test_the_first_keyframe_of_a_video_has_no_memory():
    # With the interval 4, old = new - 4 + {-2 .. 2} is in the video for new = 2 only, and then 0.
    firsts = [roles for roles in triplets("stream", t=2, interval=4) if Role.MEMORY not in roles]
    assert {roles.get(Role.KEYFRAME, 2) for roles in firsts} == {0, 1, 2}
    seconds = [roles for roles in triplets("stream", t=2, interval=4) if Role.MEMORY in roles]
    assert all(roles == {Role.KEY: 2, Role.MEMORY: 0} for roles in seconds)


@pytest.mark.parametrize("form", ["online", "released"])
def test_where_public_code_clips_both_keyframes_to_one_frame_it_is_the_first_keyframe(form):
    for roles in triplets(form, t=3, interval=10):
        new = roles.get(Role.KEYFRAME, 3)
        assert roles.get(Role.MEMORY) == (None if new == 0 else 0)


@pytest.mark.parametrize("form", KeyframeTriplet.FORMS)
def test_a_still_image_is_its_own_first_keyframe(form):
    assert all(roles == {Role.KEY: 0} for roles in triplets(form, t=0, length=1))


def test_interval_and_form_of_a_keyframe_triplet_are_keys():
    keys = {"NAME": "KeyframeTriplet", "INTERVAL": 1, "TRIPLET": "online"}
    cfg = tiny_cfg({f"VIDEO.TRAIN_SCHEDULE.{name}": value for name, value in keys.items()})
    assert build_training_schedule(cfg).sample(9, 10, np.random.default_rng(0)) == [
        (8, Role.KEYFRAME),
        (7, Role.MEMORY),
    ]
    with pytest.raises(ValueError, match="interval of at least 1, got 0"):
        KeyframeTriplet(0)
    with pytest.raises(ValueError, match="interval of at least 2, got 1"):
        KeyframeTriplet(1, "released")
    with pytest.raises(ValueError, match="TRIPLET to be one of .*, got 'offline'"):
        KeyframeTriplet(10, "offline")


def test_random_frames_of_a_video_may_leave_out_the_key_frame():
    rng = np.random.default_rng(0)
    others = [sorted(i for i, _ in RandomVideo(3, include_key=False).sample(1, 4, rng)) for _ in range(20)]
    assert others == [[0, 2, 3]] * 20
    assert [i for i, _ in RandomVideo(2, include_key=False).sample(0, 1, rng)] == [0, 0]
