"""Optimizer and learning-rate schedule from the configuration (keys ``SOLVER.*``)."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from torch import Tensor, nn

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norm of every dimension, synchronized batch norm
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """The parameters that learn, grouped by their hyper-parameters in the order of first occurrence.

    Args:
        base_lr, weight_decay: of every group; None leaves them to the optimizer.
        weight_decay_norm: weight decay of the parameters of normalization layers.
        bias_lr_factor, weight_decay_bias: for parameters named "bias".
        lr_factor_func: full parameter name -> factor on its learning rate; needs ``base_lr``.
        overrides: {parameter name within its module: {"lr": ..., "weight_decay": ...}}; wins over all the above.

    Returns:
        groups {"params": [...], and "lr", "weight_decay" where they are set}.

    Raises:
        ValueError: a factor without ``base_lr``, or both ``overrides["bias"]`` and one of the arguments for biases.
    """
    if base_lr is None and (bias_lr_factor not in (None, 1.0) or lr_factor_func is not None):
        raise ValueError("bias_lr_factor and lr_factor_func require base_lr")
    bias = _bias_overrides(base_lr, bias_lr_factor, weight_decay_bias)
    overrides = dict(overrides or {})
    if bias and "bias" in overrides:
        raise ValueError("Conflicting overrides for 'bias'")
    overrides.setdefault("bias", bias)
    defaults = {k: v for k, v in (("lr", base_lr), ("weight_decay", weight_decay)) if v is not None}

    # Few large groups, because PyTorch updates each group at once. The order matters: checkpoints of an optimizer
    # identify parameters by position.
    groups: dict[tuple, dict[str, Any]] = {}
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            # Modules may share a parameter; the optimizer must get it once
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            values = dict(defaults)
            if isinstance(module, _NORMS) and weight_decay_norm is not None:
                values["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                values["lr"] *= lr_factor_func(f"{module_name}.{name}" if module_name else name)
            values.update(overrides.get(name, {}))
            group = groups.setdefault(tuple(sorted(values.items())), {"params": [], **values})
            group["params"].append(parameter)
    return list(groups.values())


def _bias_overrides(
    base_lr: float | None, bias_lr_factor: float | None, weight_decay_bias: float | None
) -> dict[str, float]:
    overrides = {}
    # A factor of 1 is no override, and so no conflict with overrides["bias"]
    if base_lr is not None and bias_lr_factor is not None and bias_lr_factor != 1.0:
        overrides["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        overrides["weight_decay"] = weight_decay_bias
    return overrides


def _with_gradient_clipping(clip, optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """A subclass of ``optimizer`` that first clips each parameter's gradient; ``clip`` is SOLVER.CLIP_GRADIENTS."""
    if clip.CLIP_TYPE not in ("value", "norm"):
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE={clip.CLIP_TYPE!r}: expected 'value' or 'norm'")

    # Inside step(), which GradScaler calls after unscaling the gradients
    def step(self, closure=None):
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if clip.CLIP_TYPE == "value":
                nn.utils.clip_grad_value_(parameter, clip.CLIP_VALUE)
            else:
                nn.utils.clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.NORM_TYPE)
        return optimizer.step(self, closure)

    return type(f"{optimizer.__name__}WithGradientClip", (optimizer,), {"step": step})


def build_optimizer(cfg, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum over `get_default_optimizer_params`."""
    solver = cfg.SOLVER
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    optimizer: Any = torch.optim.SGD
    if solver.CLIP_GRADIENTS.ENABLED:
        optimizer = _with_gradient_clipping(solver.CLIP_GRADIENTS.clone(), optimizer)
    return optimizer(
        params,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
    )


class LRMultiplier(torch.optim.lr_scheduler.LRScheduler):
    """Every learning rate is its initial value times ``multiplier(iteration / max_iter)``."""

    def __init__(self, optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1):
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict:
        """Only what has changed: the multiplier comes from the configuration."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float | Tensor]:
        # What PyTorch calls an epoch is an iteration here
        multiplier = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * multiplier for base_lr in self.base_lrs]


def _main_schedule(solver) -> ParamScheduler:
    """The schedule without its warm-up."""
    name, max_iter = solver.LR_SCHEDULER_NAME, solver.MAX_ITER
    if name == "WarmupCosineLR":
        if not 0 <= solver.BASE_LR_END <= solver.BASE_LR:
            raise ValueError(f"SOLVER.BASE_LR_END={solver.BASE_LR_END}: expected a value in [0, {solver.BASE_LR}]")
        return CosineParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR)
    if name == "WarmupMultiStepLR":
        # MultiStepParamScheduler refuses later ones, which are common when MAX_ITER is shortened
        milestones = [step for step in solver.STEPS if step < max_iter]
        if len(milestones) != len(solver.STEPS):
            logging.getLogger(__name__).warning("SOLVER.STEPS from SOLVER.MAX_ITER on are ignored.")
    elif name == "WarmupStepWithFixedGammaLR":
        parts = solver.NUM_DECAYS + 1
        milestones = [-(-k * max_iter // parts) for k in range(1, parts)]  # rounded up
    else:
        raise ValueError(f"Unknown LR scheduler: {name}")
    values = [solver.GAMMA**k for k in range(len(milestones) + 1)]
    return MultiStepParamScheduler(values, milestones=milestones, num_updates=max_iter)


def build_lr_scheduler(cfg, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """The schedule ``SOLVER.LR_SCHEDULER_NAME`` behind the warm-up that ``SOLVER.WARMUP_*`` describe.

    WarmupMultiStepLR: times ``GAMMA`` at each of ``STEPS``. WarmupCosineLR: half a cosine down to ``BASE_LR_END``.
    WarmupStepWithFixedGammaLR: times ``GAMMA`` at ``NUM_DECAYS`` places that split the training into equal parts.
    ``RESCALE_INTERVAL`` squeezes the schedule into what the warm-up leaves, instead of losing its beginning.
    """
    solver = cfg.SOLVER
    schedule = _main_schedule(solver)
    # A training shorter than its warm-up consists of warm-up only
    length = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    start = solver.WARMUP_FACTOR * schedule(0.0)
    if solver.WARMUP_METHOD == "linear":
        warmup = LinearParamScheduler(start, schedule(0.0 if solver.RESCALE_INTERVAL else length))
    elif solver.WARMUP_METHOD == "constant":
        warmup = ConstantParamScheduler(start)
    else:
        raise ValueError(f"SOLVER.WARMUP_METHOD={solver.WARMUP_METHOD!r}: expected 'linear' or 'constant'")
    multiplier = CompositeParamScheduler(
        [warmup, schedule],
        lengths=[length, 1 - length],
        interval_scaling=["rescaled", "rescaled" if solver.RESCALE_INTERVAL else "fixed"],
    )
    return LRMultiplier(optimizer, multiplier, max_iter=solver.MAX_ITER)
