"""Which object of the ground truth a proposal shows."""

import pytest
import torch

from helpers.models import IMAGE_SIZE, tracked
from helpers.proposals import random_proposals
from vod2.d2 import Boxes, Instances
from vod2.modeling.object_ids import object_ids
from vod2.structures import BACKGROUND, TRACK_IDS, UNKNOWN, ProposalSet

OBJECTS = [[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]]


def make_boxes(*boxes: list[float]) -> torch.Tensor:
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)


def test_a_box_has_the_track_of_the_object_it_overlaps_most_from_the_threshold_on():
    boxes = make_boxes([0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9], [21, 0, 30, 10], [50, 50, 60, 60])
    ids = object_ids(boxes, tracked([4, 9], OBJECTS), 0.5)
    assert ids.tolist() == [4, 4, -1, 9, -1] and ids.dtype == torch.int64


def test_a_frame_without_objects_is_all_background():
    assert object_ids(make_boxes([0, 0, 1, 1]), tracked([], []), 0.5).tolist() == [-1]


@pytest.mark.parametrize("targets", [None, tracked(None)], ids=["no targets", "no tracks"])
def test_in_a_frame_without_annotations_all_ids_are_unknown(targets):
    assert object_ids(make_boxes([0, 0, 1, 1], [0, 0, 9, 9]), targets, 0.5).tolist() == [UNKNOWN, UNKNOWN]


def test_a_box_is_unknown_if_its_object_has_no_track():
    boxes = make_boxes([0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60])
    assert object_ids(boxes, tracked([-1, 9], OBJECTS), 0.5).tolist() == [UNKNOWN, 9, BACKGROUND]


def test_ids_go_with_their_proposals():
    plain = random_proposals(3, 4, torch.Generator().manual_seed(0))
    one = plain.with_fields(track_ids=torch.tensor([4, -1, 6]))
    assert ProposalSet.cat([one, one]).top(2).fields[TRACK_IDS].tolist() == [4, -1, 4, -1]
    assert one.detach()[torch.tensor([2, 0])].fields[TRACK_IDS].tolist() == [6, 4]
    assert ProposalSet.cat([plain, one]).fields.keys() == plain.fields.keys()  # without what only some of them know
    with pytest.raises(ValueError, match="ids: expected 3 rows"):
        one.with_fields(track_ids=torch.tensor([4]))


def test_no_boxes_have_no_ids():
    assert object_ids(make_boxes(), tracked([1, 2]), 0.5).tolist() == []


def test_boxes_of_the_ground_truth_may_be_of_another_precision():
    targets = Instances(IMAGE_SIZE, gt_boxes=Boxes(torch.tensor([[0.0, 0.0, 8.0, 8.0]])))
    targets.gt_track_ids = torch.tensor([3])
    assert object_ids(make_boxes([0, 0, 8, 8]), targets, 0.5).tolist() == [3]
