"""The loss of the hardest RoIs, with losses computed by hand.

K = 2 classes, background 2. Scores are logarithms of probabilities, so that the classification loss of a RoI is -log of
its label's; ground truth is the RoI itself, so that the deltas are their own error.
"""

import math

import pytest
import torch
from torch import Tensor

from helpers.models import IMAGE_SIZE, build_detector, make_targets, make_video
from vod2.d2 import Boxes, EventStorage, Instances, ShapeSpec
from vod2.layers import PreciseBoxTransform
from vod2.modeling.roi_heads import VideoBoxPredictor

BACKGROUND = 2
BOX = [10.0, 10.0, 30.0, 40.0]


def make_predictor(ohem: int, class_agnostic: bool = False, beta: float = 0.0) -> VideoBoxPredictor:
    return VideoBoxPredictor(
        ShapeSpec(channels=4),
        box2box_transform=PreciseBoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
        num_classes=2,
        cls_agnostic_bbox_reg=class_agnostic,
        smooth_l1_beta=beta,
        ohem=ohem,
    )


def make_rois(labels: list[int], with_boxes: bool = True) -> Instances:
    """RoIs that lie on their ground truth; without any object, sampled RoIs have no gt_boxes."""
    boxes = Boxes(torch.tensor([BOX] * len(labels)).reshape(-1, 4))
    rois = Instances(IMAGE_SIZE, proposal_boxes=boxes, gt_classes=torch.tensor(labels, dtype=torch.int64))
    if with_boxes:
        rois.gt_boxes = boxes
    return rois


def make_scores(labels: list[int], probabilities: list[float]) -> Tensor:
    """(N, 3) logarithms: the label has the probability, the other two share the rest."""
    rows = [
        [p if column == label else (1 - p) / 2 for column in range(3)]
        for label, p in zip(labels, probabilities, strict=True)
    ]
    return torch.tensor(rows).reshape(-1, 3).log()


def make_deltas(rows: list[tuple[float, float]]) -> Tensor:
    """(N, 2 * 4): the error of dx in the box of class 0, and in that of class 1."""
    deltas = torch.zeros(len(rows), 8)
    deltas[:, 0], deltas[:, 4] = torch.tensor(rows).reshape(-1, 2).unbind(1)
    return deltas


def losses_of(predictor: VideoBoxPredictor, predictions, rois: list[Instances]) -> dict[str, Tensor]:
    with EventStorage():
        return predictor.losses(predictions, rois)


LABELS = [BACKGROUND, BACKGROUND, 0, 1]
SCORES = make_scores(LABELS, [0.9, 0.2, 0.8, 0.5])
"""Classification losses .11, 1.61, .22, .69."""
DELTAS = make_deltas([(9.0, 9.0), (9.0, 9.0), (2.0, 0.0), (9.0, 0.0)])
"""Regression losses 0 and 0 (background), 2 (class 0), 0 (class 1): in all .11, 1.61, 2.22, .69."""


def test_the_loss_is_that_of_the_rois_with_the_highest_sum_of_both_losses():
    losses = losses_of(make_predictor(ohem=2), (SCORES, DELTAS), [make_rois(LABELS)])
    assert losses["loss_cls"].item() == pytest.approx(-(math.log(0.2) + math.log(0.8)) / 2)
    assert losses["loss_box_reg"].item() == pytest.approx(2.0 / 2)


@pytest.mark.parametrize("ohem, rows", [(1, [2]), (2, [1, 2]), (3, [1, 2, 3])])
def test_it_equals_the_plain_loss_of_those_rois(ohem, rows):
    expected = losses_of(make_predictor(0), (SCORES[rows], DELTAS[rows]), [make_rois(LABELS)[torch.tensor(rows)]])
    assert losses_of(make_predictor(ohem), (SCORES, DELTAS), [make_rois(LABELS)]) == expected


def test_only_those_rois_have_a_gradient():
    scores, deltas = SCORES.clone().requires_grad_(), DELTAS.clone().requires_grad_()
    sum(losses_of(make_predictor(2), (scores, deltas), [make_rois(LABELS)]).values()).backward()
    assert scores.grad.ne(0).any(dim=1).tolist() == [False, True, True, False]
    assert deltas.grad.ne(0).any(dim=1).tolist() == [False, False, True, False]


def test_boxes_for_all_classes_together_count_for_the_foreground_only():
    """Regression errors 9 and 9 of the background do not count, 2 and 0 of the foreground do."""
    deltas = torch.zeros(4, 4)
    deltas[:, 0] = torch.tensor([9.0, 9.0, 2.0, 0.0])
    losses = losses_of(make_predictor(2, class_agnostic=True), (SCORES, deltas), [make_rois(LABELS)])
    assert losses["loss_cls"].item() == pytest.approx(-(math.log(0.2) + math.log(0.8)) / 2)
    assert losses["loss_box_reg"].item() == pytest.approx(2.0 / 2)


def test_the_smooth_part_of_the_regression_loss_decides_too():
    """With beta 4 an error of 2 costs 2 * 2 / 8 = .5: the sums are .11, 1.61, .72, .69."""
    losses = losses_of(make_predictor(1, beta=4.0), (SCORES, DELTAS), [make_rois(LABELS)])
    assert losses["loss_cls"].item() == pytest.approx(-math.log(0.2)) and losses["loss_box_reg"].item() == 0


def test_every_frame_has_its_own_hardest_rois():
    """All RoIs of the second frame are easier than the first frame's, and still as many of them count."""
    easy = [BACKGROUND] * 3
    scores = torch.cat([SCORES, make_scores(easy, [0.97, 0.96, 0.98])])
    deltas = torch.cat([DELTAS, make_deltas([(0.0, 0.0)] * 3)])
    losses = losses_of(make_predictor(2), (scores, deltas), [make_rois(LABELS), make_rois(easy)])
    expected = -sum(math.log(p) for p in (0.2, 0.8, 0.97, 0.96)) / 4
    assert losses["loss_cls"].item() == pytest.approx(expected)


@pytest.mark.parametrize("ohem", [4, 5, 128])
def test_where_there_are_no_more_rois_than_asked_for_all_count(ohem):
    rois = [make_rois(LABELS)]
    predictions = (SCORES, DELTAS)
    assert losses_of(make_predictor(ohem), predictions, rois) == losses_of(make_predictor(0), predictions, rois)


def test_a_frame_without_objects_has_the_loss_of_its_hardest_background():
    labels = [BACKGROUND] * 3
    predictions = (make_scores(labels, [0.9, 0.3, 0.6]), make_deltas([(9.0, 9.0)] * 3))
    losses = losses_of(make_predictor(2), predictions, [make_rois(labels, with_boxes=False)])
    assert losses["loss_cls"].item() == pytest.approx(-(math.log(0.3) + math.log(0.6)) / 2)
    assert losses["loss_box_reg"].item() == 0


def test_a_frame_without_rois_has_no_loss():
    scores, deltas = (torch.zeros(0, size, requires_grad=True) for size in (3, 8))
    losses = losses_of(make_predictor(2), (scores, deltas), [make_rois([])])
    sum(losses.values()).backward()
    assert all(value == 0 for value in losses.values())


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_a_detector_trains_on_its_hardest_rois(class_agnostic):
    """Also on a batch in which one image has no objects."""
    keys = {"MODEL.VIDEO.OHEM": 3, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": class_agnostic}
    model = build_detector(keys).train()
    clips = [
        {"image": image, "instances": targets}
        for image, targets in zip(make_video(2), (make_targets(), make_targets([])), strict=True)
    ]
    with EventStorage():
        losses = model(clips)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("keep_ties, expected", [(False, [0.9, 0.8]), (True, [0.9, 0.8, 0.8])])
def test_detections_as_good_as_the_last_are_kept_where_that_is_asked_for(keep_ties, expected):
    keys = {"MODEL.LEGACY.KEEP_TIES": keep_ties, "TEST.DETECTIONS_PER_IMAGE": 2, "MODEL.ROI_HEADS.NUM_CLASSES": 2}
    predictor = build_detector(keys, dtype=torch.float64).roi_heads.box_predictor
    corners = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [40.0, 40.0]], dtype=torch.float64)
    boxes = torch.cat([corners, corners + 9], dim=1).repeat(1, 2)  # (N, 2 * 4)
    probs = torch.tensor([[0.8, 0.0, 0.2], [0.9, 0.0, 0.1], [0.0, 0.8, 0.2], [0.0, 0.5, 0.5]], dtype=torch.float64)
    assert predictor._select_detections(boxes, probs, IMAGE_SIZE).scores.tolist() == expected
    assert len(predictor._select_detections(boxes[:1], probs[:1], IMAGE_SIZE)) == 1
