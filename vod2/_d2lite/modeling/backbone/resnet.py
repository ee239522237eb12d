"""ResNet and ResNeXt (He et al., CVPR 2016; Xie et al., CVPR 2017), optionally dilated.

Letters: B images, C channels, H W height and width. All tensors are (B, C, H, W).
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from vod2._d2lite.config import check_supported
from vod2._d2lite.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from vod2._d2lite.modeling.backbone.backbone import BACKBONE_REGISTRY, Backbone

# The name under which Detectron2 exports it for ResNets
ResNetBlockBase = CNNBlockBase

_BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm, **kwargs) -> Conv2d:
    padding = kernel_size // 2 * kwargs.get("dilation", 1)
    norm_layer = get_norm(norm, out_channels)
    return Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False, norm=norm_layer, **kwargs)


def _shortcut(in_channels: int, out_channels: int, stride: int, norm) -> Conv2d | None:
    # Decided by channels alone, as in Detectron2: no stage changes the stride without changing the channels
    return _conv(in_channels, out_channels, 1, norm, stride=stride) if in_channels != out_channels else None


def _initialize(*convs: Conv2d | None) -> None:
    """Fill weights once all layers of a block exist: with one seed, Detectron2 draws the same ones."""
    for conv in convs:
        if conv is not None:
            weight_init.c2_msra_fill(conv)


class BasicStem(CNNBlockBase):
    """7x7 convolution and 3x3 max pooling, stride 4 together."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm="BN"):
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2)
        _initialize(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class BasicBlock(CNNBlockBase):
    """Two 3x3 convolutions beside a shortcut: the block of ResNet-18 and -34."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm="BN"):
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride)
        self.conv2 = _conv(out_channels, out_channels, 3, norm)
        _initialize(self.conv1, self.conv2, self.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu_(self.conv1(x)))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BottleneckBlock(CNNBlockBase):
    """1x1, 3x3 and 1x1 convolution beside a shortcut: the block of ResNet-50 and deeper.

    Args:
        bottleneck_channels, num_groups, dilation: of the 3x3 convolution.
        stride_in_1x1: the stride is in the first 1x1 convolution instead of the 3x3 one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm="BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ):
        super().__init__(in_channels, out_channels, stride)
        width = bottleneck_channels
        # Caffe's ResNets have the stride in the 1x1 convolution, torchvision's in the 3x3
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, width, 1, norm, stride=stride_1x1)
        self.conv2: nn.Module = _conv(width, width, 3, norm, stride=stride_3x3, groups=num_groups, dilation=dilation)
        self.conv3 = _conv(width, out_channels, 1, norm)
        _initialize(self.conv1, self.conv2, self.conv3, self.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu_(self.conv1(x)))
        out = self.conv3(F.relu_(out))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class DeformConv(nn.Module):
    """Deformable 3x3 convolution without bias (Dai et al., ICCV 2017), then `norm`."""

    def __init__(self, channels: int, *, stride: int, padding: int, dilation: int, groups: int, norm: nn.Module | None):
        super().__init__()
        self.options = {"stride": stride, "padding": padding, "dilation": dilation}
        self.weight = nn.Parameter(torch.empty(channels, channels // groups, 3, 3))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        self.norm = norm

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """offset (B, 18 * g, H', W'): dy, dx of each of the nine places, for each of g groups of input channels.

        Where an offset is NaN, so is the result: deform_conv2d would read outside of the map.
        """
        # A diverging training should give NaN, not read outside of the map
        unknown = offset.isnan().any(dim=1, keepdim=True)
        offset = offset.masked_fill(unknown, 0).to(x.dtype)
        x = deform_conv2d(x, offset, self.weight.to(x.dtype), **self.options).masked_fill(unknown, torch.nan)
        return x if self.norm is None else self.norm(x)


class DeformBottleneckBlock(BottleneckBlock):
    """`BottleneckBlock` whose 3x3 convolution looks where another one, conv2_offset, tells it to.

    Args:
        deform_num_groups: groups of input channels that have offsets of their own.
        bottleneck_channels, kwargs: those of `BottleneckBlock`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, bottleneck_channels: int, deform_num_groups: int = 1, **kwargs
    ):
        super().__init__(in_channels, out_channels, bottleneck_channels=bottleneck_channels, **kwargs)
        conv2: Any = self.conv2
        sampling: dict[str, Any] = {
            "stride": conv2.stride[0],
            "padding": conv2.padding[0],
            "dilation": conv2.dilation[0],
        }
        self.conv2_offset = Conv2d(bottleneck_channels, 18 * deform_num_groups, 3, **sampling)
        # Zero offsets: it starts as an ordinary convolution
        nn.init.zeros_(self.conv2_offset.weight)
        assert self.conv2_offset.bias is not None
        nn.init.zeros_(self.conv2_offset.bias)
        self.conv2 = DeformConv(bottleneck_channels, **sampling, groups=conv2.groups, norm=conv2.norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        out = F.relu_(self.conv2(out, self.conv2_offset(out)))
        return F.relu_(self.conv3(out) + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(Backbone):
    """A stem and stages "res2", "res3", ...

    Args:
        stem: the first block.
        stages: the blocks of each stage.
        out_features: outputs, of "stem", "res2" ... Default: the last one. Stages that none needs are left out.
        freeze_at: see `freeze`.
    """

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: list[list[CNNBlockBase]],
        *,
        out_features: list[str] | None = None,
        freeze_at: int = 0,
    ):
        super().__init__()
        names = [f"res{number}" for number in range(2, 2 + len(stages))]
        self._out_features = list(out_features or ["stem", *names][-1:])
        if unknown := set(self._out_features) - {"stem", *names}:
            raise ValueError(f"out_features {sorted(unknown)} do not exist, this ResNet has {['stem', *names]}")
        # Parameters of later stages would never get a gradient
        needed = max((names.index(name) + 1 for name in self._out_features if name in names), default=0)
        self.stem = stem
        self.stage_names, self.stages = names[:needed], []
        # Of every stage, also those that are no output: `output_shape` picks
        self._out_feature_strides = {"stem": stem.stride}
        self._out_feature_channels = {"stem": stem.out_channels}
        stride = stem.stride
        for name, blocks in zip(self.stage_names, stages, strict=False):
            stage = nn.Sequential(*blocks)
            self.add_module(name, stage)
            # A plain list: `add_module` has registered the stage; a ModuleList would add it to checkpoints again
            self.stages.append(stage)
            for block in blocks:
                stride *= block.stride
            self._out_feature_strides[name] = stride
            self._out_feature_channels[name] = blocks[-1].out_channels
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> the asked outputs by name."""
        if x.dim() != 4:
            raise ValueError(f"ResNet expects (B, C, H, W), got {tuple(x.shape)}")
        outputs = {}
        x = outputs["stem"] = self.stem(x)
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            x = outputs[name] = stage(x)
        return {name: outputs[name] for name in self._out_features}

    def freeze(self, freeze_at: int = 0) -> "ResNet":
        """Freeze the first parts: 1 the stem, 2 also "res2", and so on."""
        parts: list[Iterable] = [[self.stem], *self.stages]
        for part in parts[: max(freeze_at, 0)]:
            for block in part:
                block.freeze()
        return self

    @staticmethod
    def make_stage(block_class: type, num_blocks: int, *, in_channels: int, out_channels: int, **kwargs) -> list:
        """The blocks of one stage, which share their output channels.

        Args:
            kwargs: of `block_class`; one named ``xx_per_block`` is a list that gives each block its own ``xx``.
        """
        blocks = []
        for index in range(num_blocks):
            block_kwargs = {}
            for name, value in kwargs.items():
                if name.endswith("_per_block"):
                    if len(value) != num_blocks:
                        raise ValueError(f"{name} has {len(value)} values, the stage has {num_blocks} blocks")
                    name, value = name.removesuffix("_per_block"), value[index]
                block_kwargs[name] = value
            blocks.append(block_class(in_channels=in_channels, out_channels=out_channels, **block_kwargs))
            in_channels = out_channels
        return blocks


def _build_stage(cfg, number: int, in_channels: int) -> list[CNNBlockBase]:
    """The blocks of stage "res{number}" of ``cfg.MODEL.RESNETS``."""
    options = cfg.MODEL.RESNETS
    dilation = options.RES5_DILATION if number == 5 else 1
    # The stem's pooling precedes res2, and a dilated res5 keeps the resolution of res4
    first_stride = 1 if number == 2 or dilation == 2 else 2
    num_blocks, growth = _BLOCKS_PER_STAGE[options.DEPTH][number - 2], 2 ** (number - 2)
    block_class: type[CNNBlockBase] = BasicBlock
    kwargs: dict[str, Any] = {}
    if options.DEPTH >= 50:
        block_class = BottleneckBlock
        kwargs = {
            "bottleneck_channels": options.NUM_GROUPS * options.WIDTH_PER_GROUP * growth,
            "num_groups": options.NUM_GROUPS,
            "stride_in_1x1": options.STRIDE_IN_1X1,
            "dilation": dilation,
        }
        if options.DEFORM_ON_PER_STAGE[number - 2]:
            block_class, kwargs["deform_num_groups"] = DeformBottleneckBlock, options.DEFORM_NUM_GROUPS
    return ResNet.make_stage(
        block_class,
        num_blocks,
        in_channels=in_channels,
        out_channels=options.RES2_OUT_CHANNELS * growth,
        stride_per_block=[first_stride] + [1] * (num_blocks - 1),
        norm=options.NORM,
        **kwargs,
    )


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """The ResNet that ``cfg.MODEL.RESNETS`` and ``cfg.MODEL.BACKBONE.FREEZE_AT`` describe."""
    check_supported(cfg, {"MODEL.RESNETS.DEFORM_MODULATED": False})
    options = cfg.MODEL.RESNETS
    allowed: dict[str, tuple] = {"DEPTH": tuple(_BLOCKS_PER_STAGE), "RES5_DILATION": (1, 2)}
    if options.DEPTH < 50:  # no bottleneck: the keys that shape one must keep the values that mean nothing
        allowed |= {
            "RES2_OUT_CHANNELS": (64,),
            "RES5_DILATION": (1,),
            "NUM_GROUPS": (1,),
            "DEFORM_ON_PER_STAGE": ([False] * 4,),
        }
    for key, values in allowed.items():
        if options[key] not in values:
            raise ValueError(f"MODEL.RESNETS.{key} is {options[key]}, expected one of {values} (DEPTH {options.DEPTH})")
    stem = BasicStem(input_shape.channels, options.STEM_OUT_CHANNELS, options.NORM)
    stages, channels = [], stem.out_channels
    for number in (2, 3, 4, 5):
        stages.append(_build_stage(cfg, number, channels))
        channels = stages[-1][-1].out_channels
    return ResNet(stem, stages, out_features=list(options.OUT_FEATURES), freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)
