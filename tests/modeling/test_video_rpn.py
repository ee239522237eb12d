"""VideoRPN against the RPN of the door, and frames without targets."""

import pytest
import torch
from torchvision.ops import nms

from helpers.models import DOOR, IMAGE_SIZE, make_targets, tiny_cfg
from vod2.d2 import EventStorage, ImageList, ShapeSpec, build_proposal_generator
from vod2.engine.random_weights import draw_weights

CHANNELS = 16
SIZES = [IMAGE_SIZE] * 3


def make_rpn(keys: dict | None = None, training: bool = False, dtype: torch.dtype = torch.float32):
    cfg = tiny_cfg(keys)
    rpn = build_proposal_generator(cfg, {"res4": ShapeSpec(channels=CHANNELS, stride=16)})
    draw_weights(rpn)
    return rpn.to(dtype).train(training)


def make_features(count: int = 3, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {"res4": torch.randn(count, CHANNELS, 4, 6, generator=rng).to(dtype)}


def seeded(call, *arguments):
    torch.manual_seed(1)
    with EventStorage():
        return call(*arguments)


@pytest.mark.parametrize("keys", [{}, {"MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 10, "MODEL.RPN.PRE_NMS_TOPK_TEST": 30}])
def test_proposals_equal_those_of_the_door(keys):
    features = make_features()
    images = ImageList(torch.zeros(3, 3, *IMAGE_SIZE), SIZES)
    door, _ = make_rpn(DOOR | keys)(images, features, None)
    ours, losses = make_rpn(keys).propose(SIZES, features)
    assert losses == {}
    for found, wanted in zip(ours, door, strict=True):
        assert len(wanted) > 5
        torch.testing.assert_close(found.proposal_boxes.tensor, wanted.proposal_boxes.tensor)
        torch.testing.assert_close(found.objectness_logits, wanted.objectness_logits)


def test_losses_and_gradients_equal_those_of_the_door():
    images, targets = ImageList(torch.zeros(3, 3, *IMAGE_SIZE), SIZES), [make_targets()] * 3
    results = []
    for keys in (DOOR, {}):
        rpn, features = make_rpn(keys, training=True), make_features()
        features["res4"].requires_grad_()
        _, losses = seeded(rpn, images, features, targets)
        assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
        sum(losses.values()).backward()
        results.append([*losses.values(), features["res4"].grad])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


def test_frames_without_targets_get_proposals_but_no_loss():
    rpn, features = make_rpn(training=True), make_features()
    features["res4"].requires_grad_()
    proposals, losses = seeded(rpn.propose, SIZES, features, [None, make_targets(), None])
    _, alone = seeded(rpn.propose, SIZES[:1], {"res4": features["res4"][1:2]}, [make_targets()])
    assert all(len(one) > 0 for one in proposals)
    for name, value in losses.items():
        torch.testing.assert_close(value, alone[name])
    sum(losses.values()).backward()
    assert features["res4"].grad[[0, 2]].eq(0).all() and features["res4"].grad[1].ne(0).any()


def test_no_frame_with_targets_means_no_loss_at_all():
    rpn = make_rpn(training=True)
    for targets in ([None] * 3, None):
        assert rpn.propose(SIZES, make_features(), targets)[1] == {}


def test_a_frame_without_objects_has_a_finite_loss_without_boxes():
    rpn = make_rpn(training=True)
    _, losses = seeded(rpn.propose, SIZES[:1], make_features(1), [make_targets([])])
    assert losses["loss_rpn_cls"] > 0 and losses["loss_rpn_loc"] == 0
    sum(losses.values()).backward()


def test_proposals_descend_in_objectness_and_stay_in_the_image():
    for one in make_rpn().propose([IMAGE_SIZE, (50, 70), IMAGE_SIZE], make_features())[0]:
        boxes, logits = one.proposal_boxes.tensor, one.objectness_logits
        assert logits.equal(logits.sort(descending=True).values)
        assert boxes.min() >= 0 and boxes[:, 2].max() <= one.image_size[1] and boxes[:, 3].max() <= one.image_size[0]
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_proposals_carry_no_gradient():
    proposals, _ = make_rpn(training=True).propose(SIZES, make_features())
    assert not any(p.proposal_boxes.tensor.requires_grad or p.objectness_logits.requires_grad for p in proposals)


def test_float64_is_kept():
    (one,), _ = make_rpn(dtype=torch.float64).propose(SIZES[:1], make_features(1, torch.float64))
    boxes = one.proposal_boxes.tensor
    assert boxes.dtype == one.objectness_logits.dtype == torch.float64
    assert (boxes != boxes.float().double()).any(), "the boxes have been through float32"


def test_values_that_are_not_finite_end_training_and_are_dropped_in_inference():
    features = make_features()
    features["res4"][1] = float("nan")
    proposals, _ = make_rpn().propose(SIZES, features)
    assert [len(one) > 0 for one in proposals] == [True, False, True]
    with pytest.raises(FloatingPointError, match="diverged"):
        make_rpn(training=True).propose(SIZES, features)


@pytest.mark.parametrize("limit", [1, 3, 7, 16, 60])
@pytest.mark.parametrize("crowded", [False, True])
def test_looking_at_the_best_boxes_first_changes_nothing(limit, crowded):
    """Crowded: the best 40 of 60 boxes are nearly one, so that the first look does not find enough."""
    rng = torch.Generator().manual_seed(0)
    corner = 60 * torch.rand(60, 2, generator=rng, dtype=torch.float64)
    scores = torch.rand(60, generator=rng, dtype=torch.float64)
    if crowded:
        corner[scores.argsort(descending=True)[:40]] = 5 + 0.1 * torch.rand(40, 2, generator=rng, dtype=torch.float64)
    boxes = torch.cat([corner, corner + 20], dim=1)
    levels = torch.zeros(60, dtype=torch.int64)
    rpn = make_rpn({"MODEL.RPN.POST_NMS_TOPK_TEST": limit}, dtype=torch.float64)
    found = rpn._select(boxes, scores, levels, (80, 80))
    kept = nms(boxes, scores, rpn.nms_thresh)[:limit]
    assert found.proposal_boxes.tensor.equal(boxes[kept]) and found.objectness_logits.equal(scores[kept])
