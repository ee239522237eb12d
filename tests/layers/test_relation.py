"""The relation module without RDN around it; tests/projects/test_rdn.py holds it against a slow reference.

N: queries, M: keys, D: embedding, h: heads.
"""

import pytest
import torch
from helpers.proposals import random_boxes

from vod2.layers import GeometryBias, RelationAttention

DIM, HEADS = 16, 4


def make_layer(geometry: bool = True, dtype: torch.dtype = torch.float64, std: float = 0.5) -> RelationAttention:
    torch.manual_seed(0)
    layer = RelationAttention(DIM, HEADS, GeometryBias(HEADS, 16) if geometry else None)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return layer.to(dtype)


def make_inputs(n: int, m: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """query, key, query_boxes, key_boxes."""
    rng = torch.Generator().manual_seed(1)
    query, key = (torch.randn(count, DIM, generator=rng, dtype=dtype) for count in (n, m))
    return query, key, random_boxes(n, rng, dtype), random_boxes(m, rng, dtype)


@pytest.mark.parametrize("geometry", [True, False])
def test_a_masked_key_counts_as_if_it_were_not_there(geometry):
    layer, (query, key, query_boxes, key_boxes) = make_layer(geometry), make_inputs(3, 5)
    kept = torch.tensor([True, False, True, True, False])
    masked = layer(query, key, query_boxes, key_boxes, kept.expand(3, 5))
    torch.testing.assert_close(masked, layer(query, key[kept], query_boxes, key_boxes[kept]), rtol=1e-10, atol=1e-10)


def test_each_query_has_a_mask_row_of_its_own():
    layer, (query, key, query_boxes, key_boxes) = make_layer(), make_inputs(2, 2)
    together = layer(query, key, query_boxes, key_boxes, torch.eye(2, dtype=torch.bool))
    for i in range(2):
        row = slice(i, i + 1)
        alone = layer(query[row], key[row], query_boxes[row], key_boxes[row])
        torch.testing.assert_close(together[row], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", [True, False])
def test_a_query_that_may_look_at_no_key_gets_zero_and_a_finite_gradient(geometry):
    layer, (query, key, query_boxes, key_boxes) = make_layer(geometry), make_inputs(2, 3)
    query.requires_grad_()
    mask = torch.tensor([[True, True, True], [False, False, False]])
    out = layer(query, key, query_boxes, key_boxes, mask)
    assert out[1].eq(0).all() and out[0].ne(0).any()
    out.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert query.grad[1].eq(0).all()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("geometry", [True, False])
@pytest.mark.parametrize("n, m", [(3, 0), (0, 4), (0, 0)])
def test_no_queries_or_no_keys_give_zeros_forward_and_backward(n, m, geometry, masked):
    layer, (query, key, query_boxes, key_boxes) = make_layer(geometry), make_inputs(n, m)
    query.requires_grad_()
    out = layer(query, key, query_boxes, key_boxes, torch.ones(n, m, dtype=torch.bool) if masked else None)
    assert out.shape == (n, DIM) and out.eq(0).all()
    out.sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is None or parameter.grad.eq(0).all()


@pytest.mark.parametrize("geometry", [True, False])
def test_the_rows_of_the_weights_sum_to_one_and_reproduce_the_forward_pass(geometry):
    layer, inputs = make_layer(geometry), make_inputs(3, 5)
    weights = layer.weights(*inputs)
    assert weights.shape == (HEADS, 3, 5) and weights.ge(0).all()
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(HEADS, 3, dtype=torch.float64))
    values = layer.value(inputs[1]).view(5, HEADS, DIM // HEADS)
    expected = torch.einsum("hnm,mhd->nhd", weights, values).reshape(3, DIM)
    torch.testing.assert_close(layer(*inputs), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", [True, False])
def test_gradients_agree_with_finite_differences(geometry):
    layer, (query, key, query_boxes, key_boxes) = make_layer(geometry), make_inputs(2, 3)
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(query, key, *parameters):
        arguments = (query, key, query_boxes, key_boxes)
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), arguments)

    assert torch.autograd.gradcheck(run, (query.requires_grad_(), key.requires_grad_(), *values))


def test_equal_keys_share_the_weight_equally_without_geometry():
    layer, (query, key, query_boxes, key_boxes) = make_layer(geometry=False), make_inputs(2, 1)
    four = layer.weights(query, key.expand(4, -1), query_boxes, key_boxes.expand(4, -1))
    torch.testing.assert_close(four, torch.full_like(four, 0.25))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_features_is_kept(dtype):
    assert make_layer(dtype=dtype)(*make_inputs(2, 3, dtype)).dtype == dtype


def test_boxes_may_be_more_precise_than_the_features():
    """Boxes stay in float32 or float64 where the network runs in half precision."""
    query, key, query_boxes, key_boxes = make_inputs(2, 3)
    out = make_layer(dtype=torch.float32)(query.float(), key.float(), query_boxes, key_boxes)
    assert out.dtype == torch.float32 and out.isfinite().all()


def test_boxes_without_area_give_finite_values_and_gradients():
    layer, (query, key, query_boxes, key_boxes) = make_layer(), make_inputs(2, 3)
    query_boxes[0, 2:] = query_boxes[0, :2]
    key_boxes[1, 2:] = key_boxes[1, :2]
    out = layer(query, key, query_boxes, key_boxes)
    out.sum().backward()
    assert out.isfinite().all() and all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_bfloat16_autocast_stays_near_float32():
    layer, inputs = make_layer(dtype=torch.float32, std=0.2), make_inputs(4, 6, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(*inputs)
    torch.testing.assert_close(half.float(), layer(*inputs), rtol=0.05, atol=0.02)


def test_heads_that_do_not_divide_the_features_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide 16"):
        RelationAttention(16, 3)


@pytest.mark.parametrize("dim", [0, -8, 12])
def test_an_embedding_length_that_is_no_multiple_of_eight_is_refused(dim):
    with pytest.raises(ValueError, match=f"multiple of 8 for dim, got {dim}"):
        GeometryBias(HEADS, dim)


def test_the_geometry_bias_begins_open_for_nearly_every_pair():
    """A pair whose relu is 0 would never get a gradient."""
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    bias = GeometryBias(num_heads=16)(random_boxes(30, rng, torch.float32), random_boxes(30, rng, torch.float32))
    assert bias.shape == (16, 30, 30)
    assert (bias > -10).float().mean() > 0.99
