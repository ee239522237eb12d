"""Feature pyramids on any backbone (Lin et al., CVPR 2017), and those of detectors without RoIs (FCOS, section 3.2).

B: images, C: channels, H, W: size of a map.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from vod2.d2 import BACKBONE_REGISTRY, FPN, Backbone, CfgNode, LastLevelMaxPool, ShapeSpec
from vod2.errors import lookup, settings
from vod2.layers import ModuleList, init_xavier
from vod2.modeling.backbone import build_narrow_resnet_backbone


@BACKBONE_REGISTRY.register()
def build_pyramid_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A pyramid on the backbone that MODEL.PYRAMID.BOTTOM_UP builds, with further levels of stride-2 convolutions.

    Reads MODEL.PYRAMID, and of MODEL.FPN what Detectron2's pyramids read.

    Raises:
        UserError: each of MODEL.FPN.IN_FEATURES must have twice the stride of the one before, and the number of further
            levels must not be negative.
    """
    bottom_up = lookup(BACKBONE_REGISTRY, cfg.MODEL.PYRAMID.BOTTOM_UP, "MODEL.PYRAMID.BOTTOM_UP")(cfg, input_shape)
    last = pyramid_strides(cfg, bottom_up)[-1]
    with settings("MODEL.PYRAMID"):
        top = TopLevels(cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.PYRAMID.TOP_LEVELS, f"p{int(math.log2(last))}")
    return build_pyramid(cfg, bottom_up, top if top.num_levels else None)


@BACKBONE_REGISTRY.register()
def build_narrow_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid with p6 on the narrow ResNet, whose stages then have twice the stride of the one before.

    Reads MODEL.FPN and what `build_narrow_resnet_backbone` reads.

    Raises:
        UserError: MODEL.FPN.IN_FEATURES, as in `build_pyramid_backbone`.
    """
    return build_pyramid(cfg, build_narrow_resnet_backbone(cfg, input_shape), LastLevelMaxPool())


def build_pyramid(cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module | None) -> FPN:
    """The feature pyramid of MODEL.FPN on a backbone.

    Args:
        top_block: makes the levels above the last map; None for none.

    Raises:
        UserError: MODEL.FPN.IN_FEATURES, as in `build_pyramid_backbone`.
    """
    pyramid_strides(cfg, bottom_up)
    node = cfg.MODEL.FPN
    return FPN(
        bottom_up=bottom_up,
        in_features=node.IN_FEATURES,
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        top_block=top_block,
        fuse_type=node.FUSE_TYPE,
    )


def pyramid_strides(cfg: CfgNode, bottom_up: Backbone) -> list[int]:
    """Of the maps MODEL.FPN.IN_FEATURES that a pyramid stands on; raises UserError as `build_pyramid_backbone`."""
    with settings("MODEL.FPN.IN_FEATURES"):
        return _strides(bottom_up.output_shape(), cfg.MODEL.FPN.IN_FEATURES)


class TopLevels(nn.Module):
    """Levels above a pyramid, each a 3x3 convolution with stride 2 of the one below: FCOS's P6 and P7 on P5.

    Args:
        channels: of every level.
        num_levels: how many; FCOS has 2.
        in_feature: the level below them.
    """

    def __init__(self, channels: int, num_levels: int, in_feature: str) -> None:
        super().__init__()
        if num_levels < 0:
            raise ValueError(f"expected TOP_LEVELS of at least 0, got {num_levels}")
        self.num_levels = num_levels
        self.in_feature = in_feature  # Detectron2's pyramid asks for both
        self.convs = ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(num_levels))
        init_xavier(*self.convs)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> (B, C, ceil(H / 2^i), ceil(W / 2^i)) for i = 1 .. num_levels."""
        levels: list[Tensor] = []
        for conv in self.convs:
            # Between the convolutions a ReLU: two of them without one would be a single linear map.
            x = conv(functional.relu(x) if levels else x)
            levels.append(x)
        return levels


def _strides(shapes: dict[str, ShapeSpec], names: list[str]) -> list[int]:
    """Of the maps that the pyramid stands on."""
    missing = [name for name in names if name not in shapes]
    if missing or not names:
        raise ValueError(f"expected some of {', '.join(shapes)}, which the backbone gives, got {list(names)}")
    strides = [int(shapes[name].stride or 0) for name in names]
    if strides != [strides[0] * 2**i for i in range(len(strides))]:
        raise ValueError(
            f"{', '.join(names)} have the strides {strides}: expected each twice the one before, leave some out or "
            "change the strides of the backbone"
        )
    return strides
