"""RoIAlign: the definition in plain loops, torchvision's operator, and what torchvision does not promise."""

import importlib
import math

import pytest
import torch
import torchvision

from helpers.device import autocast, autocast_dtypes, device, on_device
from reference.roi_align import roi_align as plain_loops
from vod2.ops import ROIAlign, roi_align
from vod2.ops.roi_align import COMPILED

module = importlib.import_module("vod2.ops.roi_align")  # the function has the same name
needs_compiled = pytest.mark.skipif(
    device().type not in COMPILED,
    reason="the extension vod2._C was not built for the device (python setup.py build_ext --inplace)",
)
FORMATS = [torch.contiguous_format, torch.channels_last]
SCALE = 1 / 8


@pytest.fixture(params=["compiled", "torchvision"])
def version(request, monkeypatch):
    """Runs the test with the compiled kernels and without them."""
    if request.param == "compiled" and device().type not in COMPILED:
        pytest.skip("the extension vod2._C was not built for the device")
    monkeypatch.setattr(module, "COMPILED", COMPILED if request.param == "compiled" else ())
    return request.param


def draw_inputs(B=2, C=5, H=6, W=9, M=7, dtype=torch.float64, seed=0):
    """Maps and RoIs of SCALE: some leave the map, some are smaller than a cell, two are empty or turned around."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(B, C, H, W, generator=generator, dtype=dtype)
    image = torch.tensor([W, H, W, H], dtype=dtype) / SCALE
    boxes = (1.4 * torch.rand(M, 4, generator=generator, dtype=dtype) - 0.2) * image
    boxes = torch.cat([boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])], dim=1)
    if M > 3:
        boxes[1, 2:] = boxes[1, :2] + 3.0
        boxes[2, 2:] = boxes[2, :2]
        boxes[3] = boxes[3, [2, 3, 0, 1]]
    maps = torch.randint(0, max(B, 1), (M, 1), generator=generator).to(dtype)
    return features, torch.cat([maps, boxes], dim=1)


def make_inputs(*sizes, **options):
    return on_device(*draw_inputs(*sizes, **options))


def forward_and_gradient(function, features, rois, *options, memory_format=torch.preserve_format):
    features = features.detach().clone(memory_format=memory_format).requires_grad_()
    out = function(features, rois, *options)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out)
    (gradient,) = torch.autograd.grad(out, features, grad)
    return out.detach().cpu(), gradient.cpu()


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 1, 3])
def test_the_definition_in_plain_loops_gives_the_same(version, samples, aligned):
    features, rois = make_inputs(C=2, M=5)
    options = ((3, 2), SCALE, samples, aligned)
    expected = plain_loops(features.cpu(), rois.cpu(), *options)
    torch.testing.assert_close(roi_align(features, rois, *options).cpu(), expected, rtol=1e-12, atol=1e-12)


@needs_compiled
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_torchvision_gives_the_same_forward_and_backward(samples, aligned, dtype, rounding, memory_format):
    features, rois = make_inputs(3, 150, 14, 21, 40, dtype=dtype)
    options = ((7, 7), SCALE, samples, aligned)
    actual = forward_and_gradient(roi_align, features, rois, *options, memory_format=memory_format)
    expected = forward_and_gradient(torchvision.ops.roi_align, features, rois, *options)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=rounding, atol=rounding)


def test_a_ramp_is_the_place_of_the_bins_on_it(version):
    ramp = torch.arange(8.0, device=device()).expand(1, 1, 8, 8)
    rois = torch.tensor([[0, 16.0, 32.0, 80.0, 96.0]], device=device())  # columns 1 to 5, bins of two cells
    assert roi_align(ramp, rois, (1, 2), 1 / 16, 2).tolist() == [[[[1.5, 3.5]]]]
    assert roi_align(ramp, rois, (1, 2), 1 / 16, 2, aligned=False).tolist() == [[[[2.0, 4.0]]]]


def test_gradcheck_passes_once_and_twice_for_the_map(version):
    features, rois = make_inputs(B=1, C=2, H=3, W=4, M=4)
    features.requires_grad_()

    def pooled(x):
        return roi_align(x, rois, (2, 2), SCALE, 2)

    assert torch.autograd.gradcheck(pooled, features)
    if version == "compiled":
        assert torch.autograd.gradgradcheck(pooled, features)


@pytest.mark.parametrize("sizes", [(2, 5, 6, 9, 0), (0, 5, 6, 9, 0), (2, 0, 6, 9, 3)])
def test_nothing_is_pooled_to_nothing_and_has_a_gradient_of_zero(version, sizes):
    features, rois = make_inputs(*sizes)
    out, gradient = forward_and_gradient(roi_align, features, rois, (3, 2), SCALE, 0)
    assert out.shape == (sizes[4], sizes[1], 3, 2) and gradient.shape == features.shape and not gradient.any()


@needs_compiled
def test_a_map_without_cells_is_pooled_to_zeros():
    features, rois = on_device(torch.zeros(1, 3, 0, 4), torch.tensor([[0, 1.0, 1.0, 2.0, 2.0]]))
    out, gradient = forward_and_gradient(roi_align, features, rois, (2, 2), SCALE, 2)
    assert out.shape == (1, 3, 2, 2) and not out.any() and gradient.shape == features.shape


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_gradient_has_the_order_of_the_map_and_the_bins_come_channels_first(version, memory_format):
    features, rois = make_inputs()
    features = features.contiguous(memory_format=memory_format).requires_grad_()
    out = roi_align(features, rois, (3, 2), SCALE, 2)
    (gradient,) = torch.autograd.grad(out.sum(), features)
    assert out.is_contiguous()
    assert version == "torchvision" or gradient.is_contiguous(memory_format=memory_format)


def test_non_contiguous_inputs_give_what_contiguous_ones_give(version):
    features, rois = make_inputs()
    options = ((3, 2), SCALE, 0)
    strided = features.transpose(2, 3).contiguous().transpose(2, 3), rois.repeat_interleave(2, dim=0)[::2]
    for a, e in zip(
        forward_and_gradient(roi_align, *strided, *options),
        forward_and_gradient(roi_align, features, rois, *options),
        strict=True,
    ):
        assert torch.equal(a, e)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_gradient_that_is_one_number_for_all_bins_is_taken(version, memory_format):
    features, rois = make_inputs()
    features = features.contiguous(memory_format=memory_format).requires_grad_()
    (found,) = torch.autograd.grad(roi_align(features, rois, (3, 2), SCALE, 2).sum(), features)
    out = torchvision.ops.roi_align(features, rois, (3, 2), SCALE, 2, aligned=True)
    (expected,) = torch.autograd.grad(out, features, torch.ones_like(out))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(version, dtype):
    features, rois = make_inputs(dtype=torch.float32)
    features = features.to(dtype)
    out, gradient = forward_and_gradient(roi_align, features, rois, (3, 2), SCALE, 2)
    assert out.dtype == gradient.dtype == dtype
    assert torch.equal(out, roi_align(features.float(), rois, (3, 2), SCALE, 2).to(dtype).cpu())


@pytest.mark.parametrize("dtype", autocast_dtypes())
def test_autocast_changes_nothing(version, dtype):
    inputs = make_inputs(dtype=torch.float32)
    with autocast(dtype):
        under_autocast = roi_align(*inputs, (3, 2), SCALE, 2)
    assert torch.equal(under_autocast, roi_align(*inputs, (3, 2), SCALE, 2))


@needs_compiled
@pytest.mark.parametrize("samples", [0, 1, 2, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_roi_with_a_nan_is_nan_alone_and_one_at_infinity_is_one_far_outside(dtype, samples):
    features, _ = make_inputs(dtype=dtype)
    usual = [0.0, 8.0, 8.0, 40.0, 30.0]
    wild = [math.nan, math.inf, -math.inf, 1e30, -1e30]
    rows = [usual[:side] + [value] + usual[side + 1 :] for value in wild for side in range(1, 5)]
    rows += [[0.0, -math.inf, -math.inf, math.inf, math.inf], usual]
    rois = torch.tensor(rows, dtype=dtype, device=device())
    features.requires_grad_()
    out = roi_align(features, rois, (3, 2), SCALE, samples)
    assert out[:4].isnan().all() and out[4:].isfinite().all()
    far = torch.where(rois.isinf(), torch.copysign(torch.full_like(rois, 1e12), rois), rois)
    torch.testing.assert_close(out[4:], roi_align(features, far, (3, 2), SCALE, samples)[4:], rtol=0, atol=0)
    torch.testing.assert_close(out[-1:], roi_align(features, rois[-1:], (3, 2), SCALE, samples), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(torch.where(out.isnan(), 0, out).square().sum(), features)
    assert gradient.isfinite().all()


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_a_box_far_larger_than_the_map_only_the_samples_on_the_map_are_visited(dtype):
    """Hundreds of samples of a bin, of which a few lie on the map: the sum is that of torchvision, which visits all."""
    features, _ = make_inputs(dtype=dtype)
    boxes = [[0, -900.0, -800.0, 950.0, 860.0], [1, 0.0, -1600.0, 1600.0, 30.0]]
    rois = torch.tensor(boxes, dtype=dtype, device=device())
    for samples in (0, 100):
        found = roi_align(features, rois, (1, 2), SCALE, samples)
        expected = torchvision.ops.roi_align(features, rois, (1, 2), SCALE, samples, aligned=True)
        assert expected.any()
        rounding = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
        torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)


@needs_compiled
@pytest.mark.skipif(device().type != "cpu", reason="only the CPU's kernels have threads to count")
@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_result_does_not_depend_on_the_number_of_threads(memory_format):
    inputs = make_inputs(3, 200, 14, 21, 40, dtype=torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(forward_and_gradient(roi_align, *inputs, (7, 7), SCALE, 2, memory_format=memory_format))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("position", "replacement", "message"),
    [
        (0, torch.zeros(5, 4, 6), "features must have shape"),
        (0, torch.zeros(1, 5, 4, 6, dtype=torch.int64), "features must be floating point"),
        (1, torch.zeros(3, 4), "rois must have shape"),
        (1, torch.zeros(3, 5, device="meta"), "rois are on meta"),
    ],
)
def test_a_wrong_input_is_named(position, replacement, message):
    inputs = list(make_inputs(dtype=torch.float32))
    inputs[position] = replacement if replacement.is_meta else replacement.to(device())
    with pytest.raises(ValueError, match=message):
        roi_align(*inputs, (3, 2))


@needs_compiled
@pytest.mark.skipif(device().type != "cpu", reason="a GPU's kernel cannot raise")
@pytest.mark.parametrize("index", [-1.0, 2.0, math.nan, math.inf])
def test_a_roi_of_a_map_that_is_not_there_is_named(index):
    features, rois = make_inputs(M=3)
    rois[1, 0] = index
    with pytest.raises(ValueError, match=r"roi 1 is of map .*, but there are 2 maps"):
        roi_align(features, rois, (3, 2))


@needs_compiled
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (((0, 2),), "pooled size must be positive"),
        (((3, 2), 0.0), "spatial_scale must be positive"),
        (((3, 2), 1.0, -1), "sampling_ratio must be 0"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        roi_align(*make_inputs(), *options)


@needs_compiled
def test_the_ops_pass_the_checks_of_the_operator_library():
    features, rois = make_inputs(C=3)
    features.requires_grad_()
    torch.library.opcheck(torch.ops.vod2.roi_align.default, (features, rois, 3, 2, SCALE, 2, True))
    grad = torch.rand(len(rois), 3, 3, 2, dtype=features.dtype, device=device(), requires_grad=True)
    for channels_last in (False, True):
        arguments = (grad, rois, list(features.shape), channels_last, SCALE, 2, True)
        torch.library.opcheck(torch.ops.vod2.roi_align_backward.default, arguments)


def test_the_layer_is_the_function():
    features, rois = make_inputs()
    layer = ROIAlign((3, 2), SCALE, 2, aligned=False)
    assert torch.equal(layer(features, rois), roi_align(features, rois, (3, 2), SCALE, 2, aligned=False))
    assert not layer.state_dict() and "sampling_ratio=2" in repr(layer)
