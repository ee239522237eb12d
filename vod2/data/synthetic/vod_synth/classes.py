"""The 30 classes of VOD-Synth 1: ten silhouettes, each with three emblems of different outline and shade.

Polygons are in the unit square, x to the right and y down. Every class equals its mirror image, so that a horizontal
flip is a fair augmentation.
"""

from dataclasses import dataclass

import numpy as np

from vod2.data.synthetic.shapes import SHAPES, circle, rectangle

PER_GROUP = 3


@dataclass(frozen=True)
class Emblem:
    """A marking.

    Attributes:
        light, dark: polygons that are filled with a light and then with a dark shade of the body's hue.
        holes: polygons inside of them that show the body again.
    """

    light: tuple[np.ndarray, ...] = ()
    dark: tuple[np.ndarray, ...] = ()
    holes: tuple[np.ndarray, ...] = ()


# Outlines within [-1, 1]: the place on the silhouette is added below. (Polygons that are filled, holes.)
_OUTLINES: dict[str, tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]] = {
    "bar": ((rectangle(-1, -0.42, 1, 0.42),), ()),
    "post": ((rectangle(-0.42, -1, 0.42, 1),), ()),
    "plus": ((rectangle(-1, -0.36, 1, 0.36), rectangle(-0.36, -1, 0.36, 1)), ()),
    "dot": ((circle(0, 0, 0.7),), ()),
    "ring": ((circle(0, 0, 1.0),), (circle(0, 0, 0.5),)),
    "pair": ((circle(-0.58, 0, 0.42), circle(0.58, 0, 0.42)), ()),
    "stack": ((circle(0, -0.58, 0.42), circle(0, 0.58, 0.42)), ()),
    "high": ((rectangle(-0.9, -1, 0.9, -0.2),), ()),
    "low": ((rectangle(-0.9, 0.2, 0.9, 1),), ()),
}
_SHADES = ("light", "dark", "both")  # of a group's three emblems: beside the outline, so that small objects differ too
_CORE = circle(0, 0, 0.42)  # what is dark of an emblem in both shades

# Silhouette: where its emblem lies (x, y, half its side), and the three emblems.
_GROUPS: dict[str, tuple[tuple[float, float, float], tuple[str, str, str]]] = {
    "disc": ((0.5, 0.5, 0.3), ("bar", "post", "plus")),
    "square": ((0.5, 0.5, 0.32), ("dot", "ring", "plus")),
    "triangle": ((0.5, 0.66, 0.24), ("bar", "post", "ring")),
    "cross": ((0.5, 0.5, 0.3), ("bar", "post", "dot")),
    "heart": ((0.5, 0.44, 0.28), ("high", "low", "ring")),
    "bar": ((0.5, 0.5, 0.25), ("dot", "pair", "ring")),
    "pillar": ((0.5, 0.5, 0.25), ("bar", "stack", "dot")),
    "house": ((0.5, 0.66, 0.27), ("bar", "post", "plus")),
    "arrow": ((0.5, 0.37, 0.2), ("dot", "bar", "post")),
    "cup": ((0.5, 0.5, 0.24), ("high", "low", "plus")),
}

DISTRACTOR_SHAPES: tuple[str, ...] = ("ring", "ell", "tee", "hourglass", "arch")
"""Silhouettes that are no class; they carry the classes' colours and emblems."""

_CLASSES: tuple[tuple[str, str], ...] = tuple(
    (shape, emblem) for shape, (_, emblems) in _GROUPS.items() for emblem in emblems
)

VOD_SYNTH_CLASSES: tuple[str, ...] = tuple(f"{shape}_{emblem}" for shape, emblem in _CLASSES)
"""Class names by category id; ids 3g, 3g + 1 and 3g + 2 are look-alikes."""


def look_alike_group(category: int) -> tuple[int, ...]:
    """The category ids of the look-alikes of `category`, itself included."""
    first = category - category % PER_GROUP
    return tuple(range(first, first + PER_GROUP))


def silhouette(category: int) -> tuple[list, list]:
    """Polygons to fill, and polygons to cut out of them."""
    return SHAPES[_CLASSES[category][0]]


def emblem(category: int) -> Emblem:
    """The emblem of a class at its place on the silhouette."""
    shape, name = _CLASSES[category]
    return placed_emblem(name, _SHADES[category % PER_GROUP], _GROUPS[shape][0])


def placed_emblem(name: str, shade: str, place: tuple[float, float, float]) -> Emblem:
    """The emblem `name` in "light", "dark" or "both", at (x, y, half its side) of the unit square."""
    x, y, half = place

    def move(polygons: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return tuple(polygon * half + (x, y) for polygon in polygons)

    filled, holes = _OUTLINES[name]
    if shade == "both":
        return Emblem(light=move(filled), dark=move((_CORE,)))
    return Emblem(**{shade: move(filled)}, holes=move(holes))


EMBLEM_NAMES: tuple[str, ...] = tuple(_OUTLINES)
EMBLEM_SHADES: tuple[str, ...] = _SHADES
