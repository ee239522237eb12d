"""Box deltas: dx, dy relative to the size of the box, dw, dh logarithms, each multiplied by its weight."""

import math

import pytest
import torch

from helpers.proposals import random_boxes
from vod2.d2 import Box2BoxTransform
from vod2.layers import PreciseBoxTransform

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def test_a_box_moves_and_grows_as_computed_by_hand():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # centre (20, 40), 20 wide, 40 high
    deltas = torch.tensor([[10 * 0.5, 10 * -0.25, 5 * math.log(2), 0.0]])  # +10 px, -10 px, twice as wide, as high
    decoded = PreciseBoxTransform(weights=WEIGHTS).apply_deltas(deltas, boxes)
    torch.testing.assert_close(decoded, torch.tensor([[10.0, 10.0, 50.0, 50.0]]))


@pytest.mark.parametrize("per_box", [1, 3])
def test_float32_equals_the_transform_of_the_door(per_box):
    rng = torch.Generator().manual_seed(0)
    boxes = random_boxes(50, rng, torch.float32)
    deltas = 4 * torch.randn(50, 4 * per_box, generator=rng)
    expected = Box2BoxTransform(weights=WEIGHTS).apply_deltas(deltas, boxes)
    torch.testing.assert_close(PreciseBoxTransform(weights=WEIGHTS).apply_deltas(deltas, boxes), expected)


def test_float64_is_inverse_to_get_deltas_to_its_own_precision():
    rng = torch.Generator().manual_seed(0)
    source, target = random_boxes(50, rng), random_boxes(50, rng)
    transform = PreciseBoxTransform(weights=WEIGHTS)
    decoded = transform.apply_deltas(transform.get_deltas(source, target), source)
    assert decoded.dtype == torch.float64
    torch.testing.assert_close(decoded, target, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "deltas, boxes, expected",
    [
        (torch.float16, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_the_result_has_the_wider_dtype_and_at_least_float32(deltas, boxes, expected):
    decoded = PreciseBoxTransform(weights=WEIGHTS).apply_deltas(
        torch.zeros(2, 4, dtype=deltas), torch.ones(2, 4, dtype=boxes)
    )
    assert decoded.dtype == expected


def test_growth_is_limited_by_the_scale_clamp():
    boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0]], dtype=torch.float64)
    decoded = PreciseBoxTransform(weights=(1.0,) * 4, scale_clamp=math.log(10)).apply_deltas(
        torch.tensor([[0.0, 0.0, 1e4, math.log(2)]], dtype=torch.float64), boxes
    )
    assert decoded.tolist() == [pytest.approx([8 - 80, 8 - 16, 8 + 80, 8 + 16])]


@pytest.mark.parametrize("per_box", [1, 3])
def test_no_boxes_give_no_boxes(per_box):
    deltas = torch.zeros(0, 4 * per_box, requires_grad=True)
    decoded = PreciseBoxTransform(weights=WEIGHTS).apply_deltas(deltas, torch.zeros(0, 4))
    assert decoded.shape == (0, 4 * per_box)
    decoded.sum().backward()


def test_the_gradient_flows_to_the_deltas():
    deltas = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    boxes = random_boxes(3, torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda d: PreciseBoxTransform(weights=WEIGHTS).apply_deltas(d, boxes), deltas)
