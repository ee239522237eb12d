"""Identities of boxes that were annotated without any."""

import itertools
import sys

import numpy as np
import pytest
import torch
from torchvision.ops import generalized_box_iou

from vod2.data.datasets.track_linking import link_tracks
from vod2.errors import UserError


def link(*frames, **options):
    """Numbers of objects; each frame is a list of (left, label), boxes are squares of 10 pixels."""
    pytest.importorskip("scipy", reason="SciPy is not installed")
    boxes = [np.array([[left, 0, left + 10, 10] for left, _ in frame], float).reshape(-1, 4) for frame in frames]
    labels = [np.array([label for _, label in frame], int) for frame in frames]
    return [numbers.tolist() for numbers in link_tracks(boxes, labels, **options)]


def test_boxes_that_overlap_most_are_one_object_in_whatever_order_they_come():
    assert link([(0, 0), (100, 0)], [(103, 0), (2, 0)], [(5, 0), (106, 0)]) == [[0, 1], [1, 0], [0, 1]]


def test_a_box_that_left_its_place_by_less_than_three_widths_is_the_same_object():
    assert link([(0, 0)], [(29, 0)]) == [[0], [0]]
    assert link([(0, 0)], [(31, 0)]) == [[0], [1]]


def test_objects_of_two_classes_are_never_one():
    assert link([(0, 0)], [(0, 1)], [(0, 0)]) == [[0], [1], [0]]


def test_the_assignment_has_the_greatest_sum_that_any_has():
    pytest.importorskip("scipy", reason="SciPy is not installed")
    rng = np.random.default_rng(0)
    for _ in range(20):
        corners = rng.uniform(0, 40, (2, 4, 2))
        before, after = np.concatenate([corners, corners + rng.uniform(5, 30, (2, 4, 2))], axis=2)
        giou = generalized_box_iou(torch.from_numpy(before), torch.from_numpy(after)).numpy()
        best = max(itertools.permutations(range(4)), key=lambda order: sum(giou[order[i], i] for i in range(4)))
        _, numbers = link_tracks([before, after], [np.zeros(4, int)] * 2, min_giou=-1.0)
        assert numbers.tolist() == list(best)


def test_a_pair_that_is_too_far_apart_does_not_take_a_partner_away():
    assert link([(0, 0), (200, 0)], [(1, 0)], [(1, 0), (400, 0)]) == [[0, 1], [0], [0, 2]]


def test_an_object_keeps_its_number_over_so_many_empty_frames_and_no_more():
    assert link([(0, 0)], [], [], [(0, 0)], max_gap=2) == [[0], [], [], [0]]
    assert link([(0, 0)], [], [], [(0, 0)], max_gap=1) == [[0], [], [], [1]]


def test_a_video_without_boxes_has_no_objects():
    assert link([], []) == [[], []]


def test_without_scipy_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(UserError, match="pip install scipy"):
        link_tracks([], [])
