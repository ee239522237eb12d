"""A model that does the same in less time."""

import copy
from typing import Any, TypeVar

import torch
from torch import nn

from vod2.d2 import Conv2d, FrozenBatchNorm2d

_Model = TypeVar("_Model", bound=nn.Module)


def inference_copy(model: _Model) -> _Model:
    """A copy in evaluation mode without gradients that gives the same to rounding, and is made for speed.

    Batch normalisation, frozen or with running statistics, is folded into the convolution before it. On a CPU the
    weights, and thereby the maps, have their channels last, in which order PyTorch's convolutions and poolings are
    fastest (first of all those of few channels and many cells). Normalisation after another layer than Detectron2's
    `Conv2d` (a deformable convolution) stays. The copy cannot be trained, nor can its state be loaded into the model.

    Args:
        model: any model of images or part of one, on either backend; it stays as it is.

    Example:
        >>> import torch
        >>> from vod2.d2 import Conv2d, FrozenBatchNorm2d
        >>> from vod2.engine import inference_copy
        >>> layer = Conv2d(3, 8, 3, bias=False, norm=FrozenBatchNorm2d(8))
        >>> inference_copy(layer).norm is None
        True
    """
    return convert_for_inference(copy.deepcopy(model))


def convert_for_inference(model: _Model) -> _Model:
    """What `inference_copy` makes, of the model itself, whose weights are not held twice. Returns the model.

    Args:
        model: see there; it cannot be trained any more, nor does its state fit a model as it was.

    Example:
        >>> from vod2.d2 import Conv2d, FrozenBatchNorm2d
        >>> from vod2.engine import convert_for_inference
        >>> layer = Conv2d(3, 8, 3, bias=False, norm=FrozenBatchNorm2d(8))
        >>> convert_for_inference(layer) is layer and layer.norm is None
        True
    """
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, Conv2d) and _is_fixed(module.norm):
            _fold(module)
    # On a GPU the fastest order depends on precision and hardware, so it stays
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    # PyTorch does not declare this form of `to`, which its documentation has.
    return model.to(memory_format=torch.channels_last) if on_cpu else model  # type: ignore[call-overload]


def _is_fixed(norm: nn.Module | None) -> bool:
    """Whether in evaluation it is one multiply-add for each channel."""
    if isinstance(norm, nn.BatchNorm2d):
        # Without running statistics it normalises by each batch; `_fold` needs its weight and bias, too
        return norm.affine and norm.running_mean is not None
    return isinstance(norm, FrozenBatchNorm2d)


def _fold(conv: Conv2d) -> None:
    """(w x + b - mean) s + bias, with s = weight / sqrt(var + eps), is a convolution with s w. Computed in float64."""
    norm: Any = conv.norm
    weight = conv.weight
    # In float64, so that only the result is rounded
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    conv_bias = 0.0 if conv.bias is None else conv.bias.double()
    bias = norm.bias.double() + (conv_bias - norm.running_mean.double()) * scale
    folded = weight.double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(folded.to(weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
    conv.norm = None
