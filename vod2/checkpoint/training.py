"""The checkpointer of a training: whole checkpoints, and finding one to go on with."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vod2.checkpoint.files import (
    DamagedError,
    WholeCheckpoint,
    delete_checkpoint,
    find_whole,
    read_checkpoint,
    tag_last,
    write_checkpoint,
    write_weights,
)
from vod2.d2 import DetectionCheckpointer
from vod2.errors import UserError

_LOGGER = logging.getLogger("vod2.checkpoint")


class TrainingCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for checkpoints as `vod2.checkpoint.files` writes them; it still reads .pth files.

    Args:
        model, save_dir: as in Detectron2.
        checkpointables: what else has `state_dict` and `load_state_dict`, such as the trainer.

    Attributes:
        about: {name: JSON} that is written into every checkpoint for a later run, such as the configuration.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables: Any) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.about: dict[str, Any] = {}

    def save(self, name: str, **kwargs: Any) -> None:
        """Write the model, the checkpointables and `kwargs` as checkpoint `name`, and name it as the last.

        Raises:
            UserError: a weight is not finite: such a checkpoint is of no use, and would hide the one before it.
            TypeError: something in a state is neither a tensor nor plain data.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        weights = self._weights()
        state = {key: entry.state_dict() for key, entry in self.checkpointables.items()} | kwargs
        path = write_checkpoint(Path(self.save_dir), name, weights, state, self.about)
        _LOGGER.info("saved checkpoint %s", path)

    def save_weights(self, name: str) -> None:
        """Write the model alone, as `name`.safetensors; the last checkpoint stays what it was.

        Raises:
            UserError: as `save`.
        """
        if self.save_dir and self.save_to_disk:
            write_weights(Path(self.save_dir, f"{name}.safetensors"), self._weights())

    def delete(self, name: str) -> None:
        """Delete the checkpoint `name`, if there is one."""
        if self.save_dir and self.save_to_disk:
            delete_checkpoint(Path(self.save_dir, f"{name}.safetensors"))

    def _weights(self) -> dict[str, Tensor]:
        model: Any = getattr(self.model, "module", self.model)  # without DistributedDataParallel
        weights: dict[str, Tensor] = model.state_dict()
        if broken := not_finite(weights):
            raise UserError(
                f"the model is not saved to {self.save_dir}: {len(broken)} of its {len(weights)} tensors are not "
                f"finite, for example {broken[0]!r}. The training has diverged: go on from the last checkpoint with a "
                "lower SOLVER.BASE_LR or with SOLVER.CLIP_GRADIENTS.ENABLED True"
            )
        return weights

    def find(self) -> WholeCheckpoint | None:
        """The checkpoint of `save_dir` to go on with, see `find_whole`."""
        return find_whole(Path(self.save_dir)) if self.save_dir else None

    def has_checkpoint(self) -> bool:
        return self.find() is not None

    def get_checkpoint_file(self) -> str:
        whole = self.find()
        return "" if whole is None else str(whole.weights)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        tag_last(Path(self.save_dir), last_filename_basename)

    def _load_file(self, filename: str) -> dict[str, Any]:
        path = Path(filename)
        if path.suffix != ".safetensors":
            return super()._load_file(filename)
        weights, state, _ = read_checkpoint(path)
        return {"model": weights, **state}


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity, in alphabetical order."""
    return sorted(name for name, value in tensors.items() if value.is_floating_point() and not _is_finite(value))


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


__all__ = ["DamagedError", "TrainingCheckpointer", "not_finite"]
