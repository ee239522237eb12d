"""A file in ONNX Runtime."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vod2.errors import UserError


def require_packages(*names: str) -> None:
    """Raises UserError if a package of the extra `export` is missing."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UserError(f"this needs {' and '.join(missing)}, not installed here: pip install 'vod2[export]'")


class OnnxGraph:
    """A file in ONNX Runtime: tensors in, tensors out, by name.

    Args:
        file: ends in .onnx.
        providers: execution providers, in the order in which they are tried; None for the CPU, with as many threads as
            PyTorch has.

    Raises:
        UserError: the file is missing, or does not load; or a provider is not there, in whose place ONNX Runtime would
            take the CPU.
    """

    def __init__(self, file: Path, providers: Sequence[str] | None = None) -> None:
        import onnxruntime  # only here: vod2 works without it

        if file.suffix != ".onnx":
            raise UserError(f"{file}: ONNX Runtime reads .onnx files, export the detector with --format onnx")
        if not file.is_file():
            raise UserError(f"{file} does not exist, though it belongs to the folder: export the detector again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        chosen = list(providers or ["CPUExecutionProvider"])
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(file), options, providers=chosen)
        except Exception as error:  # its exceptions have no class in common but this
            reason = " ".join(str(error).split())
            raise UserError(f"{file} does not load in ONNX Runtime ({reason:.300}): export it again") from error
        _require_providers(chosen, self._session.get_providers(), onnxruntime.get_available_providers())
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()}
        found = self._session.run(self._outputs, arrays)
        return {name: torch.from_numpy(np.asarray(value)) for name, value in zip(self._outputs, found, strict=True)}


def _require_providers(chosen: Sequence[Any], used: Sequence[str], available: Sequence[str]) -> None:
    """Raises UserError if one of those that were asked for, a name or (name, options), is not used."""
    names = [entry if isinstance(entry, str) else entry[0] for entry in chosen]
    missing = [name for name in names if name not in used]
    if not missing:
        return
    built = [name for name in missing if name in available]
    reason = f"; {', '.join(built)} does not start, see what ONNX Runtime has printed" if built else ""
    raise UserError(
        f"providers {missing} of ONNX Runtime are not there, available are {list(available)}{reason}. A GPU needs the "
        "package onnxruntime-gpu in the place of onnxruntime"
    )
