"""EfficientNet-Lite0 as a backbone (Tan and Le, ICML 2019; the Lite variants have ReLU6 and no squeeze-and-excitation).

B: images, C: channels, H, W: size of a map.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from vod2.d2 import BACKBONE_REGISTRY, CfgNode, CNNBlockBase, Conv2d, ResNet, ShapeSpec, get_norm
from vod2.errors import UserError

_STEM_CHANNELS = 32
# Groups of equal blocks: expansion, kernel, stride, channels, blocks. The first belongs to the stem here, whose output
# has stride 2; each stage of a ResNet begins where the stride doubles.
_STEM_GROUP = (1, 3, 1, 16, 1)
_STAGES = (
    ((6, 3, 2, 24, 2),),  # res2
    ((6, 5, 2, 40, 2),),  # res3
    ((6, 3, 2, 80, 3), (6, 5, 1, 112, 3)),  # res4
    ((6, 5, 2, 192, 4), (6, 3, 1, 320, 1)),  # res5
)


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """EfficientNet-Lite0 in the stages of a ResNet: res2 .. res5 of 24, 40, 112 and 320 channels, strides 4 to 32.

    With MODEL.RESNETS.RES5_DILATION 2 (and in what vod2's heads expect), res5 keeps stride 16 and is dilated instead.
    Also reads MODEL.RESNETS.NORM and OUT_FEATURES; FREEZE_AT as for a ResNet. The classifier and the convolution before
    it are left out. For weights see docs/model_zoo.md.

    Raises:
        UserError: another dilation than 1 or 2.
    """
    dilation, norm = cfg.MODEL.RESNETS.RES5_DILATION, cfg.MODEL.RESNETS.NORM
    if dilation not in (1, 2):
        raise UserError(f"MODEL.RESNETS.RES5_DILATION is {dilation}, expected 1 or 2")
    stem = EfficientNetStem(input_shape.channels, norm)
    stages: list[list[CNNBlockBase]] = []
    channels = stem.out_channels
    for groups in _STAGES:
        blocks: list[CNNBlockBase] = []
        dilated = dilation if len(stages) == len(_STAGES) - 1 else 1
        for expansion, kernel, stride, width, count in groups:
            for number in range(count):
                step = stride if number == 0 and dilated == 1 else 1
                # The first block sees the map that has kept its stride, those after it what should be coarser.
                spread = dilated if blocks else 1
                blocks.append(InvertedResidual(channels, width, expansion, kernel, step, spread, norm))
                channels = width
        stages.append(blocks)
    return ResNet(stem, stages, out_features=cfg.MODEL.RESNETS.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


class InvertedResidual(CNNBlockBase):
    """Widen, filter each channel, narrow again; the input is added where the shape stays (MobileNetV2's block).

    Args:
        in_channels, out_channels: of the narrow maps.
        expansion: channels in between, as a multiple of `in_channels`; 1 for no widening.
        kernel_size: of the depthwise convolution, odd.
        stride: 1 or 2.
        dilation: of the depthwise convolution; 1 with a stride.
        norm: as in Detectron2.
    """

    ends_in_relu = False  # see vod2.modeling.backbone.forward_stages

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        kernel_size: int,
        stride: int,
        dilation: int = 1,
        norm: str = "BN",
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        wide = expansion * in_channels
        self.expand = _convolution(in_channels, wide, 1, norm) if expansion > 1 else nn.Identity()
        self.depthwise = _convolution(wide, wide, kernel_size, norm, stride, dilation, groups=wide)
        self.project = _convolution(wide, out_channels, 1, norm, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride), rounded up."""
        out = self.expand(x)
        out = self.project(self.depthwise(_padded(out, self.depthwise)))
        return out + x if out.shape == x.shape else out


class EfficientNetStem(CNNBlockBase):
    """A convolution with stride 2 and the first block: (B, C, H, W) -> (B, 16, H / 2, W / 2)."""

    def __init__(self, in_channels: int, norm: str = "BN") -> None:
        expansion, kernel_size, stride, channels, _ = _STEM_GROUP
        super().__init__(in_channels, channels, 2)
        self.conv1 = _convolution(in_channels, _STEM_CHANNELS, 3, norm, 2)
        self.block = InvertedResidual(_STEM_CHANNELS, channels, expansion, kernel_size, stride, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.conv1(_padded(x, self.conv1)))


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: str,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    activation: Callable[[Tensor], Tensor] | None = F.relu6,
) -> Conv2d:
    # Detectron2's Conv2d, so that frozen normalisation and fusion treat it as they treat a ResNet's.
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        # Where there is a stride, the padding is not the same on all sides: `_padded` adds it.
        padding=dilation * (kernel_size - 1) // 2 if stride == 1 else 0,
        dilation=dilation,
        groups=groups,
        bias=False,
        norm=get_norm(norm, out_channels),
        activation=activation,
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return conv


def _padded(x: Tensor, conv: Conv2d) -> Tensor:
    """TensorFlow's padding before a convolution with stride 2, of maps with even sides: less on the left and above."""
    if conv.stride[0] == 1:
        return x
    kernel = conv.kernel_size[0]
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    return F.pad(x, (before, after, before, after))
