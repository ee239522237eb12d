"""What samples a map at coordinates stays inside of it, wherever these point: out of range, at infinity, nowhere.

A place that is far outside is outside, also at infinity; NaN gives NaN, and only where it was.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from helpers.device import device, on_device, tolerance
from helpers.models import RFCN_KEYS, build_detector
from vod2._d2lite.modeling.backbone.resnet import DeformConv
from vod2.d2 import Instances
from vod2.layers import warp
from vod2.layers.deform_align import ModulatedDeformConv
from vod2.ops import relation_geometry_bias, st_sampling, st_sampling_reference
from vod2.structures import PreciseBoxes

WILD = [1e30, -1e30, math.inf, -math.inf, math.nan]
DTYPES = [torch.float32, torch.float64]
SIZE = (5, 7)
ROW, COLUMN = 2, 4  # where the wild one is
NINE_TAPS = 9


def drawn(*shape, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(device())


def finite_gradients(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Those of a loss that leaves out what is NaN."""
    gradients = torch.autograd.grad(torch.where(out.isnan(), 0, out).square().sum(), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)
    return gradients


def differs(actual: Tensor, expected: Tensor) -> Tensor:
    """(H, W): the cells of maps (1, C, H, W) that are not near each other; NaN is like nothing."""
    near = torch.isclose(actual, expected, rtol=1e-4, atol=1e-4)
    return ~near.all(dim=1)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_warp_takes_the_edge_where_the_flow_leaves_the_map_and_nan_where_it_is_nan(dtype, wild, axis, legacy):
    features, flow = drawn(1, 3, *SIZE, dtype=dtype).requires_grad_(), drawn(1, 2, *SIZE, dtype=dtype, seed=1)
    flow[0, axis, ROW, COLUMN] = math.copysign(20.0, wild)  # beyond the map
    expected = warp(features, flow, legacy=legacy)
    flow[0, axis, ROW, COLUMN] = wild
    out = warp(features, flow.requires_grad_(), legacy=legacy)
    if math.isnan(wild):
        assert out[0, :, ROW, COLUMN].isnan().all() and differs(out, expected).nonzero().tolist() == [[ROW, COLUMN]]
    else:
        assert out.isfinite().all() and not differs(out, expected).any()
    finite_gradients(out, features, flow)


class Given(nn.Module):
    """In the place of the convolution that says where the taps are."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, guide: Tensor) -> Tensor:
        return self.value


def modulated(x: Tensor, offsets: Tensor) -> Tensor:
    layer = ModulatedDeformConv(x.shape[1], 1).to(x)
    layer.weight.data.copy_(drawn(*layer.weight.shape, dtype=x.dtype, seed=2))
    layer.sampling = Given(torch.cat([offsets, torch.zeros_like(offsets[:, :NINE_TAPS])], dim=1))
    return layer(x, x)


def of_the_backbone(x: Tensor, offsets: Tensor) -> Tensor:
    layer = DeformConv(x.shape[1], stride=1, padding=1, dilation=1, groups=1, norm=None).to(x)
    layer.weight.data.copy_(drawn(*layer.weight.shape, dtype=x.dtype, seed=2))
    return layer(x, offsets)


@pytest.mark.parametrize("layer", [modulated, of_the_backbone])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("channel", [0, 9])  # dy of the first tap, dx of the fifth
def test_a_tap_that_leaves_the_map_finds_nothing_and_one_that_is_nan_gives_nan(layer, dtype, wild, channel):
    x, offsets = drawn(1, 3, *SIZE, dtype=dtype).requires_grad_(), drawn(1, 18, *SIZE, dtype=dtype, seed=1)
    offsets[0, channel, ROW, COLUMN] = math.copysign(20.0, wild)  # beyond the map, where all is 0
    expected = layer(x, offsets)
    offsets[0, channel, ROW, COLUMN] = wild
    out = layer(x, offsets.requires_grad_())
    if math.isnan(wild):
        assert out[0, :, ROW, COLUMN].isnan().all() and differs(out, expected).nonzero().tolist() == [[ROW, COLUMN]]
    else:
        assert out.isfinite().all() and not differs(out, expected).any()
    if math.isfinite(wild) or layer is modulated:
        finite_gradients(out, x, offsets)


@pytest.mark.parametrize("function", [st_sampling, st_sampling_reference])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_location_that_leaves_the_map_finds_nothing_and_one_that_is_not_finite_gives_nan(function, dtype, wild, axis):
    value, key, query = (drawn(1, 3, *SIZE, dtype=dtype, seed=seed).requires_grad_() for seed in range(3))
    locations = drawn(4, 2, dtype=dtype, seed=3)
    locations[1, axis] = math.copysign(20.0, wild)
    expected = function(value, key, query, locations)
    locations[1, axis] = wild
    out = function(value, key, query, locations.requires_grad_())
    if math.isfinite(wild):
        assert not differs(out, expected).any()
        finite_gradients(out, value, key, query, locations)
    else:
        assert out.isnan().all()  # all cells share the locations
        torch.autograd.grad(out.sum(), (value, key, query, locations))


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keys", [{}, RFCN_KEYS], ids=["RoIAlign", "R-FCN"])
def test_a_box_at_infinity_is_pooled_and_one_with_a_nan_has_nan_features(keys, dtype, samples):
    heads = build_detector(keys | {"MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": samples}, dtype=dtype).roi_heads
    (level,) = heads.box_in_features
    channels = heads.box_pooler.cls_score.in_channels if keys else 24
    features = {level: drawn(1, channels, 4, 6, dtype=dtype).requires_grad_()}
    boxes = torch.tensor([[4.0, 4.0, 40.0, 50.0]], dtype=dtype).repeat(2 + 4 * len(WILD), 1)
    for number, wild in enumerate(WILD):
        for side in range(4):
            boxes[1 + 4 * number + side, side] = wild
    has_nan = boxes.isnan().any(dim=1)

    def embedded(boxes: Tensor) -> Tensor:
        scores = torch.zeros(len(boxes), dtype=dtype, device=device())
        proposals = Instances((64, 96), proposal_boxes=PreciseBoxes(boxes.to(device())), objectness_logits=scores)
        return heads.embed(features, [proposals])[0].features

    for context in (torch.no_grad, torch.enable_grad):  # on a CPU, R-FCN pools in another way without a gradient
        with context():
            found = embedded(boxes)
            usual = embedded(boxes[:1])
        assert found.isnan().any(dim=1).cpu().equal(has_nan) and found[~has_nan.to(device())].isfinite().all()
        rounding = tolerance(1e-5, 1e-4)
        for row in (0, -1):
            torch.testing.assert_close(found[row], usual[0], rtol=rounding, atol=rounding)
    finite_gradients(found, *features.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bias_of_a_pair_of_boxes_is_finite_far_away_and_that_of_a_box_that_is_not_finite_is_nan(dtype):
    weight, bias = drawn(2, 16, dtype=dtype), torch.ones(2, dtype=dtype, device=device())
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [-1e30, -1e30, 1e30, 1e30], [1e30, 2.0, 1e30, 9.0]], dtype=dtype)
    wild = torch.tensor([[0.0, 0.0, value, 8.0] for value in (math.inf, -math.inf, math.nan)], dtype=dtype)
    boxes, wild = on_device(boxes, wild)
    assert relation_geometry_bias(boxes, boxes, weight, bias).isfinite().all()
    assert relation_geometry_bias(wild, boxes, weight, bias).isnan().all()
    mixed = relation_geometry_bias(boxes, torch.cat([boxes, wild]), weight, bias)
    assert mixed[..., :3].isfinite().all() and mixed[..., 3:].isnan().all()
