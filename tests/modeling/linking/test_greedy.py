"""Greedy linking against a loop over all pairs, and by hand."""

import numpy as np
import pytest

from helpers.linking import assert_equals_reference, detections, random_video
from reference import linking as reference
from vod2.modeling import GreedyLinking
from vod2.modeling.linking import pairwise_similarity


@pytest.mark.parametrize("rescore", ["mean", "max"])
@pytest.mark.parametrize("seed", range(40))
def test_greedy_linking_equals_the_loop_over_all_pairs(seed, rescore):
    rng = np.random.default_rng(seed)
    video = [[row[:2] for row in frame] for frame in random_video(rng, frames=6, most=5)]
    linker = GreedyLinking(link_similarity=0.5, rescore=rescore)
    linked = linker.link([detections(frame) for frame in video])
    assert_equals_reference(linked, reference.greedy(video, 0.5, rescore))


def test_the_similarity_of_two_boxes_by_hand():
    """Half the width, the same height, centres 3 apart; diagonals of 5 and of the root of 20."""
    (value,) = pairwise_similarity(np.array([[0.0, 0.0, 4.0, 3.0]]), np.array([[4.0, 0.0, 6.0, 3.0]]))[0]
    assert value == pytest.approx(0.5 * np.exp(-3 / ((5 + 13**0.5) / 2)))


def test_boxes_without_an_extent_are_similar_to_each_other_only():
    boxes = np.array([[5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 10.0, 10.0]])
    similarity = pairwise_similarity(boxes, boxes)
    assert similarity.diagonal().tolist() == [1.0, 1.0]
    assert similarity[0, 1] < 1e-6


def test_a_small_object_that_moves_by_more_than_its_size_is_one_track():
    video = [[((10.0 + 12 * t, 10.0, 20.0 + 12 * t, 20.0), 0.5)] for t in range(4)]
    linked = GreedyLinking(link_similarity=0.4).link([detections(frame) for frame in video])
    assert [frame.track_ids.tolist() for frame in linked] == [[0]] * 4


@pytest.mark.parametrize("values", [{"link_similarity": 0.0}, {"link_similarity": 1.1}, {"rescore": "median"}])
def test_other_values_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values)).upper()):
        GreedyLinking(**values)
