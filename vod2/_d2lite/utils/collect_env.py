"""A table of what this process runs on, for the log."""

import importlib
import sys

import torch
from tabulate import tabulate


def _version(module_name: str) -> str:
    try:
        return getattr(importlib.import_module(module_name), "__version__", "unknown")
    except ImportError as error:
        return f"not available ({error})"


def collect_env_info() -> str:
    """Versions of interpreter, libraries and GPUs, one per line, then torch's build settings."""
    gpus = [(f"GPU {i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("PyTorch", f"{torch.__version__} (CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()})"),
        *(gpus or [("GPU available", "no")]),
        *((name, _version(name)) for name in ("torchvision", "numpy", "fvcore", "iopath", "cv2", "PIL")),
    ]
    return tabulate(rows) + "\n" + torch.__config__.show()
