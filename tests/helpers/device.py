"""The device on which the tests of the ops and of the contracts run, the CPU unless pytest was given another.

    pytest tests/ops tests/contracts --device cuda

Numbers are drawn on the CPU, so that they are the same on every device, and moved; images and ground truth stay on the
CPU, as a loader gives them. References in plain loops compute on the CPU, and results are compared there.
"""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

_chosen = torch.device("cpu")


def choose_device(name: str) -> None:
    """Let the tests run on the device of that name; "emulated" is the one of helpers/emulated_device.py.

    Raises:
        pytest.UsageError: if it is no device, or none that computes here.
    """
    global _chosen
    try:
        if name.split(":")[0] == "emulated":
            from helpers.emulated_device import install  # changes PyTorch for the whole process

            install()
        chosen = torch.device(name)
        assert torch.ones(1, device=chosen).item() == 1
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise pytest.UsageError(f"--device {name}: PyTorch cannot compute on it here ({reason})") from error
    if chosen.type == "cuda":
        # The tests' tolerances are those of float32, and equal calls must have equal results.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    _chosen = chosen


def device() -> torch.device:
    return _chosen


def on_device(*values: Tensor | nn.Module) -> tuple:
    """Each of them there."""
    return tuple(value.to(_chosen) for value in values)


def tolerance(cpu: float, elsewhere: float) -> float:
    """The first on a CPU, where it shall stay as tight as it is, the second where sums have another order."""
    return cpu if _chosen.type == "cpu" else elsewhere


def autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(_chosen.type, dtype=dtype)


def autocast_dtypes() -> tuple[torch.dtype, ...]:
    """What training uses under autocast: bfloat16, on a GPU float16, too."""
    return (torch.bfloat16,) if _chosen.type == "cpu" else (torch.bfloat16, torch.float16)


@contextlib.contextmanager
def batches_round_alike() -> Iterator[None]:
    """Convolutions by PyTorch's own kernels: those of oneDNN and cuDNN round by the size of the batch."""
    cudnn = torch.backends.cudnn.flags(enabled=False, deterministic=True, allow_tf32=False)
    with torch.backends.mkldnn.flags(enabled=False), cudnn:
        yield
