"""The relation module without RDN around it; tests/projects/test_rdn.py holds it against a slow reference.

N: queries, M: keys, D: embedding, h: heads.
"""

import pytest
import torch

from helpers.proposals import random_boxes
from vod2.layers import GeometryBias, RelationAttention

DIM, HEADS = 16, 4


def make_layer(
    geometry: bool = True,
    dtype: torch.dtype = torch.float64,
    std: float = 0.5,
    heads: int = HEADS,
    output: bool = False,
) -> RelationAttention:
    torch.manual_seed(0)
    layer = RelationAttention(DIM, heads, GeometryBias(heads, 16) if geometry else None, output=output)
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


@pytest.mark.parametrize("heads, output", [(HEADS, False), (HEADS, True), (1, False), (1, True)])
@pytest.mark.parametrize("geometry", [True, False])
def test_a_query_that_may_look_at_no_key_gets_zero_and_a_finite_gradient(geometry, heads, output):
    layer, (query, key, query_boxes, key_boxes) = make_layer(geometry, heads=heads, output=output), make_inputs(2, 3)
    query.requires_grad_()
    mask = torch.tensor([[True, True, True], [False, False, False]])
    out = layer(query, key, query_boxes, key_boxes, mask)
    assert out[1].eq(0).all() and out[0].ne(0).any()
    out.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert query.grad[1].eq(0).all()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("geometry", [True, False])
@pytest.mark.parametrize("heads, output", [(HEADS, False), (HEADS, True), (1, False), (1, True)])
@pytest.mark.parametrize("n, m", [(3, 0), (0, 4), (0, 0)])
def test_no_queries_or_no_keys_give_zeros_forward_and_backward(n, m, heads, output, geometry, masked):
    layer, (query, key, query_boxes, key_boxes) = make_layer(geometry, heads=heads, output=output), make_inputs(n, m)
    query.requires_grad_()
    out = layer(query, key, query_boxes, key_boxes, torch.ones(n, m, dtype=torch.bool) if masked else None)
    assert out.shape == (n, DIM) and out.eq(0).all()
    out.sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is None or parameter.grad.eq(0).all()


def from_weights(layer: RelationAttention, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The result as a sum of projected keys with `RelationAttention.weights`, and the output projection."""
    weights, heads = layer.weights(*inputs), layer.num_heads
    values = layer.value(inputs[1]).view(-1, heads, DIM // heads)
    summed = torch.einsum("hnm,mhd->nhd", weights, values).reshape(-1, DIM)
    return summed if layer.output is None else summed @ layer.output.weight.T + layer.output.bias


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("geometry", [True, False])
def test_the_rows_of_the_weights_sum_to_one_and_reproduce_the_forward_pass(geometry, output):
    layer, inputs = make_layer(geometry, output=output), make_inputs(3, 5)
    weights = layer.weights(*inputs)
    assert weights.shape == (HEADS, 3, 5) and weights.ge(0).all()
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(HEADS, 3, dtype=torch.float64))
    torch.testing.assert_close(layer(*inputs), from_weights(layer, inputs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n, m", [(2, 7), (7, 2), (4, 4), (1, 1)])
@pytest.mark.parametrize("output", [False, True])
def test_a_single_head_may_project_before_or_after_the_sum_over_the_keys(output, n, m):
    layer, inputs = make_layer(heads=1, output=output), make_inputs(n, m)
    torch.testing.assert_close(layer(*inputs), from_weights(layer, inputs), rtol=1e-10, atol=1e-10)
    grads = [
        torch.autograd.grad(f.square().sum(), layer.parameters()) for f in (layer(*inputs), from_weights(layer, inputs))
    ]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-8)


def test_a_single_head_projects_as_few_rows_as_it_can():
    layer, rows = make_layer(heads=1), []
    layer.value.register_forward_hook(lambda module, inputs, out: rows.append(len(out)))
    layer(*make_inputs(2, 7))
    layer(*make_inputs(7, 2))
    assert rows == [2, 2]


def test_the_output_projection_begins_like_the_others():
    torch.manual_seed(0)
    layer = RelationAttention(256, 4, output=True)
    assert layer.output.bias.eq(0).all()
    assert layer.output.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert "output.weight" not in RelationAttention(256, 4).state_dict()


@pytest.mark.parametrize("heads, output", [(HEADS, False), (HEADS, True), (1, False), (1, True)])
@pytest.mark.parametrize("geometry", [True, False])
def test_gradients_agree_with_finite_differences(geometry, heads, output):
    layer, (query, key, query_boxes, key_boxes) = make_layer(geometry, heads=heads, output=output), make_inputs(2, 3)
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(query, key, *parameters):
        arguments = (query, key, query_boxes, key_boxes)
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), arguments)

    assert torch.autograd.gradcheck(run, (query.requires_grad_(), key.requires_grad_(), *values), fast_mode=True)


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


@pytest.mark.parametrize("heads", [HEADS, 1])
def test_bfloat16_autocast_stays_near_float32(heads):
    layer, inputs = make_layer(dtype=torch.float32, std=0.2, heads=heads), make_inputs(4, 6, torch.float32)
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
