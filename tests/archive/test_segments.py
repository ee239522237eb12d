"""Cutting and joining, by hand."""

import json
from dataclasses import asdict

import pytest

from vod2.archive import Cutting, FrameRecord, Reach, Segment, join, reach_of
from vod2.errors import UserError
from vod2.temporal import GlobalSample, Keyframes, NoWindow, RollingGlobal, ScheduleUnion, SlidingWindow


@pytest.mark.parametrize(
    "schedule, reach",
    [
        (NoWindow(), Reach(0, 0)),
        (SlidingWindow(18), Reach(18, 18)),
        (SlidingWindow(5, 2, edge="repeat"), Reach(5, 2)),
        (Keyframes(10), Reach(9, 0)),
        (ScheduleUnion([SlidingWindow(3, 0), Keyframes(6), SlidingWindow(1, 2)]), Reach(5, 2)),
        (GlobalSample(5, lookahead=0), None),
        (ScheduleUnion([SlidingWindow(3), RollingGlobal(5)]), None),
    ],
)
def test_how_far_a_frame_looks_follows_from_the_schedule(schedule, reach):
    assert reach_of(schedule) == reach


@pytest.mark.parametrize(
    "cutting", [Cutting(10, 4, Reach(2, 2)), Cutting(7, 6, Reach(2, 1)), Cutting(9, 4, Reach(0, 3))]
)
@pytest.mark.parametrize("length", [1, 7, 9, 10, 11, 18, 50])
def test_every_frame_has_its_window_in_its_segment_and_neighbours_leave_no_gap(cutting, length):
    segments = cutting.segments(length)
    assert (segments[0].first, segments[-1].last) == (0, length)
    for begin, end, first, last in segments:
        assert 0 <= begin <= first < last <= end <= length and end - begin <= cutting.frames
        assert begin <= max(first - cutting.reach.before, 0) and min(last + cutting.reach.after, length) <= end
    for one, other in zip(segments, segments[1:], strict=False):
        assert other.first <= one.last and one.end - other.begin >= cutting.overlap


def test_segments_begin_where_the_schedule_begins_to_count():
    """By hand: 40 - 15 is 25, and the last multiple of 10 before it 20."""
    segments = Cutting(40, 15, Reach(9, 0), period=10).segments(80)
    assert [segment.begin for segment in segments] == [0, 20, 40]


def test_too_small_an_overlap_and_too_small_a_segment_are_refused_with_the_least():
    Cutting(20, 5, Reach(3, 2)).check(linked=False)
    Cutting(20, 6, Reach(3, 2)).check(linked=True)
    with pytest.raises(UserError, match="--overlap is 4, expected at least 5: a frame looks at 3 frames before it"):
        Cutting(20, 4, Reach(3, 2)).check(linked=False)
    with pytest.raises(UserError, match="--overlap is 5, expected at least 6: .* tracks are joined over a frame"):
        Cutting(20, 5, Reach(3, 2)).check(linked=True)
    with pytest.raises(UserError, match="--segment-frames is 12, expected at least 15: the overlap of 5 frames and 10"):
        Cutting(12, 5, Reach(3, 2), period=10).check(linked=False)


def box(left):
    return [float(left), 0.0, float(left) + 10, 10.0]


def write_part(path, frames):
    """`frames`: {frame: {left edge of a box: its track, or None}}; boxes of class 0, or 1 from 500 on."""
    with open(path, "w") as file:
        for index, boxes in frames.items():
            lefts = list(boxes)
            tracks = None if None in boxes.values() else list(boxes.values())
            labels = [int(left >= 500) for left in lefts]
            record = FrameRecord(
                "v", index, None, [box(left) for left in lefts], [0.5] * len(lefts), labels, ["x"] * len(lefts), tracks
            )
            file.write(json.dumps(asdict(record)) + "\n")
    return path


def tracks_of(records):
    return {
        record.frame_index: {int(b[0]): track for b, track in zip(record.boxes, record.track_ids, strict=True)}
        for record in records
    }


SEGMENTS = [Segment(0, 8, 0, 6), Segment(2, 12, 4, 10), Segment(6, 14, 8, 14)]


def test_each_frame_comes_once_from_the_part_in_whose_middle_it_lies(tmp_path):
    """By hand: frames 4 and 5 are in parts 0 and 1; the first of them is that of part 0. So with 8 and 9."""
    parts = []
    for number, segment in enumerate(SEGMENTS):
        frames = {frame: {100 * number: None} for frame in range(segment.first, segment.last)}
        parts.append(write_part(tmp_path / f"{number}", frames))
    found = [(record.frame_index, int(record.boxes[0][0]) // 100) for record in join(parts, SEGMENTS)]
    assert found == [(frame, 0 if frame < 5 else 1 if frame < 9 else 2) for frame in range(14)]


def test_tracks_go_on_over_the_frames_that_two_parts_have(tmp_path):
    """By hand: parts number the object at 0 by 0, 3, 1 and that at 200 by 1, 0, 0; that at 400 comes with frame 7."""
    numbers = [{0: 0, 200: 1}, {0: 3, 200: 0, 400: 1}, {0: 1, 200: 0, 400: 5}]
    parts = []
    for number, (segment, tracks) in enumerate(zip(SEGMENTS, numbers, strict=True)):
        frames = {}
        for frame in range(segment.first, segment.last):
            frames[frame] = {left: track for left, track in tracks.items() if left < 400 or frame >= 7}
        parts.append(write_part(tmp_path / f"{number}", frames))
    found = tracks_of(join(parts, SEGMENTS))
    assert found[0] == found[6] == {0: 0, 200: 1}
    assert found[7] == found[13] == {0: 0, 200: 1, 400: 2}


def test_a_box_of_another_class_or_place_continues_no_track(tmp_path):
    parts = [
        write_part(tmp_path / "0", {frame: {0: 0, 501: 1} for frame in range(6)}),
        write_part(tmp_path / "1", {frame: {2: 0, 495: 1} for frame in range(4, 10)}),
    ]
    found = tracks_of(join(parts, [Segment(0, 8, 0, 6), Segment(2, 10, 4, 10)]))
    assert found[0] == {0: 0, 501: 1} and found[9] == {2: 2, 495: 3}


def test_parts_without_a_frame_of_theirs_are_refused(tmp_path):
    segments = [Segment(0, 4, 0, 4)]
    with pytest.raises(ValueError, match="ends before frame 2, expected 4 frames"):
        list(join([write_part(tmp_path / "0", {0: {}, 1: {}})], segments))
    with pytest.raises(ValueError, match="has frame 2 where frame 1 was expected"):
        list(join([write_part(tmp_path / "1", {0: {}, 2: {}})], segments))
