"""Updates that are left out because a loss or a gradient is not finite."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vod2.d2 import comm, get_event_storage
from vod2.errors import UserError
from vod2.package_files import command_line

_LOGGER = logging.getLogger("vod2.engine")

_NAMED_FRAMES = 8  # of a batch, in a message


class TrainingDiverged(UserError):
    """Too many updates in a row were left out: the losses or gradients are not finite."""


class BadSteps:
    """Counts the updates that are left out, and ends the training where too many follow one another.

    A single one is the fault of its frames, or of chance; many in a row mean that the training has diverged.

    Args:
        most: that may follow one another.
        base_lr: for the message.
    """

    def __init__(self, most: int, base_lr: float) -> None:
        self._most = most
        self._base_lr = base_lr
        self._in_a_row = 0
        self._in_all = 0

    def good(self) -> None:
        """An update was made."""
        self._in_a_row = 0

    def bad(self, iteration: int, reason: str, batch: Sequence[Mapping]) -> None:
        """An update is left out.

        Args:
            iteration: from 0.
            reason: what is not finite.
            batch: the dicts of the clips of this process.

        Raises:
            TrainingDiverged: one too many.
        """
        self._in_a_row += 1
        self._in_all += 1
        get_event_storage().put_scalar("bad_steps", self._in_all, smoothing_hint=False)
        frames = ", ".join(named_frames(batch))
        if self._in_a_row > self._most:
            raise TrainingDiverged(
                f"the training has diverged: {self._in_a_row} updates in a row were not finite, the last at iteration "
                f"{iteration}: {reason}; its frames: {frames}. Lower SOLVER.BASE_LR (now {self._base_lr:g}), set "
                "SOLVER.CLIP_GRADIENTS.ENABLED True, or, if it is always the same frames, check their annotations "
                f"({command_line('check')}); --resume goes on from the last checkpoint, whose weights are finite. "
                f"SOLVER.MAX_BAD_STEPS is {self._most}"
            )
        _LOGGER.warning(
            "iteration %d: %s; this update is left out (%d of at most %d in a row). Its frames: %s",
            iteration,
            reason,
            self._in_a_row,
            self._most,
            frames,
        )


def named_frames(batch: Iterable[Mapping]) -> Iterator[str]:
    """Where the clips of a batch are from: data set, video and frame, and the file where there is one."""
    for number, clip in enumerate(batch):
        if number == _NAMED_FRAMES:
            yield "and more"
            return
        if not isinstance(clip, Mapping):  # of another loader
            yield repr(type(clip).__name__)
            continue
        place = f"frame {clip.get('frame_index', 0)} of {clip.get('video_id', clip.get('image_id', 'an image'))}"
        if "dataset_name" in clip:
            place = f"{clip['dataset_name']}: {place}"
        yield f"{place} ({clip['file_name']})" if clip.get("file_name") else place


def not_finite_losses(losses: Mapping[str, Tensor]) -> str:
    """The losses of this process as a reason; "" where all of them are finite."""
    values = {name: float(value.detach()) for name, value in losses.items()}
    if all(math.isfinite(value) for value in values.values()):
        return ""
    listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
    return f"losses are not finite ({listed})"


def agree(reason: str) -> str:
    """The first reason that a process has, "" if none has one: all of them leave out an update, or none.

    With several processes all of them must call it.
    """
    if comm.get_world_size() == 1:
        return reason
    return next((told for told in comm.all_gather(reason) if told), "")


def gradients_are_finite(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether every gradient is; one number is read from the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return True
    # The largest number of each: a Euclidean norm may overflow where every number is finite.
    norms = torch._foreach_norm(gradients, float("inf"))
    return bool(torch.isfinite(torch.stack([norm.to(norms[0].device) for norm in norms])).all())


@contextmanager
def undo_statistics(model: nn.Module) -> Iterator[list[bool]]:
    """Put the running statistics of batch normalisation back at the end, if the list that is given holds something.

    They are moved by every forward pass: a single one with a NaN would spoil them for ever.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [{name: value.clone() for name, value in layer.named_buffers(recurse=False)} for layer in layers]
    undo: list[bool] = []
    yield undo
    if undo:
        for layer, values in zip(layers, kept, strict=True):
            for name, value in layer.named_buffers(recurse=False):
                value.copy_(values[name])
