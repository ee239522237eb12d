"""Every op, forward and backward, against its reference in float64 on the CPU.

Inputs are drawn on the CPU from a seed, rounded to the dtype that is tried, and given to both.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import inf, nan
from pathlib import Path

import torch
import torchvision
from torch import Tensor

import vod2
from gpu_steps.step import Failed, NotApplicable, Step
from gpu_steps.timing import measure
from vod2.ops import (
    compiled_device_types,
    relation_geometry_bias,
    relation_geometry_bias_reference,
    roi_align,
    st_sampling,
    st_sampling_reference,
)

DTYPES = {"float64": torch.float64, "float32": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}
_SEED = 0


@dataclass(frozen=True)
class Op:
    """What is tried of an op.

    Attributes:
        function, reference: the same signature; the reference is plain PyTorch.
        draw: (shape, generator) -> the inputs in float64.
        shapes: {what is special about it: shape}.
        trained: which inputs get a gradient.
        tolerance: {dtype: largest ||out - reference|| / ||reference||, of the result and of each gradient}.
        comparable: takes the result to numbers whose rounding is bounded.
        coordinates: the inputs that hold positions.
        raw: (inputs) -> the arguments of each registered op, for `torch.library.opcheck`.
    """

    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    draw: Callable[[tuple[int, ...], torch.Generator], list[Tensor]]
    shapes: dict[str, tuple[int, ...]]
    trained: tuple[int, ...]
    tolerance: dict[str, float]
    comparable: Callable[[Tensor], Tensor]
    coordinates: tuple[int, ...]
    raw: Callable[[list[Tensor]], Iterator[tuple[object, tuple]]]


def _boxes(count: int, rng: torch.Generator) -> Tensor:
    corner = torch.rand(count, 2, generator=rng, dtype=torch.float64) * 500
    # At least 4 pixels a side, as the geometry is divided by it.
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=rng, dtype=torch.float64) * 200], dim=1)


def _geometry_inputs(shape: tuple[int, ...], rng: torch.Generator) -> list[Tensor]:
    """Query boxes, key boxes, weight, bias: the logits stay away from the floor, where gradients have no bound."""
    queries, keys, heads, dim = shape
    weight = torch.rand(heads, dim, generator=rng, dtype=torch.float64) / dim
    return [_boxes(queries, rng), _boxes(keys, rng), weight, 2 + torch.rand(heads, generator=rng, dtype=torch.float64)]


def _geometry_ops(inputs: list[Tensor]) -> Iterator[tuple[object, tuple]]:
    yield torch.ops.vod2.relation_geometry_bias.default, (*inputs, 100.0, 1000.0, 1e-3, 1e-6, 0.0)


def _sampling_inputs(shape: tuple[int, ...], rng: torch.Generator) -> list[Tensor]:
    """Value, key, query, locations, of which the last leaves the map from every cell."""
    B, C, E, H, W, N = shape
    maps = [torch.randn(B, channels, H, W, generator=rng, dtype=torch.float64) for channels in (C, E, E)]
    locations = 1.5 * torch.randn(N, 2, generator=rng, dtype=torch.float64)
    # Beyond the map from every cell, so that nothing but padding is sampled.
    locations[-1] = torch.tensor([W + 0.25, -H - 0.5])
    # As an attention scales its keys: the similarities stay of the size of one.
    maps[1] /= max(E, 1) ** 0.5
    return [*maps, locations]


def _sampling_ops(inputs: list[Tensor]) -> Iterator[tuple[object, tuple]]:
    value, key, query = (tensor.detach().permute(0, 2, 3, 1).contiguous() for tensor in inputs[:3])
    # The last offset leads out of the map from every cell.
    dx, dy = [0, 2, -3, 100], [0, -1, 4, 0]
    weights = torch.rand(*value.shape[:3], len(dx), dtype=value.dtype, device=value.device)
    # opcheck tries how the gradient is registered only where an input asks for one.
    yield torch.ops.vod2.shift_correlation.default, (query.requires_grad_(), key.requires_grad_(), dx, dy)
    for transposed in (False, True):
        yield torch.ops.vod2.shift_sum.default, (weights.requires_grad_(), value.requires_grad_(), dx, dy, transposed)


_POOLING = ((7, 7), 1 / 16, 2, True)


def _pooling_inputs(shape: tuple[int, ...], rng: torch.Generator) -> list[Tensor]:
    """Maps, and boxes on them, of which some reach beyond."""
    B, C, H, W, M = shape
    cells = torch.tensor([W, H, W, H], dtype=torch.float64)
    return [torch.randn(B, C, H, W, generator=rng, dtype=torch.float64), _boxes(M, rng) / 600 * (16 * cells)]


def _rois(features: Tensor, boxes: Tensor) -> Tensor:
    """(M, 5): the boxes, map after map in turn."""
    return torch.cat([(torch.arange(len(boxes)) % len(features)).to(boxes)[:, None], boxes], dim=1)


def _pool(features: Tensor, boxes: Tensor) -> Tensor:
    return roi_align(features, _rois(features, boxes), *_POOLING)


def _pool_reference(features: Tensor, boxes: Tensor) -> Tensor:
    return torchvision.ops.roi_align(features, _rois(features, boxes), *_POOLING)


def _pooling_ops(inputs: list[Tensor]) -> Iterator[tuple[object, tuple]]:
    features, boxes = inputs
    rois, (size, *options) = _rois(features, boxes), _POOLING
    yield torch.ops.vod2.roi_align.default, (features, rois, *size, *options)
    grad = torch.rand(len(rois), features.shape[1], *size, dtype=features.dtype, device=features.device)
    yield torch.ops.vod2.roi_align_backward.default, (grad.requires_grad_(), rois, features.shape, False, *options)


OPS = {
    "relation_geometry_bias": Op(
        relation_geometry_bias,
        relation_geometry_bias_reference,
        _geometry_inputs,
        {
            "odd": (5, 7, 3, 16),
            "one": (1, 1, 1, 8),
            "empty": (0, 7, 3, 16),
            "many heads": (9, 40, 37, 64),
            "large": (300, 2775, 16, 64),
        },
        trained=(2, 3),
        # Coordinates are multiplied by up to scale / (1e-3 width): centres that nearly coincide lose digits in float32.
        tolerance={"float64": 1e-11, "float32": 1e-3, "half": 2e-3, "bfloat16": 1e-2},
        comparable=torch.exp,  # the logarithm magnifies rounding where it begins
        coordinates=(0, 1),
        raw=_geometry_ops,
    ),
    "st_sampling": Op(
        st_sampling,
        st_sampling_reference,
        _sampling_inputs,
        {
            "odd": (2, 5, 3, 4, 6, 7),
            "one": (1, 1, 1, 1, 1, 2),
            "empty": (0, 5, 3, 4, 6, 7),
            "wide": (1, 300, 70, 9, 8, 81),
            "large": (1, 1024, 256, 38, 63, 40),
        },
        trained=(0, 1, 2, 3),
        tolerance={"float64": 1e-11, "float32": 1e-4, "half": 2e-3, "bfloat16": 1e-2},
        comparable=lambda out: out,
        coordinates=(3,),
        raw=_sampling_ops,
    ),
    "roi_align": Op(
        _pool,
        _pool_reference,
        _pooling_inputs,
        {
            "odd": (2, 5, 8, 11, 7),
            "one": (1, 1, 1, 1, 1),
            "empty": (2, 5, 8, 11, 0),
            "wide": (3, 300, 38, 20, 40),
            "large": (1, 2048, 38, 63, 300),
        },
        trained=(0,),
        tolerance={"float64": 1e-11, "float32": 1e-4, "half": 2e-3, "bfloat16": 1e-2},
        comparable=lambda out: out,
        coordinates=(1,),
        raw=_pooling_ops,
    ),
}


def run(step: Step) -> None:
    step.case("kernels", partial(_kernels, step.device, step.settings.library))
    for name, op in OPS.items():
        for special, shape in op.shapes.items():
            if special == "large" and step.small:
                continue
            for dtype in DTYPES:
                step.case(
                    f"{name}, {special}, {dtype}", partial(_compare_with_reference, op, shape, dtype, step.device)
                )
        # None of these depends on the size.
        odd = op.shapes["odd"]
        step.case(f"{name}, non-contiguous", partial(_non_contiguous, op, odd, step.device))
        step.case(f"{name}, second stream", partial(_second_stream, op, odd, step.device))
        step.case(f"{name}, twice the same bits", partial(_deterministic, op, odd, step.device))
        step.case(f"{name}, non-finite coordinates", partial(_non_finite, op, odd, step.device))
        step.case(f"{name}, gradcheck", partial(_gradcheck, op, step.device))
        step.case(f"{name}, opcheck", partial(_opcheck, op, odd, step.device))
        step.case(f"{name}, time", partial(_time, op, op.shapes["odd" if step.small else "large"], step.device))


def _kernels(device: str, library: str) -> dict:
    values = {
        "compiled for": list(compiled_device_types()),
        "of the build step": Path(vod2.__file__).is_relative_to(library),  # and not the checkout's
    }
    if device not in compiled_device_types():
        raise Failed(f"no compiled kernels for {device}: what follows tries the Python versions", **values)
    return values


def _inputs(op: Op, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [tensor.to(dtype) for tensor in op.draw(shape, torch.Generator().manual_seed(_SEED))]


def _trained_inputs(op: Op, shape: tuple[int, ...], device: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The inputs on a device; those that the op is differentiated by ask for a gradient."""
    inputs = [tensor.to(device) for tensor in _inputs(op, shape, dtype)]
    for row in op.trained:
        inputs[row].requires_grad_(True)
    return inputs


def _forward_and_gradients(op: Op, function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The comparable result and the gradients for a random gradient, in float64 on the CPU."""
    inputs = [t.detach().clone().requires_grad_(row in op.trained) for row, t in enumerate(inputs)]
    out = function(*inputs)
    # Drawn on the CPU, so that both ways get the same gradient.
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(out, [inputs[row] for row in op.trained], grad.to(out.dtype).to(out.device))
    return [tensor.detach().cpu().double() for tensor in (op.comparable(out.double()), *gradients)]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """||found - wanted|| / ||wanted||; of nothing 0."""
    if actual.shape != expected.shape:
        raise Failed(f"got the shape {list(actual.shape)}, expected {list(expected.shape)}")
    scale = expected.norm().item()
    difference = (actual - expected).norm().item()
    return difference / scale if scale > 0 else difference


def _compare_with_reference(op: Op, shape: tuple[int, ...], dtype: str, device: str) -> dict:
    inputs = _inputs(op, shape, DTYPES[dtype])
    # The reference gets the rounded inputs: what is measured is the rounding of the op alone.
    expected = _forward_and_gradients(op, op.reference, [tensor.double() for tensor in inputs])
    actual = _forward_and_gradients(op, op.function, [tensor.to(device) for tensor in inputs])
    errors = [relative_error(a, b) for a, b in zip(actual, expected, strict=True)]
    values = {"forward error": errors[0], "gradient error": max(errors[1:]), "tolerance": op.tolerance[dtype]}
    if not max(errors) <= op.tolerance[dtype]:  # NaN fails, too
        raise Failed("it differs from the reference", **values)
    return values


def _non_contiguous(op: Op, shape: tuple[int, ...], device: str) -> None:
    inputs = [tensor.to(device) for tensor in _inputs(op, shape)]
    # Every second row of a doubled tensor: equal numbers, another stride.
    strided = [tensor.repeat_interleave(2, dim=0)[::2] for tensor in inputs]
    _require_equal(*(_forward_and_gradients(op, op.function, tensors) for tensors in (strided, inputs)))


def _second_stream(op: Op, shape: tuple[int, ...], device: str) -> None:
    """On a stream whose earlier work is late: an op on another stream would read what is not there yet."""
    if device != "cuda":
        raise NotApplicable("a CPU has no streams")
    expected = _forward_and_gradients(op, op.function, [tensor.to(device) for tensor in _inputs(op, shape)])
    sources = [tensor.to(device) for tensor in _inputs(op, shape)]
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        late = [torch.zeros_like(source) for source in sources]
        # Long enough for an op on the default stream to be through before its inputs are there.
        torch.cuda._sleep(200_000_000)  # cycles, a tenth of a second
        for target, source in zip(late, sources, strict=True):
            target.copy_(source)
        actual = _forward_and_gradients(op, op.function, late)
    _require_equal(actual, expected)


def _deterministic(op: Op, shape: tuple[int, ...], device: str) -> None:
    inputs = [tensor.to(device) for tensor in _inputs(op, shape, torch.float32)]
    _require_equal(*(_forward_and_gradients(op, op.function, inputs) for _ in range(2)))


def _require_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        if not torch.equal(a, b):
            raise Failed(f"the results differ by up to {(a - b).abs().max().item():.3g}")


def _non_finite(op: Op, shape: tuple[int, ...], device: str) -> dict:
    """Nothing is read or written out of bounds, and what does not depend on the bad coordinate is as without it."""
    for coordinate in (nan, inf, -inf, 1e30, -1e30):
        inputs = _inputs(op, shape, torch.float32)
        for row in op.coordinates:
            inputs[row] = inputs[row].clone()
            inputs[row][0] = coordinate
        actual = _forward_and_gradients(op, op.function, [tensor.to(device) for tensor in inputs])
        expected = _forward_and_gradients(op, op.function, inputs)
        for a, b in zip(actual, expected, strict=True):
            if not torch.equal(a.isnan(), b.isnan()):
                raise Failed(f"coordinate {coordinate}: NaN elsewhere than on the CPU")
    return {"tried": ["nan", "inf", "-inf", "1e30", "-1e30"]}


def _gradcheck(op: Op, device: str) -> None:
    shape = op.shapes["odd"]
    inputs = _trained_inputs(op, shape, device)
    # nondet_tol=0.0: two backward passes have to agree to the bit.
    torch.autograd.gradcheck(op.function, inputs, nondet_tol=0.0, fast_mode=True)


def _opcheck(op: Op, shape: tuple[int, ...], device: str) -> None:
    if device not in compiled_device_types():
        raise NotApplicable(f"nothing is registered for {device}")
    inputs = _trained_inputs(op, shape, device)
    for registered, arguments in op.raw(inputs):
        torch.library.opcheck(registered, arguments)


def _time(op: Op, shape: tuple[int, ...], device: str) -> dict:
    """Milliseconds of float32 against the reference on the same device."""
    inputs = _trained_inputs(op, shape, device, torch.float32)

    def forward(function: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            return function(*inputs)

    def forward_backward(function: Callable[..., Tensor]) -> None:
        out = function(*inputs)
        torch.autograd.grad(out, [inputs[row] for row in op.trained], torch.ones_like(out))

    values = {}
    for name, call in (("forward", forward), ("forward + backward", forward_backward)):
        for words, function in ((f"{name} ms", op.function), (f"{name}, reference ms", op.reference)):
            seconds = measure(partial(call, function), device, count=20, warmup=2, seconds=1.5).median
            values[words] = 1e3 * seconds
    return values
