"""VideoPredictor: a stream of images in, detections out."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from helpers.device import autocast
from helpers.models import assert_same_detections, make_video, tiny_cfg
from helpers.streams import detect_as_stream
from vod2 import UserError, VideoPredictor
from vod2.d2 import CfgNode
from vod2.engine.random_weights import draw_weights
from vod2.temporal import FrameMemory, GlobalSample, SlidingWindow

KEYS = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
    "VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow",
    "VIDEO.TEST_SCHEDULE.RADIUS": 2,
}


def make_predictor(**schedule) -> VideoPredictor:
    keys = {f"VIDEO.TEST_SCHEDULE.{name}": value for name, value in schedule.items()}
    predictor = VideoPredictor(tiny_cfg(KEYS | keys))
    draw_weights(predictor.model)
    return predictor


def cfg_with_schedule(name: str) -> CfgNode:
    """The radius of 2 is for sliding windows."""
    radius = {"VIDEO.TEST_SCHEDULE.RADIUS": 2 if "SlidingWindow" in name else 18}
    return tiny_cfg(KEYS | {"VIDEO.TEST_SCHEDULE.NAME": name} | radius)


def make_frames(length: int) -> list[np.ndarray]:
    """BGR uint8 images (H, W, 3) of the size that the detector wants, so that nothing is resized."""
    return [image.permute(1, 2, 0).contiguous().numpy() for image in make_video(length)]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7])
def test_a_stream_gives_each_frame_once_and_in_order(length):
    frames = make_frames(length)
    found = list(make_predictor().stream(iter(frames)))
    assert [one.index for one in found] == list(range(length))
    assert all(one.image is frame for one, frame in zip(found, frames, strict=True))


@pytest.mark.parametrize("edge", ["clip", "repeat"])
@pytest.mark.parametrize("lookahead", [-1, 0, 1])
def test_a_stream_detects_what_steps_through_the_whole_video_detect(lookahead, edge):
    """Also at its end, which the predictor does not know in advance."""
    predictor = make_predictor(LOOKAHEAD=lookahead, EDGE=edge)
    schedule = SlidingWindow(2, None if lookahead < 0 else lookahead, edge)
    expected = detect_as_stream(predictor.model, make_video(7), schedule)
    for one, wanted in zip(predictor.stream(make_frames(7)), expected, strict=True):
        assert_same_detections(one.output["instances"], wanted, 1e-5)


def test_a_stream_in_half_precision_is_the_model_under_autocast():
    predictor = VideoPredictor(tiny_cfg(KEYS | {"TEST.PRECISION": "bfloat16"}))
    draw_weights(predictor.model)
    with autocast(torch.bfloat16):
        expected = list(detect_as_stream(predictor.model, make_video(5), SlidingWindow(2)))
    for found, wanted in zip(predictor.stream(make_frames(5)), expected, strict=True):
        assert_same_detections(found.output["instances"], wanted, 1e-5)


def test_detections_are_in_pixels_of_the_frames_that_came_in():
    frames = [np.kron(frame, np.ones((2, 2, 1), dtype=np.uint8)) for frame in make_frames(2)]
    for one in make_predictor().stream(frames):
        assert one.output["instances"].image_size == (128, 192)
        assert one.output["instances"].pred_boxes.tensor.max() > 100


@pytest.mark.parametrize("lookahead, expected", [(-1, 2), (0, 0), (1, 1)])
def test_a_frame_comes_out_as_soon_as_its_lookahead_has_come_in(lookahead, expected):
    taken = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal taken
        for frame in make_frames(6):
            taken += 1
            yield frame

    for one in make_predictor(LOOKAHEAD=lookahead).stream(source()):
        assert taken == min(one.index + expected + 1, 6)


def test_memory_is_bounded_by_the_window_whatever_the_length(monkeypatch):
    predictor, held = make_predictor(), []
    detect_from = predictor.model.detect_from

    def watched(memory: FrameMemory, clip: dict) -> dict:
        result = detect_from(memory, clip)
        held.append(len(memory))
        return result

    monkeypatch.setattr(predictor.model, "detect_from", watched)
    frames = make_frames(5)
    for _ in predictor.stream(frames[i % 5] for i in range(20)):
        pass
    assert held == [3, 4, *[5] * 16, 4, 3]


def test_every_frame_is_encoded_once(monkeypatch):
    predictor, encoded = make_predictor(), []
    encode = predictor.model.encode

    def watched(inputs: list[dict]) -> list:
        encoded.extend(one["frame_index"] for one in inputs)
        return encode(inputs)

    monkeypatch.setattr(predictor.model, "encode", watched)
    list(predictor.stream(make_frames(6)))
    assert encoded == list(range(6))


def test_two_streams_at_once_do_not_touch_each_other():
    predictor, frames = make_predictor(), make_frames(8)
    alone = [list(predictor.stream(part)) for part in (frames[:4], frames[4:])]
    together = list(zip(predictor.stream(frames[:4]), predictor.stream(frames[4:]), strict=True))
    for column, expected in enumerate(alone):
        for pair, wanted in zip(together, expected, strict=True):
            assert_same_detections(pair[column].output["instances"], wanted.output["instances"])


def test_a_schedule_that_needs_the_whole_video_samples_the_frames_until_now_and_says_so(caplog):
    predictor = make_predictor(NAME="GlobalSample", COUNT=2, RADIUS=18)
    assert "GlobalSample looks at the whole video, a stream only at the frames until now" in caplog.text
    stream, frames = predictor.open("video"), make_frames(9)
    for t, frame in enumerate(frames):
        assert [found.index for found in stream.step(frame)] == [t]
        assert len(stream.memory) <= 3
    causal = GlobalSample(2, lookahead=0)
    assert [frame.index for frame in stream.memory.context(8).frames] == [s.index for s in causal.window(8, 9, "video")]


def test_the_channels_are_swapped_where_the_model_wants_rgb():
    bgr = make_predictor()
    rgb = VideoPredictor(tiny_cfg(KEYS | {"INPUT.FORMAT": "RGB"}))
    rgb.model.load_state_dict(bgr.model.state_dict())
    frames = make_frames(2)
    swapped = [np.ascontiguousarray(frame[:, :, ::-1]) for frame in frames]
    for one, wanted in zip(rgb.stream(swapped), bgr.stream(frames), strict=True):
        assert_same_detections(one.output["instances"], wanted.output["instances"])


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_the_lookahead_may_be_given_to_the_predictor(lookahead):
    predictor, configured = VideoPredictor(tiny_cfg(KEYS), lookahead=lookahead), make_predictor(LOOKAHEAD=lookahead)
    draw_weights(predictor.model)
    assert predictor.lookahead == lookahead
    frames = make_frames(4)
    for one, wanted in zip(predictor.stream(frames), configured.stream(frames), strict=True):
        assert_same_detections(one.output["instances"], wanted.output["instances"])


@pytest.mark.parametrize(
    ("name", "lookahead", "message"),
    [
        ("SlidingWindow", 3, "VIDEO.TEST_SCHEDULE: SlidingWindow.* 0 .causal. to 2 frames, got 3"),
        ("SlidingWindow", -1, "0 .causal. to 2 frames, got -1"),
        ("Keyframes", 1, "Keyframes cannot have a lookahead of 1 frames: it always has 0"),
        ("NoWindow", 1, "NoWindow cannot have a lookahead of 1"),
        ("GlobalSample", 1, "GlobalSample looks at the whole video: it cannot have a lookahead of 1"),
        ("Keyframes+GlobalSample", 1, "ScheduleUnion cannot have a lookahead of 1"),
    ],
)
def test_a_lookahead_that_the_schedule_cannot_have_is_refused(name, lookahead, message):
    with pytest.raises(UserError, match=message):
        VideoPredictor(cfg_with_schedule(name), lookahead=lookahead)


@pytest.mark.parametrize("name", ["SlidingWindow", "Keyframes", "NoWindow", "SlidingWindow+Keyframes"])
def test_every_schedule_that_needs_no_end_runs_live(name):
    predictor = VideoPredictor(cfg_with_schedule(name), lookahead=0)
    for index, frame in enumerate(make_frames(13)):
        assert [found.index for found in predictor.step(frame)] == [index]


def test_a_file_of_the_configuration_and_weights_will_do(tmp_path):
    cfg = tiny_cfg(KEYS)
    (tmp_path / "model.yaml").write_text(cfg.dump())
    source = make_predictor()
    torch.save({"model": source.model.state_dict()}, tmp_path / "weights.pth")
    loaded = VideoPredictor(tmp_path / "model.yaml", tmp_path / "weights.pth")
    for name, value in loaded.model.state_dict().items():
        assert value.equal(source.model.state_dict()[name])


def test_a_lost_frame_has_a_number_and_no_frame_looks_across_it():
    predictor, frames = make_predictor(), make_frames(5)
    found = list(predictor.stream([*frames[:2], None, *frames[2:]]))
    apart = [one for part in (frames[:2], frames[2:]) for one in predictor.stream(part)]
    assert [one.index for one in found] == [0, 1, 3, 4, 5]
    for one, wanted in zip(found, apart, strict=True):
        assert_same_detections(one.output["instances"], wanted.output["instances"])


def test_weights_are_read_from_the_configuration(tmp_path):
    source = make_predictor()
    path = tmp_path / "weights.pth"
    torch.save({"model": source.model.state_dict()}, path)
    loaded = VideoPredictor(tiny_cfg(KEYS | {"MODEL.WEIGHTS": str(path)}))
    for name, value in loaded.model.state_dict().items():
        assert value.equal(source.model.state_dict()[name])


def test_weights_that_do_not_exist_are_a_user_error():
    with pytest.raises(UserError, match="nowhere.pth"):
        VideoPredictor(tiny_cfg(KEYS | {"MODEL.WEIGHTS": "nowhere.pth"}))
