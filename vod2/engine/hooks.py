"""Hooks of a training that save it: periodically, where it is best, and where it is asked to stop."""

import logging
from typing import Any, Protocol

from vod2.checkpoint import TrainingCheckpointer
from vod2.d2 import HookBase
from vod2.engine.interruption import StopSignals, TrainingInterrupted, is_requested

_LOGGER = logging.getLogger("vod2.engine")


class SavingTrainer(Protocol):
    """What these hooks ask of their trainer beside iterations and storage."""

    iter: int
    max_iter: int
    storage: Any
    checkpointer: TrainingCheckpointer

    def save(self, name: str) -> None:
        """Save a checkpoint; all processes must call it."""


class PeriodicSaving(HookBase):
    """Saves every `period` iterations, as model_0000999, and after the last, as model_final. In every process.

    Args:
        period: at least 1.
        keep: number of periodic checkpoints of this run that are kept, the latest; 0 for all.
    """

    trainer: SavingTrainer

    def __init__(self, period: int, keep: int = 0) -> None:
        self._period = period
        self._keep = keep
        self._saved: list[str] = []

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0:
            self._save(f"model_{self.trainer.iter:07d}")
        if done == self.trainer.max_iter:
            self.trainer.save("model_final")

    def _save(self, name: str) -> None:
        # Before it is saved, for the list is part of what is saved.
        self._saved = [*(saved for saved in self._saved if saved != name), name]
        self.trainer.save(name)
        # Only now that the new one is whole: there is always one to go on with.
        while 0 < self._keep < len(self._saved):
            self.trainer.checkpointer.delete(self._saved.pop(0))

    def state_dict(self) -> dict:
        return {"saved": list(self._saved)}

    def load_state_dict(self, state: dict) -> None:
        self._saved = list(state["saved"])


class BestSaving(HookBase):
    """Keeps the weights of the evaluation with the highest metric, as model_best.safetensors. After `EvalHook`.

    Args:
        metric: such as "vid/AP50".
    """

    trainer: SavingTrainer

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._best: float | None = None

    def after_step(self) -> None:
        self._compare()

    def after_train(self) -> None:
        self._compare()  # the evaluation after the last iteration

    def _compare(self) -> None:
        # {name: (value, the iteration that it is of)}; an evaluation fills it in the first process only.
        value, iteration = self.trainer.storage.latest().get(self._metric, (None, -1))
        if value is None or iteration != self.trainer.storage.iter or value != value:
            return
        if self._best is None or value > self._best:
            self._best = value
            self.trainer.checkpointer.save_weights("model_best")
            _LOGGER.info("%s %.4g is the best until now: model_best.safetensors", self._metric, value)

    def state_dict(self) -> dict:
        return {} if self._best is None else {"best": self._best}

    def load_state_dict(self, state: dict) -> None:
        self._best = state["best"]


class StopHook(HookBase):
    """Ends the training after the iteration in which a process was asked to stop. The last hook, in every process.

    Raises:
        TrainingInterrupted: the training is saved.
    """

    trainer: SavingTrainer

    def __init__(self) -> None:
        self.signals = StopSignals()

    def before_train(self) -> None:
        self.signals.install()

    def after_step(self) -> None:
        # After the last iteration there is nothing to go on with: what is left is the evaluation.
        if is_requested(self.signals) and self.trainer.iter + 1 < self.trainer.max_iter:
            self.trainer.save(f"model_{self.trainer.iter:07d}")
            _LOGGER.warning("stopped after iteration %d: --resume goes on from there", self.trainer.iter)
            raise TrainingInterrupted

    def after_train(self) -> None:
        self.signals.remove()
