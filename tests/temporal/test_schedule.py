"""Schedules, by hand: which frames, in which order, with which role."""

import itertools
from collections import Counter

import numpy as np
import pytest

from helpers.models import tiny_cfg
from reference.mega import global_entries
from vod2.errors import UserError
from vod2.structures import Role, Support
from vod2.temporal import (
    GlobalSample,
    Keyframes,
    LocalMemoryGlobal,
    NoSupport,
    NoWindow,
    RandomBothSides,
    RandomNear,
    RandomVideo,
    RollingGlobal,
    ScheduleUnion,
    SlidingWindow,
    SupportSchedule,
    WithKey,
    build_support_schedule,
    build_training_schedule,
)
from vod2.temporal import schedule as schedules


def indices(supports) -> list[int]:
    return [support.index for support in supports]


class TestSlidingWindow:
    @pytest.mark.parametrize(
        "t, expected", [(0, [0, 1, 2]), (1, [0, 1, 2, 3]), (4, [2, 3, 4, 5, 6]), (8, [6, 7, 8, 9]), (9, [7, 8, 9])]
    )
    def test_the_window_ends_where_the_video_ends(self, t, expected):
        assert indices(SlidingWindow(2).window(t, 10)) == expected

    @pytest.mark.parametrize("t, expected", [(0, [0, 0, 0, 1, 2]), (4, [2, 3, 4, 5, 6]), (9, [7, 8, 9, 9, 9])])
    def test_with_repeat_the_edge_frame_fills_the_window(self, t, expected):
        assert indices(SlidingWindow(2, edge="repeat").window(t, 10)) == expected

    def test_the_papers_window_has_37_frames(self):
        assert len(SlidingWindow(18).window(100, 1000)) == 37

    def test_lookahead_may_differ_from_radius(self):
        schedule = SlidingWindow(3, lookahead=1)
        assert indices(schedule.window(5, 10)) == [2, 3, 4, 5, 6] and schedule.lookahead == 1
        assert SlidingWindow(3).lookahead == 3

    def test_radius_zero_is_the_frame_itself(self):
        assert indices(SlidingWindow(0).window(3, 10)) == [3]

    def test_what_is_new_is_the_frame_that_enters(self):
        schedule = SlidingWindow(2)
        assert schedule.new(0, 10) == [0, 1, 2]
        assert schedule.new(1, 10, previous=0) == [3]
        assert schedule.new(8, 10, previous=7) == []

    def test_what_is_new_after_a_jump_is_counted_from_the_last_detected_frame(self):
        assert SlidingWindow(1).new(6, 10, previous=4) == [6, 7]
        assert SlidingWindow(1).new(8, 10, previous=0) == [7, 8, 9]

    @pytest.mark.parametrize("arguments", [(-1,), (1, -1)])
    def test_negative_sizes_are_refused(self, arguments):
        with pytest.raises(ValueError, match="at least 0, got"):
            SlidingWindow(*arguments)

    def test_an_unknown_edge_is_refused(self):
        with pytest.raises(ValueError, match="'clip' or 'repeat', got 'wrap'"):
            SlidingWindow(1, edge="wrap")


class TestGlobalSample:
    def test_the_sample_is_the_same_for_all_frames_of_a_video(self):
        schedule = GlobalSample(5, include_key=False)
        windows = {tuple(indices(schedule.window(t, 100, "video"))) for t in range(100)}
        assert len(windows) == 1 and len(set(windows.pop())) == 5

    def test_the_name_of_the_video_decides_the_sample(self):
        samples = {tuple(indices(GlobalSample(5).window(0, 100, str(name)))) for name in range(10)}
        assert len(samples) > 5

    @pytest.mark.parametrize("lookahead", [None, 0])
    def test_the_count_is_the_number_of_frames_and_the_key_frame_is_one_of_them(self, lookahead):
        schedule = GlobalSample(5, lookahead=lookahead)
        for t in range(20):
            window = indices(schedule.window(t, 20, "video"))
            assert t in window and len(window) == len(set(window)) == min(5, 20 if lookahead is None else t + 1)

    def test_the_frame_of_the_lowest_priority_makes_way_for_the_key_frame(self):
        """A sample of four is one frame more than a sample of three: the one that goes."""
        three, four = (set(indices(GlobalSample(n, include_key=False).window(0, 50, "video"))) for n in (3, 4))
        for t in range(50):
            assert set(indices(GlobalSample(4).window(t, 50, "video"))) == (four if t in four else three | {t})
        assert three < four

    def test_a_sample_that_holds_the_key_frame_has_at_least_one(self):
        assert indices(GlobalSample(1).window(7, 50, "video")) == [7]
        with pytest.raises(ValueError, match="count of at least 1, the key frame itself, got 0"):
            GlobalSample(0)
        assert GlobalSample(0, include_key=False).window(7, 50, "video") == []

    def test_a_short_video_is_taken_whole(self):
        assert indices(GlobalSample(21).window(1, 4, "video")) == [0, 1, 2, 3]

    def test_every_frame_is_drawn_equally_often(self):
        drawn = np.bincount([i for n in range(2000) for i in indices(GlobalSample(3, False).window(0, 10, str(n)))])
        assert drawn.sum() == 6000 and abs(drawn - 600).max() < 5 * np.sqrt(600 * 0.7)

    @pytest.mark.parametrize("include_key", [True, False])
    def test_a_causal_sample_ends_as_that_of_the_whole_video_and_a_frame_that_left_it_stays_out(self, include_key):
        causal, gone, before = GlobalSample(4, include_key, lookahead=0), set(), set()
        for t in range(60):
            window = set(indices(causal.window(t, None, "video")))
            assert len(window) == min(t + 1, 4) and max(window) <= t and not window & gone
            gone |= before - window
            before = window
        assert before == set(indices(GlobalSample(4, include_key).window(59, 60, "video")))

    def test_a_long_stream_keeps_the_frames_of_the_highest_priority(self, monkeypatch):
        whole = indices(GlobalSample(3, include_key=False).window(0, 1000, "video"))
        schedules._sample_of_video.cache_clear()
        monkeypatch.setattr(schedules, "_BLOCK", 7)
        assert indices(GlobalSample(3, include_key=False).window(0, 1000, "video")) == whole
        schedules._sample_of_video.cache_clear()

    def test_a_negative_count_is_refused(self):
        with pytest.raises(ValueError, match="at least 1, the key frame itself, got -1"):
            GlobalSample(-1)


class TestRollingGlobal:
    @pytest.mark.parametrize("length", [1, 6, 12, 40])
    def test_the_windows_are_the_queue_of_the_authors(self, length):
        order = np.random.default_rng(length).permutation(length).tolist()
        schedule = RollingGlobal(10, orders={"video": order})
        windows = [schedule.window(t, length, "video") for t in range(length)]
        assert [indices(window) for window in windows] == global_entries(order, 10)
        assert {role for window in windows for _, role in window} == {Role.GLOBAL}

    def test_by_hand(self):
        schedule = RollingGlobal(3, orders={"video": [4, 1, 3, 0, 2]})
        windows = [indices(schedule.window(t, 5, "video")) for t in range(5)]
        assert windows == [[3, 1, 4], [1, 4, 0], [4, 0, 2], [0, 2, 4], [2, 4, 1]]

    def test_one_frame_is_new_at_every_frame(self):
        schedule = RollingGlobal(10)
        for t in range(1, 100):
            before, now = (set(indices(schedule.window(i, 100, "video"))) for i in (t - 1, t))
            assert len(now) == 10 and len(now - before) == 1

    def test_every_frame_of_the_video_comes_up(self):
        schedule = RollingGlobal(5)
        assert {i for t in range(30) for i in indices(schedule.window(t, 30, "video"))} == set(range(30))

    def test_a_video_shorter_than_the_count_repeats_frames(self):
        counts = Counter(indices(RollingGlobal(10, orders={"video": [2, 0, 1]}).window(0, 3, "video")))
        assert counts == {2: 4, 0: 3, 1: 3}

    def test_the_name_of_the_video_decides_the_order(self):
        windows = {tuple(indices(RollingGlobal(5).window(0, 100, str(name)))) for name in range(10)}
        assert len(windows) == 10

    def test_the_first_window_is_the_sample_of_the_same_size(self):
        sample = GlobalSample(10, include_key=False).window(0, 100, "video")
        assert sorted(RollingGlobal(10).window(0, 100, "video")) == sample

    def test_a_causal_one_is_the_causal_sample(self):
        causal = [RollingGlobal(4).with_lookahead(0), RollingGlobal(4, lookahead=0)]
        sample = GlobalSample(4, include_key=False, lookahead=0)
        for t in range(40):
            for schedule in causal:
                assert schedule.window(t, None, "video") == sample.window(t, None, "video")

    def test_it_has_the_lookahead_of_the_whole_video_or_none(self):
        assert RollingGlobal(2).lookahead is None and RollingGlobal(2).with_lookahead(0).lookahead == 0
        assert ScheduleUnion([SlidingWindow(3), RollingGlobal(2)]).with_lookahead(2).lookahead == 2
        with pytest.raises(ValueError, match="whole video: it cannot have a lookahead of 1"):
            RollingGlobal(2).with_lookahead(1)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"count": -1}, "at least 0, got -1"),
            ({"count": 1, "lookahead": 3}, "got 3"),
            ({"count": 1, "orders": {"cat": [0, 2]}}, "order of video 'cat' is not a permutation"),
        ],
    )
    def test_values_that_make_no_sense_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            RollingGlobal(**arguments)

    def test_an_order_of_another_length_is_refused(self):
        with pytest.raises(ValueError, match="order of video 'cat' has 2 frames, the video has 3"):
            RollingGlobal(1, orders={"cat": [0, 1]}).window(0, 3, "cat")


class TestKeyframes:
    @pytest.mark.parametrize("t, expected", [(0, 0), (1, 0), (9, 0), (10, 10), (19, 10), (20, 20)])
    def test_the_window_is_the_last_keyframe(self, t, expected):
        assert Keyframes(10).window(t, 100) == [(expected, Role.KEYFRAME)]

    def test_an_interval_below_one_is_refused(self):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            Keyframes(0)


class TestUnion:
    def test_the_windows_follow_each_other_with_their_roles(self):
        window = ScheduleUnion([SlidingWindow(1), Keyframes(4)]).window(6, 10)
        assert window == [(5, Role.LOCAL), (6, Role.LOCAL), (7, Role.LOCAL), (4, Role.KEYFRAME)]

    def test_its_lookahead_is_the_longest(self):
        assert ScheduleUnion([SlidingWindow(2), SlidingWindow(5, 3)]).lookahead == 3
        assert ScheduleUnion([SlidingWindow(2), GlobalSample(3)]).lookahead is None
        assert ScheduleUnion([SlidingWindow(2, 0), Keyframes(3)]).lookahead == 0

    def test_no_schedules_are_refused(self):
        with pytest.raises(ValueError, match="at least one"):
            ScheduleUnion([])


class Before(SupportSchedule):
    """The frame before t, without t itself."""

    @classmethod
    def from_config(cls, node):
        return cls()

    def _window(self, t, length, video):
        return [Support(t - 1, Role.LOCAL)] if t else []


def test_the_last_detected_frame_is_still_in_memory_although_its_own_window_left_it_out():
    assert Before().new(1, 5, previous=0) == [1]
    assert Before().new(2, 5, previous=1) == [2]
    assert Before().new(2, 5) == [1, 2]


class TestRandomNear:
    def test_all_frames_of_the_neighbourhood_are_drawn_and_no_others(self):
        rng = np.random.default_rng(0)
        drawn = Counter(index for _ in range(500) for index in indices(RandomNear(3, 2).sample(10, 100, rng)))
        assert set(drawn) == set(range(7, 14))
        assert min(drawn.values()) > 500 * 2 / 7 / 2

    def test_the_ends_of_the_video_clip_the_neighbourhood(self):
        rng = np.random.default_rng(0)
        drawn = {index for _ in range(200) for index in indices(RandomNear(3, 2).sample(1, 4, rng))}
        assert drawn == {0, 1, 2, 3}

    def test_supports_are_distinct_where_there_are_enough_frames(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            assert len(set(indices(RandomNear(1, 3).sample(5, 10, rng)))) == 3

    def test_a_still_image_is_a_clip_of_itself(self):
        assert RandomNear(18, 2).sample(0, 1, np.random.default_rng(0)) == [(0, Role.LOCAL)] * 2


class TestRandomBothSides:
    def test_the_key_frame_is_the_middle_one_in_time(self):
        rng = np.random.default_rng(0)
        for t in range(1, 8):
            for _ in range(20):
                before, after = indices(RandomBothSides(2).sample(t, 9, rng))
                assert before < t < after
                supports = indices(RandomBothSides(4).sample(t, 9, rng))
                assert sorted([*supports, t])[2] == t

    def test_given_the_middle_frame_it_draws_as_three_frames_of_a_video_are_drawn(self):
        """Reference: any three of seven frames, those with frame 2 in the middle: 2 x 4 pairs, all equally likely."""
        expected = {(a, c) for a, b, c in itertools.combinations(range(7), 3) if b == 2}
        rng = np.random.default_rng(0)
        drawn = Counter(tuple(indices(RandomBothSides(2).sample(2, 7, rng))) for _ in range(4000))
        assert set(drawn) == expected and len(expected) == 8
        assert all(400 < count < 600 for count in drawn.values())

    @pytest.mark.parametrize("t, others", [(0, {1, 2, 3}), (3, {0, 1, 2})])
    def test_at_an_end_of_the_video_both_come_from_the_one_side_and_are_distinct(self, t, others):
        rng = np.random.default_rng(0)
        drawn = [indices(RandomBothSides(2).sample(t, 4, rng)) for _ in range(50)]
        assert set(itertools.chain(*drawn)) == others and all(a != b for a, b in drawn)

    def test_a_video_of_two_frames_repeats_the_other_and_a_still_image_itself(self):
        rng = np.random.default_rng(0)
        assert RandomBothSides(2).sample(0, 2, rng) == [(1, Role.GLOBAL)] * 2
        assert RandomBothSides(2).sample(0, 1, rng) == [(0, Role.GLOBAL)] * 2

    @pytest.mark.parametrize("count", [-2, 3])
    def test_a_count_that_has_no_middle_is_refused(self, count):
        with pytest.raises(ValueError, match=f"even count of at least 0 .half before the key frame., got {count}"):
            RandomBothSides(count)


class TestRandomVideo:
    def test_all_frames_of_the_video_are_drawn_with_the_role_global(self):
        rng = np.random.default_rng(0)
        supports = [support for _ in range(200) for support in RandomVideo(2).sample(0, 8, rng)]
        assert set(indices(supports)) == set(range(8))
        assert {support.role for support in supports} == {Role.GLOBAL}

    def test_a_video_shorter_than_the_count_repeats_frames(self):
        supports = RandomVideo(5).sample(0, 2, np.random.default_rng(0))
        assert len(supports) == 5 and set(indices(supports)) <= {0, 1}


class TestLocalMemoryGlobal:
    def drawn(self, t: int, length: int, role: Role, **arguments) -> set[int]:
        schedule, rng = LocalMemoryGlobal(**({"radius": 2} | arguments)), np.random.default_rng(0)
        return {index for _ in range(300) for index, own in schedule.sample(t, length, rng) if own is role}

    def test_each_role_has_its_part_of_the_video(self):
        assert self.drawn(20, 40, Role.LOCAL) == {18, 19, 20, 21, 22}
        assert self.drawn(20, 40, Role.MEMORY) == {13, 14, 15, 16, 17}
        assert self.drawn(20, 40, Role.GLOBAL) == set(range(40))

    def test_the_parts_end_where_the_video_ends(self):
        assert self.drawn(38, 40, Role.LOCAL) == {36, 37, 38, 39}
        assert self.drawn(4, 40, Role.MEMORY) == {0, 1}
        for t in range(4):
            assert self.drawn(t, 40, Role.MEMORY) == {0}

    def test_the_key_frame_comes_first_among_the_local_ones_and_can_be_left_out(self):
        for include, roles in ((True, "LLLMMMGG"), (False, "LLMMMGG")):
            supports = LocalMemoryGlobal(include_key=include).sample(100, 400, np.random.default_rng(0))
            assert "".join(role.name[0] for _, role in supports) == roles
            assert (supports[0].index == 100) is include

    def test_supports_of_a_role_are_distinct_where_there_are_enough_frames(self):
        for seed in range(50):
            supports = LocalMemoryGlobal(2, 5, 5, 10, include_key=False).sample(7, 10, np.random.default_rng(seed))
            assert sorted(indices(supports)) == sorted([5, 6, 7, 8, 9, 0, 1, 2, 3, 4, *range(10)])

    def test_a_still_image_repeats_itself(self):
        assert indices(LocalMemoryGlobal().sample(0, 1, np.random.default_rng(0))) == [0] * 8

    def test_the_configuration_keys_arrive(self):
        values = {"NAME": "LocalMemoryGlobal", "RADIUS": 5, "COUNT": 1, "MEMORY_COUNT": 4, "GLOBAL_COUNT": 6}
        keys = {f"VIDEO.TRAIN_SCHEDULE.{key}": value for key, value in (values | {"INCLUDE_KEY": False}).items()}
        schedule = build_training_schedule(tiny_cfg(keys))
        assert (schedule.radius, schedule.local, schedule.memory, schedule.whole) == (5, 1, 4, 6)
        assert not schedule.include_key

    @pytest.mark.parametrize("name", ["radius", "local", "memory", "whole"])
    def test_negative_numbers_are_refused(self, name):
        with pytest.raises(ValueError, match="at least 0, got"):
            LocalMemoryGlobal(**{name: -1})


class TestWithKey:
    def test_the_key_frame_comes_before_what_the_other_schedule_draws(self):
        drawn = [RandomVideo(2).sample(3, 9, np.random.default_rng(seed)) for seed in range(5)]
        for seed, others in enumerate(drawn):
            supports = WithKey(RandomVideo(2)).sample(3, 9, np.random.default_rng(seed))
            assert supports == [Support(3, Role.KEY), *others]

    @pytest.mark.parametrize("name, roles", [("NoSupport", "K"), ("RandomVideo", "KGG"), ("RandomNear", "KLL")])
    def test_the_configuration_adds_the_key_frame_to_any_schedule(self, name, roles):
        cfg = tiny_cfg({"VIDEO.TRAIN_SCHEDULE.NAME": name, "VIDEO.TRAIN_SCHEDULE.WITH_KEY": True})
        supports = build_training_schedule(cfg).sample(4, 9, np.random.default_rng(0))
        assert "".join(role.name[0] for _, role in supports) == roles and supports[0].index == 4

    def test_a_frame_outside_the_video_is_refused(self):
        with pytest.raises(ValueError, match="frame 9 is not in a video of 9 frames"):
            WithKey(NoSupport()).sample(9, 9, np.random.default_rng(0))


def test_single_frame_schedules_look_at_nothing():
    assert NoSupport().sample(0, 5, np.random.default_rng(0)) == []
    assert NoWindow().window(0, None) == [] and NoWindow().new(3, None, previous=2) == [3]


@pytest.mark.parametrize("kind, arguments", [(RandomNear, (-1, 2)), (RandomNear, (1, -2)), (RandomVideo, (-1,))])
def test_negative_numbers_of_training_schedules_are_refused(kind, arguments):
    with pytest.raises(ValueError, match="at least 0, got"):
        kind(*arguments)


def test_the_configuration_keys_arrive():
    cfg = tiny_cfg(
        {
            "VIDEO.TRAIN_SCHEDULE.NAME": "RandomNear",
            "VIDEO.TRAIN_SCHEDULE.RADIUS": 7,
            "VIDEO.TRAIN_SCHEDULE.COUNT": 3,
            "VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow+GlobalSample+Keyframes",
            "VIDEO.TEST_SCHEDULE.RADIUS": 5,
            "VIDEO.TEST_SCHEDULE.LOOKAHEAD": 2,
            "VIDEO.TEST_SCHEDULE.EDGE": "repeat",
            "VIDEO.TEST_SCHEDULE.COUNT": 4,
            "VIDEO.TEST_SCHEDULE.INCLUDE_KEY": False,
            "VIDEO.TEST_SCHEDULE.INTERVAL": 6,
        }
    )
    train = build_training_schedule(cfg)
    assert (train.radius, train.count) == (7, 3)
    sliding, sample, keyframes = build_support_schedule(cfg).schedules
    assert (sliding.radius, sliding.lookahead, sliding.edge) == (5, 2, "repeat")
    assert (sample.count, sample.include_key, keyframes.interval) == (4, False, 6)


def test_a_lookahead_of_minus_one_in_the_configuration_means_the_radius():
    cfg = tiny_cfg({"VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow", "VIDEO.TEST_SCHEDULE.RADIUS": 5})
    assert build_support_schedule(cfg).lookahead == 5


def test_an_unknown_schedule_is_named_in_the_error():
    with pytest.raises(UserError, match="Yesterday.*SlidingWindow"):
        build_support_schedule(tiny_cfg({"VIDEO.TEST_SCHEDULE.NAME": "Yesterday"}))


class TestWithLookahead:
    @pytest.mark.parametrize("edge", ["clip", "repeat"])
    def test_a_sliding_window_has_any_up_to_its_radius(self, edge):
        schedule = SlidingWindow(3, edge=edge)
        for frames in range(4):
            changed = schedule.with_lookahead(frames)
            assert (changed.lookahead, changed.radius, changed.edge) == (frames, 3, edge)
        assert schedule.lookahead == 3
        for frames in (-1, 4):
            with pytest.raises(ValueError, match=f"0 .causal. to 3 frames, got {frames}"):
                schedule.with_lookahead(frames)

    @pytest.mark.parametrize("schedule", [NoWindow(), Keyframes(3)])
    def test_causal_schedules_have_none(self, schedule):
        assert schedule.with_lookahead(0) is schedule
        with pytest.raises(ValueError, match="it always has 0"):
            schedule.with_lookahead(1)

    def test_in_a_union_the_sliding_windows_have_it(self):
        union = ScheduleUnion([SlidingWindow(3), Keyframes(4)])
        assert indices(union.with_lookahead(1).window(5, 9)) == [2, 3, 4, 5, 6, 4]
        assert union.with_lookahead(0).lookahead == 0
        with pytest.raises(ValueError, match="ScheduleUnion cannot have a lookahead of 1"):
            ScheduleUnion([NoWindow(), Keyframes(4)]).with_lookahead(1)
        both = ScheduleUnion([SlidingWindow(3), GlobalSample(2)])
        assert (both.with_lookahead(0).lookahead, both.with_lookahead(2).lookahead) == (0, 2)

    def test_a_sample_of_the_whole_video_has_none_or_the_whole(self):
        assert GlobalSample(2).with_lookahead(0).lookahead == 0
        with pytest.raises(ValueError, match="whole video: it cannot have a lookahead of 1"):
            GlobalSample(2).with_lookahead(1)
        with pytest.raises(ValueError, match="got 3"):
            GlobalSample(2, lookahead=3)
