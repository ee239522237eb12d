"""Files of weights as other code leaves them: read without running what is in them, written under vod2's names."""

import hashlib
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vod2.checkpoint import files
from vod2.checkpoint.io import reason
from vod2.errors import UserError
from vod2.plain_pickle import ForeignCode, load_plain_pickle

_LOGGER = logging.getLogger("vod2.checkpoint")

_WRAPPERS = ("model", "state_dict", "blobs")  # keys under which the weights stand beside other things
_TOLD = 5  # keys of a file without tensors that are named


def read_public(path: str, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """{name: tensor} of a .safetensors file, a PyTorch checkpoint or a .pkl of arrays, on the CPU.

    The weights may stand under "model", "state_dict" or "blobs"; what is no tensor is left out.

    Args:
        path: the file.
        trust_pickle: run the code that it may contain, as whoever runs this program.

    Raises:
        UserError: if it is missing, broken or empty, holds tensors that are not dense, or contains code and is not
            trusted.
    """
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UserError(f"weights {path!r} cannot be read: it {what}, expected a .pth, .pkl or .safetensors file")
    try:
        content, at = _unwrapped(_load(path, trust_pickle))
        state = _tensors(content)
    except ForeignCode as error:
        raise UserError(
            f"weights {path!r} contain code ({error}), which reading would run with all of your rights: if you trust "
            "whoever made the file, --trust-pickle runs it; otherwise get the weights as plain tensors"
        ) from error
    except Exception as error:  # a broken file fails in any way
        raise UserError(
            f"weights {path!r} cannot be read ({reason(error)}): expected a whole .pth, .pkl or .safetensors file"
        ) from error
    if not state:
        raise UserError(
            f"weights {path!r} hold no tensors{at}: expected a dict of them, or one under "
            f"{', '.join(map(repr, _WRAPPERS))}; found {_described(content)}"
        )
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_nested:
            raise UserError(f"weights {path!r}: {name!r} is sparse, nested or quantized: expected plain, dense tensors")
    return state


def write_weights(path: str, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file in one step: it is whole, or not there.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        files.write_weights(Path(path), state, {"format": "pt", **metadata})
    except (OSError, SafetensorError) as error:
        told = getattr(error, "strerror", None) or error  # without the name of the temporary file
        raise UserError(f"output {path!r} cannot be written: {told}") from error


def require_writable(path: str) -> str:
    """Make sure, before any work, that a file can be made there.

    Returns:
        The folder that has to be made for it, "" if it is there.

    Raises:
        UserError: if the file or its folder cannot be made.
    """
    folder = there = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    problem = ""
    if os.path.isdir(path):
        problem = "it is a folder"
    elif not os.path.isdir(there):
        problem = f"{there!r} is no folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        problem = f"you may not write to the folder {there!r}"
    if problem:
        raise UserError(f"output {path!r} cannot be written: {problem}")
    return "" if there == folder else folder


def sha256(path: str) -> str:
    """Of the file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _load(path: str, trust_pickle: bool) -> Any:
    if path.endswith(".safetensors"):
        return load_file(path)
    files.require_moderate_archive(path)
    arrays = path.endswith(".pkl") and not zipfile.is_zipfile(path)
    if trust_pickle:
        _LOGGER.warning("%s: code in this file is run, as --trust-pickle says", path)
        if arrays:
            with open(path, "rb") as file:
                return pickle.load(file, encoding="latin1")
        return torch.load(path, map_location="cpu", weights_only=False)
    if arrays:
        with open(path, "rb") as file:
            return load_plain_pickle(file)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch names what it does not run as "GLOBAL a.b was not an allowed global" or "Unsupported class a.b".
        names = re.findall(r"(?:GLOBAL|class|instruction) ([\w.]+)", str(error))
        if "global" in str(error).lower() and names:
            raise ForeignCode(names[0]) from error
        raise


def _unwrapped(content: Any) -> tuple[Any, str]:
    """What is to hold the tensors, and where in the file that stands, in words."""
    if isinstance(content, Mapping):
        for key in _WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return content[key], f" under {key!r}"
    return content, ""


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    keys = [repr(key) for key in content]
    return f"the keys {', '.join(keys[:_TOLD])}{', ...' * (len(keys) > _TOLD)}" if keys else "an empty dict"


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    arrays = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in content.items()
    }
    return {str(name): value.detach() for name, value in arrays.items() if isinstance(value, Tensor)}
