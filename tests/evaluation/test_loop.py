"""StreamingModel: evaluation with one memory that follows the videos of the loader."""

import pytest
import torch

from helpers.device import autocast
from helpers.models import assert_same_detections, build_detector, make_video
from helpers.streams import detect_as_stream, loader_clips
from vod2 import StreamingModel
from vod2.errors import UserError
from vod2.temporal import RollingGlobal, ScheduleUnion, SlidingWindow

RDN = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"}
SCHEDULE = SlidingWindow(2)


def test_videos_one_after_the_other_are_detected_as_each_alone():
    model = build_detector(RDN)
    streaming = StreamingModel(model, SCHEDULE).eval()
    for name, length in (("first", 4), ("second", 1), ("third", 5)):
        video = make_video(length, seed=length)
        for clip, expected in zip(
            loader_clips(video, SCHEDULE, name), detect_as_stream(model, video, SCHEDULE, name), strict=True
        ):
            (found,) = streaming([clip])
            assert_same_detections(found["instances"], expected)


def test_the_same_video_again_begins_anew(monkeypatch):
    """As when a dataset is evaluated twice, and its last video is also its first."""
    streaming = StreamingModel(build_detector(RDN), SCHEDULE).eval()
    video, started, start = make_video(3), [], streaming.memory.start
    monkeypatch.setattr(streaming.memory, "start", lambda *arguments: (started.append(arguments), start(*arguments)))
    first, second = (
        [streaming([clip])[0]["instances"] for clip in loader_clips(video, SCHEDULE, "only")] for _ in range(2)
    )
    assert started == [("only", 3)] * 2
    for found, expected in zip(second, first, strict=True):
        assert_same_detections(found, expected)


def test_several_frames_of_a_stream_may_come_in_one_batch():
    model, video = build_detector(RDN), make_video(4)
    batch = StreamingModel(model, SCHEDULE).eval()(list(loader_clips(video, SCHEDULE)))
    for found, expected in zip(batch, detect_as_stream(model, video, SCHEDULE), strict=True):
        assert_same_detections(found["instances"], expected)


MEGA = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MEGAAggregator", "MODEL.MEGA.MEMORY": 2}
FGFA = {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "FGFAAggregator", "MODEL.FLOWNET.WIDTH": 0.0625}
FGFA |= {"MODEL.FGFA.EMBEDDING_DIMS": (8, 8, 16)}
LOCAL_AND_GLOBAL = ScheduleUnion([SlidingWindow(1, edge="repeat"), RollingGlobal(2)])


@pytest.mark.parametrize("store_mb", [0, 1])
def test_with_a_store_each_frame_is_encoded_once_and_the_detections_are_the_same(monkeypatch, store_mb):
    model, video, encoded = build_detector(MEGA), make_video(14), []
    expected = list(detect_as_stream(model, video, LOCAL_AND_GLOBAL))
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda inputs: encoded.extend(inputs) or encode(inputs))
    streaming = StreamingModel(model, LOCAL_AND_GLOBAL, store_mb=store_mb).eval()
    for clip, instances in zip(loader_clips(video, LOCAL_AND_GLOBAL), expected, strict=True):
        assert_same_detections(streaming([clip])[0]["instances"], instances)
    again = len(encoded) - len(video)
    assert again == 0 if store_mb else again > 5


def test_level_1_and_streams_that_never_look_back_have_no_store():
    assert StreamingModel(build_detector(RDN), SCHEDULE, store_mb=9).memory.store_bytes == 0
    assert StreamingModel(build_detector(MEGA), LOCAL_AND_GLOBAL, "foreign", store_mb=9).memory.store_bytes == 0
    assert StreamingModel(build_detector(FGFA), LOCAL_AND_GLOBAL, store_mb=9).memory.store_bytes == 0
    assert StreamingModel(build_detector(MEGA), LOCAL_AND_GLOBAL, store_mb=0.5).memory.store_bytes == 2**19


def test_an_evaluation_and_a_stream_in_half_precision_are_those_of_the_model_under_autocast():
    model, video = build_detector(RDN), make_video(4)
    with autocast(torch.bfloat16):
        expected = list(detect_as_stream(model, video, SCHEDULE))
    streaming = StreamingModel(model, SCHEDULE, precision="bfloat16").eval()
    found = [streaming([clip])[0]["instances"] for clip in loader_clips(video, SCHEDULE)]
    for actual, instances in zip(found, expected, strict=True):
        assert_same_detections(actual, instances)
    single = list(detect_as_stream(model, video, SCHEDULE))
    assert any(len(a) != len(b) or not a.scores.equal(b.scores) for a, b in zip(found, single, strict=True))


def test_a_precision_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="TEST.PRECISION is 'half', expected one of float32, bfloat16, float16"):
        StreamingModel(build_detector(RDN), SCHEDULE, precision="half")
