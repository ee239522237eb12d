"""What this machine can do at most, and how much memory this process has taken."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from vod2.errors import UserError

_STATUS = Path("/proc/self/status")
_SIDE = 2048  # of the matrices that are multiplied
_COPIED = 2**28  # bytes that are copied, more than any cache holds


class Rates(NamedTuple):
    """Floating-point operations a second of a matrix product in float32, and bytes read and written a second."""

    flops: float
    bytes: float


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has done all that it was given."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_rates(device: torch.device) -> Rates:
    """Measure both, with the threads that PyTorch has now."""
    matrix = torch.ones(_SIDE, _SIDE, device=device)
    product = torch.empty_like(matrix)
    source = torch.ones(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    product_seconds = _median(lambda: torch.mm(matrix, matrix, out=product), device)
    copy_seconds = _median(lambda: target.copy_(source), device)
    # A copy reads and writes each byte.
    return Rates(2 * _SIDE**3 / product_seconds, 2 * _COPIED / copy_seconds)


def _median(work: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak_mb(device: torch.device) -> float:
    """The most memory that this process has held: of the GPU as PyTorch counts it, else resident; in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident_mb("VmHWM")


def resident_mb(field: str) -> float:
    """A field of /proc/self/status, in MiB: VmRSS is what is resident now, VmHWM the most there has been.

    Raises:
        UserError: the system has no such file.
    """
    if not _STATUS.is_file():
        raise UserError(f"the memory of a process is measured on Linux only, by {_STATUS}: run the benchmark there")
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
