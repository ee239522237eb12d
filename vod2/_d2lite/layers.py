"""Layers on which the models stand.

Letters: B images, N boxes, C channels, H W height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms as _batched_nms
from torchvision.ops import roi_align as _roi_align

__all__ = [
    "CNNBlockBase",
    "Conv2d",
    "FrozenBatchNorm2d",
    "ROIAlign",
    "ShapeSpec",
    "at_least_float32",
    "batched_nms",
    "cat",
    "cross_entropy",
    "get_norm",
    "nonzero_tuple",
]


@dataclass
class ShapeSpec:
    """What is known of a tensor before there is one: channels, height, width, stride in pixels of the image."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


def at_least_float32(x: Tensor) -> Tensor:
    """float64 stays, every other type becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def cat(tensors: list[Tensor], dim: int = 0) -> Tensor:
    """torch.cat, without a copy for a list of one."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """One index vector per axis; a scalar counts as a vector of one."""
    return x.unsqueeze(0).nonzero(as_tuple=True) if x.dim() == 0 else x.nonzero(as_tuple=True)


def cross_entropy(input: Tensor, target: Tensor, *, reduction: str = "mean", **kwargs) -> Tensor:
    """F.cross_entropy, but the mean over nothing is 0 (with a gradient) instead of NaN."""
    if target.numel() == 0 and reduction == "mean":
        return input.sum() * 0.0
    return F.cross_entropy(input, target, reduction=reduction, **kwargs)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression within each group.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,)
        idxs: (N,) group of each box.

    Returns:
        Indices of the kept boxes in the order of descending score.
    """
    return _batched_nms(at_least_float32(boxes), at_least_float32(scores), idxs, iou_threshold)


class Conv2d(nn.Conv2d):
    """nn.Conv2d with two more arguments: `norm` (a module) and `activation` (a function), applied in this order."""

    def __init__(self, *args, norm: nn.Module | None = None, activation: Callable | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class FrozenBatchNorm2d(nn.Module):
    """Batch normalization with fixed statistics and a fixed affine transformation; all four are buffers.

    Fresh, it is the identity. A state dict without statistics (weights whose statistics were folded into weight and
    bias) loads with mean 0 and variance 1 if it was saved without a version or with one below 2.
    """

    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        # Of no use here, but a converted BatchNorm2d keeps it, so that its checkpoints still match
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        # One multiply-add keeps nothing but its scale for the backward pass; F.batch_norm would keep x
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype).view(1, -1, 1, 1) + shift.to(x.dtype).view(1, -1, 1, 1)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if (local_metadata.get("version") or 1) < 2:
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BatchNorm2d and SyncBatchNorm in `module` (in place), or `module` itself, by a frozen one."""
        if not isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            for name, child in module.named_children():
                converted = cls.convert_frozen_batchnorm(child)
                if converted is not child:
                    module.add_module(name, converted)
            return module
        frozen = cls(module.num_features, module.eps)
        if module.affine:
            frozen.weight = module.weight.detach().clone()
            frozen.bias = module.bias.detach().clone()
        frozen.running_mean = module.running_mean.detach().clone()
        frozen.running_var = module.running_var.detach().clone()
        frozen.num_batches_tracked = module.num_batches_tracked
        return frozen.to(module.running_mean.device)


class _ChannelLayerNorm(nn.Module):
    """Layer normalization over the channels of (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        channels_last = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return channels_last.permute(0, 3, 1, 2)  # (B, C, H, W)


_NORMS = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "LN": _ChannelLayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """The normalization layer called `norm` ("", "BN", "SyncBN", "nnSyncBN", "FrozenBN", "GN", "LN"), or made by it.

    Returns:
        None for None and "".
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        if norm not in _NORMS:
            raise KeyError(f"unknown normalization {norm!r}: expected one of {sorted(_NORMS)} or ''")
        norm = _NORMS[norm]
    return norm(out_channels)


class CNNBlockBase(nn.Module):
    """A block from (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> "CNNBlockBase":
        """Stop training of all parameters and freeze all batch normalizations, in place."""
        for parameter in self.parameters():
            parameter.requires_grad = False
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self


class ROIAlign(nn.Module):
    """Bilinear sampling of boxes from a feature map.

    Args:
        output_size: (h, w) of the output.
        spatial_scale: 1 / stride of the feature map.
        sampling_ratio: samples per output cell and axis; 0: as many as there are input cells in it.
        aligned: pixel i covers [i, i + 1) of the continuous coordinate, its center being i + 0.5. False is the older
            convention, off by half a pixel of the feature map.
    """

    def __init__(
        self, output_size: int | tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool = True
    ):
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Sample `rois` (N, 5), image index and xyxy in pixels, from `input` (B, C, H, W): (N, C, h, w)."""
        if rois.dim() != 2 or rois.shape[1] != 5:
            raise ValueError(f"ROIAlign expects rois of shape (N, 5), got {tuple(rois.shape)}")
        # Half precision cannot hold pixel coordinates: bfloat16 counts in steps of 4 beyond 512
        features = at_least_float32(input)
        pooled = _roi_align(
            features, rois.to(features.dtype), self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )
        return pooled.to(input.dtype)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
