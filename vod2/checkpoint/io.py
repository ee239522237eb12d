"""Weights for a model: all of them where it is to detect, those that there are where it is to be trained."""

import logging
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from vod2.checkpoint.files import DamagedError, read_weights, require_moderate_archive
from vod2.checkpoint.report import LoadReport, compare
from vod2.checkpoint.sources.rules import later_fcs_of, name_in_aggregator
from vod2.checkpoint.training import not_finite
from vod2.d2 import DetectionCheckpointer, PathManager
from vod2.errors import UserError
from vod2.layers import FlowNetS
from vod2.plain_pickle import load_plain_pickle

_LOGGER = logging.getLogger("vod2.checkpoint")

# A backbone of ImageNet alone is more than this share of a detector's numbers.
_SUSPICIOUS_SHARE = 0.1

# A file whose numbers are unused by more than this share is of a detector with other parts.
_NEGLIGIBLE_SHARE = 0.001


def load_weights(model: nn.Module, path: str) -> None:
    """Fill a model that is to detect; an empty path keeps its random initialisation and says so.

    A file with parts that the model does not have, such as an aggregator, is fine for it, but seldom what is meant: it
    is a warning that names these parts, and the configuration that a converted file was made for.

    Raises:
        UserError: if the file is missing or unreadable, or does not hold every parameter of the model in its shape.
    """
    if not path:
        _LOGGER.warning("MODEL.WEIGHTS is empty: the detector runs with random weights")
        return
    state = _read(model, path)
    report = compare(model, state, path)
    _require_complete(report)
    _fill(model, state, report)
    _LOGGER.info(report.summary())
    if report.unused_share > _NEGLIGIBLE_SHARE:
        _LOGGER.warning(
            "weights %r are of a detector with more parts: %s (%.1f%% of their numbers) are not in the model of this "
            "configuration, and without them it is another one%s",
            path,
            ", ".join(report.unused_groups()),
            100 * report.unused_share,
            _made_for(path),
        )


def load_initial_weights(model: nn.Module, path: str) -> LoadReport | None:
    """Fill what there is of a model that is to be trained, and log what was loaded, what was not, and why.

    Parameters that the file does not have, or has in another shape, keep their initial values. An empty path keeps all
    of them: there is no report.

    Raises:
        UserError: if the file is missing or unreadable, or no tensor of the model's backbone is in it.
    """
    if not path:
        _LOGGER.info("MODEL.WEIGHTS is empty: training begins with random weights")
        return None
    state = _read(model, path)
    report = compare(model, state, path)
    _require_backbone(report)
    _fill(model, state, report)
    _LOGGER.info("MODEL.WEIGHTS:\n%s", report.table())
    if report.share < _SUSPICIOUS_SHARE:
        _LOGGER.warning(
            "only %.1f%% of the model's numbers are from %s: check that it is of this backbone (its depth and widths, "
            "MODEL.BACKBONE and MODEL.RESNETS) and has Detectron2's parameter names",
            100 * report.share,
            path,
        )
    return report


def load_flow_weights(model: nn.Module, path: str) -> None:
    """Fill every flow network (`FlowNetS`) of a model that is to be trained; a scale map (DFF) begins as it is.

    Args:
        model: of any method.
        path: of weights of `FlowNetS` alone, as MODEL.FLOWNET.WEIGHTS names them.

    Raises:
        UserError: if the model has no flow network, or the file is missing, unreadable, or of another network.
    """
    networks = [module for module in model.modules() if isinstance(module, FlowNetS)]
    if not networks:
        raise UserError(f"MODEL.FLOWNET.WEIGHTS is {path!r}, but the model has no flow network: set it to ''")
    state = read_tensors(_local(path, "MODEL.FLOWNET.WEIGHTS"))
    for network in networks:
        report = compare(network, state, path)
        wanted = {name: shape for name, shape in report.new.items() if not name.startswith("scale.")}
        _require_complete(replace(report, new=wanted))
        _fill(network, state, report)
    _LOGGER.info(
        "MODEL.FLOWNET.WEIGHTS: %d flow network%s begin with %s", len(networks), "s"[: len(networks) > 1], path
    )


def existing_weights(path: str | os.PathLike) -> Path:
    """The file of weights that a path names: itself, or NAME.safetensors where only that is there of NAME.pth.

    Trainings used to write .pth files, as Detectron2 does, and many a command and configuration names them; in the same
    way NAME.pth stands for a NAME.safetensors of such a training.

    Example:
        >>> existing_weights("output/model_final.pth").name  # neither of the two is there
        'model_final.pth'
    """
    path = Path(path)
    other = {".pth": ".safetensors", ".safetensors": ".pth"}.get(path.suffix)
    # As os.path has it: a name in a configuration may be one that no file can have.
    if other is None or os.path.isfile(path):
        return path
    written = path.with_suffix(other)
    return written if os.path.isfile(written) else path


def require_weights(path: str) -> None:
    """Make sure that the file can be had and read; an empty path is fine, an address is fetched into the cache.

    Raises:
        UserError: if it cannot.
    """
    if path and not (local := _local(path)).endswith(".pkl"):
        read_tensors(local)


def _local(path: str, key: str = "MODEL.WEIGHTS") -> str:
    remedy = f"give a local file with {key}, or {key} '' to go without"
    try:
        local = PathManager.get_local_path(path)
    except Exception as error:  # every protocol fails in its own way
        raise UserError(f"weights {path!r} cannot be downloaded: {remedy}") from error
    if not os.path.isfile(local):
        if os.path.isfile(resolved := str(existing_weights(local))):
            return resolved
        raise UserError(f"weights {path!r} do not exist: {remedy}")
    return local


def _made_for(path: str) -> str:
    """ "; they were converted for ..." of a file that says so."""
    local = _local(path)
    if not local.endswith(".safetensors"):
        return ""
    with safe_open(local, "pt") as file:
        config = (file.metadata() or {}).get("vod2.config")
    return f"; they were converted for {config}" if config else ""


def _read(model: nn.Module, path: str) -> MutableMapping[str, Tensor]:
    """{name: tensor} of any file, under the model's names."""
    local = _local(path)
    state = _read_zoo(model, local) if local.endswith(".pkl") else read_tensors(local)
    if broken := not_finite(state):
        raise UserError(
            f"weights {path!r} are not finite in {len(broken)} of {len(state)} tensors, for example {broken[0]!r}: the "
            "training that wrote them has diverged; give an earlier checkpoint of it"
        )
    _move_to_aggregator(model, state, path)
    return state


def _move_to_aggregator(model: nn.Module, state: MutableMapping[str, Tensor], path: str) -> None:
    """Give fully connected layers of an image detector, in place, the names that they have in an aggregator."""
    wanted = model.state_dict()
    later = later_fcs_of(wanted)
    for name in list(state):
        new = name_in_aggregator(name, later)
        # An own checkpoint has both names as they are
        if name not in wanted and new in wanted and new not in state:
            state[new] = state.pop(name)
            _LOGGER.info("%s: %s is %s here, between two relations", path, name, new)


def read_tensors(path: str) -> MutableMapping[str, Tensor]:
    """{name: tensor} of a .safetensors file or a PyTorch checkpoint."""
    try:
        if path.endswith(".safetensors"):
            return read_weights(path)
        require_moderate_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state = checkpoint.get("model", checkpoint)
        # In place: a state dict also knows the versions of its modules.
        for name in [name for name, value in state.items() if not isinstance(value, Tensor)]:
            del state[name]
        consume_prefix_in_state_dict_if_present(state, "module.")  # of DistributedDataParallel
        return state
    except DamagedError:
        raise
    except Exception as error:  # torch raises whatever the unpickler meets
        raise _unreadable(path, error) from error


def read_shapes(path: str) -> dict[str, Tensor]:
    """{name: tensor without numbers, of the meta device}, of a file as `read_tensors` takes it.

    Of a .safetensors file, only the header is read.

    Raises:
        UserError: it cannot be read.
    """
    if not path.endswith(".safetensors"):
        return {name: tensor.to("meta") for name, tensor in read_tensors(path).items()}
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _read_zoo(model: nn.Module, path: str) -> MutableMapping[str, Tensor]:
    """{name: tensor} of a .pkl file, which Detectron2's checkpointer converts and matches with the model's names."""
    listing = _Listing(model)
    try:
        with open(path, "rb") as file:
            load_plain_pickle(file)  # the checkpointer may be one that runs what it reads
        DetectionCheckpointer(listing).load(path)
    except Exception as error:  # a pickle may fail in any way
        raise _unreadable(path, error) from error
    state = {name.removeprefix("listed."): value for name, value in listing.found.items()}
    # Where names are matched by their ends, what has another shape is left under the file's own name.
    wanted = model.state_dict()
    for name in [name for name in wanted if name not in state]:
        ends = (name.split(".", parts)[-1] for parts in range(1, name.count(".") + 1))
        end = next((end for end in ends if end in state and end not in wanted), None)
        if end and state[end].shape != wanted[name].shape:
            state[name] = state.pop(end)
    return state


class _Listing(nn.Module):
    """Stands in for a model, to be handed what the checkpointer makes of a file instead of loading it.

    Its parameters are the model's, one module further down: so names match by their ends, but none is skipped for its
    shape, since no file has that very name.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.listed = model

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        self.found = state_dict
        return nn.Identity().load_state_dict({})  # nothing is missing, nothing unexpected


def reason(error: Exception) -> str:
    """Its kind and what it says, in a line: many a message of a broken file is nothing but a number."""
    return shorten(f"{type(error).__name__}: {error}".removesuffix(": "), 120)


def _unreadable(path: str, error: Exception) -> UserError:
    return UserError(
        f"weights {path!r} cannot be read as a checkpoint of plain tensors ({reason(error)}): expected a .pth, "
        ".safetensors, or .pkl of Detectron2's zoo"
    )


def _fill(model: nn.Module, state: MutableMapping[str, Tensor], report: LoadReport) -> None:
    for name in report.other_shape:
        del state[name]
    model.load_state_dict(state, strict=False)


def _require_complete(report: LoadReport) -> None:
    start = f"weights {report.path!r} are of another model"
    remedy = "give the configuration that they were trained with"
    if report.new:
        raise UserError(
            f"{start}: {len(report.new)} of {len(report.wanted)} parameters are missing, for example "
            f"{min(report.new)!r}; {remedy}"
        )
    for name, (found, wanted) in report.other_shape.items():
        raise UserError(
            f"{start}: {name!r} has the shape {found}, expected {wanted}; {remedy} (number of classes, widths)"
        )


def _require_backbone(report: LoadReport) -> None:
    """A model without a module of that name needs any one tensor."""
    wanted = [name for name in report.wanted if name.startswith("backbone.")] or list(report.wanted)
    if wanted and report.loaded.keys().isdisjoint(wanted):
        name = next((name for name in wanted if name in report.other_shape), wanted[0])
        found = f"in the shape {report.other_shape[name][0]}" if name in report.other_shape else "missing"
        raise UserError(
            f"weights {report.path!r} are of another model: none of the {len(wanted)} tensors of the backbone fits, "
            f"for example {name!r} of the shape {report.wanted[name]} is {found}; give weights of this backbone under "
            "Detectron2's parameter names, or MODEL.WEIGHTS '' to begin with random ones"
        )
