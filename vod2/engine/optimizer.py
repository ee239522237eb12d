"""The optimizers that a configuration may name."""

from typing import Any, NamedTuple

import torch
from torch import nn

from vod2.d2 import CfgNode, build_optimizer, get_default_optimizer_params
from vod2.errors import UserError


def build_video_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER: "SGD" is Detectron2's, "AdamW" reads the same keys (BASE_LR, WEIGHT_DECAY, ...).

    A module may say about parameters of its own, by their names in it:

    - `lr_multipliers`, a dict: factors on their learning rate;
    - `no_weight_decay`, a tuple: those without weight decay; or, as timm's models have it, a method that returns the
      names of such parameters of it and its parts.

    SOLVER.CLIP_GRADIENTS.CLIP_TYPE "full_model" clips the norm of all gradients together to CLIP_VALUE, for either
    optimizer; "value" and "norm" are Detectron2's, parameter by parameter.

    Raises:
        UserError: on another name.
        ValueError: for an attribute that names no parameter of the module.
    """
    exceptions = _exceptions(model)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    # Detectron2 clips in the optimizers that it builds itself, and does not know "full_model".
    clips_here = clip.ENABLED and (cfg.SOLVER.OPTIMIZER == "AdamW" or clip.CLIP_TYPE == "full_model")
    if clips_here:
        cfg = cfg.clone()
        cfg.defrost()
        # Otherwise Detectron2 would clip as well, or refuse the type that it does not know
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = _build(cfg, model)
    if clips_here:
        _clip_before_steps(optimizer, clip)
    for parameter, (lr_multiplier, decays) in exceptions.items():
        _set_apart(optimizer, parameter, lr_multiplier, decays)
    # A group may have lost all that it had
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    return optimizer


class _Exception(NamedTuple):
    lr_multiplier: float
    decays: bool


def _build(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    if cfg.SOLVER.OPTIMIZER == "SGD":
        return build_optimizer(cfg, model)
    if cfg.SOLVER.OPTIMIZER != "AdamW":
        raise UserError(f"SOLVER.OPTIMIZER is {cfg.SOLVER.OPTIMIZER!r}: expected 'SGD' or 'AdamW'")
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    return torch.optim.AdamW(params, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)


def _clip_before_steps(optimizer: torch.optim.Optimizer, clip: CfgNode) -> None:
    """Before every step, clip gradients as SOLVER.CLIP_GRADIENTS says.

    "value": each number to CLIP_VALUE; "norm": the norm of each parameter's gradient; "full_model": that of all.
    """
    kind, limit, norm_type = clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE
    if kind not in ("value", "norm", "full_model"):
        raise UserError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {kind!r}: expected 'value', 'norm' or 'full_model'")

    # Reads the groups at each step, because `_set_apart` moves parameters later
    def before_step(stepping: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [parameter for group in stepping.param_groups for parameter in group["params"]]
        if kind == "value":
            nn.utils.clip_grad_value_(parameters, limit)
            return
        groups = [parameters] if kind == "full_model" else [[parameter] for parameter in parameters]
        for group in groups:
            nn.utils.clip_grad_norm_(group, limit, norm_type)

    optimizer.register_step_pre_hook(before_step)


def _exceptions(model: nn.Module) -> dict[nn.Parameter, _Exception]:
    """What the modules say about parameters that learn, each parameter once."""
    exceptions = {}
    for path, module in model.named_modules():
        multipliers = getattr(module, "lr_multipliers", {})
        undecayed = getattr(module, "no_weight_decay", ())
        parameters = dict(module.named_parameters(recurse=callable(undecayed)))
        if callable(undecayed):
            # As timm has it: a method, whose names may be of parts that are not there. Sorted: groups have an order.
            undecayed = sorted(parameters.keys() & undecayed())
        # A parameter may be named in both
        for name in dict.fromkeys([*multipliers, *undecayed]):
            if name not in parameters:
                raise ValueError(
                    f"{path or type(module).__name__}: lr_multipliers and no_weight_decay name {name!r}, expected "
                    f"one of its parameters {sorted(parameters)}"
                )
            # Frozen parameters are in no group of the optimizer
            if parameters[name].requires_grad:
                exceptions[parameters[name]] = _Exception(multipliers.get(name, 1.0), name not in undecayed)
    return exceptions


def _set_apart(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, lr_multiplier: float, decays: bool) -> None:
    """Moves a parameter to a group of its own; the optimizer must not have made a step."""
    for group in optimizer.param_groups:
        remaining = [other for other in group["params"] if other is not parameter]
        if len(remaining) == len(group["params"]):
            continue
        group["params"] = remaining
        # A copy of its old group, which may be that of biases or normalisation layers
        new_group = {**group, "params": [parameter], "lr": group["lr"] * lr_multiplier}
        if not decays:
            new_group["weight_decay"] = 0.0
        optimizer.add_param_group(new_group)
        return
