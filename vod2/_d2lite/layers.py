"""Layers on which the models stand.

Letters: B images, N boxes, C channels, H W height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d


@dataclass
class ShapeSpec:
    """What is known of a tensor before there is one: channels, height, width, stride in pixels of the image."""

    # None stands for unknown. Which are known depends on what the shape is of, so `int | None` would ask everybody who
    # reads one to deny what cannot be.
    channels: int | Any = None
    height: int | Any = None
    width: int | Any = None
    stride: int | Any = None


def at_least_float32(x: Tensor) -> Tensor:
    """float64 stays, every other type becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def cat(tensors: list[Tensor], dim: int = 0) -> Tensor:
    """torch.cat, without a copy for a list of one."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """One index vector per axis; a scalar counts as a vector of one."""
    return torch.atleast_1d(x).nonzero(as_tuple=True)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Indices that non-maximum suppression within each group keeps, in the order of descending score.

    Args:
        boxes (N, 4) xyxy, scores (N,), idxs (N,): group of each box.
    """
    # Box areas overflow float16, and bfloat16 rounds neighbouring coordinates to the same number
    return torchvision.ops.batched_nms(at_least_float32(boxes), at_least_float32(scores), idxs, iou_threshold)


class Conv2d(nn.Conv2d):
    """nn.Conv2d with two more arguments: `norm` (a module) and `activation` (a function), applied in this order."""

    def __init__(self, *args, norm: nn.Module | None = None, activation: Callable | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        # Detectron2's checkpoints call its weights "<convolution>.norm.*"
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


class FrozenBatchNorm2d(nn.Module):
    """Batch normalization with fixed statistics and a fixed affine transformation; all four are buffers.

    Fresh, it is the identity. A state dict without statistics (weights whose statistics were folded into weight and
    bias) loads with mean 0 and variance 1 if it was saved without a version or with one below 2.
    """

    # The number that Detectron2 writes into its checkpoints; `_load_from_state_dict` compares it
    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        # Variance + eps is 1, so that a fresh layer is the identity
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        # Of no use here, but a converted BatchNorm2d keeps it, so that its checkpoints still match
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # One multiply-add keeps nothing but its scale for the backward pass; F.batch_norm would keep x
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype).view(1, -1, 1, 1) + shift.to(x.dtype).view(1, -1, 1, 1)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        # 1, not 1 - eps: this is how Detectron2 loads such files
        if (local_metadata.get("version") or 1) < 2:
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BatchNorm2d and SyncBatchNorm in `module` (in place), or `module` itself, by a frozen one."""
        if not isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            for name, child in module.named_children():
                setattr(module, name, cls.convert_frozen_batchnorm(child))
            return module
        frozen = cls(module.num_features, module.eps)
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            setattr(frozen, name, value.detach().clone())
        return frozen


_NORMS = {
    "BN": nn.BatchNorm2d,
    # Detectron2 has both names from the time when SyncBN was its own implementation
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    # 32 groups, the default of the paper (Wu and He, ECCV 2018)
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "LN": lambda channels: LayerNorm2d(channels, eps=1e-6),
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """The normalization layer called `norm`, or made by it; None for None and ""."""
    if norm is None or norm == "":
        return None
    make: Any = norm
    if isinstance(norm, str):
        if norm not in _NORMS:
            raise KeyError(f"unknown normalization {norm!r}: expected one of {sorted(_NORMS)} or ''")
        make = _NORMS[norm]
    return make(out_channels)


class CNNBlockBase(nn.Module):
    """A block from (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> "CNNBlockBase":
        """Stop training of all parameters and freeze all batch normalizations, in place."""
        self.requires_grad_(False)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)  # which is no batch normalization itself
        return self


class ROIAlign(torchvision.ops.RoIAlign):
    """Bilinear sampling of boxes from a feature map.

    Args:
        output_size: (h, w) of the output.
        spatial_scale: 1 / stride of the feature map.
        sampling_ratio: samples per output cell and axis; 0: as many as there are input cells in it.
        aligned: pixel i covers [i, i + 1) of the continuous coordinate, its center being i + 0.5. False is the older
            convention, off by half a pixel of the feature map.
    """

    def __init__(self, output_size, spatial_scale: float, sampling_ratio: int, aligned: bool = True):
        super().__init__(output_size, spatial_scale, sampling_ratio, aligned)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Sample `rois` (N, 5), image index and xyxy in pixels, from `input` (B, C, H, W): (N, C, h, w)."""
        # Half precision cannot hold pixel coordinates: bfloat16 counts in steps of 4 beyond 512
        features = at_least_float32(input)
        return super().forward(features, rois.to(features.dtype)).to(input.dtype)
