"""StreamingModel: evaluation with one memory that follows the videos of the loader."""

from helpers.models import assert_same_detections, build_detector, make_video
from helpers.streams import detect_as_stream, loader_clips
from vod2 import StreamingModel
from vod2.temporal import SlidingWindow

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
