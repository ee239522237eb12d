"""Triplet selection, on features for which it can be done by hand."""

import pytest
import torch

from vod2.projects.hvrnet.mining import random_similarities, select_proposals, select_videos, similarities

K = 3  # classes; also the label of the background


def unit(degrees: list[float]) -> torch.Tensor:
    """Vectors of different lengths in these directions."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    lengths = torch.arange(1, len(degrees) + 1, dtype=torch.float64)
    return lengths[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)


def lists(selected) -> tuple[list[int], list[int]]:
    return selected.positive.tolist(), selected.negative.tolist()


def test_cosine_does_not_depend_on_length_and_dot_does():
    a, b = torch.tensor([[3.0, 0.0, 0.0, 0.0]]), torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0], [0.0] * 4])
    assert similarities(a, b).tolist() == [[1.0, 0.0, 0.0]]
    assert similarities(a, b, "dot").tolist() == [[3.0, 0.0, 0.0]]


def test_half_precision_is_computed_in_float32():
    a = torch.randn(3, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert similarities(a, a).dtype == torch.float32


def test_the_video_triplet_is_the_least_similar_of_the_class_and_the_most_similar_of_others():
    similarity = similarities(*[unit([0, 10, 40, 20, 30, 80])] * 2)
    classes = [frozenset({c}) for c in (0, 0, 0, 1, 1, 1)]
    positive, negative = lists(select_videos(similarity, classes, list("abcdef")))
    assert positive == [2, 2, 0, 5, 5, 3]
    assert negative == [3, 3, 4, 1, 2, 2]


def test_a_video_of_several_classes_is_of_the_same_class_if_it_shares_one():
    similarity = similarities(*[unit([0, 10, 40, 20])] * 2)
    classes = [frozenset({0, 1}), frozenset({1, 2}), frozenset({2}), frozenset({0})]
    positive, negative = lists(select_videos(similarity, classes, list("abcd")))
    assert positive == [3, 2, 1, 0] and negative == [2, 3, 3, 1]


def test_a_video_is_never_its_own_partner():
    similarity = similarities(*[unit([0, 50, 10])] * 2)
    twice = select_videos(similarity, [frozenset({0})] * 2 + [frozenset({1})], ["a", "a", "b"])
    assert lists(twice) == ([-1, -1, -1], [2, 2, 0])
    same = select_videos(similarity, [frozenset({0}), frozenset({1}), frozenset({0})], ["a", "a", "a"])
    assert lists(same) == ([-1] * 3, [-1] * 3)


def test_v_minus_may_have_to_be_like_target_and_v_plus_together():
    """By hand: the target is a little more like 3, its V+, 1, is far more like 2."""
    similarity = torch.tensor([[9.0, 0.0, 1.0, 1.1], [0.0, 9.0, 5.0, 1.0], [1.0, 5.0, 9.0, 0.0], [1.1, 1.0, 0.0, 9.0]])
    classes = [frozenset({0}), frozenset({0}), frozenset({1}), frozenset({2})]
    alone = lists(select_videos(similarity, classes, list("abcd")))
    both = lists(select_videos(similarity, classes, list("abcd"), like_both=True))
    # softmax of 0 over (2, 3): .48, .52; of 1: .98, .02. 2 and 3 have no V+, theirs stays.
    assert alone == ([1, 0, -1, -1], [3, 2, 1, 0]) and both == ([1, 0, -1, -1], [2, 2, 1, 0])


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_videos_have_no_partners_that_are_like_both(count):
    selected = select_videos(torch.ones(count, count), [frozenset({0})] * count, ["a"] * count, like_both=True)
    assert lists(selected) == ([-1] * count, [-1] * count)


def test_a_video_without_objects_shares_no_class():
    selected = select_videos(torch.ones(2, 2), [frozenset(), frozenset()], ["a", "b"])
    assert lists(selected) == ([-1, -1], [1, 0])


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_videos_have_no_partners(count):
    selected = select_videos(torch.ones(count, count), [frozenset({0})] * count, ["a"] * count)
    assert lists(selected) == ([-1] * count, [-1] * count)


def test_of_equally_similar_videos_the_first_is_taken():
    classes = [frozenset({0})] * 3 + [frozenset({1})] * 3
    assert lists(select_videos(torch.ones(6, 6), classes, list("abcdef"))) == ([1, 0, 0, 4, 3, 3], [3, 3, 3, 0, 0, 0])


def test_random_videos_qualify_and_are_about_equally_frequent():
    rng, classes = torch.Generator().manual_seed(0), [frozenset({c}) for c in (0, 0, 0, 1, 1)]
    drawn = [select_videos(random_similarities(5, rng), classes, list("abcde")) for _ in range(400)]
    positive, negative = (torch.stack(column)[:, 0] for column in zip(*drawn, strict=True))
    assert positive.unique().tolist() == [1, 2] and negative.unique().tolist() == [3, 4]
    assert 150 < (positive == 1).sum() < 250 and 150 < (negative == 3).sum() < 250


def test_the_proposal_triplet_is_chosen_by_hand():
    similarity = similarities(unit([0, 0, 90, 0]), unit([5, 30, 60, 10, 80]))
    labels, others = torch.tensor([0, 1, 1, K]), torch.tensor([0, 0, 1, K, 2])
    # 0: of label 0 at 5 and 30 the farther; of the others at 60, 10 and 80 the nearest, background.
    # 1: the only one of label 1 is at 60; the nearest other at 5. From 90 degrees, the nearest other is at 80.
    assert lists(select_proposals(similarity, labels, others, K)) == ([1, 2, 2, -1], [3, 0, 4, -1])


def test_a_proposal_without_a_positive_keeps_only_its_negative():
    similarity = similarities(unit([0, 0]), unit([5, 30]))
    assert lists(select_proposals(similarity, torch.tensor([2, 0]), torch.tensor([0, 0]), K)) == ([-1, 1], [0, -1])


def test_of_equally_similar_proposals_the_first_is_taken():
    labels, others = torch.tensor([0, 1]), torch.tensor([1, 0, 0, 1])
    assert lists(select_proposals(torch.zeros(2, 4), labels, others, K)) == ([1, 0], [0, 1])


@pytest.mark.parametrize("n, m", [(0, 3), (2, 0), (0, 0)])
def test_no_proposals_have_no_triplets(n, m):
    none = select_proposals(torch.zeros(n, m), torch.zeros(n).long(), torch.zeros(m).long(), K)
    assert lists(none) == ([-1] * n, [-1] * n) and none.positive.dtype == torch.int64
