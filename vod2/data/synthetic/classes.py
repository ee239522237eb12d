"""The 30 classes of the synthetic benchmark: 15 silhouettes, each in two versions that differ by one detail.

Everything is drawn in the unit square, x to the right and y down, upright; `draw_class` scales it to a canvas.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from vod2.data.synthetic.shapes import SHAPES, circle, rectangle

STRIPE_PERIOD = 0.29  # of the object's side: three to four stripes, some pixels each on the smallest object


@dataclass(frozen=True)
class Detail:
    """What tells a class from its look-alike.

    Exactly one field is set. `stripes` is the direction of the stripes in degrees from the x axis, `dot` the
    (x, y, radius) of a marking; `add` and `cut` are polygons that the silhouette gains or loses.
    """

    stripes: float | None = None
    dot: tuple[float, float, float] | None = None
    add: tuple[np.ndarray, ...] = ()
    cut: tuple[np.ndarray, ...] = ()


def _mirror(detail: Detail) -> Detail:
    """The same detail on the other side, left and right exchanged."""

    def flip(polygons: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return tuple(np.stack([1 - polygon[:, 0], polygon[:, 1]], axis=1) for polygon in polygons)

    dot = (1 - detail.dot[0], *detail.dot[1:]) if detail.dot else None
    return Detail(stripes=detail.stripes, dot=dot, add=flip(detail.add), cut=flip(detail.cut))


def _left_and_right(name: str, left: Detail) -> dict[str, Detail]:
    return {f"{name}_left": left, f"{name}_right": _mirror(left)}


def _stripe_details(*directions: int) -> dict[str, Detail]:
    return {f"stripes_{direction}": Detail(stripes=direction) for direction in directions}


# The groups in class order. The first three tell apart by the direction of stripes on three different silhouettes.
_GROUPS: dict[str, dict[str, Detail]] = {
    "disc": _stripe_details(0, 90),
    "square": _stripe_details(0, 90),
    "triangle": _stripe_details(0, 90),
    "bar": _left_and_right("dot", Detail(dot=(0.25, 0.5, 0.15))),
    "ring": _left_and_right("gap", Detail(cut=(rectangle(0, 0.36, 0.4, 0.64),))),
    "cup": _left_and_right(
        "handle",
        Detail(add=(rectangle(0, 0.22, 0.13, 0.66), rectangle(0, 0.22, 0.3, 0.35), rectangle(0, 0.53, 0.32, 0.66))),
    ),
    "cross": _stripe_details(45, 135),
    "pillar": {"dot_top": Detail(dot=(0.5, 0.25, 0.15)), "dot_bottom": Detail(dot=(0.5, 0.75, 0.15))},
    "house": _left_and_right("chimney", Detail(add=(rectangle(0.1, 0.04, 0.3, 0.45),))),
    "heart": _stripe_details(45, 135),
    "tee": _left_and_right("dot", Detail(dot=(0.19, 0.2, 0.13))),
    "arrow": _left_and_right("fin", Detail(add=(rectangle(0.08, 0.74, 0.4, 1),))),
    "hourglass": {"dot_top": Detail(dot=(0.5, 0.18, 0.13)), "dot_bottom": Detail(dot=(0.5, 0.82, 0.13))},
    "ell": {"dot_top": Detail(dot=(0.21, 0.2, 0.14)), "dot_right": Detail(dot=(0.8, 0.79, 0.14))},
    "arch": _left_and_right("toe", Detail(add=(rectangle(0.2, 0.74, 0.48, 0.98),))),
}

_CLASSES: tuple[tuple[str, Detail], ...] = tuple(
    (shape, detail) for shape, details in _GROUPS.items() for detail in details.values()
)

SYNTHETIC_CLASSES: tuple[str, ...] = tuple(f"{shape}_{name}" for shape, details in _GROUPS.items() for name in details)
"""Class names by category id; ids 2g and 2g + 1 are look-alikes."""


def look_alikes(category: int) -> tuple[int, int]:
    """The category ids of the group that `category` belongs to, itself included."""
    first = category - category % 2
    return first, first + 1


def draw_class(category: int, size: int, phase: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw the silhouette and the marking of a class.

    Args:
        category: id in [0, 30).
        size: side of the square canvas in pixels.
        phase: shift of the stripes in periods.

    Returns:
        silhouette and marking, both (size, size) float32 with values 0 or 1; the marking lies inside the silhouette.
    """
    shape, detail = _CLASSES[category]
    filled, cut = SHAPES[shape]
    silhouette = np.zeros((size, size), np.uint8)
    for polygon in filled:
        _fill(silhouette, polygon, 1)
    for polygon in cut:
        _fill(silhouette, polygon, 0)
    # After what the shape itself cuts out, so that a detail may lie in a hole.
    for polygon in detail.add:
        _fill(silhouette, polygon, 1)
    for polygon in detail.cut:
        _fill(silhouette, polygon, 0)
    marking = np.zeros_like(silhouette)
    if detail.stripes is not None:
        marking = _stripes(size, detail.stripes, phase)
    elif detail.dot is not None:
        _fill(marking, circle(*detail.dot), 1)
    # A stripe ends where the silhouette does.
    return silhouette.astype(np.float32), (marking * silhouette).astype(np.float32)


def _fill(canvas: np.ndarray, polygon: np.ndarray | list, value: int) -> None:
    points = np.asarray(polygon, np.float64) * canvas.shape[0] - 0.5  # pixel centres lie at i + 0.5
    # With shift=4, OpenCV takes coordinates in sixteenths of a pixel.
    cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], value, shift=4)


def _stripes(size: int, direction: float, phase: float) -> np.ndarray:
    angle = np.deg2rad(direction)
    centre = (np.arange(size) + 0.5) / size - 0.5
    across = centre[:, None] * np.cos(angle) - centre[None, :] * np.sin(angle)
    return ((across / STRIPE_PERIOD + phase) % 1 < 0.5).astype(np.uint8)
