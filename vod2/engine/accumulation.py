"""Gradient accumulation: one device does the work of several, one part of the batch after the other."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vod2.d2 import AMPTrainer, CfgNode, DefaultTrainer, SimpleTrainer, comm
from vod2.errors import UserError
from vod2.modeling.aggregation import total


def micro_batches(batch: Sequence, count: int) -> list[Sequence]:
    """The parts of a batch of one update that go through the model one after the other.

    Clips are dealt out in turn, as a sampler deals them out to processes: part j of process r has the clips of process
    r + n j of n * `count`.

    Raises:
        UserError: the batch cannot be cut into `count` equal parts.

    Example:
        >>> micro_batches(["a", "b", "c", "d"], 2)
        [['a', 'c'], ['b', 'd']]
    """
    if not batch or len(batch) % count:
        raise UserError(f"a batch of {len(batch)} clips cannot be cut into SOLVER.ACCUMULATE = {count} equal parts")
    # In turn, so that one device sees the micro-batches that `count` processes would see
    return [batch[first::count] for first in range(count)]


class AccumulatingTrainer(SimpleTrainer):
    """`SimpleTrainer` whose every update is that of the mean loss of `count` micro-batches (see `micro_batches`).

    That is the loss whose gradient DistributedDataParallel makes over as many processes: each micro-batch has its own
    normalisers, as each process has. Only the last one communicates with other processes.

    Args:
        count: of micro-batches, at least 1.
        args, kwargs: those of `SimpleTrainer`. Batches of the loader are lists.

    Attributes:
        count: as given.
    """

    def __init__(self, count: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.count = count

    def run_step(self) -> None:
        """One update.

        Raises:
            FloatingPointError: the loss is NaN or infinite; names the iteration and the losses.
        """
        assert self.model.training, f"[{type(self).__name__}] model was changed to eval mode!"
        start = time.perf_counter()
        parts = micro_batches(next(self._data_loader_iter), self.count)
        data_time = time.perf_counter() - start
        # Once for all parts: their gradients add up until the update
        self.optimizer.zero_grad()
        means: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            # Gradients are averaged over processes once, with the last part
            with self._no_sync() if number < self.count else contextlib.nullcontext():
                # Before the backward pass, so that the sum of the gradients is that of the mean loss
                losses = {name: loss / self.count for name, loss in self._losses(part).items()}
                self._backward(total(list(losses.values())))
            for name, loss in losses.items():
                # Detached, or the graphs of all parts would stay in memory
                means[name] = means.get(name, 0) + loss.detach()
        self.after_backward()
        if (self.iter + 1) % self.gather_metric_period == 0:
            self.write_metrics(means, data_time, self.iter)
        self._update()

    def _no_sync(self) -> contextlib.AbstractContextManager:
        """Gradients stay in this process."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else contextlib.nullcontext()

    def _losses(self, part: Sequence) -> dict[str, Tensor]:
        losses = self.model(part)
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _update(self) -> None:
        self.optimizer.step()


class AccumulatingAMPTrainer(AccumulatingTrainer, AMPTrainer):
    """`AccumulatingTrainer` in mixed precision; one scale of the gradient for all micro-batches of an update."""

    def _losses(self, part: Sequence) -> dict[str, Tensor]:
        with torch.autocast(next(self.model.parameters()).device.type, dtype=self.precision):
            return super()._losses(part)

    def _backward(self, loss: Tensor) -> None:
        self.grad_scaler.scale(loss).backward()

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        # Once per update: the scale must not change between parts whose gradients are added
        self.grad_scaler.update()


def accumulating(trainer: SimpleTrainer, count: int) -> AccumulatingTrainer:
    """A trainer of the same model, loader and optimizer that accumulates; `trainer` must not have made a step."""
    kind = AccumulatingAMPTrainer if isinstance(trainer, AMPTrainer) else AccumulatingTrainer
    return kind(count, trainer.model, trainer.data_loader, trainer.optimizer)


def scaled_to_devices(cfg: CfgNode) -> CfgNode:
    """SOLVER.REFERENCE_WORLD_SIZE: the configuration for as many devices as there are, an accumulated batch counting as
    SOLVER.ACCUMULATE of them (Detectron2's `auto_scale_workers`).

    With R devices in the reference and D here, IMS_PER_BATCH and BASE_LR change by D / R, and MAX_ITER, WARMUP_ITERS,
    STEPS, TEST.EVAL_PERIOD and CHECKPOINT_PERIOD by R / D, so that each device keeps its share of the batch.

    Returns:
        `cfg` itself where the key is 0; else a copy in which it is 0, for it has been followed.

    Raises:
        UserError: IMS_PER_BATCH is no multiple of the key, or one of the two keys is out of range.
    """
    solver = cfg.SOLVER
    if solver.ACCUMULATE < 1:
        raise UserError(f"SOLVER.ACCUMULATE is {solver.ACCUMULATE}, expected at least 1, which accumulates nothing")
    if solver.REFERENCE_WORLD_SIZE == 0:
        return cfg
    if solver.REFERENCE_WORLD_SIZE < 0 or solver.IMS_PER_BATCH % solver.REFERENCE_WORLD_SIZE:
        raise UserError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {solver.REFERENCE_WORLD_SIZE}, expected the number of devices that share "
            f"SOLVER.IMS_PER_BATCH = {solver.IMS_PER_BATCH} evenly, or 0 to change nothing"
        )
    scaled = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size() * solver.ACCUMULATE).clone()
    frozen = scaled.is_frozen()
    scaled.defrost()
    # Detectron2's trainer would scale once more, by the number of processes
    scaled.SOLVER.REFERENCE_WORLD_SIZE = 0
    if frozen:
        scaled.freeze()
    return scaled
