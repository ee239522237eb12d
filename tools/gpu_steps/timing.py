"""Time and memory of work on a device."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from vod2.benchmark.machine import synchronize


class Times(NamedTuple):
    """Seconds of one call, wall clock with the device idle before and after."""

    median: float
    p95: float
    count: int


def measure(call: Callable[[], object], device: str, count: int, warmup: int = 1, seconds: float = 1e9) -> Times:
    """Time `count` calls after `warmup` others, fewer if they would take longer than `seconds`."""
    for _ in range(warmup):
        call()
    times, begin = [], time.perf_counter()
    # At least one call, however long it takes.
    while len(times) < count and (not times or time.perf_counter() - begin < seconds):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return Times(statistics.median(times), sorted(times)[int(0.95 * (len(times) - 1) + 0.5)], len(times))


class PeakMemory:
    """Watches the memory of a GPU from its construction on.

    Args:
        device: "cuda", or "cpu", where nothing is watched.
        model: what it holds already counts, what else is held at this moment does not.
    """

    def __init__(self, device: str, model: nn.Module | None = None) -> None:
        self.device = device
        if device == "cuda":
            tensors = [] if model is None else [*model.parameters(), *model.buffers()]
            # What other detectors hold is not this one's; its own weights are.
            self._before = torch.cuda.memory_allocated() - sum(t.numel() * t.element_size() for t in tensors)
            torch.cuda.reset_peak_memory_stats()

    def gib(self) -> float | None:
        """The most that was held until now, in GiB; None on a CPU."""
        return (torch.cuda.max_memory_allocated() - self._before) / 2**30 if self.device == "cuda" else None


PRECISIONS = ("fp32", "TF32", "bf16")
"""How a model may compute: TF32 in products and convolutions of float32, or autocast to bfloat16."""


@contextlib.contextmanager
def precision(name: str, device: str) -> Iterator[None]:
    """Compute in one of `PRECISIONS` inside the block; "fp32" switches TF32 off."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = name == "TF32"
    try:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=name == "bf16"):
            yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
