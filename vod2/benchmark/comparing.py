"""A part beside the plain way of doing the same: what is compared, its time and its memory."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vod2.benchmark.machine import resident_mb, synchronize
from vod2.engine.allocator import release_freed_memory
from vod2.errors import UserError
from vod2.ops import compiled_device_types


class Comparison(NamedTuple):
    """One row: the plain way (None: it would take too long) and ours, two callables that do the same work."""

    name: str
    plain: Callable[[], object] | None
    ours: Callable[[], object]


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    run()  # warm up
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        synchronize(device)  # kernels run on after the call returns
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak_megabytes(run: Callable[[], object], device: torch.device) -> float:
    """The most memory that one run holds beyond what was held before it; on the CPU as Linux counts resident memory."""
    if device.type == "cuda":
        allocated = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20
    release_freed_memory()
    before = resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts over from the present
    run()
    return resident_mb("VmHWM") - before


HEADERS = ("", "plain ms", "ours ms", "faster", "plain MB", "ours MB", "smaller")


def measure(comparison: Comparison, device: torch.device, repeats: int) -> list[str]:
    """The cells below `HEADERS`."""
    ours = (median_seconds(comparison.ours, device, repeats), peak_megabytes(comparison.ours, device))
    if comparison.plain is None:
        return [comparison.name, "", f"{1000 * ours[0]:.1f}", "", "", f"{ours[1]:.0f}", ""]
    plain = (median_seconds(comparison.plain, device, repeats), peak_megabytes(comparison.plain, device))
    return [
        comparison.name,
        *(f"{1000 * seconds:.1f}" for seconds in (plain[0], ours[0])),
        f"{plain[0] / ours[0]:.1f}x",
        *(f"{megabytes:.0f}" for megabytes in (plain[1], ours[1])),
        f"{plain[1] / ours[1]:.1f}x" if ours[1] else "",
    ]


def steps(
    name: str,
    plain: Callable[..., Tensor],
    ours: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    few: Sequence[Tensor],
    of: str,
) -> list[Comparison]:
    """Forward on `inputs`, forward and backward on `few` of them; the two ways must agree on these."""

    def forward(function: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            return function(*inputs)

    def forward_backward(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        # New leaves each time, whose graph belongs to this call alone.
        leaves = [tensor.detach().requires_grad_() for tensor in few]
        return torch.autograd.grad(function(*leaves).square().mean(), leaves)

    for ours_gradient, plain_gradient in zip(forward_backward(ours), forward_backward(plain), strict=True):
        assert_same(plain_gradient, ours_gradient)
    runs: list[tuple[str, Callable[[Callable[..., Tensor]], object]]]
    runs = [("forward", forward), (f"forward + backward, {of}", forward_backward)]
    # Bound here: when a row is measured, the loop has gone on to the last step.
    return [Comparison(f"{name}, {step}", partial(run, plain), partial(run, ours)) for step, run in runs]


def assert_same(plain: Tensor, ours: Tensor) -> None:
    """To 1e-5, relative to the largest number."""
    # A relative tolerance of each number would ask too much of those near 0.
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5 * plain.abs().max().item())


def require_kernels(device: torch.device) -> None:
    """Raises UserError if the compiled extension has no kernels for the device."""
    if device.type not in compiled_device_types():
        raise UserError(
            f"vod2._C has no kernels for {device.type}, which this part measures: install vod2 where there is a "
            "compiler, or, in a checkout, run python setup.py build_ext --inplace"
        )


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """(count, 4) xyxy boxes of 10 to 310 pixels a side."""
    corner = torch.rand(count, 2, generator=generator) * 700
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 300 + 10], dim=1)
