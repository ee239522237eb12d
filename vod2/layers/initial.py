"""Initial values that several layers have."""

from torch import nn


def zero_bias(layer: nn.Conv2d | nn.Linear) -> None:
    """Set the bias of a layer that has one to 0."""
    assert layer.bias is not None, f"{layer} has no bias"
    nn.init.zeros_(layer.bias)
