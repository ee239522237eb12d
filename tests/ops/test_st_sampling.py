"""Learned sampling: the paper's equations in plain loops, the compiled op, the Python versions, and what they share."""

import importlib

import pytest
import torch

from helpers.device import autocast, autocast_dtypes, device, on_device
from reference.lsts_sampling import aggregate, score_gradients, scores
from vod2.ops import st_sampling, st_sampling_reference
from vod2.ops.st_sampling import COMPILED, SUM_FLOOR, bilinear_matrix, normalise, shift_correlation, shift_sum

module = importlib.import_module("vod2.ops.st_sampling")  # the function has the same name
needs_compiled = pytest.mark.skipif(
    device().type not in COMPILED,
    reason="the extension vod2._C was not built for the device (python setup.py build_ext --inplace)",
)
needs_compiled_cuda = pytest.mark.skipif(
    "cuda" not in COMPILED or not torch.cuda.is_available(),
    reason="needs a GPU and the extension vod2._C built with CUDA",
)
OFFSETS = [(0, 0), (2, -1), (-3, 0), (1, 4), (100, 0), (0, -100)]


@pytest.fixture(params=["compiled", "python"])
def version(request, monkeypatch):
    """Runs the test with the compiled kernels and without them."""
    if request.param == "compiled" and device().type not in COMPILED:
        pytest.skip("the extension vod2._C was not built for the device")
    monkeypatch.setattr(module, "COMPILED", COMPILED if request.param == "compiled" else ())
    return request.param


def draw_inputs(B=2, C=5, E=3, H=4, W=6, N=7, dtype=torch.float64, seed=0):
    """value, key, query, locations; scores are of both signs, and some locations leave the map from every cell."""
    generator = torch.Generator().manual_seed(seed)
    value, key, query = (torch.randn(B, channels, H, W, generator=generator, dtype=dtype) for channels in (C, E, E))
    locations = 1.5 * torch.randn(N, 2, generator=generator, dtype=dtype)
    locations[-1] = torch.tensor([W + 0.3, -H - 0.6])
    return value, key, query, locations


def make_inputs(*sizes, **options):
    """`draw_inputs` on the device."""
    return on_device(*draw_inputs(*sizes, **options))


def forward_and_gradients(function, *inputs):
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = function(*inputs)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out)
    return tuple(tensor.cpu() for tensor in (out.detach(), *torch.autograd.grad(out, inputs, grad)))


@pytest.mark.parametrize("normaliser", ["softmax", "linear"])
def test_the_paper_in_plain_loops_gives_the_same(version, normaliser):
    value, key, query, locations = make_inputs()
    if normaliser == "linear":
        key, query = key.abs(), query.abs()  # scores that cancel are a matter of the floor
        locations = locations[:-1]
    out = st_sampling(value, key, query, locations, normaliser)
    for b in range(2):
        inputs = (tensor.cpu() for tensor in (value[b], key[b], query[b], locations))
        torch.testing.assert_close(out[b].cpu(), aggregate(*inputs, normaliser), rtol=1e-12, atol=1e-12)


def test_the_scores_and_their_gradient_by_the_locations_are_those_of_equations_5_and_6(version):
    _, *drawn = draw_inputs(B=1)
    key, query, locations = on_device(*drawn)
    locations.requires_grad_()
    offsets, bilinear = bilinear_matrix(locations, key.shape[2:])
    last = [tensor.permute(0, 2, 3, 1).contiguous() for tensor in (query, key)]
    found = (shift_correlation(*last, offsets) @ bilinear.T)[0].permute(2, 0, 1)
    maps = (drawn[0][0], drawn[1][0])
    torch.testing.assert_close(found.cpu(), scores(*maps, drawn[2]), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), locations)
    expected = score_gradients(*maps, drawn[2].detach()).sum(dim=(1, 2))
    torch.testing.assert_close(gradient.cpu(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("normaliser", ["softmax", "linear"])
@pytest.mark.parametrize("shape", [(1, 70, 37, 5, 8, 40), (2, 64, 16, 7, 3, 1), (1, 3, 2, 1, 1, 9)])
def test_float64_agrees_with_sampling_both_maps(version, shape, normaliser):
    inputs = make_inputs(*shape)

    def run(function):
        return forward_and_gradients(lambda *tensors: function(*tensors, normaliser), *inputs)

    for a, e in zip(run(st_sampling), run(st_sampling_reference), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-10 * max(1.0, e.abs().max().item()))


def test_a_whole_location_moves_the_map_and_leaves_zeros(version):
    value, embedding = on_device(torch.arange(1.0, 7.0).view(1, 1, 2, 3), torch.ones(1, 1, 2, 3))
    out = st_sampling(value, embedding, embedding, torch.tensor([[1.0, 0.0]], device=device()))
    assert out.tolist() == [[[[2.0, 3.0, 0.0], [5.0, 6.0, 0.0]]]]
    out = st_sampling(value, embedding, embedding, torch.tensor([[0.0, -1.0]], device=device()))
    assert out.tolist() == [[[[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]]]


@pytest.mark.parametrize("normaliser", ["softmax", "linear"])
def test_gradcheck_passes_for_all_four_inputs(version, normaliser):
    inputs = [tensor.requires_grad_() for tensor in make_inputs(B=1, C=2, E=2, H=3, W=3, N=4)]
    if normaliser == "linear":
        inputs[1:3] = [tensor.detach().abs().requires_grad_() for tensor in inputs[1:3]]
    assert torch.autograd.gradcheck(lambda *tensors: st_sampling(*tensors, normaliser), inputs)


def test_second_derivatives_pass_gradgradcheck(version):
    inputs = [tensor.requires_grad_() for tensor in make_inputs(B=1, C=1, E=2, H=2, W=2, N=2)]
    assert torch.autograd.gradgradcheck(st_sampling, inputs)


def test_at_a_whole_number_the_derivative_is_the_one_to_the_right_and_downward(version):
    cells = [[0.0, 0.0, 0.0], [1.0, 0.0, 5.0], [0.0, 7.0, 0.0]]
    value = torch.tensor([[cells]], dtype=torch.float64, device=device())
    embedding = torch.zeros_like(value)
    locations = torch.zeros(1, 2, dtype=torch.float64, device=device(), requires_grad=True)
    out = st_sampling(value, embedding, embedding, locations)
    (gradient,) = torch.autograd.grad(out[0, 0, 1, 1], locations)
    assert gradient.tolist() == [[5.0, 7.0]]


def test_without_a_gradient_whole_locations_need_one_offset_each():
    locations = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.5]], device=device())
    offsets, weights = bilinear_matrix(locations, (9, 9))
    assert offsets == [(0, 0), (1, 0), (0, 1)]
    assert weights.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]
    offsets, _ = bilinear_matrix(locations.requires_grad_(), (9, 9))
    assert len(offsets) == 6


@pytest.mark.parametrize("transposed", [False, True])
def test_the_transposed_sum_is_the_adjoint_of_the_sum(version, transposed):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1, 5, 4, len(OFFSETS), generator=generator, dtype=torch.float64)
    a, b = torch.randn(2, 1, 5, 4, 3, generator=generator, dtype=torch.float64).unbind()
    weights, a, b = on_device(weights, a, b)
    forward = (shift_sum(weights, a, OFFSETS, transposed) * b).sum()
    torch.testing.assert_close(forward, (shift_sum(weights, b, OFFSETS, not transposed) * a).sum())
    scored = (shift_correlation(*((a, b) if transposed else (b, a)), OFFSETS) * weights).sum()
    torch.testing.assert_close(forward, scored)


def test_far_locations_give_zero_and_no_gradient(version):
    value, key, query, _ = make_inputs()
    locations = torch.tensor([[1e30, 0.5], [-1e12, 3.2]], dtype=torch.float64, device=device())
    out, *gradients = forward_and_gradients(st_sampling, value, key, query, locations)
    assert not out.any() and not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_location_that_is_not_finite_gives_nan_and_not_a_plausible_number(version, wrong):
    value, key, query, locations = make_inputs()
    locations[2, 0] = wrong
    assert st_sampling(value, key, query, locations).isnan().any()


def test_linear_weights_are_bounded_where_the_scores_cancel():
    scored = torch.tensor([[1.0, -1.0], [-3.0, 3.0 - 1e-6], [0.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    weights = normalise(scored.to(device()), "linear").cpu()
    bound = 0.5 / SUM_FLOOR
    torch.testing.assert_close(weights[0], torch.tensor([bound, -bound], dtype=torch.float64))
    torch.testing.assert_close(weights[1], torch.tensor([bound, -bound], dtype=torch.float64), rtol=1e-5, atol=0)
    assert weights[2].tolist() == [0.0, 0.0] and weights[3].tolist() == [0.25, 0.75]


def test_linear_weights_of_zero_scores_have_a_finite_gradient():
    scored = torch.zeros(2, 3, device=device(), requires_grad=True)
    normalise(scored, "linear").sum().backward()
    assert scored.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 5, 3, 4, 6), (2, 5, 3, 0, 6), (2, 0, 3, 4, 6), (2, 5, 0, 4, 6)])
def test_empty_maps_work_forward_and_backward(version, shape):
    out, *gradients = forward_and_gradients(st_sampling, *make_inputs(*shape))
    assert out.shape == (shape[0], shape[1], *shape[3:])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_non_contiguous_inputs_give_what_contiguous_ones_give(version):
    value, key, query, locations = make_inputs()
    strided = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in (value, key, query)]
    strided.append(locations.repeat_interleave(2, dim=0)[::2])
    for a, e in zip(
        forward_and_gradients(st_sampling, *strided),
        forward_and_gradients(st_sampling, value, key, query, locations),
        strict=True,
    ):
        assert torch.equal(a, e)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(version, dtype):
    inputs = [tensor.to(dtype) for tensor in make_inputs()]
    out, *gradients = forward_and_gradients(st_sampling, *inputs)
    assert out.dtype == dtype and all(gradient.dtype == dtype for gradient in gradients)
    assert torch.equal(out, st_sampling(*[tensor.float() for tensor in inputs]).to(dtype).cpu())


@pytest.mark.parametrize("dtype", autocast_dtypes())
def test_autocast_changes_nothing(version, dtype):
    inputs = make_inputs(dtype=torch.float32)
    with autocast(dtype):
        under_autocast = st_sampling(*inputs)
    assert torch.equal(under_autocast, st_sampling(*inputs))


@pytest.mark.parametrize("function", [st_sampling, st_sampling_reference])
@pytest.mark.parametrize(
    ("position", "replacement", "message"),
    [
        (0, torch.zeros(5, 4, 6), "value must have shape"),
        (1, torch.zeros(2, 3, 4, 5), "key must have shape"),
        (2, torch.zeros(2, 4, 4, 6), "query must have shape"),
        (3, torch.zeros(0, 2), "N at least 1"),
        (3, torch.zeros(7, 3), "locations must have shape"),
        (3, torch.zeros(7, 2, dtype=torch.int64), "locations must be floating point"),
    ],
)
def test_a_wrong_input_is_named(function, position, replacement, message):
    inputs = list(make_inputs(dtype=torch.float32))
    inputs[position] = replacement.to(device())
    with pytest.raises(ValueError, match=message):
        function(*inputs)


@pytest.mark.parametrize("function", [st_sampling, st_sampling_reference])
def test_tensors_on_different_devices_are_named(function):
    value, key, query, locations = make_inputs()
    with pytest.raises(ValueError, match=f"key is on meta, but value is on {value.device}"):
        function(value, key.to("meta"), query, locations)


def test_an_unknown_normaliser_is_named():
    with pytest.raises(ValueError, match="softmax, linear, got 'max'"):
        st_sampling(*make_inputs(), normaliser="max")


@needs_compiled
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.zeros(1, 2, 2, 3), "weights must have shape"),
        (torch.zeros(1, 2, 2, 6, dtype=torch.float64), "weights is Double, but value is Float"),
        (torch.zeros(1, 2, 2, 6, dtype=torch.float16), "weights must be float32 or float64"),
    ],
)
def test_the_op_names_a_wrong_input(weights, message):
    with pytest.raises(ValueError, match=message):
        shift_sum(*on_device(weights, torch.zeros(1, 2, 2, 3)), OFFSETS)


@needs_compiled
def test_the_ops_pass_the_checks_of_the_operator_library():
    options = {"dtype": torch.float64, "device": device(), "requires_grad": True}
    query, key = (torch.rand(1, 3, 4, 5, **options) for _ in range(2))
    weights = torch.rand(1, 3, 4, len(OFFSETS), **options)
    dx, dy = ([offset[axis] for offset in OFFSETS] for axis in (0, 1))
    torch.library.opcheck(torch.ops.vod2.shift_correlation.default, (query, key, dx, dy))
    for transposed in (False, True):
        torch.library.opcheck(torch.ops.vod2.shift_sum.default, (weights, key, dx, dy, transposed))


@needs_compiled
@pytest.mark.skipif(device().type != "cpu", reason="only the CPU's kernels have threads to count")
def test_the_result_does_not_depend_on_the_number_of_threads():
    inputs = make_inputs(1, 70, 16, 9, 8, 12, dtype=torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(forward_and_gradients(st_sampling, *inputs))
    finally:
        torch.set_num_threads(threads)
    # The kernels give the same bits; the small matrix products between them are PyTorch's.
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@needs_compiled_cuda
@pytest.mark.parametrize("shape", [(2, 5, 3, 4, 6, 7), (1, 300, 70, 9, 8, 81), (0, 5, 3, 4, 6, 7)])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-11), (torch.float32, 1e-3)])
def test_cuda_agrees_with_the_cpu(shape, dtype, rounding):
    inputs = draw_inputs(*shape, dtype=dtype)
    actual = forward_and_gradients(st_sampling, *[tensor.cuda() for tensor in inputs])
    for a, e in zip(actual, forward_and_gradients(st_sampling, *inputs), strict=True):
        largest = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(a, e, rtol=rounding, atol=rounding * largest)
