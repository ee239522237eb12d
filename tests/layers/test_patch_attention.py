"""The patch attention of SPFA against loops over patches: values, gradients, grids, tiles."""

import pytest
import torch
from torch import Tensor

from reference.csmn import patch_weights, patches_of
from vod2.layers import PatchAttention, PatchImportance
from vod2.layers.patch_attention import cut_patches, standardised

CHANNELS = 3
GRIDS = pytest.mark.parametrize("grid, side", [(1, 7), (2, 7), (3, 7), (7, 7), (2, 3), (3, 3), (2, 4)])


def make_inputs(n: int, m: int, side: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """target_maps, support_maps, values (M, 5)."""
    rng = torch.Generator().manual_seed(1)
    maps = [torch.randn(count, CHANNELS, side, side, generator=rng, dtype=dtype) for count in (n, m)]
    return *maps, torch.randn(m, 5, generator=rng, dtype=dtype)


def plain(targets: Tensor, supports: Tensor, values: Tensor, grid: int, temperature: float | None = None) -> Tensor:
    """(N, p, V) with autograd through the loops of the reference."""
    return torch.stack([patch_weights(target, supports, grid, temperature) @ values for target in targets])


def test_a_side_of_seven_becomes_nine_with_nine_patches_of_three_by_three_padded_equally():
    roi = torch.arange(1.0, 50.0).reshape(1, 1, 7, 7)
    patches = cut_patches(roi, 3)
    assert patches.shape == (1, 9, 9)
    assert patches[0, 0].tolist() == [0, 0, 0, 0, 1, 2, 0, 8, 9]
    assert patches[0, 4].tolist() == [17, 18, 19, 24, 25, 26, 31, 32, 33]
    assert patches[0, 8].tolist() == [41, 42, 0, 48, 49, 0, 0, 0, 0]


def test_a_side_of_seven_becomes_eight_with_sixteen_patches_of_two_by_two():
    roi = torch.arange(49.0).reshape(1, 1, 7, 7)
    patches = cut_patches(roi, 4)
    assert patches.shape == (1, 16, 4)
    assert patches[0, 0].tolist() == [0, 1, 7, 8]
    assert patches[0, 3].tolist() == [6, 0, 13, 0]
    assert patches[0, 15].tolist() == [48, 0, 0, 0]


@GRIDS
def test_patches_are_those_of_the_reference(grid, side):
    maps, _, _ = make_inputs(2, 0, side)
    expected = torch.stack([torch.stack(patches_of(roi, grid)) for roi in maps])
    assert cut_patches(maps, grid).equal(expected)


@pytest.mark.parametrize("grid", [0, 4])
def test_more_patches_than_cells_are_refused(grid):
    with pytest.raises(ValueError, match=f"3x3 cells cannot be cut into {grid}x{grid} patches"):
        cut_patches(torch.zeros(1, 1, 3, 3), grid)


@GRIDS
def test_values_and_gradients_are_those_of_the_reference(grid, side):
    targets, supports, values = (x.requires_grad_() for x in make_inputs(1, 2, side))
    expected, actual = plain(targets, supports, values, grid), PatchAttention(grid)(targets, supports, values)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn(actual.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs = (targets, supports, values)
    for found, wanted in zip(
        torch.autograd.grad(actual, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("tile", [1, 2 * 16 * 16, 3 * 2 * 16 * 16, 10**6], ids=["1", "one", "three", "all"])
def test_the_size_of_a_tile_does_not_matter(tile):
    inputs = [x.requires_grad_() for x in make_inputs(2, 7)]
    results = [PatchAttention(4, tile=size)(*inputs) for size in (tile, 2**23)]
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(result.square().sum(), inputs) for result in results]
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [2.0, 0.05, 1e-3])
def test_the_temperature_divides_the_similarities(temperature):
    inputs = make_inputs(2, 4)
    expected = plain(*inputs, grid=2, temperature=temperature)
    actual = PatchAttention(2, temperature=temperature)(*inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("grid, cells", [(1, 7), (3, 3), (7, 1)])
def test_by_default_the_temperature_is_one_over_the_root_of_the_numbers_of_a_patch(grid, cells):
    inputs = make_inputs(2, 4)
    same = PatchAttention(grid, temperature=(CHANNELS * cells * cells) ** -0.5)
    torch.testing.assert_close(PatchAttention(grid)(*inputs), same(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tile", [1, 2**23], ids=["tiles", "one tile"])
@pytest.mark.parametrize("temperature", [1e-4, 1e-37])
def test_next_to_no_temperature_takes_the_most_similar_support_alone(temperature, tile):
    """In float32 the exponential of a similarity divided by such a temperature is infinite, and its inverse 0."""
    target, supports, values = (x.float().requires_grad_() for x in make_inputs(2, 5))
    attention = PatchAttention(3, temperature, tile)
    actual = attention(target, supports, values)
    best = PatchAttention(3, 1.0).weights(target, supports).argmax(dim=2)  # (2, 9)
    torch.testing.assert_close(actual, values[best], rtol=1e-6, atol=1e-6)
    actual.sum().backward()
    assert all(x.grad.isfinite().all() for x in (target, supports, values))


def test_the_weights_are_those_that_sum_up_the_values():
    target, supports, values = make_inputs(2, 5)
    attention = PatchAttention(3)
    weights = attention.weights(target, supports)
    assert weights.shape == (2, 9, 5)
    torch.testing.assert_close(weights[0], patch_weights(target[0], supports, 3), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weights @ values, attention(target, supports, values), rtol=1e-10, atol=1e-10)
    assert attention.weights(target, supports[:0]).shape == (2, 9, 0)
    assert attention.weights(target[:0], supports).shape == (0, 9, 5)


def test_the_similarity_does_not_depend_on_where_in_the_support_a_patch_is():
    """A support in which the target's patches stand in another order is as similar to each of them as the target."""
    target, other, _ = make_inputs(1, 1, side=4)
    rolled = torch.cat([target.roll(2, dims=3), other])
    weights = PatchAttention(2)(target, rolled, torch.eye(2, dtype=torch.float64))
    same = PatchAttention(2)(target, torch.cat([target, other]), torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(weights, same, rtol=1e-12, atol=1e-12)
    assert (weights[..., 0] > weights[..., 1]).all()


def test_the_similarity_does_not_depend_on_brightness_and_contrast():
    target, supports, values = make_inputs(2, 3, side=4)
    expected = PatchAttention(2)(target, supports, values)
    torch.testing.assert_close(PatchAttention(2)(target, 3 * supports + 2, values), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_a_patch_without_variation_is_like_no_other_and_has_no_gradient(dtype, value):
    patches = torch.full((2, 27), value, dtype=dtype, requires_grad=True)
    out = standardised(patches)
    assert out.eq(0).all()
    out.sum().backward()
    assert patches.grad.eq(0).all()


def test_standardised_patches_give_the_correlation_coefficient():
    a, b = torch.randn(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.corrcoef(torch.stack([a, b]))[0, 1]
    torch.testing.assert_close(standardised(a) @ standardised(b), expected)


@pytest.mark.parametrize("n, m", [(0, 3), (2, 0), (0, 0)])
def test_no_targets_and_no_supports_give_zero_forward_and_backward(n, m):
    inputs = [x.requires_grad_() for x in make_inputs(n, m)]
    out = PatchAttention(4)(*inputs)
    assert out.shape == (n, 16, 5) and out.eq(0).all()
    out.sum().backward()
    assert all(x.grad.eq(0).all() for x in inputs)


def test_a_single_support_has_all_the_weight():
    target, support, value = make_inputs(2, 1)
    torch.testing.assert_close(PatchAttention(4)(target, support, value), value.expand(2, 16, 5))


def test_inputs_need_not_be_contiguous():
    target, support, values = make_inputs(4, 6)
    expected = PatchAttention(4)(target[::2].contiguous(), support.mT.contiguous(), values)
    assert PatchAttention(4)(target[::2], support.mT, values).equal(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_of_the_values_is_kept_and_they_are_near(dtype):
    inputs = make_inputs(3, 9)
    expected = PatchAttention(4)(*inputs)
    actual = PatchAttention(4)(*[x.to(dtype) for x in inputs])
    assert actual.dtype == dtype
    error = (actual.double() - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype == torch.float32 else 0.02)


def test_no_table_of_all_pairs_is_kept_for_the_backward():
    inputs = [x.requires_grad_() for x in make_inputs(20, 50, dtype=torch.float32)]
    largest = 0

    def pack(x: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        PatchAttention(4, tile=20 * 16 * 16)(*inputs)
    assert largest <= max(x.numel() for x in inputs) < 20 * 16 * 50


@pytest.mark.parametrize("grid, side", [(1, 7), (4, 7), (2, 3)])
def test_the_importance_is_a_softmax_over_the_patches_of_a_linear_layer(grid, side):
    importance, (maps, _, _) = PatchImportance(CHANNELS, side, grid).double(), make_inputs(3, 0, side)
    assert torch.allclose(importance(maps), torch.full((3, grid * grid), 1 / grid**2, dtype=torch.float64))
    torch.nn.init.normal_(importance.score.weight)
    rows = [torch.stack([importance.score.weight[0] @ patch for patch in patches_of(roi, grid)]) for roi in maps]
    torch.testing.assert_close(importance(maps), torch.stack(rows).softmax(dim=1), rtol=1e-10, atol=1e-10)
    assert importance(maps[:0]).shape == (0, grid * grid)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"grid": 0}, "grid and tile of at least 1, got 0"),
        ({"tile": 0}, "got 4, 0"),
        ({"temperature": 0.0}, "TEMPERATURE above 0, got 0.0"),
        ({"temperature": -1.0}, "got -1.0"),
    ],
)
def test_values_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchAttention(**({"grid": 4} | arguments))
