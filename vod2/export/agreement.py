"""How far what a file gives is from what PyTorch gives.

P: proposals of a frame.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

_SAME_BOX = 0.1
"""Pixels, the most that a coordinate of the same box may differ by."""


class Agreement(NamedTuple):
    """Of one part, on an image of noise.

    Attributes:
        differences: {output: largest difference of any number}, absolute, in the unit of the output.
        rows: boxes that PyTorch gives.
        missing: those of them that the file does not give: two boxes of nearly the same score, or of an IoU that is
            nearly the threshold of NMS, may be decided otherwise.
    """

    differences: dict[str, float]
    rows: int
    missing: int

    def __str__(self) -> str:
        if not self.differences:
            return f"was not compared: on noise there are {self.rows} boxes, none of which the file gives"
        listed = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        missing = f"; {self.missing} of {self.rows} boxes are others" if self.missing else ""
        return f"differs from PyTorch by at most: {listed}{missing}"


def agreement(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> Agreement:
    """Compare the outputs of a part; where they have `valid`, boxes may come in another order.

    Example:
        >>> import torch
        >>> from vod2.export.agreement import agreement
        >>> boxes, valid = torch.eye(4)[:2] * 8, torch.tensor([True, True])
        >>> agreement({"boxes": boxes, "valid": valid}, {"boxes": boxes.flip(0), "valid": valid})
        Agreement(differences={'boxes': 0.0}, rows=2, missing=0)
    """
    if "valid" not in expected:
        return Agreement({name: _difference(value, actual[name]) for name, value in expected.items()}, 0, 0)
    rows, others = expected["valid"], actual["valid"]
    boxes, found = expected["boxes"][rows].flatten(1), actual["boxes"][others].flatten(1)
    if len(found) == 0 or len(boxes) == 0:
        return Agreement({}, len(boxes), len(boxes))
    # (P, P') largest difference of a coordinate: each box is compared with the one that is nearest to it.
    distance, place = (boxes[:, None] - found[None]).abs().amax(dim=2).min(dim=1)
    is_same = distance <= _SAME_BOX
    differences = {}
    for name, value in expected.items():
        if name == "valid":
            continue
        if len(value) != len(rows):  # no rows of proposals: a map
            differences[name] = _difference(value, actual[name])
        else:
            differences[name] = _difference(value[rows][is_same], actual[name][others][place][is_same])
    return Agreement(differences, len(boxes), int((~is_same).sum()))


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first.double() - second.double()).abs().max()) if first.numel() else 0.0
