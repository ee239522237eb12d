"""The geometry bias: its formula in plain loops, the compiled op, the Python versions, and what they share."""

import importlib
import math

import pytest
import torch

from helpers.device import autocast, autocast_dtypes, device, on_device, tolerance
from vod2.ops import compiled_device_types, relation_geometry_bias, relation_geometry_bias_reference
from vod2.ops.relation_geometry_bias import MIN_SIZE, relation_geometry_bias_chunked

needs_compiled = pytest.mark.skipif(
    device().type not in compiled_device_types(),
    reason="the extension vod2._C was not built for the device (python setup.py build_ext --inplace)",
)
needs_compiled_cuda = pytest.mark.skipif(
    "cuda" not in compiled_device_types() or not torch.cuda.is_available(),
    reason="needs a GPU and the extension vod2._C built with CUDA",
)
CONSTANTS = (100.0, 1000.0, 1e-3, 1e-6, 0.0)
IMPLEMENTATIONS = [relation_geometry_bias, relation_geometry_bias_reference, relation_geometry_bias_chunked]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    module = importlib.import_module("vod2.ops.relation_geometry_bias")  # the function has the same name
    monkeypatch.setattr(module, "CHUNK_NUMBERS", 500)  # so that few boxes already need several chunks


def make_boxes(count, generator, dtype=torch.float64):
    corner = torch.rand(count, 2, generator=generator, dtype=dtype) * 500
    size = torch.rand(count, 2, generator=generator, dtype=dtype) * 200 + 4
    return torch.cat([corner, corner + size], dim=1)


def draw_inputs(num_query=5, num_key=7, heads=3, dim=16, dtype=torch.float64, seed=0):
    """Boxes and a layer whose logits are clearly positive for about half of the pairs and heads, else negative."""
    generator = torch.Generator().manual_seed(seed)
    query, key = make_boxes(num_query, generator, dtype), make_boxes(num_key, generator, dtype)
    weight = torch.randn(heads, dim, generator=generator, dtype=dtype) / math.sqrt(dim)
    bias = torch.randn(heads, generator=generator, dtype=dtype)
    return query, key, weight, bias


def make_inputs(*sizes, **options):
    """`draw_inputs` on the device."""
    return on_device(*draw_inputs(*sizes, **options))


def expected_by_loops(query, key, weight, bias, scale=100.0, wavelength=1000.0, eps=1e-3, floor=1e-6, offset=0.0):
    heads, dim = weight.shape
    num_frequencies = dim // 8
    result = torch.empty(heads, len(query), len(key), dtype=torch.float64)
    for i, (ax1, ay1, ax2, ay2) in enumerate(query.tolist()):
        for j, (bx1, by1, bx2, by2) in enumerate(key.tolist()):
            aw, ah, bw, bh = ax2 - ax1 + offset, ay2 - ay1 + offset, bx2 - bx1 + offset, by2 - by1 + offset
            quantities = [
                math.log(abs((ax1 + ax2) / 2 - (bx1 + bx2) / 2) / aw + eps),
                math.log(abs((ay1 + ay2) / 2 - (by1 + by2) / 2) / ah + eps),
                math.log(aw / bw),
                math.log(ah / bh),
            ]
            embedding = []
            for p in quantities:
                angles = [scale * p / wavelength ** (k / num_frequencies) for k in range(num_frequencies)]
                embedding += [math.sin(u) for u in angles] + [math.cos(u) for u in angles]
            for h in range(heads):
                z = sum(w * e for w, e in zip(weight[h].tolist(), embedding, strict=True)) + bias[h].item()
                result[h, i, j] = math.log(max(z, floor))
    return result


def forward_and_gradients(function, query, key, weight, bias):
    """The exponential of the bias, and its gradients for a random output gradient, on the CPU.

    Near the floor the logarithm and its gradient magnify rounding without limit; those entries get no gradient, and
    the exponential takes the logarithm back.
    """
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    out = function(query, key, weight, bias)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grad = (grad.to(out) * (out.detach() > -3)).to(out.dtype)
    gradients = torch.autograd.grad(out, (weight, bias), grad)
    return tuple(tensor.cpu() for tensor in (out.detach().exp(), *gradients))


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
@pytest.mark.parametrize("dim", [8, 64])
def test_every_implementation_gives_what_the_formula_in_plain_loops_gives(function, dim):
    inputs = make_inputs(dim=dim)
    torch.testing.assert_close(function(*inputs).cpu(), expected_by_loops(*inputs), rtol=1e-9, atol=1e-9)


def test_one_pair_gives_the_number_computed_by_hand():
    # dx = dy = log(0 + 1e-3), dw = dh = log 1 = 0; the only weight is on the first cosine of dw, cos(0) = 1: z = 2 + 1
    box = torch.tensor([[0.0, 0.0, 10.0, 20.0]], dtype=torch.float64)
    weight = torch.zeros(1, 8, dtype=torch.float64)
    weight[0, 5] = 2.0
    out = relation_geometry_bias(*on_device(box, box, weight, torch.ones(1, dtype=torch.float64)))
    assert out.item() == pytest.approx(math.log(3.0), abs=1e-15)


@pytest.mark.parametrize("function", [relation_geometry_bias, relation_geometry_bias_reference])
def test_constants_other_than_the_usual_are_respected(function):
    inputs = make_inputs()
    constants = {"scale": 10.0, "wavelength": 50.0, "eps": 0.1, "floor": 0.5, "offset": 1.0}
    torch.testing.assert_close(function(*inputs, **constants).cpu(), expected_by_loops(*inputs, **constants))


@pytest.mark.parametrize("function", [relation_geometry_bias, relation_geometry_bias_chunked])
@pytest.mark.parametrize(
    "shape", [(5, 7, 3, 16), (3, 300, 16, 64), (40, 128, 17, 64), (2, 63, 5, 24), (2, 65, 6, 8), (1, 1, 1, 8)]
)
def test_float64_agrees_with_the_reference_to_twelve_digits(function, shape):
    inputs = make_inputs(*shape)
    actual = forward_and_gradients(function, *inputs)
    expected = forward_and_gradients(relation_geometry_bias_reference, *inputs)
    rounding = tolerance(1e-12, 1e-11)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=rounding, atol=rounding * max(1.0, e.abs().max().item()))


@pytest.mark.parametrize("function", [relation_geometry_bias, relation_geometry_bias_chunked])
def test_float32_agrees_with_the_float64_reference(function):
    query, key, weight, bias = make_inputs(20, 300, 16, 64, dtype=torch.float32)
    actual = forward_and_gradients(function, query, key, weight, bias)
    expected = forward_and_gradients(
        relation_geometry_bias_reference, query.double(), key.double(), weight.double(), bias.double()
    )
    # Centres that almost coincide lose digits in float32 before any sine is taken, in every implementation.
    rounding = tolerance(2e-3, 5e-3)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=0, atol=rounding * max(1.0, e.abs().max().item()))


def test_float32_angles_beyond_the_fast_range_are_as_accurate_as_in_the_reference():
    # One unit in the last place of a logarithm turns an angle by 0.008.
    inputs = make_inputs(4, 9, dtype=torch.float32)
    actual = relation_geometry_bias(*inputs, scale=2.0**14).exp()
    expected = relation_geometry_bias_reference(*inputs, scale=2.0**14).exp()
    torch.testing.assert_close(actual, expected, atol=tolerance(1e-2, 5e-2), rtol=0)


@pytest.mark.parametrize("function", [relation_geometry_bias, relation_geometry_bias_reference])
def test_gradcheck_passes_for_weight_and_bias(function):
    query, key, weight, bias = make_inputs(3, 4, 2, 8)
    bias = bias.abs() + 3  # away from the floor, where the function has a kink
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    assert torch.autograd.gradcheck(lambda w, b: function(query, key, w, b), (weight, bias))


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
def test_entries_at_the_floor_have_no_gradient(function):
    query, key, weight, bias = make_inputs()
    bias = torch.full_like(bias, -100.0).requires_grad_()
    out = function(query, key, weight.requires_grad_(), bias)
    out.sum().backward()
    assert torch.equal(out, torch.full_like(out, math.log(1e-6)))
    assert not weight.grad.any() and not bias.grad.any()


def test_boxes_get_no_gradient():
    query, key, weight, bias = make_inputs()
    out = relation_geometry_bias(query.requires_grad_(), key.requires_grad_(), weight.requires_grad_(), bias)
    out.sum().backward()
    assert query.grad is None and key.grad is None and weight.grad is not None


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
@pytest.mark.parametrize(("num_query", "num_key"), [(0, 7), (5, 0), (0, 0)])
def test_empty_boxes_work_forward_and_backward(function, num_query, num_key):
    query, key, weight, bias = make_inputs(num_query, num_key)
    out = function(query, key, weight.requires_grad_(), bias.requires_grad_())
    assert out.shape == (3, num_query, num_key)
    out.sum().backward()
    assert not weight.grad.any() and not bias.grad.any()


def test_non_contiguous_inputs_and_gradients_give_what_contiguous_ones_give():
    inputs = make_inputs()

    def strided(tensor):
        return tensor.repeat_interleave(2, dim=0)[::2]

    def transposed(*arguments):
        return relation_geometry_bias(*arguments).transpose(1, 2).contiguous().transpose(1, 2)

    actual = forward_and_gradients(transposed, *[strided(tensor) for tensor in inputs])
    for a, e in zip(actual, forward_and_gradients(relation_geometry_bias, *inputs), strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(function, dtype):
    query, key, weight, bias = (tensor.to(dtype) for tensor in make_inputs())
    out = function(query, key, weight.requires_grad_(), bias)
    assert out.dtype == dtype
    exact = function(query.float(), key.float(), weight.detach().float(), bias.float())
    assert torch.equal(out.detach(), exact.to(dtype))
    out.sum().backward()
    assert weight.grad.dtype == dtype and weight.grad.isfinite().all()


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", autocast_dtypes())
def test_autocast_changes_nothing(function, dtype):
    inputs = make_inputs(dtype=torch.float32)
    with autocast(dtype):
        under_autocast = function(*inputs)
    assert torch.equal(under_autocast, function(*inputs))


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
def test_degenerate_boxes_count_as_boxes_of_the_smallest_size(function):
    _, key, weight, bias = make_inputs()
    degenerate = torch.tensor([[50.0, 60.0, 50.0, 60.0], [50.0, 60.0, 40.0, 50.0]], dtype=torch.float64)
    centers = torch.tensor([[50.0, 60.0], [45.0, 55.0]], dtype=torch.float64)
    smallest = torch.cat([centers - MIN_SIZE / 2, centers + MIN_SIZE / 2], dim=1)
    degenerate, smallest = on_device(degenerate, smallest)
    for first, second in [(degenerate, key), (key, degenerate)]:
        out = function(first, second, weight, bias)
        assert out.isfinite().all()
    # The corners of the smallest box are rounded at 1e-14, which the scale and a width of 1e-3 magnify to about 1e-9.
    actual = function(degenerate, key, weight, bias).exp()
    torch.testing.assert_close(actual, function(smallest, key, weight, bias).exp(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
def test_a_nan_box_gives_nan_and_not_a_plausible_number(function):
    query, key, weight, bias = make_inputs(dtype=torch.float32)
    query[2] = float("nan")
    out = function(query, key, weight, bias)
    assert out[:, 2].isnan().all() and out[:, :2].isfinite().all()


@pytest.mark.parametrize("function", [relation_geometry_bias, relation_geometry_bias_reference])
@pytest.mark.parametrize(
    ("position", "replacement", "message"),
    [
        (0, torch.zeros(5, 5), "query_boxes must have shape"),
        (1, torch.zeros(4), "key_boxes must have shape"),
        (1, torch.zeros(7, 4, dtype=torch.int64), "key_boxes must be floating point"),
        (2, torch.zeros(3, 12), "dim a positive multiple of 8"),
        (2, torch.zeros(3, 0), "dim a positive multiple of 8"),
        (3, torch.zeros(4), "with the 3 heads of weight"),
    ],
)
def test_a_wrong_input_is_named(function, position, replacement, message):
    inputs = list(make_inputs(dtype=torch.float32))
    inputs[position] = replacement.to(device())
    with pytest.raises(ValueError, match=message):
        function(*inputs)


def test_tensors_on_different_devices_are_named():
    query, key, weight, bias = make_inputs()
    with pytest.raises(ValueError, match=f"bias is on meta, but weight is on {weight.device}"):
        relation_geometry_bias_reference(query, key, weight, bias.to("meta"))


@pytest.mark.parametrize("function", [relation_geometry_bias, relation_geometry_bias_reference])
@pytest.mark.parametrize("name", ["wavelength", "eps", "floor"])
def test_a_constant_that_must_be_positive_is_named(function, name):
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        function(*make_inputs(), **{name: 0.0})


@needs_compiled
def test_the_op_passes_the_checks_of_the_operator_library():
    query, key, weight, bias = make_inputs(3, 4, 2, 8)
    arguments = (query, key, weight.requires_grad_(), (bias.abs() + 3).requires_grad_(), *CONSTANTS)
    torch.library.opcheck(torch.ops.vod2.relation_geometry_bias.default, arguments)


@needs_compiled
def test_a_second_derivative_is_refused_and_not_silently_zero():
    query, key, weight, bias = make_inputs()
    out = relation_geometry_bias(query, key, weight.requires_grad_(), bias)
    (grad,) = torch.autograd.grad(out.sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        grad.sum().backward()


@needs_compiled
@pytest.mark.skipif(device().type != "cpu", reason="only the CPU's kernels have threads to count")
def test_the_gradient_does_not_depend_on_the_number_of_threads():
    inputs = make_inputs(9, 200, 4, 64, dtype=torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(forward_and_gradients(relation_geometry_bias, *inputs))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_compiled
def test_meta_tensors_give_the_shape_and_dtype_of_the_result():
    meta = [tensor.to("meta") for tensor in make_inputs(dtype=torch.float32)]
    out = torch.ops.vod2.relation_geometry_bias(*meta, *CONSTANTS)
    assert out.shape == (3, 5, 7) and out.dtype == torch.float32 and out.is_meta


@needs_compiled_cuda
@pytest.mark.parametrize("position", range(4))
def test_a_tensor_of_the_cpu_among_those_of_a_gpu_is_named(position):
    inputs = [tensor.cuda() for tensor in draw_inputs()]
    inputs[position] = inputs[position].cpu()
    with pytest.raises(ValueError, match="on cpu.*: move them to one device"):
        relation_geometry_bias(*inputs)


@needs_compiled_cuda
@pytest.mark.parametrize("shape", [(5, 7, 3, 16), (30, 300, 16, 64), (4, 9, 37, 128), (0, 5, 3, 16)])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-11), (torch.float32, 5e-3)])
def test_cuda_agrees_with_the_cpu(shape, dtype, rounding):
    inputs = draw_inputs(*shape, dtype=dtype)
    actual = forward_and_gradients(relation_geometry_bias, *[tensor.cuda() for tensor in inputs])
    for a, e in zip(actual, forward_and_gradients(relation_geometry_bias, *inputs), strict=True):
        largest = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(a, e, rtol=rounding, atol=rounding * largest)
