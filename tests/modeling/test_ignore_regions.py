"""What lies in an ignore region is neither object nor background in training. Images are 64 x 96."""

import pytest
import torch

from helpers.models import IMAGE_SIZE, build_detector, make_targets, make_video
from vod2.d2 import EventStorage, Instances
from vod2.layers import covered
from vod2.structures import PreciseBoxes

OBJECT = [[4.0, 4.0, 30.0, 34.0]]
REGION = torch.tensor([[40.0, 0.0, 96.0, 64.0], [0.0, 50.0, 20.0, 64.0]])
ALL = {"MODEL.RPN.BATCH_SIZE_PER_IMAGE": 10_000, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 10_000}
ALL |= {"MODEL.RPN.POSITIVE_FRACTION": 1.0, "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0}
"""Nothing is left to chance: all anchors and RoIs are sampled."""


def inside_one(box: list[float], regions: list[list[float]]) -> bool:
    """The rule, number by number."""
    for x1, y1, x2, y2 in regions:
        width = max(min(box[2], x2) - max(box[0], x1), 0)
        height = max(min(box[3], y2) - max(box[1], y1), 0)
        if width * height > 0.5 * (box[2] - box[0]) * (box[3] - box[1]):
            return True
    return False


def iou(one: list[float], other: list[float]) -> float:
    width = max(min(one[2], other[2]) - max(one[0], other[0]), 0)
    height = max(min(one[3], other[3]) - max(one[1], other[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def make_clip(regions=REGION, boxes=OBJECT, seed=0):
    clip = {"image": make_video(1, seed)[0], "instances": make_targets(boxes, [1] * len(boxes))}
    return clip if regions is None else clip | {"ignore_regions": regions}


def losses_of(model, clips):
    torch.manual_seed(1)
    with EventStorage():
        return model(clips)


def anchors_of(model):
    return model.proposal_generator.anchor_generator([torch.zeros(1, 1, 4, 6)])


class TestCovered:
    def test_half_of_the_area_is_not_more_than_half(self):
        boxes = torch.tensor([[30.0, 0.0, 50.0, 10.0], [30.0, 0.0, 51.0, 10.0], [50.0, 9.0, 50.0, 9.0]])
        assert covered(boxes, REGION, 0.5).tolist() == [False, True, False]

    def test_two_regions_do_not_add_up(self):
        regions = torch.tensor([[0.0, 0.0, 4.0, 10.0], [6.0, 0.0, 10.0, 10.0]])
        assert not covered(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), regions, 0.5).any()

    def test_without_regions_nothing_is(self):
        assert not covered(torch.ones(3, 4), torch.zeros(0, 4), 0.5).any()
        assert covered(torch.zeros(0, 4), REGION, 0.5).shape == (0,)


class TestAnchors:
    @pytest.mark.parametrize("boxes", [OBJECT, []])
    def test_background_is_what_the_rule_leaves(self, boxes):
        rpn = build_detector(ALL).train().proposal_generator
        anchors = anchors_of(build_detector(ALL))
        target = make_targets(boxes, [1] * len(boxes))
        with EventStorage():
            (plain,), _ = rpn.label_and_sample_anchors(anchors, [target])
            (found,), (matched,) = rpn.label_and_sample_anchors(anchors, [target], [REGION])
        assert matched.shape == (len(plain), 4)
        hidden = 0
        for box, before, after in zip(anchors[0].tensor.tolist(), plain.tolist(), found.tolist(), strict=True):
            is_hidden = before == 0 and inside_one(box, REGION.tolist())
            assert after == (-1 if is_hidden else before)
            hidden += is_hidden
        assert hidden > 10

    def test_an_anchor_that_matches_an_object_stays_in_a_region(self):
        rpn = build_detector(ALL).train().proposal_generator
        everywhere = torch.tensor([[0.0, 0.0, 96.0, 64.0]])
        with EventStorage():
            (labels,), _ = rpn.label_and_sample_anchors(anchors_of(build_detector(ALL)), [make_targets()], [everywhere])
        assert (labels == 1).any() and not (labels == 0).all()


class TestRoIs:
    def test_those_in_a_region_are_sampled_only_where_they_match_an_object(self):
        heads = build_detector(ALL | {"MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": False}).train().roi_heads
        boxes = [[5.0, 4.0, 31.0, 34.0], [60.0, 10.0, 90.0, 40.0], [30.0, 20.0, 44.0, 40.0], [2.0, 52.0, 18.0, 64.0]]
        proposals = Instances(IMAGE_SIZE, proposal_boxes=PreciseBoxes(torch.tensor(boxes)))
        proposals.objectness_logits = torch.arange(4.0)
        targets = [make_targets(OBJECT, [1]), None]
        with EventStorage():
            kept, support = heads.select([proposals, proposals], targets, [REGION, None])
            all_kept, _ = heads.select([proposals, proposals], targets)
            everywhere = torch.tensor([[0.0, 0.0, 96.0, 64.0]])
            matching, _ = heads.select([proposals, proposals], targets, [everywhere, None])
        assert sorted(kept.proposal_boxes.tensor.tolist()) == sorted([boxes[0], boxes[2]])
        assert len(all_kept) == 4 and len(support) == 4
        assert matching.proposal_boxes.tensor.tolist() == [boxes[0]] and matching.gt_classes.tolist() == [1]


class TestTraining:
    KEYS = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"}

    def test_without_regions_nothing_changes(self):
        results = []
        for clip in (make_clip(None), make_clip(torch.zeros(0, 4))):
            model = build_detector(self.KEYS).train()
            losses = losses_of(model, [clip, make_clip(None, seed=1)])
            sum(losses.values()).backward()
            results.append([*losses.values(), *(p.grad for p in model.parameters() if p.grad is not None)])
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))

    def test_key_0_leaves_regions_to_the_background(self):
        keys = self.KEYS | {"MODEL.VIDEO.IGNORE_OVERLAP": 0.0}
        plain, off, on = (
            losses_of(build_detector(k).train(), [clip])
            for k, clip in ((self.KEYS, make_clip(None)), (keys, make_clip()), (self.KEYS, make_clip()))
        )
        assert all(torch.equal(plain[name], off[name]) for name in plain)
        assert not torch.equal(plain["loss_rpn_cls"], on["loss_rpn_cls"])

    def test_no_score_of_an_anchor_in_a_region_gets_a_gradient(self):
        model = build_detector(self.KEYS | ALL).train()
        kept = []
        model.proposal_generator.rpn_head.objectness_logits.register_forward_hook(
            lambda *call: kept.append(call[2]) or call[2].retain_grad()
        )
        losses_of(model, [make_clip()])["loss_rpn_cls"].backward()
        (scores,) = kept
        gradient = scores.grad.permute(0, 2, 3, 1).flatten()
        for box, value in zip(anchors_of(model)[0].tensor.tolist(), gradient.tolist(), strict=True):
            if inside_one(box, REGION.tolist()) and iou(box, OBJECT[0]) < 0.1:
                assert value == 0.0
        assert gradient.ne(0).any()

    def test_a_frame_that_is_ignored_altogether_has_finite_losses(self):
        keys = self.KEYS | {"MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": False}
        everywhere = torch.tensor([[-1.0, -1.0, 97.0, 65.0]])
        losses = losses_of(build_detector(keys).train(), [make_clip(everywhere, boxes=[])])
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
