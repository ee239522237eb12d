"""Anchors: order row, column, size, ratio (height / width); centres at multiples of the stride."""

import pytest
import torch

from vod2.d2 import DefaultAnchorGenerator
from vod2.errors import UserError
from vod2.layers import inclusive
from vod2.modeling import PreciseAnchorGenerator, RoundedAnchorGenerator


def make(kind, sizes=((32.0, 64.0),), ratios=((0.5, 1.0),), strides=(16,), **options):
    return kind(sizes=[list(s) for s in sizes], aspect_ratios=[list(r) for r in ratios], strides=strides, **options)


def test_anchors_are_as_computed_by_hand():
    generator = make(PreciseAnchorGenerator, sizes=((8.0,),), ratios=((1.0, 4.0),), offset=0.0)
    (anchors,) = generator([torch.zeros(1, 3, 2, 2)])
    square, tall = [-4, -4, 4, 4], [-2, -8, 2, 8]  # 64 pixels each; ratio 4 is 4 wide and 16 high
    shifts = [(0, 0), (16, 0), (0, 16), (16, 16)]
    expected = [[b[0] + x, b[1] + y, b[2] + x, b[3] + y] for x, y in shifts for b in (square, tall)]
    assert anchors.tensor.tolist() == expected


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_float32_equals_the_generator_of_the_door_on_every_level(offset):
    arguments = {"sizes": ((32.0, 64.0), (128.0,)), "ratios": ((0.5, 1.0, 2.0),) * 2, "strides": (8, 16)}
    maps = [torch.zeros(2, 3, 5, 7), torch.zeros(2, 3, 3, 4)]
    actual = make(PreciseAnchorGenerator, offset=offset, **arguments)(maps)
    expected = make(DefaultAnchorGenerator, offset=offset, **arguments)(maps)
    assert len(actual) == len(expected) == 2
    for found, wanted in zip(actual, expected, strict=True):
        assert found.tensor.equal(wanted.tensor)


@pytest.mark.parametrize(
    "features, expected",
    [(torch.float64, torch.float64), (torch.float16, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_anchors_have_the_dtype_of_the_maps_and_at_least_float32(features, expected):
    (anchors,) = make(PreciseAnchorGenerator)([torch.zeros(1, 3, 2, 2, dtype=features)])
    assert anchors.tensor.dtype == expected


def test_a_map_without_cells_has_no_anchors():
    (anchors,) = make(PreciseAnchorGenerator)([torch.zeros(1, 3, 0, 5)])
    assert anchors.tensor.shape == (0, 4)


def test_rounded_anchors_are_those_of_the_first_faster_rcnn():
    generator = make(RoundedAnchorGenerator, sizes=((64.0, 128.0),), ratios=((0.5, 1.0, 2.0),), offset=0.5)
    (anchors,) = generator([torch.zeros(1, 3, 1, 2, dtype=torch.float64)])
    wide, square, tall = [-38, -16, 53, 31], [-24, -24, 39, 39], [-14, -36, 29, 51]  # with the last pixel
    assert inclusive(anchors.tensor[:3]).tolist() == [wide, square, tall]
    assert inclusive(anchors.tensor[4]).tolist() == [-56, -56, 71, 71]  # 128 pixels around 7.5
    assert (anchors.tensor[6:] - anchors.tensor[:6]).tolist() == [[16, 0, 16, 0]] * 6
    assert anchors.tensor.dtype == torch.float64


def test_rounded_anchors_are_of_one_map():
    with pytest.raises(UserError, match="RoundedAnchorGenerator.*one map.*PreciseAnchorGenerator"):
        make(RoundedAnchorGenerator, sizes=((32.0,), (64.0,)), strides=(8, 16))
