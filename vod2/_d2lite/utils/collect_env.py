"""A table of what this process runs on, for the log."""

import importlib
import os
import shutil
import subprocess
import sys

import numpy as np
import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]


def _version(module_name: str) -> str:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        return f"not available ({error})"
    return f"{getattr(module, '__version__', 'unknown')} @{os.path.dirname(module.__file__)}"


def _first_line(command: str | None, keyword: str = "") -> str:
    """The first line of ``command --version`` that contains ``keyword``."""
    if command is None:
        return "not available"
    try:
        output = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not available ({error})"
    return next((line.strip() for line in output.splitlines() if keyword in line), "unknown")


def _devices() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU available", "No: torch.cuda.is_available() == False")]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows = [("GPU available", "Yes")]
    for name in dict.fromkeys(names):
        rows.append(("GPU " + ",".join(str(i) for i, other in enumerate(names) if other == name), name))
    rows.append(("cuDNN", str(torch.backends.cudnn.version())))
    return rows


def collect_env_info() -> str:
    """Versions of interpreter, libraries, compilers and GPUs, one per line, then torch's build settings."""
    nvcc = os.path.join(os.environ["CUDA_HOME"], "bin", "nvcc") if "CUDA_HOME" in os.environ else shutil.which("nvcc")
    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("numpy", np.__version__),
        ("Compiler", _first_line(shutil.which(os.environ.get("CXX", "c++")))),
        ("CUDA compiler", _first_line(nvcc if nvcc and os.path.isfile(nvcc) else None, "release")),
        ("PyTorch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("PyTorch built with CUDA", str(torch.version.cuda)),
        *_devices(),
        *((name, _version(name)) for name in ("torchvision", "fvcore", "iopath", "cv2", "PIL")),
    ]
    return tabulate(rows) + "\n" + torch.__config__.show()
