"""Weights for a detector that nobody has trained: for comparisons and for timings.

As they are initialised, detectors have nearly equal scores everywhere, so that rounding decides what is kept, and a
deep backbone whose normalisation is frozen magnifies its input without limit.
"""

import math

import torch
from torch import Tensor, nn

from vod2.d2 import FrozenBatchNorm2d
from vod2.layers import GeometryBias


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int = 0, aggregators: bool = True) -> None:
    """Draw all weights anew: activations of order 1, box deltas of order .1, normalisation that does something.

    For shallow backbones. The same seed gives the same weights, on every device.

    Args:
        model: layers that are neither linear, nor a convolution, nor a normalisation stay as they are.
        seed: of what is drawn.
        aggregators: False leaves those as they were initialised, with small weights: drawn ones magnify the rounding of
            what they are given by a factor of a thousand.
    """
    # On the CPU, whose random numbers do not depend on the device of the model
    rng = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, std: float) -> Tensor:
        return std * torch.randn(like.shape, generator=rng)

    for name, module in model.named_modules():
        if not aggregators and "aggregator" in name.split("."):
            continue
        if isinstance(module, nn.Linear | nn.Conv2d):
            # sqrt(2) keeps the variance through a ReLU (He et al.); small deltas keep boxes near their anchors
            gain = 0.1 if name.endswith(("anchor_deltas", "bbox_pred")) else math.sqrt(2)
            module.weight.copy_(normal(module.weight, gain / math.sqrt(module.weight[0].numel())))
            if module.bias is not None:
                module.bias.copy_(normal(module.bias, 0.1))
        if isinstance(module, GeometryBias):
            # log(relu(x)) magnifies rounding without limit where x is near 0: keep x around 1.
            module.projection.weight.mul_(0.1)
            module.projection.bias.add_(1)
        if hasattr(module, "running_var"):
            module.running_mean.copy_(normal(module.running_mean, 0.1))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=rng) + 0.5)


@torch.no_grad()
def damp_frozen_normalisation(backbone: nn.Module) -> None:
    """Let activations stay small in a deep backbone that begins with random weights.

    Then the RPN finds its full number of boxes and half precision does not overflow; what a frame costs does not depend
    on the values.
    """
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.fill_(0.1)
