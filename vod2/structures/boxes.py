"""Boxes that keep the precision of what they are made of."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vod2.d2 import Boxes


class PreciseBoxes(Boxes):
    """Detectron2's `Boxes` for any floating dtype: `Boxes` itself may round float64 to float32.

    Args:
        tensor: (N, 4) xyxy in pixels; an empty tensor of any shape stands for (0, 4).

    Example:
        >>> import torch
        >>> from vod2.structures import PreciseBoxes
        >>> PreciseBoxes(torch.zeros(2, 4, dtype=torch.float64))[:1].tensor.dtype
        torch.float64
    """

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor)
        # `Boxes` has made a float32 copy: go back to what was given.
        if torch.is_tensor(tensor) and tensor.is_floating_point():
            self.tensor = tensor.reshape(-1, 4)

    def clone(self) -> "PreciseBoxes":
        return PreciseBoxes(self.tensor.clone())

    def to(self, device: torch.device) -> "PreciseBoxes":
        return PreciseBoxes(self.tensor.to(device=device))

    def __getitem__(self, item: int | slice | Tensor) -> "PreciseBoxes":
        rows = self.tensor[item]
        if rows.dim() not in (1, 2) or rows.shape[-1] != 4:
            raise IndexError(f"boxes[{item!r}]: expected rows of 4 numbers, got the shape {tuple(rows.shape)}")
        return PreciseBoxes(rows.reshape(-1, 4))

    @classmethod
    def cat(cls, boxes_list: Sequence[Boxes]) -> "PreciseBoxes":
        if not boxes_list:
            return cls(torch.empty(0, 4))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]))
