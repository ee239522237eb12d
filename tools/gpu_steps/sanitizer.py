"""The ops on small input under compute-sanitizer, which watches every access to memory of a kernel.

`python -m gpu_steps.sanitizer` is what it watches.
"""

import os
import shutil
import subprocess
import sys
from functools import partial

from gpu_steps.step import Failed, NotApplicable, Step

FAULT = 99  # exit code of a program in which a fault was found


def run(step: Step) -> None:
    for tool in ("memcheck", "racecheck"):
        step.case(tool, partial(_watch, step, tool), needs=8)


def _watch(step: Step, tool: str) -> dict:
    if step.device != "cuda":
        raise NotApplicable("there are no kernels of a GPU")
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        raise NotApplicable("compute-sanitizer is not on the PATH")
    # Without PyTorch's cache each tensor is an allocation of its own, and what lies beyond it is out of bounds.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    program = [sys.executable, "-m", "gpu_steps.sanitizer"]
    kernel_filter = ["--kernel-name", "kernel_substring=vod2"]  # the others would take minutes
    command = [
        sanitizer,
        "--tool",
        tool,
        "--error-exitcode",
        str(FAULT),
        "--launch-timeout",
        "60",
        *kernel_filter,
        *program,
    ]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(process.stdout, process.stderr)  # for the log
    summary = [line for line in process.stdout.splitlines() if "SUMMARY" in line]
    values = {"summary": summary[-1].strip("= ") if summary else ""}
    if process.returncode == FAULT:
        raise Failed("it found a fault, see the log", **values)
    if process.returncode or not summary:
        raise Failed(f"the program ended with exit code {process.returncode}, see the log", **values)
    return values


def _ops_once() -> None:
    """Every op forward and backward on every small shape, in both dtypes of the kernels; with far coordinates, too."""
    import torch

    from gpu_steps.ops import OPS

    for op in OPS.values():
        for special, shape in op.shapes.items():
            if special == "large":
                continue
            for dtype in (torch.float32, torch.float64):
                for far in (False, True):
                    drawn = [t.to(dtype) for t in op.draw(shape, torch.Generator().manual_seed(0))]
                    for row in op.coordinates if far else ():
                        # Far outside of every map, where an index that is not checked would leave the memory.
                        drawn[row] = drawn[row] * 1e12
                    inputs = [t.cuda().requires_grad_(row in op.trained) for row, t in enumerate(drawn)]
                    out = op.function(*inputs)
                    torch.autograd.grad(out.sum(), [inputs[row] for row in op.trained])
    # Before the process ends, or the last kernels would not be watched.
    torch.cuda.synchronize()


if __name__ == "__main__":
    _ops_once()
