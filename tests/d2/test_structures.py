"""Boxes, images and instances."""

import copy
import pickle

import numpy as np
import pytest
import torch

from vod2._d2lite.structures import Boxes as LiteBoxes
from vod2._d2lite.structures import pairwise_iou as lite_pairwise_iou
from vod2.d2 import Boxes, BoxMode, ImageList, Instances, pairwise_iou


def make_boxes():
    return Boxes(torch.tensor([[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 5.0, 9.0], [-4.0, 2.0, 30.0, 8.0]]))


def test_a_box_has_no_extra_pixel():
    assert make_boxes().area().tolist() == [200.0, 0.0, 204.0]


def test_clipping_keeps_coordinates_between_zero_and_the_size():
    boxes = make_boxes()
    boxes.clip((6, 12))
    assert boxes.tensor.tolist() == [[0, 0, 10, 6], [5, 5, 5, 6], [0, 2, 12, 6]]


def test_a_box_is_empty_if_a_side_is_not_above_the_threshold():
    assert make_boxes().nonempty().tolist() == [True, False, True]
    assert make_boxes().nonempty(threshold=6).tolist() == [True, False, False]


def test_a_box_is_inside_if_it_leaves_by_less_than_the_threshold():
    boxes = make_boxes()
    assert boxes.inside_box((21, 31)).tolist() == [True, True, False]
    assert boxes.inside_box((21, 31), boundary_threshold=4).tolist() == [True, True, True]
    assert boxes.inside_box((20, 31)).tolist() == [False, True, False]


def test_centers_and_scaling():
    boxes = make_boxes()
    assert boxes.get_centers()[0].tolist() == [5, 10]
    boxes.scale(2, 0.5)
    assert boxes.tensor[0].tolist() == [0, 0, 20, 10]


def test_indexing_boxes_keeps_two_axes():
    boxes = make_boxes()
    assert boxes[0].tensor.shape == (1, 4)
    assert boxes[1:].tensor.tolist() == boxes.tensor[1:].tolist()
    assert len(boxes[torch.tensor([True, False, True])]) == 2
    assert len(boxes[torch.tensor([2, 2])]) == 2
    assert [box.shape for box in boxes] == [(4,)] * 3


def test_boxes_concatenate_also_with_none():
    assert len(Boxes.cat([make_boxes(), make_boxes()])) == 6
    assert Boxes.cat([]).tensor.shape == (0, 4)


def test_boxes_become_floats_and_a_clone_is_independent():
    boxes = Boxes(torch.tensor([[0, 0, 1, 2]]))
    clone = boxes.clone()
    clone.scale(2, 2)
    assert boxes.tensor.dtype == torch.float32
    assert boxes.tensor.tolist() == [[0, 0, 1, 2]]
    assert Boxes(np.array([[0, 0, 1, 2]])).tensor.dtype == torch.float32


def test_boxes_of_the_stand_in_keep_float64_tensors():
    boxes = LiteBoxes(torch.tensor([[0.0, 0.0, 1.0, 3.0]], dtype=torch.float64))
    assert boxes.tensor.dtype == boxes.area().dtype == boxes[0].tensor.dtype == torch.float64
    assert lite_pairwise_iou(boxes, boxes).dtype == torch.float64
    assert LiteBoxes(torch.zeros(1, 4, dtype=torch.bfloat16)).tensor.dtype == torch.float32
    assert LiteBoxes([[0.0, 0.0, 1.0, 1.0]]).tensor.dtype == torch.float32


def test_iou_of_pairs_is_as_computed_by_hand():
    first = Boxes(torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]]))
    second = Boxes(torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 1.0], [2.0, 0.0, 4.0, 2.0]]))
    expected = torch.tensor([[1 / 7, 0.5, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(pairwise_iou(first, second), expected)


def test_iou_with_no_boxes_is_an_empty_matrix():
    assert pairwise_iou(make_boxes(), Boxes(torch.zeros(0, 4))).shape == (3, 0)


@pytest.mark.parametrize("kind", [list, tuple])
def test_box_modes_convert_both_ways_and_keep_the_type(kind):
    box = kind([2.0, 3.0, 10.0, 20.0])
    corners = BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert type(corners) is type(box)
    assert corners == kind([2, 3, 12, 23])
    assert BoxMode.convert(corners, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS) == box


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_box_modes_convert_rows_without_changing_them(kind):
    rows = kind([[0.0, 0.0, 1.0, 2.0], [5.0, 5.0, 1.0, 1.0]])
    corners = BoxMode.convert(rows, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert type(corners) is type(rows)
    assert corners.tolist() == [[0, 0, 1, 2], [5, 5, 6, 6]]
    assert rows.tolist() == [[0, 0, 1, 2], [5, 5, 1, 1]]


def test_box_modes_have_the_numbers_that_dataset_files_hold():
    assert [int(m) for m in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYXY_REL, BoxMode.XYWH_REL)] == [0, 1, 2, 3]


def test_images_are_padded_at_the_right_and_bottom_to_a_multiple():
    images = ImageList.from_tensors([torch.ones(3, 5, 7), torch.ones(3, 9, 4)], size_divisibility=8, pad_value=-1.0)
    assert images.tensor.shape == (2, 3, 16, 8)
    assert images.image_sizes == [(5, 7), (9, 4)]
    assert images.tensor[0, :, 5:].eq(-1).all() and images.tensor[0, :, :, 7:].eq(-1).all()
    assert images[1].shape == (3, 9, 4) and images[1].eq(1).all()
    assert len(images) == 2


def make_instances():
    return Instances((10, 12), gt_boxes=make_boxes(), gt_classes=torch.tensor([4, 5, 6]))


def test_a_field_is_set_read_and_removed():
    instances = make_instances()
    instances.scores = torch.arange(3)
    assert instances.has("scores") and instances.get("scores").tolist() == [0, 1, 2]
    instances.remove("scores")
    assert set(instances.get_fields()) == {"gt_boxes", "gt_classes"}
    with pytest.raises(AttributeError, match="scores"):
        _ = instances.scores


def test_a_field_of_another_length_is_refused():
    with pytest.raises(AssertionError):
        make_instances().scores = torch.zeros(2)


@pytest.mark.parametrize("item, expected", [(1, [5]), (-1, [6]), (slice(1, None), [5, 6]), (torch.tensor([2]), [6])])
def test_indexing_instances_indexes_every_field(item, expected):
    chosen = make_instances()[item]
    assert chosen.gt_classes.tolist() == expected
    assert len(chosen.gt_boxes) == len(chosen) == len(expected)
    assert chosen.image_size == (10, 12)


def test_an_index_outside_is_an_error():
    with pytest.raises(IndexError):
        make_instances()[3]


def test_instances_without_fields_have_no_length():
    with pytest.raises(NotImplementedError):
        len(Instances((1, 1)))


def test_instances_concatenate_tensors_lists_and_boxes():
    instances = make_instances()
    instances.names = ["a", "b", "c"]
    both = Instances.cat([instances, instances])
    assert len(both) == 6 and both.names == ["a", "b", "c"] * 2
    assert isinstance(both.gt_boxes, Boxes)


def test_instances_survive_copying_and_pickling():
    for again in (copy.deepcopy(make_instances()), pickle.loads(pickle.dumps(make_instances()))):
        assert again.gt_classes.tolist() == [4, 5, 6] and again.image_size == (10, 12)


def test_instances_move_together():
    moved = make_instances().to("cpu")
    assert moved.gt_boxes.device == torch.device("cpu") and len(moved) == 3
