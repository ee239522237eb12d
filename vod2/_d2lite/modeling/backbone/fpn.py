"""Feature pyramid (Lin et al., CVPR 2017).

Letters: B images, C channels, H W height and width.
"""

import math

import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import Tensor, nn

from vod2._d2lite.layers import Conv2d, ShapeSpec, get_norm
from vod2._d2lite.modeling.backbone.backbone import BACKBONE_REGISTRY, Backbone
from vod2._d2lite.modeling.backbone.resnet import build_resnet_backbone


class LastLevelMaxPool(nn.Module):
    """One more level, p6, by subsampling p5."""

    num_levels = 1
    in_feature = "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.max_pool2d(x, kernel_size=1, stride=2)]


class FPN(Backbone):
    """A pyramid p2, p3, ... (p of log2 of the stride) with equal channels on the outputs of a backbone.

    Args:
        bottom_up: the backbone.
        in_features: consecutive outputs of it, from high to low resolution.
        out_channels: channels of every level.
        norm: normalization of every convolution; without one they have a bias.
        top_block: module with `num_levels` and `in_feature` that makes further levels from that feature.
        fuse_type: "sum" or "avg" of the lateral and the upsampled map.
    """

    def __init__(self, bottom_up, in_features, out_channels, norm="", top_block=None, fuse_type: str = "sum"):
        super().__init__()
        if fuse_type not in ("sum", "avg"):
            raise ValueError(f"fuse_type {fuse_type!r}: expected 'sum' or 'avg'")
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        # Neighbouring levels are added after upsampling by exactly 2
        if not strides or strides != [strides[0] * 2**i for i in range(len(strides))]:
            raise ValueError(
                f"FPN: the strides of {list(in_features)} are {strides}, expected each twice the one before"
            )
        self.levels = [int(math.log2(stride)) for stride in strides]
        for name, level in zip(in_features, self.levels, strict=True):
            lateral = _conv(shapes[name].channels, out_channels, 1, norm)
            output = _conv(out_channels, out_channels, 3, norm)
            # Only once both exist: this way the same seed draws the same weights as in Detectron2
            weight_init.c2_xavier_fill(lateral)
            weight_init.c2_xavier_fill(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.top_block = top_block
        self._fuse_scale = 0.5 if fuse_type == "avg" else 1.0
        num_top = 0 if top_block is None else top_block.num_levels
        all_levels = range(self.levels[0], self.levels[-1] + 1 + num_top)
        self._out_features = [f"p{level}" for level in all_levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in all_levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        # Otherwise rounding could leave a level that is not exactly twice the size of the next
        self._size_divisibility = strides[-1]

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"p2": (B, C, H/4, W/4), ...} from high to low resolution."""
        features = self.bottom_up(x)
        outputs = {}
        prev_features = None
        for name, level in reversed(list(zip(self.in_features, self.levels, strict=True))):
            lateral = getattr(self, f"fpn_lateral{level}")(features[name])
            if prev_features is not None:
                top_down = F.interpolate(prev_features, scale_factor=2.0, mode="nearest")
                lateral = (lateral + top_down) * self._fuse_scale
            prev_features = lateral
            outputs[f"p{level}"] = getattr(self, f"fpn_output{level}")(prev_features)
        if self.top_block is not None:
            # An output of the backbone ("res5") or of the pyramid ("p5")
            source = self.top_block.in_feature
            top = self.top_block(features[source] if source in features else outputs[source])
            outputs.update(zip(self._out_features[len(self.levels) :], top, strict=True))
        return {name: outputs[name] for name in self._out_features}


def _conv(in_channels: int, out_channels: int, size: int, norm) -> Conv2d:
    norm_layer = get_norm(norm, out_channels)
    return Conv2d(in_channels, out_channels, size, padding=size // 2, bias=norm == "", norm=norm_layer)


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """The pyramid of ``cfg.MODEL.FPN`` on the ResNet of ``cfg.MODEL.RESNETS``, with p6."""
    options = cfg.MODEL.FPN
    return FPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=options.IN_FEATURES,
        out_channels=options.OUT_CHANNELS,
        norm=options.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=options.FUSE_TYPE,
    )
