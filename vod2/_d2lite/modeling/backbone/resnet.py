"""ResNet and ResNeXt (He et al., CVPR 2016; Xie et al., CVPR 2017), with dilation and deformable convolution.

Letters: B images, C channels, H W height and width. All tensors are (B, C, H, W).
"""

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from vod2._d2lite.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from vod2._d2lite.modeling.backbone.backbone import BACKBONE_REGISTRY, Backbone

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
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))


class BottleneckBlock(CNNBlockBase):
    """1x1, 3x3 and 1x1 convolution beside a shortcut: the block of ResNet-50 and deeper.

    Args:
        bottleneck_channels: channels of the 3x3 convolution.
        num_groups: groups of the 3x3 convolution.
        stride_in_1x1: the stride is in the first 1x1 convolution instead of the 3x3 one.
        dilation: of the 3x3 convolution.
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
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm, stride=stride_1x1)
        self.conv2 = _conv(
            bottleneck_channels,
            bottleneck_channels,
            3,
            norm,
            stride=stride_3x3,
            groups=num_groups,
            dilation=dilation,
        )
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)
        _initialize(self.conv1, self.conv2, self.conv3, self.shortcut)

    def _spatial(self, x: Tensor) -> Tensor:
        return self.conv2(x)

    def forward(self, x: Tensor) -> Tensor:
        out = self._spatial(F.relu_(self.conv1(x)))
        out = self.conv3(F.relu_(out))
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))


class DeformBottleneckBlock(BottleneckBlock):
    """A bottleneck whose 3x3 convolution is deformable (Dai et al., ICCV 2017), and modulated if so asked.

    Args:
        deform_modulated: also predict a weight in (0, 1) for each sampling point (Zhu et al., CVPR 2019).
        deform_num_groups: groups of channels with offsets of their own.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        stride_in_1x1: bool = False,
        dilation: int = 1,
        deform_modulated: bool = False,
        deform_num_groups: int = 1,
        **kwargs,
    ):
        super().__init__(
            in_channels, out_channels, stride=stride, stride_in_1x1=stride_in_1x1, dilation=dilation, **kwargs
        )
        self.deform_modulated = deform_modulated
        # Parameters keep Detectron2's order, by which the states of an optimizer are stored: offsets before conv2
        conv2, conv3 = self.conv2, self.conv3
        del self.conv2, self.conv3
        self.conv2_offset = Conv2d(
            conv2.in_channels,
            (27 if deform_modulated else 18) * deform_num_groups,
            kernel_size=3,
            stride=conv2.stride,
            padding=dilation,
            dilation=dilation,
        )
        self.conv2, self.conv3 = conv2, conv3
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)

    def _spatial(self, x: Tensor) -> Tensor:
        offset, mask = self.conv2_offset(x), None
        if self.deform_modulated:
            split = offset.shape[1] * 2 // 3
            offset, mask = offset[:, :split], offset[:, split:].sigmoid()
        conv = self.conv2
        out = deform_conv2d(
            x, offset, conv.weight, stride=conv.stride, padding=conv.padding, dilation=conv.dilation, mask=mask
        )
        return out if conv.norm is None else conv.norm(out)


def make_stage(block_class: type, num_blocks: int, *, in_channels: int, out_channels: int, **kwargs) -> list:
    """The blocks of one stage, which share their output channels.

    Args:
        kwargs: further arguments of `block_class`; one named ``xx_per_block`` is a list that gives each block its own
    """
    blocks = []
    for index in range(num_blocks):
        block_kwargs = {}
        for name, value in kwargs.items():
            if name.endswith("_per_block"):
                if len(value) != num_blocks:
                    raise ValueError(f"{name} has {len(value)} values, the stage has {num_blocks} blocks")
                block_kwargs[name.removesuffix("_per_block")] = value[index]
            else:
                block_kwargs[name] = value
        blocks.append(block_class(in_channels=in_channels, out_channels=out_channels, **block_kwargs))
        in_channels = out_channels
    return blocks


class ResNet(Backbone):
    """A stem and stages "res2", "res3", ...

    Args:
        stem: the first block.
        stages: the blocks of each stage.
        num_classes: where given, average pooling and a linear classifier follow, output "linear".
        out_features: outputs, of "stem", "res2" ... and "linear". Default: the last one.
        freeze_at: see `freeze`.
    """

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: list[list[CNNBlockBase]],
        num_classes: int | None = None,
        out_features: list[str] | None = None,
        freeze_at: int = 0,
    ):
        super().__init__()
        self.stem = stem
        self.num_classes = num_classes
        stride, channels = stem.stride, stem.out_channels
        self._out_feature_strides = {"stem": stride}
        self._out_feature_channels = {"stem": channels}
        self.stage_names, self.stages = [], []
        if out_features is not None and "linear" not in out_features:
            needed = [int(name.removeprefix("res")) - 1 for name in out_features if name.startswith("res")]
            stages = stages[: max(needed, default=0)]
        for number, blocks in enumerate(stages, start=2):
            name = f"res{number}"
            stage = nn.Sequential(*blocks)
            self.add_module(name, stage)
            self.stage_names.append(name)
            self.stages.append(stage)
            for block in blocks:
                stride *= block.stride
            channels = blocks[-1].out_channels
            self._out_feature_strides[name] = stride
            self._out_feature_channels[name] = channels
        if num_classes is not None:
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.linear = nn.Linear(channels, num_classes)
            nn.init.normal_(self.linear.weight, std=0.01)
        last = "linear" if num_classes is not None else (self.stage_names or ["stem"])[-1]
        self._out_features = list(out_features or [last])
        known = {"stem", *self.stage_names} | ({"linear"} if num_classes is not None else set())
        if unknown := set(self._out_features) - known:
            raise ValueError(f"out_features {sorted(unknown)} do not exist, this ResNet has {sorted(known)}")
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> the asked outputs by name."""
        if x.dim() != 4:
            raise ValueError(f"ResNet expects (B, C, H, W), got {tuple(x.shape)}")
        outputs = {}
        x = outputs["stem"] = self.stem(x)
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            x = outputs[name] = stage(x)
        if "linear" in self._out_features:
            outputs["linear"] = self.linear(torch.flatten(self.avgpool(x), 1))
        return {name: outputs[name] for name in self._out_features}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
            if name != "linear"
        }

    def freeze(self, freeze_at: int = 0) -> "ResNet":
        """Freeze the first parts: 1 the stem, 2 also "res2", and so on."""
        if freeze_at >= 1:
            self.stem.freeze()
        for number, stage in enumerate(self.stages, start=2):
            if freeze_at >= number:
                for block in stage:
                    block.freeze()
        return self

    @staticmethod
    def make_stage(block_class: type, num_blocks: int, *, in_channels: int, out_channels: int, **kwargs) -> list:
        return make_stage(block_class, num_blocks, in_channels=in_channels, out_channels=out_channels, **kwargs)

    @staticmethod
    def make_default_stages(depth: int, block_class: type | None = None, **kwargs) -> list[list[CNNBlockBase]]:
        """The four stages of ResNet-18, -34, -50, -101 or -152; `kwargs` go to `make_stage`."""
        is_basic = depth < 50
        in_channels = 64
        stages = []
        for index, num_blocks in enumerate(_blocks_per_stage(depth)):
            out_channels = (64 if is_basic else 256) * 2**index
            widths = {} if is_basic else {"bottleneck_channels": out_channels // 4}
            stage = make_stage(
                block_class or (BasicBlock if is_basic else BottleneckBlock),
                num_blocks,
                in_channels=in_channels,
                out_channels=out_channels,
                stride_per_block=[1 if index == 0 else 2] + [1] * (num_blocks - 1),
                **widths,
                **kwargs,
            )
            stages.append(stage)
            in_channels = out_channels
        return stages


def _blocks_per_stage(depth: int) -> tuple[int, ...]:
    if depth not in _BLOCKS_PER_STAGE:
        raise ValueError(f"ResNet depth {depth}: expected one of {sorted(_BLOCKS_PER_STAGE)}")
    return _BLOCKS_PER_STAGE[depth]


def _check_basic(options) -> None:
    """ResNet-18 and -34 have no bottleneck: the keys that shape one must keep the values that mean nothing."""
    required = {"RES2_OUT_CHANNELS": 64, "RES5_DILATION": 1, "NUM_GROUPS": 1}
    for key, value in required.items():
        if options[key] != value:
            raise ValueError(f"MODEL.RESNETS.{key} is {options[key]}: DEPTH {options.DEPTH} requires {value}")
    if any(options.DEFORM_ON_PER_STAGE):
        raise ValueError(f"MODEL.RESNETS.DEFORM_ON_PER_STAGE: DEPTH {options.DEPTH} has no deformable convolution")


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """The ResNet that ``cfg.MODEL.RESNETS`` and ``cfg.MODEL.BACKBONE.FREEZE_AT`` describe."""
    options = cfg.MODEL.RESNETS
    blocks_per_stage = _blocks_per_stage(options.DEPTH)
    is_basic = options.DEPTH < 50
    if is_basic:
        _check_basic(options)
    if options.RES5_DILATION not in (1, 2):
        raise ValueError(f"MODEL.RESNETS.RES5_DILATION is {options.RES5_DILATION}: expected 1 or 2")
    stem = BasicStem(input_shape.channels, options.STEM_OUT_CHANNELS, options.NORM)
    in_channels, stages = options.STEM_OUT_CHANNELS, []
    for index, num_blocks in enumerate(blocks_per_stage):
        dilation = options.RES5_DILATION if index == 3 else 1
        first_stride = 1 if index == 0 or dilation == 2 else 2
        out_channels = options.RES2_OUT_CHANNELS * 2**index
        block_class, kwargs = BasicBlock, {}
        if not is_basic:
            block_class = BottleneckBlock
            kwargs = {
                "bottleneck_channels": options.NUM_GROUPS * options.WIDTH_PER_GROUP * 2**index,
                "num_groups": options.NUM_GROUPS,
                "stride_in_1x1": options.STRIDE_IN_1X1,
                "dilation": dilation,
            }
        if options.DEFORM_ON_PER_STAGE[index]:
            block_class = DeformBottleneckBlock
            kwargs["deform_modulated"] = options.DEFORM_MODULATED
            kwargs["deform_num_groups"] = options.DEFORM_NUM_GROUPS
        stage = make_stage(
            block_class,
            num_blocks,
            in_channels=in_channels,
            out_channels=out_channels,
            stride_per_block=[first_stride] + [1] * (num_blocks - 1),
            norm=options.NORM,
            **kwargs,
        )
        stages.append(stage)
        in_channels = out_channels
    return ResNet(stem, stages, out_features=list(options.OUT_FEATURES), freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)
