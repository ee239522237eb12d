"""FrameMemory: what it holds, what it refuses."""

import gc
import weakref

import pytest
import torch

from vod2.structures import Frame, ProposalSet, Role, TemporalContext, through
from vod2.structures.derived import LayerState
from vod2.temporal import FrameMemory, GlobalSample, Keyframes, NoWindow, RollingGlobal, ScheduleUnion, SlidingWindow

SIZE = (32, 48)


def make_memory(schedule, length: int | None = 10, video: str = "video") -> FrameMemory:
    memory = FrameMemory(schedule)
    memory.start(video, length)
    return memory


def put_missing(memory: FrameMemory, t: int) -> list[int]:
    missing = memory.missing(t)
    for index in missing:
        memory.put(Frame(memory.video, index, SIZE))
    return missing


def test_a_sliding_window_forgets_the_frame_that_leaves_it():
    memory = make_memory(SlidingWindow(2))
    assert put_missing(memory, 4) == [2, 3, 4, 5, 6]
    assert [frame.index for frame in memory.context(4).frames] == [2, 3, 4, 5, 6]
    assert put_missing(memory, 5) == [7]
    assert [frame.index for frame in memory.context(5).frames] == [3, 4, 5, 6, 7]
    assert len(memory) == 5 and 2 not in memory and 7 in memory


def test_the_key_frame_is_held_even_if_no_window_names_it():
    memory = make_memory(NoWindow())
    assert put_missing(memory, 3) == [3]
    assert len(memory.context(3)) == 0
    assert memory.frame(3).index == 3 and len(memory) == 1


def test_frames_that_are_not_needed_yet_are_dropped_as_well():
    """What a caller puts too early is not kept: the size is bounded by the window."""
    memory = make_memory(SlidingWindow(1))
    for index in range(8):
        memory.put(Frame("video", index, SIZE))
    memory.context(1)
    assert len(memory) == 3


def test_a_repeated_edge_frame_stands_in_the_context_more_than_once_but_in_memory_once():
    memory = make_memory(SlidingWindow(2, edge="repeat"))
    put_missing(memory, 0)
    assert [frame.index for frame in memory.context(0).frames] == [0, 0, 0, 1, 2]
    assert len(memory) == 3


def test_roles_come_from_the_schedule():
    memory = make_memory(ScheduleUnion([SlidingWindow(1), Keyframes(4)]))
    put_missing(memory, 6)
    assert memory.context(6).roles == (Role.LOCAL,) * 3 + (Role.KEYFRAME,)


def test_a_global_sample_is_drawn_for_the_video_of_the_memory():
    """Drawn from the name that start() was given, as the loader draws it."""
    schedule, lengths = GlobalSample(3, include_key=False), 50
    for name in ("one", "two", "three"):
        expected = [support.index for support in schedule.window(0, lengths, name)]
        memory = make_memory(schedule, lengths, name)
        assert put_missing(memory, 0) == sorted({*expected, 0})
        assert [frame.index for frame in memory.context(0).frames] == expected


def test_a_context_with_a_frame_that_was_never_put_names_it():
    memory = make_memory(SlidingWindow(1))
    memory.put(Frame("video", 0, SIZE))
    with pytest.raises(ValueError, match=r"'video', frame 0: frames \[1\]"):
        memory.context(0)


def test_a_frame_of_another_video_is_refused_and_the_remedy_is_named():
    memory = make_memory(NoWindow())
    with pytest.raises(ValueError, match=r"holds video 'video', got a frame of 'other': call start"):
        memory.put(Frame("other", 0, SIZE))


def test_starting_forgets_frames_and_carry():
    memory = make_memory(NoWindow())
    put_missing(memory, 0)
    memory.carry({"state": torch.ones(1)})
    memory.start("next", 5)
    assert len(memory) == 0
    put_missing(memory, 0)
    assert dict(memory.context(0).carry) == {}


def test_what_is_carried_is_detached_and_found_in_the_next_context():
    memory = make_memory(NoWindow())
    put_missing(memory, 0)
    assert dict(memory.context(0).carry) == {}
    memory.carry({"state": torch.ones(2, requires_grad=True) * 3})
    put_missing(memory, 1)
    state = memory.context(1).carry["state"]
    assert state.tolist() == [3, 3] and not state.requires_grad


def test_what_is_carried_replaces_what_was():
    memory = make_memory(NoWindow())
    memory.carry({"old": torch.ones(1)})
    memory.carry({"new": torch.ones(1)})
    put_missing(memory, 0)
    assert set(memory.context(0).carry) == {"new"}


def test_a_memory_without_a_frame_goes_its_own_way():
    memory = make_memory(SlidingWindow(1))
    put_missing(memory, 1)
    memory.carry({"state": torch.ones(1)})
    other = memory.without(1)
    assert other.missing(1) == [1] and dict(other.cached_context().carry) == {"state": torch.ones(1)}
    own = Frame(memory.video, 1, SIZE)
    other.put(own)
    other.carry({})
    assert other.context(1).frames[1] is own and memory.frame(1) is not own
    assert set(memory.context(1).carry) == {"state"} and len(memory) == 3


def test_a_copy_of_a_memory_goes_its_own_way():
    memory = make_memory(SlidingWindow(1))
    put_missing(memory, 1)
    memory.carry({"state": torch.ones(1)})
    other = memory.copy()
    put_missing(other, 3)
    assert len(other.context(3).frames) == 3 and 1 not in other
    other.carry({})
    other.extend()
    assert memory.missing(1) == [] and set(memory.context(1).carry) == {"state"}
    assert (memory.video, other.length) == (other.video, memory.length + 1)


def fail(context: TemporalContext) -> TemporalContext:
    raise RuntimeError("no luck")


def test_what_was_made_of_a_context_is_kept_until_another_one_comes():
    memory = make_memory(GlobalSample(2, include_key=False), 50)
    sample = [support.index for support in memory.schedule.window(0, 50, memory.video)]
    made = []

    def make(context: TemporalContext) -> TemporalContext:
        made.append(TemporalContext(tuple(frame.with_() for frame in context.frames), context.roles, context.carry))
        return made[-1]

    layer = torch.nn.Linear(2, 2).eval()

    def state() -> LayerState:
        with torch.no_grad():
            return LayerState.of(layer)

    outside = [t for t in range(6) if t not in sample]
    for t in outside:
        put_missing(memory, t)
        memory.carry({"state": torch.full((1,), float(t))})
        context = memory.context(t)
        shared = memory.shared(context, state(), make)
        assert shared.frames == made[0].frames and shared.roles == context.roles
        assert shared.carry["state"] == t  # of this step
    assert len(made) == 1
    (frame, _), roles = context.frames, context.roles
    memory.put(frame.with_())  # another frame of the same number
    assert memory.shared(memory.context(outside[-1]), state(), make).frames == made[1].frames
    assert memory.copy().shared(memory.context(outside[-1]), state(), make).frames == made[1].frames and len(made) == 2
    memory.start(memory.video, 50)
    one = TemporalContext((frame,), roles[:1])
    assert memory.shared(one, state(), make).frames == made[2].frames
    plain = TemporalContext((frame,) * 2, roles)
    assert memory.shared(plain, state(), lambda context: None) is plain
    assert memory.shared(plain, state(), make).frames == made[3].frames, "nothing is no result to be kept"
    with torch.no_grad():
        layer.weight.add_(1)
    for number in (4, 5):  # of other weights, then without a state that could be compared
        assert memory.shared(plain, state() if number == 4 else None, make).frames == made[number].frames
    with pytest.raises(RuntimeError, match="no luck"):
        memory.shared(one, state(), fail)
    assert memory.shared(one, state(), make).frames == made[6].frames and len(made) == 7


def test_what_layers_make_of_a_support_is_shared_by_copies_and_ends_with_the_last_that_holds_it():
    layer, results = torch.nn.Linear(4, 2).eval(), []
    layer.register_forward_hook(lambda module, inputs, output: results.append(weakref.ref(output)))
    memory = make_memory(SlidingWindow(1))
    for index in range(4):
        proposals = ProposalSet.of_frame(torch.zeros(2, 4), torch.full((2, 4), float(index)), torch.zeros(2), SIZE)
        memory.put(Frame(memory.video, index, SIZE, proposals=proposals))
    memory.context(2)  # frames 1, 2, 3
    other = memory.copy()
    with torch.no_grad():
        for each in (memory, other):
            rows = each.cached_context().proposals().rows
            expected = torch.nn.functional.linear(rows.tensor, layer.weight, layer.bias)
            torch.testing.assert_close(through(rows, layer).tensor, expected)
    del rows, each
    assert len(results) == 3
    memory.start("next", 5)
    assert sum(result() is not None for result in results) == 3
    other.start("next", 5)
    gc.collect()
    assert all(result() is None for result in results)


def test_a_context_stays_as_it_was_when_the_memory_moves_on():
    memory = make_memory(SlidingWindow(1))
    put_missing(memory, 1)
    context = memory.context(1)
    put_missing(memory, 5)
    memory.context(5)
    assert [frame.index for frame in context.frames] == [0, 1, 2]


def test_a_live_stream_without_length_runs_on_a_causal_schedule():
    memory = make_memory(SlidingWindow(2, lookahead=0), length=None)
    for t in range(30):
        put_missing(memory, t)
        assert [frame.index for frame in memory.context(t).frames] == list(range(max(0, t - 2), t + 1))
        assert len(memory) <= 3


def test_a_schedule_that_looks_ahead_refuses_a_live_stream():
    with pytest.raises(ValueError, match="2 frames ahead.*unknown length"):
        make_memory(SlidingWindow(2), length=None).missing(0)


# The store


def put_frames(memory: FrameMemory, t: int) -> list[int]:
    """Frames of four proposals of 10 numbers, those that are missing at t: 4 x (4 + 10 + 1) x 4 + 4 x 8 bytes each."""
    missing = memory.missing(t)
    for index in missing:
        proposals = ProposalSet.of_frame(torch.rand(4, 4), torch.rand(4, 10), torch.rand(4), SIZE)
        memory.put(Frame(memory.video, index, SIZE, proposals=proposals))
    return missing


BYTES = 4 * 15 * 4 + 4 * 8


def make_store(frames: int, length: int = 12) -> FrameMemory:
    memory = FrameMemory(ScheduleUnion([SlidingWindow(1), RollingGlobal(2)]), frames * BYTES)
    memory.start("video", length)
    return memory


def test_each_frame_is_encoded_once_where_all_have_room():
    memory, encoded, seen = make_store(12), [], {}
    for t in range(12):
        encoded += put_frames(memory, t)
        for frame in memory.context(t).frames:
            first = seen.setdefault(frame.index, frame.proposals.features)
            assert frame.proposals.features is first, "the frame that was put"
    assert sorted(encoded) == list(range(12))


def test_without_a_store_frames_are_encoded_again():
    memory, encoded = make_store(0), []
    for t in range(12):
        encoded += put_frames(memory, t)
        memory.context(t)
    assert len(encoded) > 15 and set(encoded) == set(range(12))


@pytest.mark.parametrize("room", [1, 3])
def test_a_store_holds_the_frames_that_left_the_window_last(room):
    memory = make_store(room)
    left: list[int] = []
    for t in range(12):
        put_frames(memory, t)
        before = {index for index in range(12) if index in memory} - set(left[-room:])
        window = {frame.index for frame in memory.context(t).frames} | {t}
        left = [index for index in left if index not in window] + sorted(before - window - set(left))
        stored = {index for index in range(12) if index in memory} - window
        assert len(stored) <= room and memory._stored_bytes == len(stored) * BYTES
        assert len(memory) == len(window)


def test_a_frame_that_is_put_anew_takes_the_place_of_the_stored_one_and_start_empties_the_store():
    memory = make_store(12)
    for t in range(7):
        put_frames(memory, t)
        memory.context(t)
    stored = next(index for index in range(12) if index in memory and index not in memory._frames)
    anew = Frame("video", stored, SIZE)
    memory.put(anew)
    assert memory.frame(stored) is anew and not memory.restore(stored)
    copied = memory.copy()
    assert copied.missing(8) == memory.missing(8) and stored not in memory.without(stored)
    other = next(index for index in range(12) if index in memory and index not in memory._frames)
    assert other not in memory.without(other) and other in memory and copied.restore(other) and other in memory._store
    memory.start("another", 12)
    assert not any(index in memory for index in range(12)) and memory._stored_bytes == 0


def test_what_layers_have_made_is_not_stored():
    memory, layer = make_store(12), torch.nn.Linear(10, 3).eval()
    values = []
    with torch.no_grad():
        for t in range(12):
            put_frames(memory, t)
            for frame in memory.context(t).frames:
                values.append((frame.index, weakref.ref(through(frame.proposals.rows, layer).tensor)))
        window = memory._frames.keys()
    gc.collect()
    assert not any(value() is not None for index, value in values if index not in window)
