"""Pooling, box heads, classification and regression of proposals."""

import math

import pytest
import torch
from torch import nn

from vod2.d2 import (
    Box2BoxTransform,
    Boxes,
    EventStorage,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    Instances,
    Matcher,
    ROIPooler,
    ShapeSpec,
    StandardROIHeads,
)


def test_a_box_is_pooled_from_the_level_of_its_size():
    pooler = ROIPooler(output_size=1, scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32), sampling_ratio=1, pooler_type="ROIAlignV2")
    maps = [torch.full((1, 1, 512 // s, 512 // s), float(s)) for s in (4, 8, 16, 32)]
    sides = [20.0, 111.0, 113.0, 223.0, 225.0, 447.0, 449.0]
    boxes = Boxes(torch.tensor([[0.0, 0.0, side, side] for side in sides]))
    assert pooler(maps, [boxes]).flatten().tolist() == [4, 4, 8, 8, 16, 16, 32]


def test_boxes_are_pooled_from_their_own_image_in_order():
    pooler = ROIPooler(output_size=2, scales=(1 / 4,), sampling_ratio=0, pooler_type="ROIAlignV2")
    x = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    box = torch.tensor([[4.0, 4.0, 12.0, 12.0]])
    pooled = pooler([x], [Boxes(box), Boxes(box.repeat(2, 1))])
    assert pooled.shape == (3, 1, 2, 2) and pooled[:, 0, 0, 0].tolist() == [1, 2, 2]


@pytest.mark.parametrize("scales", [(1 / 4,), (1 / 4, 1 / 8)])
def test_pooling_no_boxes_is_empty_and_differentiable(scales):
    pooler = ROIPooler(output_size=3, scales=scales, sampling_ratio=0, pooler_type="ROIAlignV2")
    maps = [torch.zeros(1, 5, 8, 8, requires_grad=True) for _ in scales]
    pooled = pooler(maps, [Boxes(torch.zeros(0, 4))])
    pooled.sum().backward()
    assert pooled.shape == (0, 5, 3, 3)


def test_the_box_head_is_named_as_in_checkpoints():
    head = FastRCNNConvFCHead(ShapeSpec(channels=4, height=3, width=3), conv_dims=[5], fc_dims=[6, 7])
    assert list(head.state_dict()) == [f"{n}.{kind}" for n in ("conv1", "fc1", "fc2") for kind in ("weight", "bias")]
    assert head.fc1.in_features == 5 * 9 and head.output_shape.channels == 7
    assert head(torch.zeros(2, 4, 3, 3)).shape == (2, 7)
    assert head(torch.zeros(0, 4, 3, 3)).shape == (0, 7)


def make_predictor(**kwargs):
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    return FastRCNNOutputLayers(ShapeSpec(channels=6), box2box_transform=transform, num_classes=2, **kwargs)


def make_proposals(boxes, image_size=(20, 20), **fields):
    return Instances(image_size, proposal_boxes=Boxes(torch.tensor(boxes).view(-1, 4)), **fields)


PROPOSAL = [[0.0, 0.0, 10.0, 10.0]]


def test_the_predictor_has_scores_for_background_but_no_boxes():
    predictor = make_predictor()
    assert {name: tuple(p.shape) for name, p in predictor.named_parameters()} == {
        "cls_score.weight": (3, 6),
        "cls_score.bias": (3,),
        "bbox_pred.weight": (8, 6),
        "bbox_pred.bias": (8,),
    }
    assert make_predictor(cls_agnostic_bbox_reg=True).bbox_pred.out_features == 4


def test_losses_are_means_over_all_proposals_and_only_the_true_class_is_moved():
    predictor = make_predictor(loss_weight={"loss_box_reg": 3.0})
    proposals = make_proposals(
        PROPOSAL * 2,
        gt_boxes=Boxes(torch.tensor([[5.0, 0.0, 15.0, 10.0], [0.0, 0.0, 1.0, 1.0]])),
        gt_classes=torch.tensor([1, 2]),
    )
    deltas = torch.zeros(2, 8)
    deltas[0, :4] = 7.0  # of class 0, which is not asked
    with EventStorage() as storage:
        losses = predictor.losses((torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 0.0]]), deltas), [proposals])
    first, second = math.log(2 + math.e) - 1, math.log(2 + math.e**2)
    assert losses["loss_cls"].item() == pytest.approx((first + second) / 2)
    assert losses["loss_box_reg"].item() == pytest.approx(3 * 0.5 / 2)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["fast_rcnn/cls_accuracy"] == 0.5
    assert latest["fast_rcnn/fg_cls_accuracy"] == 1.0
    assert latest["fast_rcnn/false_negative"] == 0.0


def test_losses_of_no_proposals_are_zero_with_a_gradient():
    predictor = make_predictor()
    empty = make_proposals([], gt_classes=torch.zeros(0, dtype=torch.long))
    with EventStorage():
        losses = predictor.losses(predictor(torch.zeros(0, 6)), [empty])
    sum(losses.values()).backward()
    assert {name: value.item() for name, value in losses.items()} == {"loss_cls": 0.0, "loss_box_reg": 0.0}
    assert predictor.cls_score.weight.grad.eq(0).all()


def test_inference_thresholds_suppresses_and_limits():
    predictor = make_predictor(test_score_thresh=0.1, test_nms_thresh=0.5, test_topk_per_image=2)
    proposals = make_proposals([[0.0, 0, 10, 10], [0.0, 0, 10, 9], [10.0, 10, 30, 18]])
    probabilities = torch.tensor([[0.6, 0.05, 0.35], [0.7, 0.2, 0.1], [0.02, 0.5, 0.48]])
    instances, kept = predictor.inference((probabilities.log(), torch.zeros(3, 8)), [proposals])
    assert instances[0].pred_classes.tolist() == [0, 1]
    torch.testing.assert_close(instances[0].scores, torch.tensor([0.7, 0.5]))
    torch.testing.assert_close(instances[0].pred_boxes.tensor, torch.tensor([[0.0, 0, 10, 9], [10, 10, 20, 18]]))
    assert kept[0].tolist() == [1, 2]


def test_inference_on_no_proposals_is_empty():
    predictor = make_predictor()
    instances, kept = predictor.inference(predictor(torch.zeros(0, 6)), [make_proposals([])])
    assert len(instances[0]) == 0 and kept[0].numel() == 0
    assert set(instances[0].get_fields()) == {"pred_boxes", "scores", "pred_classes"}


def test_predictions_are_split_by_image():
    predictor = make_predictor()
    proposals = [make_proposals(PROPOSAL), make_proposals(PROPOSAL * 2)]
    deltas = torch.zeros(3, 8)
    deltas[1, 4] = 1.0
    predictions = (torch.zeros(3, 3), deltas)
    assert [p.shape for p in predictor.predict_probs(predictions, proposals)] == [(1, 3), (2, 3)]
    assert predictor.predict_probs(predictions, proposals)[0].tolist() == [[pytest.approx(1 / 3)] * 3]
    assert predictor.predict_boxes(predictions, proposals)[1][0].tolist() == [0, 0, 10, 10, 10, 0, 20, 10]


def make_heads(**kwargs):
    arguments = {
        "box_in_features": ["f"],
        "box_pooler": ROIPooler(output_size=1, scales=(1 / 4,), sampling_ratio=1, pooler_type="ROIAlignV2"),
        "box_head": nn.Flatten(),
        "box_predictor": make_predictor(),
        "num_classes": 2,
        "batch_size_per_image": 4,
        "positive_fraction": 0.5,
        "proposal_matcher": Matcher([0.5], [0, 1]),
    }
    return StandardROIHeads(**{**arguments, **kwargs})


def make_targets(boxes, classes):
    return Instances(
        (20, 20),
        gt_boxes=Boxes(torch.tensor(boxes).view(-1, 4)),
        gt_classes=torch.tensor(classes, dtype=torch.long),
        gt_track_ids=torch.arange(len(classes)) + 7,
    )


def scored(boxes):
    return make_proposals(boxes, objectness_logits=torch.zeros(len(boxes)))


def test_sampled_proposals_carry_the_ground_truth_they_match():
    torch.manual_seed(0)
    heads = make_heads()
    targets = make_targets([[0.0, 0.0, 10.0, 10.0], [12.0, 12.0, 20.0, 20.0]], [1, 0])
    with EventStorage() as storage:
        (sampled,) = heads.label_and_sample_proposals([scored([[0.0, 10, 10, 20], [10.0, 0, 20, 10]])], [targets])
    assert sampled.gt_classes.tolist()[2:] == [2, 2] and sorted(sampled.gt_classes.tolist()[:2]) == [0, 1]
    for box, label, track in zip(sampled.gt_boxes.tensor[:2], sampled.gt_classes, sampled.gt_track_ids, strict=False):
        index = targets.gt_classes.tolist().index(label.item())
        assert box.tolist() == targets.gt_boxes.tensor[index].tolist() and track.item() == 7 + index
    # the ground truth itself was appended
    torch.testing.assert_close(sampled.proposal_boxes.tensor[:2], sampled.gt_boxes.tensor[:2])
    assert sampled.objectness_logits[:2].tolist() == pytest.approx([math.log((1 - 1e-10) / 1e-10)] * 2, rel=1e-5)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert (latest["roi_head/num_fg_samples"], latest["roi_head/num_bg_samples"]) == (2, 2)


def test_ground_truth_is_not_appended_where_not_asked():
    heads = make_heads(proposal_append_gt=False)
    with EventStorage():
        (sampled,) = heads.label_and_sample_proposals([scored(PROPOSAL)], [make_targets([[0.0, 0, 10, 4]], [1])])
    assert sampled.gt_classes.tolist() == [2] and len(sampled) == 1


@pytest.mark.parametrize("proposals", [[], PROPOSAL])
@pytest.mark.parametrize("targets", [[], PROPOSAL])
def test_training_runs_forward_and_backward_with_and_without_boxes(proposals, targets):
    torch.manual_seed(0)
    heads = make_heads().train()
    feature = torch.randn(1, 6, 5, 5, requires_grad=True)
    with EventStorage():
        _, losses = heads(None, {"f": feature}, [scored(proposals)], [make_targets(targets, [0] * len(targets))])
    sum(losses.values()).backward()
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    assert all(torch.isfinite(p.grad).all() for p in heads.parameters())


def test_inference_gives_detections_and_no_losses():
    heads = make_heads().eval()
    instances, losses = heads(None, {"f": torch.zeros(1, 6, 5, 5)}, [scored(PROPOSAL)])
    assert losses == {} and len(instances[0]) == 2
