"""VideoStream and VideoPredictor when something goes wrong: errors of the model, of one of several cameras, threads."""

import gc
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from helpers.models import LSTS_KEYS, assert_same_detections, make_video, tiny_cfg
from vod2 import UserError, VideoPredictor
from vod2.engine import StreamErrors
from vod2.engine.random_weights import draw_weights
from vod2.engine.streams import DetectedFrame, VideoStream
from vod2.structures import Frame
from vod2.temporal import SlidingWindow

SLIDING = {"VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow", "VIDEO.TEST_SCHEDULE.RADIUS": 2}
RDN = SLIDING | {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"}
METHODS = {
    "rdn": RDN,
    "mega": {
        "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MEGAAggregator",
        "MODEL.VIDEO.SUPPORT_TOPK": 3,
        "MODEL.MEGA.MEMORY": 2,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 6,
        "VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow+RollingGlobal",
        "VIDEO.TEST_SCHEDULE.RADIUS": 2,
        "VIDEO.TEST_SCHEDULE.COUNT": 2,
    },
    "selsa": {
        "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SELSAAggregator",
        "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
        "VIDEO.TEST_SCHEDULE.NAME": "GlobalSample",
        "VIDEO.TEST_SCHEDULE.COUNT": 3,
    },
    "lsts": LSTS_KEYS
    | {
        "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator",
        "MODEL.NARROW_RESNET.BLOCKS": [1, 1, 2, 1],
        "VIDEO.TEST_SCHEDULE.NAME": "Keyframes",
        "VIDEO.TEST_SCHEDULE.INTERVAL": 3,
    },
}


def make_predictor(keys: dict = RDN, lookahead: int | None = None) -> VideoPredictor:
    made = VideoPredictor(tiny_cfg(keys), lookahead=lookahead)
    draw_weights(made.model)
    return made


def make_frames(length: int, seed: int = 0) -> list[np.ndarray]:
    """BGR uint8 images (H, W, 3)."""
    return [image.permute(1, 2, 0).contiguous().numpy() for image in make_video(length, seed)]


def assert_same(found: list[DetectedFrame], expected: list[DetectedFrame], tolerance: float = 0.0) -> None:
    assert [one.index for one in found] == [one.index for one in expected]
    for one, wanted in zip(found, expected, strict=True):
        assert one.image is wanted.image
        assert_same_detections(one.output["instances"], wanted.output["instances"], tolerance)


def raise_at(function: Callable, calls: set[int], error: BaseException) -> Callable:
    """The function, which raises after its work in these calls, counted from 0."""
    count = -1

    def raising(*args, **kwargs):
        nonlocal count
        count += 1
        result = function(*args, **kwargs)
        if count in calls:
            raise error
        return result

    return raising


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("encode", RuntimeError("out of memory")),
        ("remember", RuntimeError("out of memory")),
        ("detect", RuntimeError("out of memory")),
        ("detect", KeyboardInterrupt()),
    ],
)
def test_a_step_that_raises_leaves_the_stream_as_it_was_and_the_frame_can_be_given_again(
    monkeypatch, method, place, error
):
    predictor, frames = make_predictor(METHODS[method]), make_frames(9)
    expected = list(predictor.stream(frames))
    target, name = {
        "encode": (predictor.model, "encode"),
        "remember": (predictor.model, "remember"),
        "detect": (predictor.model.roi_heads, "predict"),
    }[place]
    monkeypatch.setattr(target, name, raise_at(getattr(target, name), {1, 4}, error))
    stream, found, failures = predictor.open("stream"), [], 0  # of one name, which chooses the global frames
    for frame in frames:
        before = (stream.index, len(stream), len(stream.memory))
        try:
            found += stream.step(frame)
        except type(error):
            failures += 1
            assert (stream.index, len(stream), len(stream.memory)) == before
            found += stream.step(frame)
    assert_same(found + stream.flush(), expected)
    assert failures == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_frame_that_failed_may_be_left_out_and_the_next_one_has_its_number(monkeypatch, method):
    predictor, frames = make_predictor(METHODS[method]), make_frames(8)
    expected = list(predictor.stream(frames[:4] + frames[5:]))
    heads = predictor.model.roi_heads
    lookahead = predictor.lookahead
    monkeypatch.setattr(heads, "predict", raise_at(heads.predict, {4 - lookahead}, RuntimeError("lost")))
    stream, found = predictor.open("stream"), []
    for number, frame in enumerate(frames):
        if number == 4:
            with pytest.raises(RuntimeError, match="lost"):
                stream.step(frame)
        else:
            found += stream.step(frame)
    assert_same(found + stream.flush(), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_gap_counts_a_frame_that_failed_as_lost(monkeypatch, method):
    predictor, frames = make_predictor(METHODS[method]), make_frames(6)
    expected = list(predictor.stream([*frames[:3], None, *frames[4:]]))
    model = predictor.model
    monkeypatch.setattr(model, "encode", raise_at(model.encode, {3}, RuntimeError("lost")))
    stream = predictor.open("stream")
    found = [one for frame in frames[:3] for one in stream.step(frame)]
    with pytest.raises(RuntimeError, match="lost"):
        stream.step(frames[3])
    found += stream.gap(1) + stream.step(frames[4]) + stream.step(frames[5]) + stream.flush()
    assert [one.index for one in found] == [0, 1, 2, 4, 5]
    assert_same(found, expected)


@pytest.mark.parametrize("method", ["rdn", "mega"])
def test_a_flush_that_raises_finishes_none_and_another_one_all(monkeypatch, method):
    predictor, frames = make_predictor(METHODS[method], lookahead=2), make_frames(5)
    expected = list(predictor.stream(frames))
    stream = predictor.open("stream")
    found = [one for frame in frames for one in stream.step(frame)]
    heads = predictor.model.roi_heads
    monkeypatch.setattr(heads, "predict", raise_at(heads.predict, {1, 3}, RuntimeError("lost")))
    for flush in (stream.flush, stream.gap):
        with pytest.raises(RuntimeError, match="lost"):
            flush()
        assert (len(stream), stream.index) == (2, 5)
    assert_same(found + stream.flush(), expected)
    assert len(stream) == 0


def test_frames_that_fail_again_and_again_can_be_given_up(monkeypatch):
    predictor, frames = make_predictor(), make_frames(7)
    heads = predictor.model.roi_heads
    stream = predictor.open("stream")
    for frame in frames[:2]:
        assert stream.step(frame) == []
    with monkeypatch.context() as patch:
        patch.setattr(heads, "predict", raise_at(heads.predict, {*range(9)}, RuntimeError("poison")))
        for _ in range(3):
            with pytest.raises(RuntimeError, match="poison"):
                stream.step(frames[2])
        assert stream.gap(1, finish=False) == [] and stream.index == 3
    found = [one for frame in frames[3:] for one in stream.step(frame)] + stream.flush()
    assert [one.index for one in found] == [3, 4, 5, 6]


def poisoned(encode: Callable, bad: np.ndarray) -> Callable:
    """`VideoRCNN.encode` that raises where the image `bad` is in the batch."""

    def checked(inputs: list[dict]):
        if any(np.array_equal(one["image"].permute(1, 2, 0).numpy(), bad) for one in inputs):
            raise RuntimeError("bad picture")
        return encode(inputs)

    return checked


def test_one_camera_that_fails_leaves_the_others_alone(monkeypatch, caplog):
    """RDN, three cameras: one picture of the second cannot be encoded."""
    predictor = make_predictor()
    predictor.model.double()
    videos = [make_frames(6, seed) for seed in range(3)]
    readable = [videos[0], videos[1][:3] + videos[1][4:], videos[2]]
    expected = [list(predictor.stream(frames)) for frames in readable]
    monkeypatch.setattr(predictor.model, "encode", poisoned(predictor.model.encode, videos[1][3]))
    streams = [predictor.open(f"camera {i}") for i in range(3)]
    found: list[list[DetectedFrame]] = [[], [], []]
    for t in range(6):
        try:
            together = predictor.step_many([(stream, video[t]) for stream, video in zip(streams, videos, strict=True)])
        except StreamErrors as error:
            assert t == 3 and list(error.errors) == [1] and isinstance(error.errors[1], RuntimeError)
            assert "1 of 3 streams failed: stream 'camera 1': RuntimeError: bad picture" in str(error)
            together = error.found
        else:
            assert t != 3
        for frames, more in zip(found, together, strict=True):
            frames.extend(more)
    for frames, stream, wanted in zip(found, streams, expected, strict=True):
        assert_same(frames + stream.flush(), wanted, 1e-5)
    assert "3 frames could not be encoded at once (bad picture)" in caplog.text


def test_a_detection_that_fails_in_one_camera_is_told_with_the_results_of_the_others(monkeypatch):
    predictor = make_predictor(lookahead=0)
    frames, heads = make_frames(3), predictor.model.roi_heads
    streams = [predictor.open(name) for name in ("left", "middle", "right")]
    monkeypatch.setattr(heads, "predict", raise_at(heads.predict, {4}, RuntimeError("lost")))
    predictor.step_many([(stream, frames[0]) for stream in streams])
    with pytest.raises(StreamErrors, match="1 of 3 streams failed: stream 'middle'") as caught:
        predictor.step_many([(stream, frames[1]) for stream in streams])
    assert [[one.index for one in found] for found in caught.value.found] == [[1], [], [1]]
    assert [stream.index for stream in streams] == [2, 1, 2]
    again = predictor.step_many([(streams[1], frames[1])])
    assert [one.index for one in again[0]] == [1]


def test_what_is_no_picture_from_one_camera_is_told_with_the_results_of_the_others():
    predictor = make_predictor(lookahead=0)
    (frame,), left, right = make_frames(1), predictor.open("left"), predictor.open("right")
    with pytest.raises(StreamErrors, match="1 of 2 streams failed: stream 'left', frame 0: got NoneType") as caught:
        predictor.step_many([(left, None), (right, frame)])
    assert isinstance(caught.value.errors[0], UserError) and len(caught.value.found[1]) == 1
    assert (left.index, right.index) == (0, 1)


def test_ctrl_c_in_the_midst_of_several_streams_changes_none_of_them(monkeypatch):
    predictor = make_predictor(lookahead=0)
    frames, heads = make_frames(2), predictor.model.roi_heads
    streams = [predictor.open(name) for name in "ab"]
    with monkeypatch.context() as patch:
        patch.setattr(heads, "predict", raise_at(heads.predict, {1}, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            predictor.step_many([(stream, frames[0]) for stream in streams])
    assert [stream.index for stream in streams] == [0, 0]
    assert [len(found) for found in predictor.step_many([(stream, frames[1]) for stream in streams])] == [1, 1]


class SlowRecorder:
    """A detector that gives other threads every chance to come between."""

    def __init__(self) -> None:
        self.schedule = SlidingWindow(2).with_lookahead(1)

    def encode(self, frames):
        for memory, frame in frames:
            number = memory.length
            time.sleep(0.001)
            memory.put(Frame(memory.video, number, frame.shape[:2]))

    def detect(self, memory, index, size):
        time.sleep(0.001)
        return {"seen": [one.index for one in memory.context(index).frames]}


def test_two_threads_that_share_a_stream_lose_no_frame():
    stream = VideoStream(SlowRecorder(), "door")
    found: list[DetectedFrame] = []
    errors: list[Exception] = []

    def feed(value: int) -> None:
        try:
            for _ in range(40):
                found.extend(stream.step(np.full((8, 12, 3), value, np.uint8)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=feed, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found += stream.flush()
    assert errors == [] and sorted(one.index for one in found) == list(range(80))
    assert sorted(int(one.image[0, 0, 0]) for one in found) == [1] * 40 + [2] * 40
    assert all(one.output["seen"] == list(range(max(0, one.index - 2), min(80, one.index + 2))) for one in found)


def test_closing_a_predictor_frees_its_model_and_memories_and_later_calls_say_so():
    with make_predictor() as predictor:
        frames, stream = make_frames(3), predictor.open("door")
        running = predictor.stream(iter(frames))
        next(running)
        for frame in frames:
            stream.step(frame)
        model, held = weakref.ref(predictor.model), weakref.ref(stream.memory.frame(2))
    gc.collect()
    assert model() is None and held() is None and (len(stream), len(stream.memory)) == (0, 0)
    with pytest.raises(UserError, match="stream 'door' is closed"):
        stream.step(frames[0])
    with pytest.raises(UserError, match="stream 'stream' is closed"):
        next(running)
    for call in (stream.flush, stream.gap, stream.reset):
        with pytest.raises(UserError, match="stream 'door' is closed: open a new one"):
            call()
    calls = (
        lambda: predictor.step(frames[0]),
        predictor.flush,
        predictor.reset,
        predictor.open,
        lambda: list(predictor.stream(frames)),
        lambda: predictor.step_many([(stream, frames[0])]),
        lambda: predictor.model,
    )
    for call in calls:
        with pytest.raises(UserError, match="this VideoPredictor is closed: make a new one"):
            call()
    predictor.close()  # once more is no error


def test_a_stream_is_closed_by_itself():
    predictor, (frame,) = make_predictor(lookahead=0), make_frames(1)
    with predictor.open("door") as stream:
        stream.step(frame)
    with pytest.raises(UserError, match="'door' is closed"):
        stream.step(frame)
    other = predictor.open("gate")
    with pytest.raises(StreamErrors, match="1 of 2 streams failed: stream 'door' is closed") as caught:
        predictor.step_many([(stream, frame), (other, frame)])
    assert len(caught.value.found[1]) == 1
    assert len(predictor.step(frame)) == 1
