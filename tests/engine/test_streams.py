"""VideoStream: the state of one stream, several of which share a predictor."""

import gc

import cv2
import numpy as np
import pytest
import torch

from helpers.loaders import forget
from helpers.models import assert_same_detections, make_video, tiny_cfg
from vod2 import StreamingModel, UserError, VideoPredictor
from vod2.d2 import Instances
from vod2.data import build_video_test_loader
from vod2.data.datasets import register_imagenet_vid
from vod2.data.synthetic import SYNTHETIC_CLASSES, SyntheticConfig, write_synthetic
from vod2.engine.random_weights import draw_weights
from vod2.engine.streams import DetectedFrame, VideoStream, link_stream, step_together
from vod2.modeling import OnlineLinker, TubeletLinking
from vod2.structures import Frame
from vod2.temporal import SlidingWindow, build_support_schedule

KEYS = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
    "VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow",
    "VIDEO.TEST_SCHEDULE.RADIUS": 2,
}


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    made = VideoPredictor(tiny_cfg(KEYS))
    draw_weights(made.model)
    return made


@pytest.fixture(scope="module")
def precise(predictor) -> VideoPredictor:
    """In double: a convolution rounds batches differently, which the geometry of near boxes magnifies in single."""
    made = VideoPredictor(tiny_cfg(KEYS))
    made.model.load_state_dict(predictor.model.state_dict())
    made.model.double()
    return made


def make_frames(length: int, seed: int = 0, size: tuple[int, int] = (64, 96)) -> list[np.ndarray]:
    """BGR uint8 images (H, W, 3)."""
    return [image.permute(1, 2, 0).contiguous().numpy() for image in make_video(length, seed, size)]


def assert_same(found: list[DetectedFrame], expected: list[DetectedFrame], tolerance: float = 0.0) -> None:
    assert [one.index for one in found] == [one.index for one in expected]
    for one, wanted in zip(found, expected, strict=True):
        assert one.image is wanted.image
        assert_same_detections(one.output["instances"], wanted.output["instances"], tolerance)


def all_of(predictor: VideoPredictor, frames: list[np.ndarray]) -> list[DetectedFrame]:
    return list(predictor.stream(frames))


def test_steps_and_a_flush_are_the_stream(predictor):
    frames, stream = make_frames(5), predictor.open()
    steps = [stream.step(frame) for frame in frames]
    assert [len(found) for found in steps] == [0, 0, 1, 1, 1] and len(stream) == 2
    assert_same(sum(steps, []) + stream.flush(), all_of(predictor, frames))
    assert stream.flush() == [] and stream.index == 5


def test_the_predictor_has_a_stream_of_its_own(predictor):
    frames = make_frames(4)
    for _ in range(2):
        found = sum((predictor.step(frame) for frame in frames), []) + predictor.flush()
        assert_same(found, all_of(predictor, frames))
        predictor.step(frames[0])
        predictor.reset()


def test_two_interleaved_streams_equal_each_alone(predictor):
    videos = {"left": make_frames(5, 1), "right": make_frames(5, 2)}
    streams = {name: predictor.open(name) for name in videos}
    found = {name: [] for name in videos}
    for t in range(5):
        for name, frames in videos.items():
            found[name] += streams[name].step(frames[t])
    for name, frames in videos.items():
        assert_same(found[name] + streams[name].flush(), all_of(predictor, frames))


def test_many_streams_run_through_the_backbone_at_once_and_equal_each_alone(precise, monkeypatch):
    """Two sizes of image are two calls, one for each frame number."""
    batches, encode = [], precise.model.encode
    videos = [make_frames(4, 1), make_frames(4, 2), make_frames(4, 3, (64, 64)), make_frames(4, 4)]
    alone = [all_of(precise, frames) for frames in videos]

    def watched(inputs: list[dict]) -> list:
        batches.append(len(inputs))
        return encode(inputs)

    monkeypatch.setattr(precise.model, "encode", watched)
    streams = [precise.open(f"camera {i}") for i in range(4)]
    found = [[] for _ in videos]
    for t in range(4):
        together = precise.step_many([(s, frames[t]) for s, frames in zip(streams, videos, strict=True)])
        found = [before + more for before, more in zip(found, together, strict=True)]
    assert batches == [3, 1] * 4
    for one, stream, expected in zip(found, streams, alone, strict=True):
        assert_same(one + stream.flush(), expected, 1e-5)


def test_no_streams_are_no_frames(predictor):
    assert predictor.step_many([]) == []


def test_streams_may_be_at_different_frames(precise):
    ahead, behind = make_frames(4, 1), make_frames(2, 2)
    early, late = precise.open(), precise.open()
    found = early.step(ahead[0]) + early.step(ahead[1])
    for mine, other in zip(ahead[2:], behind, strict=True):
        finished, none_yet = precise.step_many([(early, mine), (late, other)])
        found += finished
        assert none_yet == []
    assert_same(found + early.flush(), all_of(precise, ahead), 1e-5)
    assert_same(late.flush(), all_of(precise, behind), 1e-5)


def test_a_flush_in_the_middle_forgets_nothing(predictor):
    """Later frames still look at those before; only those that were finished early saw less."""
    frames, stream = make_frames(8), predictor.open()
    for frame in frames[:4]:
        stream.step(frame)
    stream.flush()
    found = sum((stream.step(frame) for frame in frames[4:]), []) + stream.flush()
    assert_same(found, all_of(predictor, frames)[4:])


def test_a_gap_finishes_what_waits_and_begins_anew(predictor):
    frames, stream = make_frames(7), predictor.open()
    found = sum((stream.step(frame) for frame in frames[:4]), []) + stream.gap(missing=3)
    assert_same(found, all_of(predictor, frames[:4]))
    rest = sum((stream.step(frame) for frame in frames[4:]), []) + stream.flush()
    assert_same([one._replace(index=one.index - 7) for one in rest], all_of(predictor, frames[4:]))
    with pytest.raises(ValueError, match="-1"):
        stream.gap(missing=-1)


def test_another_size_is_refused_until_a_gap_and_changes_nothing_of_the_stream(predictor):
    frames, small = make_frames(3), make_frames(2, 5, (64, 64))
    stream, other = predictor.open("door"), predictor.open()
    stream.step(frames[0])
    with pytest.raises(UserError, match=r"'door', frame 1: .* from 96x64 to 64x64 pixels; call gap\(\)"):
        predictor.step_many([(other, frames[0]), (stream, small[0])])
    assert (stream.index, other.index) == (1, 1)
    found = sum((stream.step(frame) for frame in frames[1:]), []) + stream.gap()
    assert_same(found, all_of(predictor, frames))
    rest = stream.step(small[0]) + stream.step(small[1]) + stream.flush()
    assert [one.index for one in rest] == [3, 4]
    assert all(one.output["instances"].image_size == (64, 64) for one in rest)


@pytest.mark.parametrize(
    "frame",
    [
        None,
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(predictor, frame):
    with pytest.raises(UserError, match="'stream', frame 0: "):
        predictor.open().step(frame)


def test_streams_are_given_once_and_to_their_own_predictor(predictor):
    stream, (frame,) = predictor.open("door"), make_frames(1)
    with pytest.raises(ValueError, match="twice"):
        predictor.step_many([(stream, frame), (stream, frame)])
    with pytest.raises(ValueError, match="'door' was opened by another predictor"):
        VideoPredictor(tiny_cfg(KEYS)).step_many([(stream, frame)])


class Recorder:
    """A detector for streams: it encodes nothing, and its detections are the numbers of the frames that it looks at."""

    def __init__(self) -> None:
        self.schedule = SlidingWindow(2).with_lookahead(1)
        self.calls = []

    def encode(self, frames):
        self.calls.append([memory.video for memory, _ in frames])
        for memory, frame in frames:
            memory.put(Frame(memory.video, memory.length, frame.shape[:2]))

    def detect(self, memory, index, size):
        return {"size": size, "seen": [one.index for one in memory.context(index).frames]}


def test_a_stream_takes_any_detector_and_asks_it_for_whole_windows():
    detector = Recorder()
    stream, frames = VideoStream(detector, "door"), [np.zeros((8, 12, 3), np.uint8)] * 4
    found = [one for frame in frames for one in stream.step(frame)] + stream.flush()
    assert [one.index for one in found] == [0, 1, 2, 3]
    assert [one.output["seen"] for one in found] == [[0, 1], [0, 1, 2], [0, 1, 2, 3], [1, 2, 3]]
    assert all(one.output["size"] == (8, 12) for one in found)
    assert detector.calls == [["door"]] * 4


def test_streams_that_step_together_are_encoded_in_one_call():
    detector, frame = Recorder(), np.zeros((8, 12, 3), np.uint8)
    door, gate = VideoStream(detector, "door"), VideoStream(detector, "gate")
    assert step_together(detector, [(door, frame), (gate, frame)]) == [[], []]
    assert detector.calls == [["door", "gate"]] and (door.index, gate.index) == (1, 1)


@pytest.mark.parametrize("length", [0, 3, 11])
def test_a_stream_is_linked_while_it_runs(predictor, length):
    """Every frame comes out once, with its own image, and with the boxes that linking leaves as they are."""
    frames = make_frames(length)
    plain = all_of(predictor, frames)
    linked = list(link_stream(plain, OnlineLinker(TubeletLinking(), window=4)))
    assert [one.index for one in linked] == list(range(length))
    for one, before in zip(linked, plain, strict=True):
        assert one.image is before.image
        found = one.output["instances"]
        assert len(found) == len(before.output["instances"]) and found.track_ids.shape == (len(found),)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> str:
    """The name of a registered set of 2 videos of 6 frames."""
    name, root = "test_streams_synthetic", tmp_path_factory.mktemp("synthetic") / "set"
    config = SyntheticConfig(seed=3, train_videos=1, val_videos=2, frames=6, height=80, width=128, classes=6)
    write_synthetic(config, root)
    register_imagenet_vid(name, root, "val", SYNTHETIC_CLASSES)
    yield name
    forget(name)


@pytest.mark.parametrize("lookahead", [0, 2])
def test_frames_one_by_one_give_what_evaluation_gives(predictor, synthetic, lookahead):
    """The loader and StreamingModel on one side, the images of the same files on the other; both resize them."""
    cfg = tiny_cfg(KEYS | {"VIDEO.TEST_SCHEDULE.LOOKAHEAD": lookahead, "DATALOADER.NUM_WORKERS": 0})
    live = VideoPredictor(cfg, lookahead=lookahead)
    live.model.load_state_dict(predictor.model.state_dict())
    evaluated = StreamingModel(live.model, build_support_schedule(cfg)).eval()
    expected: dict[str, list[Instances]] = {}
    files: dict[str, list[str]] = {}
    for (clip,) in build_video_test_loader(cfg, synthetic):
        expected.setdefault(clip["video_id"], []).extend(one["instances"] for one in evaluated([clip]))
        files.setdefault(clip["video_id"], []).append(clip["file_name"])
    assert [len(video) for video in expected.values()] == [6, 6]
    for video, instances in expected.items():
        stream = live.open(video)
        found = sum((stream.step(cv2.imread(file)) for file in files[video]), []) + stream.flush()
        assert [one.index for one in found] == list(range(6))
        for one, wanted in zip(found, instances, strict=True):
            assert_same_detections(one.output["instances"], wanted, 1e-5)


def test_eight_hundred_frames_hold_no_more_than_two_hundred():
    """Counted in tensors, so that not one a frame may stay; and in the frames and images of the stream itself."""
    small = {"MODEL.RPN.POST_NMS_TOPK_TEST": 4, "INPUT.MIN_SIZE_TEST": 32, "INPUT.MAX_SIZE_TEST": 48}
    predictor = VideoPredictor(tiny_cfg(KEYS | small))
    stream, frames, held = predictor.open(), make_frames(7, size=(32, 48)), []
    for index in range(800):
        found = stream.step(frames[index % 7])
        assert len(found) == (index >= 2)
        if index + 1 in (200, 800):
            del found
            gc.collect()
            held.append(
                (sum(isinstance(one, torch.Tensor) for one in gc.get_objects()), len(stream.memory), len(stream))
            )
    assert held[0] == held[1] and held[1][1:] == (5, 2)
