#!/usr/bin/env python3
"""Compares what the project does with the plain way of doing it: time and memory, printed as a table of ratios.

    python tools/benchmark.py --list
    python tools/benchmark.py geometry_bias --threads 1

A benchmark is a function decorated with `benchmark`; it takes the device and returns named pairs of callables.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from tabulate import tabulate

from vod2.ops import compiled_device_types, relation_geometry_bias, relation_geometry_bias_reference


class Comparison(NamedTuple):
    """One row: the plain way and ours, two callables that do the same work."""

    name: str
    plain: Callable[[], object]
    ours: Callable[[], object]


BENCHMARKS: dict[str, Callable[[torch.device], list[Comparison]]] = {}


def benchmark(function):
    """Adds the function to the benchmarks under its own name."""
    BENCHMARKS[function.__name__] = function
    return function


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count, 4) xyxy boxes of 10 to 310 pixels a side."""
    corner = torch.rand(count, 2, generator=generator) * 700
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 300 + 10], dim=1)


@benchmark
def geometry_bias(device: torch.device) -> list[Comparison]:
    """The bias of 300 key boxes against 2775 support boxes, 16 heads: compiled op against whole embedding."""
    if device.type not in compiled_device_types():
        raise RuntimeError(f"vod2._C has no kernels for {device.type}: run python setup.py build_ext --inplace first")
    generator = torch.Generator().manual_seed(0)
    query, key = (random_boxes(count, generator).to(device) for count in (300, 2775))
    weight = (torch.randn(16, 64, generator=generator) / 8).to(device).requires_grad_()
    bias = torch.ones(16, device=device, requires_grad=True)
    grad = torch.randn(16, 300, 2775, generator=generator).to(device)

    def forward(function):
        with torch.no_grad():
            function(query, key, weight, bias)

    def forward_backward(function):
        torch.autograd.grad(function(query, key, weight, bias), (weight, bias), grad)

    return [
        Comparison(
            step.__name__.replace("_", " + "),
            lambda step=step: step(relation_geometry_bias_reference),
            lambda step=step: step(relation_geometry_bias),
        )
        for step in (forward, forward_backward)
    ]


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    run()  # warm up
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak_megabytes(run: Callable[[], object], device: torch.device) -> float:
    """The most memory that one run holds beyond what was held before it; on the CPU as Linux counts resident memory."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resident_megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts over from the present
    run()
    return resident_megabytes("VmHWM") - before


def resident_megabytes(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def measure(comparison: Comparison, device: torch.device, repeats: int) -> list:
    seconds = [median_seconds(run, device, repeats) for run in (comparison.plain, comparison.ours)]
    megabytes = [peak_megabytes(run, device) for run in (comparison.plain, comparison.ours)]
    return [
        comparison.name,
        *(f"{1000 * value:.1f}" for value in seconds),
        f"{seconds[0] / seconds[1]:.1f}x",
        *(f"{value:.0f}" for value in megabytes),
        f"{megabytes[0] / megabytes[1]:.1f}x",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to run (default: all)")
    parser.add_argument("--list", action="store_true", help="only list the names")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--threads", default=1, type=int, help="CPU threads of PyTorch (default: 1)")
    parser.add_argument("--repeats", default=7, type=int, help="timed runs, of which the median counts (default: 7)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    if arguments.list:
        for name, function in BENCHMARKS.items():
            print(f"{name}: {function.__doc__.splitlines()[0]}")
        return
    torch.set_num_threads(arguments.threads)
    headers = ["", "plain ms", "ours ms", "faster", "plain MB", "ours MB", "smaller"]
    for name in arguments.names or BENCHMARKS:
        rows = [measure(row, arguments.device, arguments.repeats) for row in BENCHMARKS[name](arguments.device)]
        print(f"{name} on {arguments.device}, threads: {arguments.threads}\n")
        print(tabulate(rows, headers, tablefmt="github", disable_numparse=True), end="\n\n")


if __name__ == "__main__":
    main()
