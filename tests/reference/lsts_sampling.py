"""LSTS's sampling (equations 1 to 6 of the paper), one number at a time in float64."""

import math

import torch


def kernel(px, py, qx, qy):
    """G of equation 1: the bilinear weight of the cell (qx, qy) for the point (px, py)."""
    return max(0.0, 1 - abs(px - qx)) * max(0.0, 1 - abs(py - qy))


def kernel_gradient(px, py, qx, qy):
    """dG / dp of equation 6, for a point between the cells."""
    wx, wy = max(0.0, 1 - abs(px - qx)), max(0.0, 1 - abs(py - qy))
    return math.copysign(wx > 0, qx - px) * wy, math.copysign(wy > 0, qy - py) * wx


def cells_around(px, py, height, width):
    """The cells q of a map that a point can have weight in."""
    for qy in (math.floor(py), math.floor(py) + 1):
        for qx in (math.floor(px), math.floor(px) + 1):
            if 0 <= qy < height and 0 <= qx < width:
                yield qx, qy


def sample(maps, px, py):
    """Equation 1: `maps` (channels, H, W) at a point, zero outside."""
    total = torch.zeros(maps.shape[0], dtype=torch.float64)
    for qx, qy in cells_around(px, py, *maps.shape[1:]):
        total += kernel(px, py, qx, qy) * maps[:, qy, qx]
    return total


def scores(key, query, locations):
    """Equations 2 and 5: (N, H, W) dot products, for `key`, `query` (E, H, W)."""
    _, height, width = key.shape
    out = torch.zeros(len(locations), height, width, dtype=torch.float64)
    for n, (dx, dy) in enumerate(locations.tolist()):
        for y in range(height):
            for x in range(width):
                out[n, y, x] = sum(
                    a * b for a, b in zip(sample(key, x + dx, y + dy).tolist(), query[:, y, x].tolist(), strict=True)
                )
    return out


def score_gradients(key, query, locations):
    """Equation 6: (N, H, W, 2), the derivatives of the scores by dx and dy."""
    _, height, width = key.shape
    out = torch.zeros(len(locations), height, width, 2, dtype=torch.float64)
    for n, (dx, dy) in enumerate(locations.tolist()):
        for y in range(height):
            for x in range(width):
                for qx, qy in cells_around(x + dx, y + dy, height, width):
                    slope = torch.tensor(kernel_gradient(x + dx, y + dy, qx, qy), dtype=torch.float64)
                    out[n, y, x] += slope * (key[:, qy, qx] @ query[:, y, x])
    return out


def aggregate(value, key, query, locations, normaliser):
    """Equations 3 (or a softmax in its place) and 4: (C, H, W), for `value` (C, H, W)."""
    _, height, width = value.shape
    s = scores(key, query, locations)
    out = torch.zeros_like(value)
    for y in range(height):
        for x in range(width):
            values = s[:, y, x].tolist()
            if normaliser == "softmax":
                values = [math.exp(v - max(values)) for v in values]
            for v, (dx, dy) in zip(values, locations.tolist(), strict=True):
                out[:, y, x] += v / sum(values) * sample(value, x + dx, y + dy)
    return out
