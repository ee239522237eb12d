"""Initial values, and lists of modules that type checkers know the content of."""

import pytest
import torch
from torch import nn

from vod2.layers import ModuleList, zero_bias


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv2d(3, 2, 1)], ids=["linear", "convolution"])
def test_zero_bias_changes_the_bias_and_nothing_else(layer):
    weight = layer.weight.clone()
    nn.init.ones_(layer.bias)
    zero_bias(layer)
    assert torch.equal(layer.bias, torch.zeros(2)) and torch.equal(layer.weight, weight)


def test_zero_bias_refuses_a_layer_without_one():
    with pytest.raises(AssertionError, match="has no bias"):
        zero_bias(nn.Linear(3, 2, bias=False))


def test_a_module_list_is_pytorchs_own():
    """So that the names in state dicts, and what is pickled, are those of `nn.ModuleList`."""
    assert ModuleList is nn.ModuleList
