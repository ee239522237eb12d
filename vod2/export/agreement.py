"""How far what a file gives is from what PyTorch gives, and what is too far.

P: proposals of a frame.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_SAME_BOX = 0.1
"""Pixels, the most that a coordinate of the same box may differ by."""
MOST_OTHERS = 0.05
"""Of the boxes that PyTorch gives, the most that may be missing or extra."""
LIMITS = {"boxes": 1.0, "scores": 0.02}
"""{output: the largest difference}, in pixels and as a probability."""
OTHER_LIMIT = 0.02
"""The largest difference of all other outputs, as a share of the largest absolute number of that output."""


class Agreement(NamedTuple):
    """Of one part, on an image of noise.

    Attributes:
        differences: {output: largest difference of any number}, absolute, in the unit of the output; of rows of boxes,
            of those that both give; without an output that has none. NaN where one of two numbers is NaN.
        rows: boxes that PyTorch gives.
        missing: those of them that the file does not give: two boxes of nearly the same score, or of an IoU that is
            nearly the threshold of NMS, may be decided otherwise.
        extra: boxes that the file alone gives.
        faults: what is too far from PyTorch, in words; empty for a file that is right.
    """

    differences: dict[str, float]
    rows: int = 0
    missing: int = 0
    extra: int = 0
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        others = f"; {self.missing} of {self.rows} boxes are missing, {self.extra} are others"
        others = others if self.missing or self.extra else ""
        if not self.differences:
            return f"was not compared: on noise there is nothing to compare{others}"
        listed = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        return f"differs from PyTorch by at most: {listed}{others}"


def agreement(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> Agreement:
    """Compare the outputs of a part; where they have `valid`, boxes may come in another order.

    Example:
        >>> import torch
        >>> from vod2.export.agreement import agreement
        >>> boxes, valid = torch.eye(4)[:2] * 8, torch.tensor([True, True])
        >>> agreement({"boxes": boxes, "valid": valid}, {"boxes": boxes.flip(0), "valid": valid})
        Agreement(differences={'boxes': 0.0}, rows=2, missing=0, extra=0, faults=())
    """
    if "valid" not in expected:
        pairs = {name: (value, actual[name]) for name, value in expected.items()}
        differences, faults = _compared(pairs)
        return Agreement(differences, faults=tuple(faults))
    rows, others = expected["valid"], actual["valid"]
    first, second = _same_boxes(expected["boxes"][rows].flatten(1), actual["boxes"][others].flatten(1))
    pairs = {}
    for name, value in expected.items():
        if name == "valid":
            continue
        is_map = len(value) != len(rows)  # no rows of proposals
        pairs[name] = (value, actual[name]) if is_map else (value[rows][first], actual[name][others][second])
    differences, faults = _compared(pairs)
    count = int(rows.sum())
    missing, extra = count - len(first), int(others.sum()) - len(second)
    if missing + extra > MOST_OTHERS * count:
        faults.insert(0, f"of {count} boxes {missing} are missing, and {extra} are others")
    return Agreement(differences, count, missing, extra, tuple(faults))


def _same_boxes(boxes: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of (n, c) and of (m, c) that are the same box, each of them once."""
    if len(boxes) == 0 or len(found) == 0:
        none = torch.zeros(0, dtype=torch.int64)
        return none, none
    # (n, m) largest difference of a coordinate. The same are two of which each is nearest to the other.
    distances = (boxes[:, None] - found[None]).abs().amax(dim=2).nan_to_num(torch.inf)
    distance, place = distances.min(dim=1)
    is_same = (distance <= _SAME_BOX) & (distances.argmin(dim=0)[place] == torch.arange(len(boxes)))
    return is_same.nonzero().flatten(), place[is_same]


def _compared(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[dict[str, float], list[str]]:
    """{output: difference} of those that have numbers, and those differences that are too large, in words."""
    differences, faults = {}, []
    for name, (value, found) in pairs.items():
        if value.shape != found.shape:
            faults.append(f"{name} has the shape {tuple(found.shape)}, expected {tuple(value.shape)}")
        elif value.numel():
            differences[name] = difference = _difference(value.double(), found.double())
            largest = float(value.double().nan_to_num(0.0, 0.0, 0.0).abs().max())
            limit = LIMITS.get(name, OTHER_LIMIT * largest)
            if not difference <= limit:  # NaN is none
                faults.append(f"{name} differs by {difference:.2g}, at most {limit:.2g} is expected")
    return differences, faults


def _difference(value: Tensor, found: Tensor) -> float:
    is_same = (value == found) | (value.isnan() & found.isnan())  # also two infinities
    return float((value - found).abs().masked_fill(is_same, 0.0).max())
