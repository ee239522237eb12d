"""The hooks that `DefaultTrainer` registers, and a few to register by hand."""

import datetime
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn
from torch.optim.lr_scheduler import LRScheduler as _TorchScheduler

from vod2._d2lite.engine.train_loop import HookBase
from vod2._d2lite.solver import LRMultiplier
from vod2._d2lite.utils import comm
from vod2._d2lite.utils.events import EventStorage, EventWriter

__all__ = [
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "PreciseBN",
]


class CallbackHook(HookBase):
    """Calls functions of the trainer."""

    def __init__(
        self,
        *,
        before_train: Callable | None = None,
        after_train: Callable | None = None,
        before_step: Callable | None = None,
        after_step: Callable | None = None,
    ):
        self._before_train, self._after_train = before_train, after_train
        self._before_step, self._after_step = before_step, after_step

    def before_train(self) -> None:
        if self._before_train:
            self._before_train(self.trainer)

    def after_train(self) -> None:
        if self._after_train:
            self._after_train(self.trainer)
        # the functions may hold what the trainer holds
        self._before_train = self._after_train = self._before_step = self._after_step = None

    def before_step(self) -> None:
        if self._before_step:
            self._before_step(self.trainer)

    def after_step(self) -> None:
        if self._after_step:
            self._after_step(self.trainer)


class IterationTimer(HookBase):
    """Records the seconds of each iteration as ``time`` and logs a summary at the end. To be registered first.

    Args:
        warmup_iter: the iteration from which on times count, counted from 1.
    """

    def __init__(self, warmup_iter: int = 3):
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._total_timer = Timer()  # runs during the steps only
        self._start_time = time.perf_counter()
        self._timed_from = 0

    def before_train(self) -> None:
        self._start_time = time.perf_counter()
        self._timed_from = self.trainer.start_iter
        self._total_timer.reset()
        self._total_timer.pause()

    def before_step(self) -> None:
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        done = self.trainer.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._start_time = time.perf_counter()
            self._timed_from = self.trainer.iter + 1
            self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self) -> None:
        logger = logging.getLogger(__name__)
        total = time.perf_counter() - self._start_time
        steps = self._total_timer.seconds()
        count = self.trainer.iter - self._timed_from

        def readable(seconds: float) -> str:
            return str(datetime.timedelta(seconds=int(seconds)))

        if count > 0 and steps > 0:
            logger.info(f"Overall training speed: {count} iterations in {readable(steps)} ({steps / count:.4f} s / it)")
        logger.info(f"Total training time: {readable(total)} ({readable(total - steps)} on hooks)")


class PeriodicWriter(HookBase):
    """Lets the writers write every ``period`` iterations and after the last; closes them at the end."""

    def __init__(self, writers: list[EventWriter], period: int = 20):
        for writer in writers:
            assert isinstance(writer, EventWriter), f"expected an EventWriter, got {type(writer).__name__}"
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


class BestCheckpointer(HookBase):
    """Saves a checkpoint whenever an evaluation was the best so far. To be registered after the `EvalHook`.

    Args:
        eval_period: the period of the `EvalHook`.
        val_metric: the name of the scalar, e.g. "bbox/AP50".
        mode: "max" or "min": what is better.
        file_prefix: the name of the file.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode={mode!r}: expected 'max' or 'min'")
        self._period = eval_period
        self._checkpointer = checkpointer
        self._metric = val_metric
        self._better = (lambda a, b: a > b) if mode == "max" else (lambda a, b: a < b)
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def _check(self) -> None:
        logger = logging.getLogger(__name__)
        latest = self.trainer.storage.latest().get(self._metric)
        if latest is None:
            logger.warning(f"There is no metric {self._metric}, so no best checkpoint is saved.")
            return
        value, iteration = latest
        if not math.isfinite(value) or (self.best_metric is not None and not self._better(value, self.best_metric)):
            logger.info(f"{self._metric}={value:0.5f} is not better than {self.best_metric} @ {self.best_iter} steps.")
            return
        self.best_metric, self.best_iter = value, iteration
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        logger.info(f"Saved the best model so far: {self._metric}={value:0.5f} @ {iteration} steps.")

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._check()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._check()


class LRScheduler(HookBase):
    """Records the learning rate as ``lr`` and steps a schedule after every iteration.

    Args:
        optimizer, scheduler: by default the trainer's. A fvcore ParamScheduler multiplies the initial learning rates.
    """

    def __init__(self, optimizer: torch.optim.Optimizer | None = None, scheduler: Any = None):
        self._optimizer = optimizer
        self._scheduler = scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1
            )
        self._group = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """The group whose learning rate is shown: the largest, or among groups of one that of the commonest rate."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    @property
    def scheduler(self):
        return self._scheduler or self.trainer.scheduler

    def after_step(self) -> None:
        lr = self._optimizer.param_groups[self._group]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict:
        return self.scheduler.state_dict() if isinstance(self.scheduler, _TorchScheduler) else {}

    def load_state_dict(self, state_dict: dict) -> None:
        if isinstance(self.scheduler, _TorchScheduler):
            logging.getLogger(__name__).info("Loading scheduler from state_dict ...")
            self.scheduler.load_state_dict(state_dict)


def _flatten(results: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in results.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class EvalHook(HookBase):
    """Calls ``eval_function`` every ``eval_period`` iterations (0: never) and after the last; it runs in all processes.

    Args:
        eval_function: returns a nested dict of numbers, recorded as "outer/inner", or nothing.
        eval_after_train: whether to evaluate after the last iteration.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], dict | None], eval_after_train: bool = True):
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _evaluate(self) -> None:
        results = self._func()
        if results:
            assert isinstance(results, dict), f"the evaluation must return a dict, got {type(results).__name__}"
            flat = _flatten(results)
            for name, value in flat.items():
                try:
                    flat[name] = float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"[EvalHook] eval_function should return a nested dict of float. Got '{name}: {value}' instead."
                    ) from error
            for name, value in flat.items():
                self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        comm.synchronize()  # the others wait for the process that computed the results

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._evaluate()
        self._func = None  # it may hold the trainer


class PreciseBN(HookBase):
    """Replaces the running statistics of the model's BatchNorm layers by averages over ``num_iter`` batches.

    Args:
        period: how often, 0 for after the last iteration only.
        data_loader: an iterable of what the model takes; its iterator is kept between the calls.
    """

    def __init__(self, period: int, model: nn.Module, data_loader: Iterable, num_iter: int):
        self._period = period
        self._model = model
        self._data_loader = data_loader
        self._num_iter = num_iter
        self._iterator = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            self.update_stats()

    def update_stats(self) -> None:
        if not get_bn_modules(self._model):
            logging.getLogger(__name__).info(
                "PreciseBN is disabled because model does not contain BN layers in training."
            )
            return
        if self._iterator is None:
            self._iterator = iter(self._data_loader)
        with EventStorage():  # what the model records here is not part of the training
            update_bn_stats(self._model, itertools.islice(self._iterator, self._num_iter), self._num_iter)
