"""The pixel attention of stCIE against loops over cells: values, gradients, precision."""

import pytest
import torch
from torch import Tensor

from reference.csmn import encoded_map
from vod2.layers import PixelAttention

CHANNELS, DIM = 6, 4
NORMALISERS = pytest.mark.parametrize("normaliser", ["count", "softmax"])


def make_attention(normaliser: str = "count", dtype: torch.dtype = torch.float64, **options) -> PixelAttention:
    torch.manual_seed(0)
    attention = PixelAttention(CHANNELS, DIM, normaliser, **options)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention.to(dtype)


def make_maps(*sizes: tuple[int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(1, CHANNELS, *size, generator=rng, dtype=dtype) for size in sizes]


def plain(attention: PixelAttention, target: Tensor, sources: list[Tensor]) -> Tensor:
    """All cosines in one table."""
    cells = torch.cat([source[0].flatten(1) for source in sources], dim=1)[None, :, None]  # (1, C, 1, S)
    query, key = attention.target_relation(target)[0].flatten(1), attention.source_relation(cells)[0].flatten(1)
    cosines = torch.nn.functional.cosine_similarity(query[:, :, None], key[:, None], dim=0)  # (L, S)
    weights = cosines / len(cosines[0]) if attention.normaliser == "count" else cosines.softmax(dim=1)
    content = attention.source_content(cells)[0].flatten(1)  # (C, S)
    return attention.target_content(target) + (content @ weights.T).reshape(target.shape)


@NORMALISERS
@pytest.mark.parametrize("sizes", [[(3, 2)], [(3, 2), (3, 2), (1, 4)]], ids=["one", "several sizes"])
def test_it_is_the_papers_sum_over_all_cells(normaliser, sizes):
    attention, (target, *sources) = make_attention(normaliser), make_maps((2, 3), *sizes)
    expected = encoded_map(attention.state_dict(), target[0], [source[0] for source in sources], normaliser)
    torch.testing.assert_close(attention(target, sources)[0], expected, rtol=1e-10, atol=1e-10)


@NORMALISERS
@pytest.mark.parametrize("tile", [1, 4, 1024])
def test_values_and_gradients_are_those_of_the_whole_table(normaliser, tile):
    attention = make_attention(normaliser, tile=tile)
    maps = [x.requires_grad_() for x in make_maps((3, 4), (3, 4), (2, 5))]
    inputs = [*maps, *attention.parameters()]
    grad = torch.randn(1, CHANNELS, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected, actual = plain(attention, maps[0], maps[1:]), attention(maps[0], maps[1:])
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    for found, wanted in zip(
        torch.autograd.grad(actual, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@NORMALISERS
def test_the_target_may_be_its_own_source(normaliser):
    attention, (target,) = make_attention(normaliser), make_maps((3, 2))
    target.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention(x, [x, x]), target)


def test_a_map_that_stands_twice_among_the_sources_counts_twice():
    attention, (target, first, second) = make_attention(), make_maps((2, 2), (2, 2), (2, 2))
    expected = plain(attention, target, [first, first, second])
    torch.testing.assert_close(attention(target, [first, first, second]), expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(attention(target, [first, second]), expected)


@NORMALISERS
def test_a_new_module_is_the_identity_and_learns(normaliser):
    torch.manual_seed(0)
    attention, (target, source) = PixelAttention(CHANNELS, DIM, normaliser).double(), make_maps((2, 3), (2, 3))
    out = attention(target, [target, source])
    assert out.equal(target)
    out.square().sum().backward()
    assert attention.source_content.weight.grad.ne(0).any()


@NORMALISERS
@pytest.mark.parametrize("sources", [[], [(0, 3)], [(0, 0), (2, 0)]], ids=["none", "no rows", "no cells"])
def test_without_source_cells_the_target_is_returned(normaliser, sources):
    attention, (target, *rest) = make_attention(normaliser), make_maps((2, 3), *sources)
    assert attention(target.requires_grad_(), rest) is target


@NORMALISERS
def test_cells_without_any_activation_give_finite_values_and_gradients(normaliser):
    """Without biases, their relation features are 0, which has no direction."""
    attention, (target, source) = make_attention(normaliser), make_maps((2, 3), (2, 3))
    for layer in (attention.target_relation, attention.source_relation):
        torch.nn.init.zeros_(layer.bias)
    target, source = (x.mul(0).requires_grad_() for x in (target, source))
    attention(target, [source]).square().sum().backward()
    assert target.grad.isfinite().all() and source.grad.isfinite().all()


@NORMALISERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept_and_the_value_is_near(normaliser, dtype):
    attention, (target, source) = make_attention(normaliser), make_maps((3, 4), (3, 4))
    expected = attention(target, [target, source])
    target, source = target.to(dtype), source.to(dtype)
    actual = attention.to(dtype)(target, [target, source])
    assert actual.dtype == dtype
    error = (actual.double() - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_over_many_cells_do_not_overflow_under_autocast(dtype):
    attention, (target, source) = make_attention(dtype=torch.float32), make_maps((2, 2), (60, 70), dtype=torch.float32)
    source = 300 + source  # sums of 4,200 such cells are beyond half precision
    expected = attention(target, [source])
    with torch.autocast("cpu", dtype=dtype):
        actual = attention(target, [source])
    assert (actual - expected).norm() / expected.norm() < 0.02


@NORMALISERS
def test_no_table_of_all_pairs_is_kept_for_the_backward(normaliser):
    """What autograd saves grows with the cells, not with the pairs of cells."""
    attention, (target, source) = (
        make_attention(normaliser, torch.float32, tile=64),
        [x.float() for x in make_maps((32, 32), (32, 32))],
    )
    largest = 0

    def pack(x: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attention(target, [source, source])
    assert largest <= CHANNELS * 32 * 32 < (32 * 32) ** 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"normaliser": "mean"}, "NORMALISER is 'mean', expected one of count, softmax"),
        ({"relation_dim": 0}, "RELATION_DIM and tile of at least 1, got 0"),
        ({"tile": 0}, "got 4, 0"),
    ],
)
def test_values_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PixelAttention(**({"channels": CHANNELS, "relation_dim": DIM} | arguments))
