"""Weights for a model that is to detect, not to be trained: all of them must be there."""

import logging
import os
from collections.abc import Mapping
from textwrap import shorten

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vod2.d2 import DetectionCheckpointer, PathManager
from vod2.errors import UserError

_LOGGER = logging.getLogger("vod2.checkpoint")


def load_weights(model: nn.Module, path: str) -> None:
    """Fill `model` from a checkpoint; an empty path keeps its random initialisation and says so.

    Raises:
        UserError: if the file is missing or unreadable, or does not hold every parameter of the model in its shape.
    """
    if not path:
        _LOGGER.warning("MODEL.WEIGHTS is empty: the detector runs with random weights")
        return
    require_weights(path)
    local = PathManager.get_local_path(path)
    if local.endswith(".pkl"):
        _LOGGER.warning("%s: files of Detectron2's zoo are not checked, see below for what was not in it", path)
    else:
        _require_complete(model, _read_state(local), path)
    DetectionCheckpointer(model).load(path)


def require_weights(path: str) -> None:
    """Make sure that the file can be had and read; an empty path is fine, an address is fetched into the cache.

    Raises:
        UserError: if it cannot.
    """
    if not path:
        return
    remedy = "give a local file with MODEL.WEIGHTS, or MODEL.WEIGHTS '' to go without"
    try:
        local = PathManager.get_local_path(path)
    except Exception as error:  # every protocol fails in its own way
        raise UserError(f"weights {path!r} cannot be downloaded: {remedy}") from error
    if not os.path.isfile(local):
        raise UserError(f"weights {path!r} do not exist: {remedy}")
    if not local.endswith(".pkl"):
        _read_state(local)


def _read_state(path: str) -> Mapping[str, Tensor]:
    """{name: tensor} of a .safetensors file or a PyTorch checkpoint."""
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state = checkpoint.get("model", checkpoint)
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # torch raises whatever the unpickler meets
        reason = shorten(str(error) or type(error).__name__, 120)
        raise UserError(
            f"weights {path!r} cannot be read as a checkpoint of plain tensors ({reason}): expected a .pth, "
            ".safetensors, or .pkl of Detectron2's zoo"
        ) from error


def _require_complete(model: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        raise UserError(
            f"weights {path!r} are of another model: {len(missing)} of {len(wanted)} parameters are missing, for "
            f"example {missing[0]!r}; give the configuration that they were trained with"
        )
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise UserError(
                f"weights {path!r} are of another model: {name!r} has the shape {tuple(state[name].shape)}, expected "
                f"{shape}; give the configuration that they were trained with (number of classes, widths)"
            )
