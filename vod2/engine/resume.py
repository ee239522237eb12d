"""What has changed between a training and the command that resumes it: what is used, and what cannot be."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from vod2.bounded import load_yaml
from vod2.checkpoint import compare
from vod2.d2 import CfgNode
from vod2.errors import UserError
from vod2.keys import leaves

_LOGGER = logging.getLogger("vod2.engine")

# Keys whose value a checkpoint cannot take on later, and why.
_FIXED = {
    "SOLVER.OPTIMIZER": "the state of the one optimizer means nothing to the other",
    "MODEL.META_ARCHITECTURE": "the weights are of another model",
    "MODEL.ROI_HEADS.NUM_CLASSES": "the weights of the last layers are of other classes",
    "MODEL.BACKBONE.FREEZE_AT": "the optimizer's state is of other parameters",
    "MODEL.FREEZE": "the optimizer's state is of other parameters",
}

# What a change of other keys means, by how they begin; the first that fits.
_MEANINGS = (
    ("SOLVER.CHECKPOINT", "from now on"),
    ("SOLVER.MAX_BAD_STEPS", "from now on"),
    ("SOLVER.ACCUMULATE", "from now on; other clips are drawn than without the change"),
    ("SOLVER.IMS_PER_BATCH", "from now on; other clips are drawn than without the change"),
    ("SOLVER", "the learning rate and the optimizer follow the new value from this iteration on"),
    ("DATASETS", "from now on; clips are drawn anew"),
    ("DATALOADER", "from now on; clips may be drawn anew"),
    ("SEED", "from now on; clips are drawn anew"),
    ("TEST", "in evaluations from now on"),
    ("TRACKING.WRITERS", "from now on"),
    ("TRACKING", "not used by a run that goes on"),
    ("MODEL.WEIGHTS", "not used: a resumed training has its own weights"),
)

_SILENT = ("OUTPUT_DIR", "VERSION", "DATALOADER.NUM_WORKERS")  # they change no number


def changed_keys(stored: str, cfg: CfgNode) -> dict[str, tuple[Any, Any]]:
    """{key: (value of a stored configuration, value now)} where both have the key and the values differ.

    Args:
        stored: YAML, as `CfgNode.dump` writes it.

    Raises:
        UserError: it is no such YAML.
    """
    try:
        before = _flat(load_yaml(stored))
    except (ValueError, AttributeError) as error:  # the latter: it is no mapping
        raise UserError(
            f"the manifest of the checkpoint holds no configuration ({error}): take the .safetensors file as "
            "MODEL.WEIGHTS of a new training"
        ) from error
    now = {leaf.key: _plain(leaf.value) for leaf in leaves(cfg)}
    return {key: (before[key], now[key]) for key in now if key in before and before[key] != now[key]}


def report_changes(changes: Mapping[str, tuple[Any, Any]], folder: str) -> None:
    """Log what a resumed training does otherwise than before.

    Raises:
        UserError: a key has changed that a checkpoint cannot take on; names it, and what to do.
    """
    for key, why in _FIXED.items():
        if key in changes:
            before, now = changes[key]
            raise UserError(
                f"{key} is {now!r}, but the training in {folder} has {before!r}, and {why}: resume it with {before!r}, "
                "or give another OUTPUT_DIR and begin with MODEL.WEIGHTS from a checkpoint of it"
            )
    told = {key: values for key, values in changes.items() if key not in _SILENT}
    if not told:
        return
    lines = [f"  {key}: {before!r} -> {now!r} ({_meaning(key)})" for key, (before, now) in told.items()]
    _LOGGER.warning("resumed with another configuration than the training in %s:\n%s", folder, "\n".join(lines))


def draws_other_clips(changes: Mapping[str, tuple[Any, Any]]) -> bool:
    """Whether the samples of the training are others than those that the checkpoint counts."""
    return any("clips" in _meaning(key) for key in changes if key not in _SILENT)


def _meaning(key: str) -> str:
    return next((meaning for start, meaning in _MEANINGS if key.startswith(start)), "used from now on")


def require_same_model(model: nn.Module, weights: Mapping[str, torch.Tensor], path: str) -> None:
    """A training goes on with exactly the weights that it had.

    Args:
        weights: their numbers are not looked at (`vod2.checkpoint.io.read_shapes`).

    Raises:
        UserError: a tensor is missing, is not known, or has another shape.
    """
    report = compare(model, weights, path)
    remedy = "resume with the configuration of that training, or give another OUTPUT_DIR"
    for name, (found, wanted) in report.other_shape.items():
        raise UserError(f"{path} is of another model: {name!r} has the shape {found}, here {wanted}; {remedy}")
    if report.new:
        raise UserError(
            f"{path} is of another model: {len(report.new)} of {len(report.wanted)} tensors are missing, for example "
            f"{min(report.new)!r}; {remedy}"
        )
    if report.unused:
        raise UserError(
            f"{path} is of another model: {len(report.unused)} of its tensors are not in this one, for example "
            f"{min(report.unused)!r}; {remedy}"
        )


def require_same_classes(stored: Sequence[str] | None, now: Sequence[str] | None, path: str) -> None:
    """The classes of a training keep their order.

    Raises:
        UserError: otherwise; names the first that differs.
    """
    if stored is None or now is None or list(stored) == list(now):
        return
    pairs = list(zip(stored, now, strict=False))
    number = next((number for number, (one, other) in enumerate(pairs) if one != other), len(pairs))
    before = repr(stored[number]) if number < len(stored) else "no class"
    here = repr(now[number]) if number < len(now) else "no class"
    raise UserError(
        f"{path} was trained with other classes: number {number} is {before} there and {here} here; resume with the "
        "data sets of that training, or give another OUTPUT_DIR"
    )


def hyperparameters(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Of each group of parameters all but the parameters."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def use_hyperparameters(optimizer: torch.optim.Optimizer, scheduler: Any, groups: Sequence[Mapping[str, Any]]) -> None:
    """Let an optimizer and its schedule, which have been loaded, go on with other hyperparameters.

    Args:
        groups: those of a new optimizer of the configuration, as `hyperparameters` gives them: its `initial_lr`, or its
            `lr` where it has none, is what the schedule scales.
    """
    for group, fresh in zip(optimizer.param_groups, groups, strict=True):
        group.update(fresh)
    scheduler.base_lrs = [group.get("initial_lr", group["lr"]) for group in groups]
    rates = scheduler.get_lr()  # of the iteration that the schedule has been loaded at
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = list(rates)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in (tree or {}).items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: Any) -> Any:
    """As YAML gives it back: tuples are lists."""
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
