"""The training loop, and what a hook is."""

import functools
import logging
import operator
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from vod2._d2lite.utils import comm
from vod2._d2lite.utils.events import EventStorage, get_event_storage


class HookBase:
    """Something to do besides the training itself; ``self.trainer`` is the trainer it is registered with.

    The order is before_train, then per iteration before_step, (run_step: after_backward), after_step, at last
    after_train. That is also called when an exception ended the training; ``trainer.iter`` tells how far it came.
    """

    trainer: Any = None  # the `TrainerBase` that it is registered with

    def before_train(self) -> None: ...  # noqa: B027

    def after_train(self) -> None: ...  # noqa: B027

    def before_step(self) -> None: ...  # noqa: B027

    def after_backward(self) -> None: ...  # noqa: B027

    def after_step(self) -> None: ...  # noqa: B027

    def state_dict(self) -> dict:
        """What to save with the trainer; a hook that returns something also has ``load_state_dict``."""
        return {}


class TrainerBase:
    """A loop over ``iter`` in [start_iter, max_iter) that calls `run_step` and the hooks.

    Attributes:
        iter: the current iteration; ``max_iter`` in after_train of a completed training.
        storage: the `EventStorage` that is open during the training.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Append hooks, in the order of their execution; None is left out."""
        for hook in hooks:
            if hook is not None:
                hook.trainer = weakref.proxy(self)  # no cycle: the model is freed with the trainer
                self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        logger = logging.getLogger(__name__)
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1  # tells after_train that the training is complete
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict:
        """{"iteration": the iteration that is done, "hooks": {class name: state}}."""
        states = {type(hook).__qualname__: hook.state_dict() for hook in self._hooks}
        states = {name: state for name, state in states.items() if state}
        return {"iteration": self.iter, **({"hooks": states} if states else {})}

    def load_state_dict(self, state_dict: dict) -> None:
        self.iter = state_dict["iteration"]
        hooks = {type(hook).__qualname__: hook for hook in self._hooks}
        for name, state in state_dict.get("hooks", {}).items():
            if name in hooks:
                hook: Any = hooks[name]
                hook.load_state_dict(state)
            else:
                logging.getLogger(__name__).warning(f"Cannot find the hook '{name}', its state_dict is ignored.")


class SimpleTrainer(TrainerBase):
    """One model that returns a dict of losses, one optimizer, one data loader.

    Args:
        gather_metric_period: metrics are gathered over the processes and recorded every so many iterations.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
    ):
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self._data_iterator: Iterator | None = None

    @property
    def _data_loader_iter(self):
        """Made at the first step: workers must not start before the training does."""
        if self._data_iterator is None:
            self._data_iterator = iter(self.data_loader)
        return self._data_iterator

    def run_step(self) -> None:
        """
        Raises:
            FloatingPointError: the loss is NaN or infinite; names the iteration and the losses.
        """
        assert self.model.training, f"[{type(self).__name__}] model was changed to eval mode!"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        losses = self._forward(data)
        if isinstance(losses, torch.Tensor):
            losses = {"total_loss": losses}
        self.optimizer.zero_grad()
        self._backward(functools.reduce(operator.add, losses.values()))
        self.after_backward()
        if (self.iter + 1) % self.gather_metric_period == 0:
            self.write_metrics(losses, data_time, self.iter)
        self._update()

    def _forward(self, data) -> dict[str, torch.Tensor] | torch.Tensor:
        return self.model(data)

    def _backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def _update(self) -> None:
        self.optimizer.step()

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int) -> None:
        """Record each loss and their sum ``total_loss`` averaged over the processes, and the slowest ``data_time``.

        Raises:
            FloatingPointError: the sum is NaN or infinite.
        """
        metrics = {name: float(value.detach()) for name, value in loss_dict.items()}
        every = comm.gather({**metrics, "data_time": data_time})
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", max(m.pop("data_time") for m in every), cur_iter=cur_iter)
        mean = {name: float(np.mean([m[name] for m in every])) for name in every[0]}
        total = sum(mean.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={cur_iter}!\nloss_dict = {mean}")
        storage.put_scalar("total_loss", total, cur_iter=cur_iter)
        if len(mean) > 1:
            scalars: dict[str, Any] = mean
            storage.put_scalars(cur_iter=cur_iter, **scalars)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` in mixed precision: ``precision`` and a gradient scaler on CUDA, bfloat16 alone on the CPU.

    Args:
        grad_scaler: a torch GradScaler, by default a new one; not used on the CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        grad_scaler: torch.amp.GradScaler | None = None,
        precision: torch.dtype = torch.float16,
    ):
        super().__init__(model, data_loader, optimizer, gather_metric_period)
        self._device_type = next(model.parameters()).device.type
        on_gpu = self._device_type == "cuda"
        # a disabled scaler passes everything through and has an empty state
        self.grad_scaler = grad_scaler if on_gpu and grad_scaler is not None else torch.amp.GradScaler(enabled=on_gpu)
        self.precision = precision if on_gpu else torch.bfloat16

    def _forward(self, data) -> dict[str, torch.Tensor] | torch.Tensor:
        with torch.autocast(self._device_type, dtype=self.precision):
            return self.model(data)

    def _backward(self, loss: torch.Tensor) -> None:
        self.grad_scaler.scale(loss).backward()

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):  # empty where it was saved on a CPU
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
