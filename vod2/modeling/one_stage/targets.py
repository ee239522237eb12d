"""What each location of the maps is to predict (FCOS, Tian et al., ICCV 2019, sections 3.1 to 3.3).

R: locations of all levels, L: levels, G: objects of a frame, n: some locations.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Locations(NamedTuple):
    """Where the cells of the maps look.

    Attributes:
        points: (R, 2) x, y in pixels of the image, level after level, row after row.
        level: (R,) int64.
        stride: (R,) pixels from a location to the next, in the dtype of `points`.
    """

    points: Tensor
    level: Tensor
    stride: Tensor


class Assignment(NamedTuple):
    """Which locations show an object, and what they are to predict.

    Attributes:
        rows: (n,) int64, the locations, ascending.
        objects: (n,) int64, the object of each, in [0, G).
    """

    rows: Tensor
    objects: Tensor


def locations_of(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Locations:
    """The location of cell (x, y) of a map with stride s is (s / 2 + x s, s / 2 + y s), section 3.1.

    Args:
        sizes: (height, width) of the map of each level.
        strides: pixels.

    Example:
        >>> import torch
        >>> from vod2.modeling.one_stage import locations_of
        >>> locations_of([(1, 2)], [8], torch.float32, torch.device("cpu")).points.tolist()
        [[4.0, 4.0], [12.0, 4.0]]
    """
    points, levels = [], []
    for level, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        y = (torch.arange(height, dtype=dtype, device=device) + 0.5) * stride
        x = (torch.arange(width, dtype=dtype, device=device) + 0.5) * stride
        grid = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([grid[1].flatten(), grid[0].flatten()], dim=1))
        levels.append(torch.full((height * width,), level, device=device))
    level_of = torch.cat(levels)
    return Locations(torch.cat(points), level_of, torch.tensor(strides, dtype=dtype, device=device)[level_of])


def distances_to(points: Tensor, boxes: Tensor) -> Tensor:
    """Equation 1: from each point (..., 2) to the sides of a box (..., 4) xyxy: (..., 4) left, top, right, bottom."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def boxes_at(points: Tensor, distances: Tensor) -> Tensor:
    """The inverse of `distances_to`: boxes (..., 4) xyxy in pixels."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def centerness_of(distances: Tensor) -> Tensor:
    """Equation 3, of points in their boxes: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), in [0, 1].

    Args:
        distances: (n, 4) to the left, top, right and bottom side, all positive.

    Example:
        >>> import torch
        >>> from vod2.modeling.one_stage import centerness_of
        >>> centerness_of(torch.tensor([[4.0, 6.0, 4.0, 6.0], [2.0, 3.0, 8.0, 3.0]])).tolist()
        [1.0, 0.5]
    """
    pairs = distances.unflatten(-1, (2, 2))  # (n, 2, 2): (left, top), (right, bottom)
    ratios = pairs.amin(dim=-2) / pairs.amax(dim=-2)  # (n, 2)
    return ratios.prod(dim=-1).sqrt()


class FCOSAssigner:
    """Which object a location shows: it lies in its box, near the centre, and its level is for objects of that size.

    Args:
        sizes: m_2 .. m_7 of section 3.2 without the 0 and the infinity at the ends: the largest distance to a side, in
            pixels, from which on an object belongs to the next level; one less than there are levels.
        radius: of the square about a box's centre in which locations show it, in strides; 0 for the whole box.

    Raises:
        ValueError: sizes do not ascend, or the radius is negative.
    """

    def __init__(self, sizes: Sequence[float], radius: float) -> None:
        bounds = [0.0, *sizes, float("inf")]
        if any(low >= high for low, high in zip(bounds[:-1], bounds[1:], strict=True)):
            raise ValueError(f"expected SIZES that are positive and ascend, got {list(sizes)}")
        if not radius >= 0:
            raise ValueError(f"expected CENTER_RADIUS of at least 0, got {radius}")
        self.bounds = bounds
        self.radius = radius

    @torch.no_grad()
    def __call__(self, locations: Locations, boxes: Tensor) -> Assignment:
        """boxes (G, 4) xyxy in pixels of the image -> the locations that show one of them."""
        points, level, stride = locations
        if len(boxes) == 0:
            nothing = level.new_zeros(0)
            return Assignment(nothing, nothing)
        boxes = boxes.to(points)
        distances = distances_to(points[:, None], boxes)  # (R, G, 4)
        fits = distances.amin(dim=2) > 0
        if self.radius > 0:
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            fits &= (points[:, None] - centres).abs().amax(dim=2) < self.radius * stride[:, None]
        bounds = points.new_tensor(self.bounds)
        largest = distances.amax(dim=2)
        fits &= (largest >= bounds[level][:, None]) & (largest <= bounds[level + 1][:, None])
        # Of several objects a location shows the smallest (section 3.1).
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        least, objects = area.expand_as(largest).masked_fill(~fits, torch.inf).min(dim=1)
        rows = torch.isfinite(least).nonzero()[:, 0]
        return Assignment(rows, objects[rows])
