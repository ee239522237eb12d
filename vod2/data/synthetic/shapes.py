"""The silhouettes of synthetic objects: polygons in the unit square, x to the right and y down, upright."""

import numpy as np


def rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """Corners (4, 2)."""
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])


def circle(x: float, y: float, radius: float) -> np.ndarray:
    """A polygon of 96 corners (96, 2)."""
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1)


SHAPES: dict[str, tuple[list, list]] = {
    "disc": ([circle(0.5, 0.5, 0.5)], []),
    "square": ([rectangle(0.05, 0.05, 0.95, 0.95)], []),
    "triangle": ([[(0.5, 0), (1, 0.95), (0, 0.95)]], []),
    "cross": ([rectangle(0.29, 0, 0.71, 1), rectangle(0, 0.29, 1, 0.71)], []),
    "heart": (
        [circle(0.26, 0.3, 0.26), circle(0.74, 0.3, 0.26), [(0.04, 0.43), (0.5, 0.2), (0.96, 0.43), (0.5, 0.98)]],
        [],
    ),
    "bar": ([rectangle(0, 0.2, 1, 0.8)], []),
    "pillar": ([rectangle(0.2, 0, 0.8, 1)], []),
    "tee": ([rectangle(0, 0, 1, 0.4), rectangle(0.33, 0, 0.67, 1)], []),
    "ell": ([rectangle(0, 0, 0.42, 1), rectangle(0, 0.58, 1, 1)], []),
    "hourglass": ([[(0, 0), (1, 0), (0.62, 0.5), (1, 1), (0, 1), (0.38, 0.5)]], []),
    "ring": ([circle(0.5, 0.5, 0.5)], [circle(0.5, 0.5, 0.24)]),
    "house": ([[(0.5, 0), (1, 0.45), (0.9, 0.45), (0.9, 1), (0.1, 1), (0.1, 0.45), (0, 0.45)]], []),
    "arrow": ([[(0.5, 0), (1, 0.5), (0, 0.5)], rectangle(0.36, 0.5, 0.64, 1)], []),
    "arch": ([rectangle(0.02, 0.02, 0.98, 0.98)], [rectangle(0.27, 0.3, 0.73, 1)]),
    "cup": ([[(0.2, 0.08), (0.8, 0.08), (0.7, 0.94), (0.3, 0.94)]], []),
}
"""Silhouettes by name: (polygons that are filled, polygons that are then cut out)."""
