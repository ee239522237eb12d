"""The hooks that `DefaultTrainer` registers."""

import datetime
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer

from vod2._d2lite.engine.train_loop import HookBase
from vod2._d2lite.utils import comm
from vod2._d2lite.utils.events import EventWriter

_logger = logging.getLogger(__name__)


class IterationTimer(HookBase):
    """Records the seconds of each iteration as ``time`` and logs a summary at the end. To be registered first.

    Args:
        warmup_iter: the iteration from which on times count, counted from 1.
    """

    def __init__(self, warmup_iter: int = 3):
        self._warmup_iter = warmup_iter
        self._step_seconds: list[float] = []
        self._start = 0.0
        self._step_start = 0.0

    def before_train(self) -> None:
        self._start = time.perf_counter()

    def before_step(self) -> None:
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        if self.trainer.iter - self.trainer.start_iter + 1 >= self._warmup_iter:
            self._step_seconds.append(time.perf_counter() - self._step_start)
            self.trainer.storage.put_scalars(time=self._step_seconds[-1])

    def after_train(self) -> None:
        count, steps = len(self._step_seconds), sum(self._step_seconds)
        if count > 0:
            total = datetime.timedelta(seconds=int(time.perf_counter() - self._start))
            _logger.info(f"Overall training speed: {count} iterations of {steps / count:.4f} s, {total} with all hooks")


class PeriodicWriter(HookBase):
    """Lets the writers write every ``period`` iterations and after the last; closes them at the end."""

    def __init__(self, writers: list[EventWriter], period: int = 20):
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()  # what hooks recorded after the last iteration
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer as a hook: saves every ``period`` iterations and after the last."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Records the learning rate of the largest group as ``lr`` and steps a schedule after every iteration.

    Args:
        optimizer, scheduler: by default the trainer's.
    """

    def __init__(self, optimizer: torch.optim.Optimizer | None = None, scheduler: Any = None):
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self):
        return self._scheduler or self.trainer.scheduler

    def after_step(self) -> None:
        groups = (self._optimizer or self.trainer.optimizer).param_groups
        lr = max(groups, key=lambda group: len(group["params"]))["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        self.scheduler.load_state_dict(state_dict)


def _flatten(results: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in results.items():
        flat.update(_flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


class EvalHook(HookBase):
    """Calls ``eval_function`` every ``eval_period`` iterations (0: never) and after the last; it runs in all processes.

    Args:
        eval_function: returns a nested dict of numbers, recorded as "outer/inner", or nothing.
        eval_after_train: whether to evaluate after the last iteration.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], dict | None], eval_after_train: bool = True):
        self._period = eval_period
        self._func: Callable[[], dict | None] | None = eval_function
        self._eval_after_train = eval_after_train

    def _evaluate(self) -> None:
        for name, value in _flatten((self._func and self._func()) or {}).items():
            try:
                self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"[EvalHook] eval_function should return a nested dict of float. Got '{name}: {value}' instead."
                ) from error
        comm.synchronize()  # the others wait for the process that computed the results

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:  # not where it was broken off
            self._evaluate()
        self._func = None  # it may hold the trainer
