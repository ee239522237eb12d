"""Feature pyramids: levels above them, and what they stand on."""

import pytest
import torch

from helpers.models import PYRAMID_KEYS, build_detector
from vod2.errors import UserError
from vod2.modeling.pyramid import TopLevels


@pytest.mark.parametrize("num_levels", [0, 1, 3])
def test_each_level_is_half_of_the_one_below(num_levels):
    levels = TopLevels(4, num_levels, "p5")(torch.ones(2, 4, 9, 6))
    assert [tuple(level.shape) for level in levels] == [(2, 4, 5, 3), (2, 4, 3, 2), (2, 4, 2, 1)][:num_levels]


def test_between_two_levels_there_is_a_relu():
    top = TopLevels(1, 2, "p5")
    for conv in top.convs:
        torch.nn.init.constant_(conv.weight, 1.0)
    first, second = top(-torch.ones(1, 1, 4, 4))
    assert (first < 0).all() and second.eq(0).all()


def test_a_negative_number_of_levels_is_refused():
    with pytest.raises(ValueError, match="TOP_LEVELS of at least 0"):
        TopLevels(4, -1, "p5")


@pytest.mark.parametrize(
    ("levels", "said"),
    [(["res2", "res5"], "each twice the one before"), (["res3", "res6"], "some of res2, res3"), ([], "some of")],
)
def test_maps_that_a_pyramid_cannot_stand_on_are_refused(levels, said):
    with pytest.raises(UserError, match=said) as error:
        build_detector(PYRAMID_KEYS | {"MODEL.FPN.IN_FEATURES": levels})
    assert str(error.value).startswith("MODEL.FPN.IN_FEATURES")
