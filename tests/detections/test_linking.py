"""`link` and its online form, and what they make of tracks."""

import numpy as np
import pytest
import torch

from vod2.detections import LINKERS, DetectionLinker, as_instances, link, linked_track_stability
from vod2.errors import UserError
from vod2.modeling import GreedyLinking, SeqNMS

SEEN = ([[10.0, 10.0, 30.0, 40.0]], [0.8], [0])
NOTHING = ([], [], [])


def video(seed=0, frames=40, objects=3):
    """Objects that move evenly, each missing in a fifth of the frames, with scores of all sizes."""
    rng = np.random.default_rng(seed)
    found = []
    for t in range(frames):
        rows = [
            [10 + 60 * k + 2 * t, 20, 40 + 60 * k + 2 * t, 60, rng.uniform(0.2, 0.9), k]
            for k in range(objects)
            if rng.random() < 0.8
        ]
        found.append(np.array(rows).reshape(-1, 6))
    return found


@pytest.mark.parametrize("linker", LINKERS)
def test_scores_stay_shares_and_those_of_the_detector_are_kept(linker):
    frames = video()
    linked = link(frames, linker)
    for before, after in zip(frames, linked, strict=True):
        assert sorted(after.input_scores.tolist()) == pytest.approx(sorted(before[:, 4].tolist()))
        assert ((after.scores >= 0) & (after.scores <= 1)).all()
        assert after.scores.tolist() == sorted(after.scores.tolist(), reverse=True)


@pytest.mark.parametrize("linker", LINKERS)
def test_objects_that_are_missing_for_some_frames_are_one_track_each_without_gaps(linker):
    linked = link(video(), linker, fill_gaps=6)
    frames_of_track: dict[int, list[int]] = {}
    for index, frame in enumerate(linked):
        for track in frame.track_ids.tolist():
            frames_of_track.setdefault(track, []).append(index)
    assert len(frames_of_track) == 3
    for frames in frames_of_track.values():
        assert frames == list(range(frames[0], frames[-1] + 1))
    assert sum(int(frame.filled.sum()) for frame in linked) > 5


@pytest.mark.parametrize("fill_gaps", [0, 4])
@pytest.mark.parametrize("linker", LINKERS)
def test_online_every_frame_is_finished_within_its_delay_and_a_short_video_is_linked_as_a_whole(linker, fill_gaps):
    frames = video(frames=12)
    online = DetectionLinker(linker, 13, fill_gaps=fill_gaps)
    # Twice, because a stream that has ended leaves nothing behind.
    for _ in range(2):
        found = [finished for frame in frames for finished in online.push(frame)] + online.flush()
        for one, other in zip(found, link(frames, linker, fill_gaps=fill_gaps), strict=True):
            assert one.track_ids.equal(other.track_ids) and one.scores.equal(other.scores)
            assert one.pred_boxes.tensor.equal(other.pred_boxes.tensor)
    short = DetectionLinker(linker, 4, fill_gaps=fill_gaps)
    finished = 0
    for count, frame in enumerate(video(frames=40), start=1):
        finished += len(short.push(frame))
        assert count - finished <= 3 + fill_gaps
    assert finished + len(short.flush()) == 40


def test_what_the_caller_holds_stays_as_it_is():
    frame = as_instances(SEEN)
    link([frame, frame], fill_gaps=1)
    assert set(frame.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
    assert frame.scores.tolist() == pytest.approx([0.8])


def test_all_frames_have_the_size_that_holds_every_box():
    far = ([[60.0, 10.0, 80.0, 50.0]], [0.4], [0])
    assert {frame.image_size for frame in link([SEEN, NOTHING, far])} == {(50, 80)}
    assert {frame.image_size for frame in link([SEEN, NOTHING], size=(480, 640))} == {(480, 640)}


def test_a_linker_of_ones_own_settings_is_taken():
    far = ([[60.0, 10.0, 80.0, 40.0]], [0.4], [0])
    assert [frame.track_ids.tolist() for frame in link([SEEN, far], GreedyLinking(link_similarity=0.9))] == [[0], [1]]
    assert link([SEEN, SEEN], SeqNMS(rescore="max"))[0].scores.tolist() == pytest.approx([0.8])


def test_an_unknown_linker_is_named():
    with pytest.raises(UserError, match="'sort': expected a BoxLinker, or one of 'repp-like', 'seqnms', 'tubelets'"):
        link([SEEN], "sort")


def test_a_negative_gap_is_refused_before_the_work():
    with pytest.raises(ValueError, match="at least 0 frames, got -1"):
        link(iter(["no detections"]), fill_gaps=-1)


def test_no_frames_are_no_frames():
    assert link([]) == [] and link([], fill_gaps=3) == []


def frame(*rows, filled=None):
    """Rows (track, score before, score after)."""
    found = as_instances(([[0, 0, 9, 9]] * len(rows), [row[2] for row in rows], [0] * len(rows)))
    found.track_ids = torch.tensor([row[0] for row in rows], dtype=torch.int64)
    found.input_scores = torch.tensor([row[1] for row in rows])
    return found


def test_the_stability_of_a_linked_track_by_hand():
    """Shown before in frames 0, 2, 3 of 5 (frame 1 has no box); after in all but frame 1."""
    frames = [frame((4, 0.9, 0.6)), frame(), frame((4, 0.9, 0.6)), frame((4, 0.5, 0.6)), frame((4, 0.4, 0.6))]
    assert linked_track_stability(frames) == {
        "flicker": (60.0, 40.0),
        "delay": (0.0, 0.0),
        "gap": (1.0, 1.0),
        "coverage": (60.0, 80.0),
        "shown": (100.0, 100.0),
    }


def test_a_track_that_is_hidden_afterwards_counts_as_such():
    frames = [frame((0, 0.9, 0.4), (1, 0.9, 0.9)), frame((0, 0.1, 0.4), (1, 0.9, 0.9))]
    found = linked_track_stability(frames)
    assert found["shown"] == (100.0, 50.0)
    assert found["delay"] == (0.0, 1.0)


@pytest.mark.parametrize("frames", [[], [frame()], [frame((0, 0.9, 0.9))], [frame((0, 0.1, 0.1))] * 3])
def test_where_no_track_of_two_frames_is_shown_nothing_is_said(frames):
    assert linked_track_stability(frames) == {}
