"""The machine: its card, and the two numbers of its roofline, measured.

`python -m gpu_steps.machine DEVICE` prints what the head of a report says.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from functools import partial

import torch
import torchvision

from gpu_steps.step import NotApplicable, Step
from gpu_steps.timing import measure, precision

COPY = "copy"
"""Row of the bandwidth; those of the products are named as the precisions of `gpu_steps.timing`."""


def describe(device: str) -> dict[str, str]:
    """{"card": its name, "versions": of what the measurements depend on}."""
    versions = [
        f"Python {platform.python_version()}",
        f"PyTorch {torch.__version__}",
        f"torchvision {torchvision.__version__}",
    ]
    if device == "cuda":
        # A first allocation: a card that is there but cannot be used fails here.
        torch.zeros(1, device="cuda")
        card = torch.cuda.get_device_name()
        versions += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}", f"driver {_driver()}"]
    else:
        card = f"{_processor()}, {os.cpu_count()} cores"
    if compiler := shutil.which("nvcc"):
        lines = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.strip().splitlines()
        versions.append(f"nvcc {lines[-1].removeprefix('Build ')}" if lines else "nvcc")
    return {"card": card, "versions": ", ".join(versions)}


def _driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=20).stdout.strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "unknown"


def _processor() -> str:
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def run(step: Step) -> None:
    step.case("properties", partial(_properties, step.device))
    step.case(COPY, partial(_copy, step))
    for name in ("fp32", "TF32", "bf16", "fp16"):
        step.case(name, partial(_product, step, name))


def _properties(device: str) -> dict:
    if device != "cuda":
        return {"threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory GiB": properties.total_memory / 2**30,
        "cores of the CPU": os.cpu_count(),
    }


def _copy(step: Step) -> dict:
    """GB/s of a copy on the device, bytes read and written."""
    source = torch.rand((1 << 22) if step.small else (1 << 29), device=step.device)
    target = torch.empty_like(source)
    times = measure(lambda: target.copy_(source), step.device, count=10, warmup=3)
    # Each byte is read and written.
    return {"rate": 2 * source.numel() * source.element_size() / times.median / 1e9, "unit": "GB/s"}


def _product(step: Step, name: str) -> dict:
    """TFLOP/s of a product of two square matrices of random numbers."""
    if step.device != "cuda" and name in ("TF32", "fp16"):
        raise NotApplicable("a CPU does not compute in it" if name == "TF32" else "a CPU emulates it")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
    size = 512 if step.small else 8192
    a, b = (torch.randn(size, size, device=step.device).to(dtype) for _ in range(2))
    with precision("TF32" if name == "TF32" else "fp32", step.device):
        times = measure(lambda: a @ b, step.device, count=10, warmup=3)
    # A multiplication and an addition for each of the size^3 terms.
    return {"rate": 2 * size**3 / times.median / 1e12, "unit": "TFLOP/s"}


if __name__ == "__main__":
    print(json.dumps(describe(sys.argv[1])))
