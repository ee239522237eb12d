"""Saving and loading of weights and training state."""

import logging
import os
import pickle
import re
from typing import Any

import numpy as np
import torch
from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer
from torch import nn

from vod2._d2lite.utils import comm
from vod2._d2lite.utils.file_io import PathManager
from vod2.atomic import replacing
from vod2.plain_pickle import load_plain_pickle

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]

# What Detectron2's models have and its old checkpoints lack, and the other way round; neither is learned.
_IGNORED_MISSING = ("pixel_mean", "pixel_std")
_IGNORED_UNEXPECTED = "anchor_generator.cell_anchors"

_CAFFE2_RULES = [  # names of the ResNets converted from Caffe and Caffe2
    (r"^(res_)?conv1_", "stem.conv1_"),
    (r"^fc1000_", "stem.fc_"),
    (r"^res(\d)_(\d+)_branch1_", r"res\1.\2.shortcut_"),
    (r"^res(\d)_(\d+)_branch2a_", r"res\1.\2.conv1_"),
    (r"^res(\d)_(\d+)_branch2b_", r"res\1.\2.conv2_"),
    (r"^res(\d)_(\d+)_branch2c_", r"res\1.\2.conv3_"),
    (r"_bn_s$", ".norm.weight"),
    (r"_bn_b$", ".norm.bias"),
    (r"_bn_rm$", ".norm.running_mean"),
    (r"_bn_riv$", ".norm.running_var"),
    (r"_w$", ".weight"),
    (r"_b$", ".bias"),
]


def _rename_caffe2(name: str) -> str:
    for pattern, replacement in _CAFFE2_RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _load_pickle(filename: str) -> dict[str, Any]:
    with open(filename, "rb") as f:
        data = load_plain_pickle(f)
    if "model" in data and "__author__" in data:
        logging.getLogger(__name__).info(f"Reading a file from '{data['__author__']}'")
        return data
    weights = data.get("blobs", data)
    weights = {
        _rename_caffe2(k): v for k, v in weights.items() if isinstance(v, np.ndarray) and not k.endswith("_momentum")
    }
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _load_safetensors(filename: str) -> dict[str, Any]:
    from safetensors.torch import load_file  # few need it

    return load_file(filename)


def _match_by_suffix(model: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename weights to the model's names of which theirs is the longest suffix (in whole parts, "a.b" of "x.a.b").

    Those without a match of the same shape keep their name. Two names that fit the same weight are a ValueError.
    """
    logger = logging.getLogger(__name__)
    matched: dict[str, str] = {}
    for name, parameter in model.state_dict().items():
        parts = name.split(".")
        suffixes = (".".join(parts[i:]) for i in range(len(parts)))  # the longest first
        found = next((suffix for suffix in suffixes if suffix in weights), None)
        if found is None:
            continue
        if weights[found].shape != parameter.shape:
            shapes = f"{tuple(weights[found].shape)} in the checkpoint and {tuple(parameter.shape)} in the model"
            logger.warning(f"{found} has shape {shapes} as {name}: it will not be loaded.")
        elif found in matched:
            raise ValueError(f"weight {found!r} of the checkpoint fits both {matched[found]!r} and {name!r}")
        else:
            matched[found] = name
    if not matched:
        logger.warning("No weights in checkpoint matched with model.")
    return {matched.get(name, name): value for name, value in weights.items()}


class DetectionCheckpointer(Checkpointer):
    """fvcore's `Checkpointer` that reads .pth, .safetensors and Detectron2's .pkl files, and writes atomically.

    A .pth file is {"model": state dict, ...} or a bare state dict; a .pkl file holds numpy arrays, under the model's
    names or under Caffe2's. Nothing that is read can run code. Names are matched by suffix where the file sets
    "matching_heuristics" or the path ends in "?matching_heuristics=True".
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables):
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._by_suffix = False

    def load(self, path: str, *args, **kwargs) -> dict[str, Any]:
        """Load ``path`` into the model (and the checkpointables); '' loads nothing.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no checkpoint that can be read safely.
        """
        if not path:
            return super().load(path, *args, **kwargs)
        path, _, query = path.partition("?")
        if query not in ("", "matching_heuristics=True"):
            raise ValueError(f"{path}?{query}: the only query known is 'matching_heuristics=True'")
        self._by_suffix = bool(query)
        local = PathManager.get_local_path(path)
        if not os.path.isfile(local):
            raise FileNotFoundError(
                f"Checkpoint {path} not found! Set MODEL.WEIGHTS to an existing file, or to '' to train from scratch."
            )
        return super().load(local, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            if filename.endswith(".pkl"):
                loaded = _load_pickle(filename)
            elif filename.endswith(".safetensors"):
                loaded = _load_safetensors(filename)
            else:
                loaded = torch.load(filename, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, AttributeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{filename}: not a checkpoint that can be read safely ({reason}). Expected tensors or numpy arrays "
                "and plain containers only; save the weights again as a state dict."
            ) from error
        if not isinstance(loaded, dict):
            raise ValueError(f"{filename}: expected a state dict or a dict with 'model', got a {type(loaded).__name__}")
        if "model" not in loaded:
            loaded = {"model": loaded}
        if self._by_suffix:
            loaded["matching_heuristics"] = True
        for name, value in loaded["model"].items():
            if not isinstance(value, (torch.Tensor, np.ndarray)):
                raise ValueError(
                    f"{filename}: {name!r} is a {type(value).__name__}, expected a tensor or a numpy array"
                )
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]):
        if checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = _match_by_suffix(self.model, checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        for name in _IGNORED_MISSING:
            if name in incompatible.missing_keys:
                incompatible.missing_keys.remove(name)
        incompatible.unexpected_keys[:] = [k for k in incompatible.unexpected_keys if _IGNORED_UNEXPECTED not in k]
        return incompatible

    def save(self, name: str, **kwargs) -> None:
        """Write the model, the checkpointables and ``kwargs`` to ``save_dir``/``name``.pth and tag it as the last one.

        Raises:
            TypeError: something in it is neither a tensor nor plain data, so that `load` would refuse the file.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()})
        data.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        with replacing(path) as temporary:
            torch.save(data, temporary)
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(temporary)
            if foreign:
                raise TypeError(f"{path}: only tensors and plain data can be saved, found {', '.join(foreign)}")
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with replacing(os.path.join(self.save_dir, "last_checkpoint")) as temporary:
            temporary.write_text(last_filename_basename)
