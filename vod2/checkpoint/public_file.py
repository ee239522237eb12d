"""Files of weights as other code leaves them: read without running what is in them, written under vod2's names."""

import hashlib
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vod2.atomic import replacing
from vod2.errors import UserError
from vod2.plain_pickle import ForeignCode, load_plain_pickle

_LOGGER = logging.getLogger("vod2.checkpoint")

_WRAPPERS = ("model", "state_dict", "blobs")  # keys under which the weights stand beside other things


def read_public(path: str, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """{name: tensor} of a .safetensors file, a PyTorch checkpoint or a .pkl of arrays, on the CPU.

    The weights may stand under "model", "state_dict" or "blobs"; what is no tensor is left out.

    Args:
        path: the file.
        trust_pickle: run the code that it may contain, as whoever runs this program.

    Raises:
        UserError: if it is missing, broken or empty, or contains code and is not trusted.
    """
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UserError(f"weights {path!r} cannot be read: it {what}, expected a .pth, .pkl or .safetensors file")
    try:
        state = _tensors(_load(path, trust_pickle))
    except ForeignCode as error:
        raise UserError(
            f"weights {path!r} contain code ({error}), which reading would run with all of your rights: if you trust "
            "whoever made the file, --trust-pickle runs it; otherwise get the weights as plain tensors"
        ) from error
    except Exception as error:  # a broken file fails in any way
        reason = shorten(str(error) or type(error).__name__, 120)
        raise UserError(
            f"weights {path!r} cannot be read ({reason}): expected a whole .pth, .pkl or .safetensors file"
        ) from error
    if not state:
        raise UserError(
            f"weights {path!r} hold no tensors: expected a dict of them, or one under 'model' or 'state_dict'"
        )
    for name in [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        _LOGGER.warning("%s: %r holds values that are not finite", path, name)
    return state


def write_weights(path: str, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file in one step: it is whole, or not there.

    Raises:
        UserError: if it cannot be written.
    """
    written: set[int] = set()
    plain = {}
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        start = value.untyped_storage().data_ptr()
        if start in written:  # safetensors does not know shared memory
            value = value.clone()
        written.add(start)
        plain[name] = value
    try:
        with replacing(path) as temporary:
            save_file(plain, temporary, {"format": "pt", **metadata})
    except (OSError, SafetensorError) as error:
        raise UserError(f"output {path!r} cannot be written: {error}") from error


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


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    arrays = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in content.items()
    }
    return {str(name): value.detach() for name, value in arrays.items() if isinstance(value, Tensor)}
