"""Anchors, box coding, matching, sampling and the region proposal network."""

import math

import pytest
import torch

from vod2.d2 import (
    RPN,
    Box2BoxTransform,
    Boxes,
    DefaultAnchorGenerator,
    EventStorage,
    ImageList,
    Instances,
    Matcher,
    StandardRPNHead,
    subsample_labels,
)


def test_anchors_have_the_asked_area_and_height_over_width():
    generator = DefaultAnchorGenerator(sizes=[[8]], aspect_ratios=[[0.25, 1.0, 4.0]], strides=[4], offset=0.0)
    anchors = generator([torch.zeros(1, 1, 1, 1)])[0]
    assert anchors.tensor.tolist() == [[-8, -2, 8, 2], [-4, -4, 4, 4], [-2, -8, 2, 8]]


def test_anchors_run_over_columns_then_rows_with_all_shapes_at_each_place():
    generator = DefaultAnchorGenerator(sizes=[[2, 4]], aspect_ratios=[[1.0]], strides=[8], offset=0.5)
    anchors = generator([torch.zeros(1, 1, 2, 2)])[0].tensor
    centers = [[4, 4], [12, 4], [4, 12], [12, 12]]
    assert Boxes(anchors).get_centers().tolist() == [c for c in centers for _ in range(2)]
    assert (anchors[:, 2] - anchors[:, 0]).tolist() == [2, 4] * 4


def test_anchors_of_a_pyramid_share_ratios():
    generator = DefaultAnchorGenerator(sizes=[[8], [16]], aspect_ratios=[[1.0, 2.0]], strides=[4, 8])
    levels = generator([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)])
    assert [len(level) for level in levels] == [12, 4]
    assert generator.num_anchors == [2, 2]
    assert not generator.state_dict()


def test_deltas_are_shift_over_size_and_log_of_scale_times_weights():
    transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    source = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    target = torch.tensor([[5.0, 0.0, 25.0, 10.0]])  # center (15, 5) instead of (5, 10), 20x10 instead of 10x20
    deltas = transform.get_deltas(source, target)
    expected = [10.0, -2.5, 5 * math.log(2), -5 * math.log(2)]
    torch.testing.assert_close(deltas, torch.tensor([expected]))
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target)


def test_growth_is_limited_to_from_16_to_1000_pixels():
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    boxes = transform.apply_deltas(torch.tensor([[0.0, 0.0, 100.0, 0.0]]), torch.tensor([[0.0, 0.0, 16.0, 8.0]]))
    torch.testing.assert_close(boxes, torch.tensor([[-492.0, 0.0, 508.0, 8.0]]), atol=1e-3, rtol=0)


def test_each_class_has_its_own_deltas():
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    deltas = torch.tensor([[0.0, 0, 0, 0, 1.0, 0, 0, 0]])
    boxes = transform.apply_deltas(deltas, torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
    assert boxes.tolist() == [[0, 0, 10, 10, 10, 0, 20, 10]]
    assert transform.apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)


def test_the_interval_of_the_best_overlap_gives_the_label():
    matrix = torch.tensor([[0.1, 0.5, 0.3, 0.7], [0.2, 0.1, 0.1, 0.9]])
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1])(matrix)
    assert matches.tolist() == [1, 0, 0, 1]
    assert labels.tolist() == [0, -1, -1, 1]


def test_low_quality_matches_give_each_ground_truth_its_best_including_ties():
    matrix = torch.tensor([[0.2, 0.1, 0.2, 0.0], [0.0, 0.9, 0.1, 0.4]])
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(matrix)
    assert labels.tolist() == [1, 1, 1, -1]
    assert matches.tolist() == [0, 1, 0, 1]


def test_without_ground_truth_everything_is_background():
    matches, labels = Matcher([0.5], [0, 1])(torch.zeros(0, 3))
    assert matches.tolist() == [0, 0, 0] and labels.tolist() == [0, 0, 0]


def test_sampling_limits_positives_and_fills_with_negatives():
    torch.manual_seed(0)
    labels = torch.tensor([2, 5, -1, 7, 7, 7, 1, 7])
    positive, negative = subsample_labels(labels, 4, 0.5, 7)
    assert len(positive) == 2 and set(positive.tolist()) <= {0, 1, 6}
    assert len(negative) == 2 and set(negative.tolist()) <= {3, 4, 5, 7}
    positive, negative = subsample_labels(labels, 100, 0.9, 7)
    assert sorted(positive.tolist()) == [0, 1, 6] and sorted(negative.tolist()) == [3, 4, 5, 7]


def test_the_head_is_named_as_in_checkpoints():
    names = list(StandardRPNHead(in_channels=4, num_anchors=3).state_dict())
    layers = ("conv", "objectness_logits", "anchor_deltas")
    assert names == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    deep = StandardRPNHead(in_channels=4, num_anchors=3, conv_dims=[8, -1])
    assert deep.state_dict()["conv.conv1.weight"].shape == (8, 8, 3, 3)


def make_rpn(sizes=((8,),), strides=(8,), **kwargs):
    arguments = {
        "in_features": [f"f{i}" for i in range(len(strides))],
        "head": StandardRPNHead(in_channels=2, num_anchors=1),
        "anchor_generator": DefaultAnchorGenerator(sizes=sizes, aspect_ratios=[[1.0]], strides=strides, offset=0.5),
        "anchor_matcher": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        "box2box_transform": Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        "batch_size_per_image": 4,
        "positive_fraction": 0.5,
        "pre_nms_topk": (10, 10),
        "post_nms_topk": (10, 10),
    }
    return RPN(**{**arguments, **kwargs})


ANCHORS = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]])  # of a 2x2 map, stride 8


def propose(rpn, logits, deltas, image_size=(16, 16)):
    return rpn.predict_proposals([Boxes(ANCHORS)], [logits], [deltas], [image_size] * logits.shape[0])


def test_proposals_come_in_descending_order_and_are_cut():
    rpn = make_rpn(post_nms_topk=(3, 2)).eval()
    logits = torch.tensor([[0.1, 3.0, -1.0, 2.0]])
    (proposals,) = propose(rpn, logits, torch.zeros(1, 4, 4))
    torch.testing.assert_close(proposals.objectness_logits, torch.tensor([3.0, 2.0]))
    assert proposals.proposal_boxes.tensor.tolist() == ANCHORS[[1, 3]].tolist()
    (proposals,) = propose(rpn.train(), logits, torch.zeros(1, 4, 4))
    assert len(proposals) == 3


def test_only_the_best_of_a_level_reach_suppression():
    rpn = make_rpn(pre_nms_topk=(10, 1)).eval()
    (proposals,) = propose(rpn, torch.tensor([[0.1, 3.0, -1.0, 2.0]]), torch.zeros(1, 4, 4))
    assert len(proposals) == 1


def test_overlapping_proposals_are_suppressed_and_clipped_and_small_ones_dropped():
    deltas = torch.zeros(1, 4, 4)
    deltas[0, 1, 0] = -0.95  # the second moves nearly onto the first
    deltas[0, 2, 1] = 0.5  # the third leaves the image by half
    (proposals,) = propose(make_rpn().eval(), torch.tensor([[4.0, 3.0, 2.0, 1.0]]), deltas)
    assert proposals.proposal_boxes.tensor.tolist() == [[0, 0, 8, 8], [0, 12, 8, 16], [8, 8, 16, 16]]
    (proposals,) = propose(make_rpn(min_box_size=4).eval(), torch.tensor([[4.0, 3.0, 2.0, 1.0]]), deltas)
    assert len(proposals) == 2


def test_values_that_are_not_finite_are_dropped_in_inference_and_stop_training():
    logits = torch.tensor([[float("nan"), 3.0, 2.0, 1.0]])
    rpn = make_rpn()
    (proposals,) = propose(rpn.eval(), logits, torch.zeros(1, 4, 4))
    assert len(proposals) == 3
    with pytest.raises(FloatingPointError):
        propose(rpn.train(), logits, torch.zeros(1, 4, 4))


def test_losses_are_sums_over_samples_divided_by_the_batch_size():
    rpn = make_rpn(loss_weight={"loss_rpn_cls": 1.0, "loss_rpn_loc": 2.0})
    labels = [torch.tensor([1, 0, -1, 0], dtype=torch.int8)]
    gt_boxes = [torch.tensor([[4.0, 0.0, 12.0, 8.0]]).expand(4, 4)]  # half a width to the right
    with EventStorage() as storage:
        losses = rpn.losses([Boxes(ANCHORS)], [torch.zeros(1, 4)], labels, [torch.zeros(1, 4, 4)], gt_boxes)
    assert losses["loss_rpn_cls"].item() == pytest.approx(3 * math.log(2) / 4)
    assert losses["loss_rpn_loc"].item() == pytest.approx(2 * 0.5 / 4)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert (latest["rpn/num_pos_anchors"], latest["rpn/num_neg_anchors"]) == (1, 2)


def test_the_overlap_loss_is_one_minus_generalized_iou():
    rpn = make_rpn(box_reg_loss_type="giou")
    labels = [torch.tensor([1, -1, -1, -1], dtype=torch.int8)]
    gt_boxes = [torch.tensor([[8.0, 0.0, 16.0, 8.0]]).expand(4, 4)]  # touches the anchor: iou 0, hull = union
    with EventStorage():
        losses = rpn.losses([Boxes(ANCHORS)], [torch.zeros(1, 4)], labels, [torch.zeros(1, 4, 4)], gt_boxes)
    assert losses["loss_rpn_loc"].item() == pytest.approx(1.0 / 4)


def targets(boxes, image_size=(16, 16)):
    return Instances(image_size, gt_boxes=Boxes(torch.tensor(boxes).view(-1, 4)))


def test_anchors_are_labeled_by_overlap_and_sampled():
    rpn = make_rpn()
    labels, boxes = rpn.label_and_sample_anchors([Boxes(ANCHORS)], [targets([[0.0, 0.0, 8.0, 7.0]]), targets([])])
    assert labels[0].tolist() == [1, 0, 0, 0] and labels[1].tolist() == [0, 0, 0, 0]
    assert boxes[0][0].tolist() == [0, 0, 8, 7] and boxes[1].shape == (4, 4)


def test_anchors_beyond_the_image_are_ignored_where_asked():
    rpn = make_rpn(anchor_boundary_thresh=0)
    labels, _ = rpn.label_and_sample_anchors([Boxes(ANCHORS)], [targets([[0.0, 0.0, 8.0, 8.0]], (17, 10))])
    assert labels[0].tolist() == [1, -1, 0, -1]


@pytest.mark.parametrize("boxes", [[], [[2.0, 2.0, 9.0, 9.0]]])
def test_training_runs_forward_and_backward_with_and_without_ground_truth(boxes):
    torch.manual_seed(0)
    rpn = make_rpn(sizes=((8,), (16,)), strides=(8, 16))
    features = {"f0": torch.randn(1, 2, 4, 4), "f1": torch.randn(1, 2, 2, 2)}
    images = ImageList(torch.zeros(1, 3, 32, 32), [(32, 30)])
    with EventStorage():
        proposals, losses = rpn(images, features, [targets(boxes, (32, 30))])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in rpn.parameters())
    assert not proposals[0].proposal_boxes.tensor.requires_grad
    assert proposals[0].image_size == (32, 30)


def test_inference_has_no_losses():
    rpn = make_rpn().eval()
    proposals, losses = rpn(ImageList(torch.zeros(1, 3, 32, 32), [(32, 32)]), {"f0": torch.zeros(1, 2, 4, 4)})
    assert losses == {} and set(proposals[0].get_fields()) == {"proposal_boxes", "objectness_logits"}
