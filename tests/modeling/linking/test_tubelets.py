"""Tubelets and BLR against the enumeration of all paths, and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from helpers.linking import assert_equals_reference, detections, exact_videos, random_video
from reference import linking as reference
from vod2.errors import UserError
from vod2.modeling import BLR, TubeletLinking

HERE, THERE = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)


def link(video):
    return TubeletLinking().link([detections(frame) for frame in video])


def with_relations(frames, relations, proposals):
    """`relations[t]` (proposals of t, K) to those of t + 1; box k of frame t came from proposal `proposals[t][k]`."""
    for frame, relation, proposal in zip(frames, relations, proposals, strict=True):
        frame.proposal_index = torch.as_tensor(proposal, dtype=torch.int64)
        frame.next_relation = torch.as_tensor(relation, dtype=torch.float64)[frame.proposal_index]
    return frames


@settings(max_examples=300, deadline=None)
@given(video=exact_videos())
def test_tubelets_equal_the_enumeration_of_all_paths_also_where_weights_tie(video):
    assert_equals_reference(link(video), reference.tubelets(video))


@pytest.mark.parametrize("seed", range(60))
def test_blr_equals_the_enumeration_of_all_paths(seed):
    """Relations are larger than a softmax gives, so that they decide; some proposals are beyond the K = 3 kept."""
    rng = np.random.default_rng(seed)
    video = [[one[:2] for one in frame] for frame in random_video(rng, frames=4, most=4)]
    relations = rng.uniform(0, 2, (len(video), 6, 3))
    proposals = [rng.permutation(6)[: len(frame)] for frame in video]

    def relation(t, i, j):
        after = proposals[t + 1][j]
        return relations[t, proposals[t][i], after] if after < 3 else 0.0

    frames = with_relations([detections(frame) for frame in video], relations, proposals)
    assert_equals_reference(BLR().link(frames), reference.tubelets(video, relation))


def test_the_mean_of_the_best_half_is_added_to_every_box_of_the_path():
    """By hand: of .9, .2, .6 the best ceil(3 / 2) = 2 have the mean .75."""
    linked = link([[(HERE, 0.9)], [(HERE, 0.2)], [(HERE, 0.6)]])
    assert [frame.scores.item() for frame in linked] == pytest.approx([1.65, 0.95, 1.35])
    assert [frame.track_ids.item() for frame in linked] == [0, 0, 0]


def test_boxes_that_overlap_are_on_one_path_though_others_score_a_little_higher():
    """By hand: HERE-HERE .5 + .5 + 1 is more than HERE-THERE .5 + .6 + 0."""
    linked = link([[(HERE, 0.5)], [(THERE, 0.6), (HERE, 0.5)]])
    assert linked[0].track_ids.tolist() == [0]
    assert dict(zip(linked[1].row.tolist(), linked[1].track_ids.tolist(), strict=True)) == {0: 1, 1: 0}


def test_the_repetition_ends_when_every_box_is_on_a_path_and_a_lone_one_gains_its_own_score():
    linked = link([[(HERE, 0.5), (THERE, 0.25)], [(HERE, 0.5)], [], [(HERE, 0.125)]])
    assert [sorted(frame.scores.tolist()) for frame in linked] == [[0.5, 1.0], [1.0], [], [0.25]]
    assert sorted(track for frame in linked for track in frame.track_ids.tolist()) == [0, 0, 1, 2]


def test_a_relation_draws_a_path_to_the_box_it_points_at():
    """By hand: without relations HERE-HERE 2 beats HERE-THERE 1; exp(1) makes the latter 2.7."""
    video = [[(HERE, 0.5)], [(HERE, 0.5), (THERE, 0.5)]]
    for weight, expected in ((0.0, 0), (1.0, 1)):
        frames = with_relations(
            [detections(frame) for frame in video], [[[0.0, weight]], [[0.0, 0.0]] * 2], [[0], [0, 1]]
        )
        linked = BLR().link(frames)
        assert dict(zip(linked[1].track_ids.tolist(), linked[1].row.tolist(), strict=True))[0] == expected


def test_blr_says_what_to_set_where_there_are_no_relations():
    frame = detections([(HERE, 0.5)])
    with pytest.raises(UserError, match="MODEL.VIDEO.KEEP_RELATIONS True"):
        BLR().link([frame, frame])


def test_a_share_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"TOP_SHARE in \(0, 1\], got 0"):
        TubeletLinking(top_share=0.0)
