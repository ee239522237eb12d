"""Linking of streams by windows."""

import numpy as np
import pytest

from helpers.linking import detections, random_video
from vod2.modeling import OnlineLinker, SeqNMS, TubeletLinking

HERE, THERE = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)


def stream(online, frames):
    return [done for frame in frames for done in online.push(frame)] + online.flush()


def values(frames):
    return [(frame.row.tolist(), frame.scores.tolist(), frame.track_ids.tolist()) for frame in frames]


@pytest.mark.parametrize("linker", [SeqNMS(), TubeletLinking()])
@pytest.mark.parametrize("extra", [0, 1, 5])
def test_a_video_that_fits_into_the_window_is_linked_as_a_whole(linker, extra):
    frames = [detections(frame) for frame in random_video(np.random.default_rng(0), frames=6, most=5, labels=2)]
    assert values(stream(OnlineLinker(linker, 6 + extra), frames)) == values(linker.link(frames))


@pytest.mark.parametrize("window", [2, 3, 4, 7])
def test_every_frame_comes_out_once_in_order_and_waits_for_fewer_than_the_window(window):
    rng = np.random.default_rng(1)
    frames = [detections([((float(t), 0.0, t + 10.0, 10.0), rng.uniform(0.1, 1))]) for t in range(20)]
    online, out = OnlineLinker(SeqNMS(), window), 0
    for pushed, frame in enumerate(frames, 1):
        for done in online.push(frame):
            assert done.pred_boxes.tensor.tolist() == frames[out].pred_boxes.tensor.tolist()
            assert set(done.get_fields()) == {"pred_boxes", "scores", "pred_classes", "row", "track_ids"}
            out += 1
        assert pushed - out < window
    assert out + len(online.flush()) == 20
    assert online.flush() == []


@pytest.mark.parametrize("linker", [SeqNMS(), TubeletLinking()])
@pytest.mark.parametrize("window", [2, 3, 6, 9])
def test_tracks_keep_their_number_from_window_to_window(linker, window):
    """Two objects that stay apart, the first stronger in the first half, the second in the second half."""
    frames = []
    for t in range(30):
        scores = (0.6, 0.55) if t < 15 else (0.55, 0.6)
        frames.append(detections([(HERE, scores[0]), (THERE, scores[1])]))
    out = stream(OnlineLinker(linker, window), frames)
    tracks = [dict(zip(frame.row.tolist(), frame.track_ids.tolist(), strict=True)) for frame in out]
    assert all(one == {0: 0, 1: 1} for one in tracks)


def test_an_object_that_comes_later_has_a_number_that_no_other_had():
    frames = [detections([(HERE, 0.9)])] * 4 + [detections([])] * 6 + [detections([(HERE, 0.9)])] * 4
    out = stream(OnlineLinker(SeqNMS(), 4), frames)
    assert [frame.track_ids.tolist() for frame in out] == [[0]] * 4 + [[]] * 6 + [[1]] * 4


def test_after_the_end_of_a_stream_the_next_counts_from_zero():
    online, frame = OnlineLinker(SeqNMS(), 4), detections([(HERE, 0.9)])
    for _ in range(2):
        assert [one.track_ids.tolist() for one in stream(online, [frame] * 9)] == [[0]] * 9


def test_pushed_frames_are_left_as_they_were():
    frame = detections([(HERE, 0.9)])
    before = set(frame.get_fields())
    stream(OnlineLinker(SeqNMS(), 2), [frame] * 5)
    assert set(frame.get_fields()) == before and frame.scores.tolist() == [0.9]


def test_a_window_of_one_frame_is_refused():
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        OnlineLinker(SeqNMS(), 1)
