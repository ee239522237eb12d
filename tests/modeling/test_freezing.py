"""MODEL.FREEZE "detector": aggregators learn, the image detector does not. A training: tests/engine/test_frozen.py."""

import pytest
import torch
from torch import nn

from helpers.contracts import losses_of_step
from helpers.models import LSTS_KEYS, PYRAMID_KEYS, build_detector, make_targets, make_video
from helpers.streams import window_clip
from vod2 import UserError
from vod2.modeling.freezing import is_of_aggregator
from vod2.temporal import SlidingWindow

FROZEN = {"MODEL.FREEZE": "detector"}
RDN = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"}
TEMPORAL = RDN | {"MODEL.ROI_HEADS.NAME": "TemporalROIHeads"}
LSTS = LSTS_KEYS | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator"}


def step(model: nn.Module) -> dict[str, torch.Tensor]:
    clip = window_clip(make_video(3), 1, SlidingWindow(1)) | {"instances": make_targets()}
    return losses_of_step(model.train(), [clip])


@pytest.mark.parametrize("keys", [RDN, LSTS, TEMPORAL], ids=["level 2", "level 1", "pooling"])
def test_only_the_aggregator_gets_gradients(keys):
    model = build_detector(keys | FROZEN)
    sum(step(model).values()).backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, _ in model.named_parameters() if is_of_aggregator(name)} and learned


def test_the_normalisation_of_the_detector_keeps_its_statistics():
    model = build_detector(RDN | FROZEN)
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    step(model)
    assert before and all(model.state_dict()[name].equal(value) for name, value in before.items())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    # But the parts that behave in training by their mode are in it.
    assert model.training and model.proposal_generator.training and model.roi_heads.training
    model.eval()
    assert not model.roi_heads.training


def test_a_frozen_detector_has_the_losses_that_it_has_with_its_statistics():
    frozen, free = build_detector(RDN | FROZEN), build_detector(RDN)
    free.train()
    for module in free.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    free.train = lambda: free
    losses, expected = step(frozen), step(free)
    # No parameter that learns is in those of the RPN.
    assert expected.keys() - losses.keys() == {"loss_rpn_cls", "loss_rpn_loc"}
    torch.testing.assert_close(losses, {name: expected[name] for name in losses}, rtol=0, atol=0)


def test_without_an_aggregator_nothing_could_learn():
    with pytest.raises(UserError, match="MODEL.FREEZE is 'detector', and the detector has no aggregator"):
        build_detector(FROZEN)


def test_an_unknown_value_is_refused():
    with pytest.raises(UserError, match="MODEL.FREEZE is 'backbone': expected one of '', 'detector'"):
        build_detector(RDN | {"MODEL.FREEZE": "backbone"})


def test_level_1_on_a_pyramid_is_told_what_it_needs():
    with pytest.raises(UserError, match="'LSTSAggregator', which needs one map .*p3, p4.*without a pyramid"):
        build_detector(LSTS | PYRAMID_KEYS)
