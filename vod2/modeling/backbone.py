"""A narrow ResNet for a CPU, a ResNet that ends in two maps, and parts of a ResNet on their own.

B: images, C: channels, H, W: size of a map.
"""

from torch import Tensor, nn

from vod2.d2 import BACKBONE_REGISTRY, Backbone, BasicBlock, BasicStem, CfgNode, ResNet, ShapeSpec


@BACKBONE_REGISTRY.register()
def build_narrow_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """A ResNet of basic blocks with any widths and strides, by default stride 16 from res4 on.

    Reads MODEL.NARROW_RESNET, and MODEL.RESNETS.NORM, OUT_FEATURES; FREEZE_AT as in Detectron2.
    """
    node, norm = cfg.MODEL.NARROW_RESNET, cfg.MODEL.RESNETS.NORM
    stem = BasicStem(in_channels=input_shape.channels, out_channels=node.STEM_CHANNELS, norm=norm)
    stages, before = [], node.STEM_CHANNELS
    for channels, blocks, stride in zip(node.CHANNELS, node.BLOCKS, node.STRIDES, strict=True):
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                blocks,
                stride_per_block=[stride] + [1] * (blocks - 1),
                in_channels=before,
                out_channels=channels,
                norm=norm,
            )
        )
        before = channels
    return ResNet(stem, stages, out_features=cfg.MODEL.RESNETS.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_head_map_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> "HeadMapBackbone":
    """A ResNet, built by MODEL.HEAD_MAP.BOTTOM_UP, whose res5 ends in one map for the RPN and one for the heads."""
    node = cfg.MODEL.HEAD_MAP
    bottom_up = BACKBONE_REGISTRY.get(node.BOTTOM_UP)(cfg, input_shape)
    return HeadMapBackbone(bottom_up, node.CHANNELS, node.DILATION)


class HeadMapBackbone(Backbone):
    """A ResNet and a 3x3 dilated convolution on its res5, of whose channels the RPN and the heads share (R-FCN).

    The outputs are those of the ResNet, "head_map" with all channels, "rpn" (the first half of them) and "head".

    Args:
        bottom_up: a ResNet that gives "res5".
        channels: of both maps together.
        dilation: of the convolution.
    """

    def __init__(self, bottom_up: ResNet, channels: int, dilation: int) -> None:
        super().__init__()
        res5 = bottom_up.output_shape()["res5"]
        self.bottom_up = bottom_up
        self.last_conv = nn.Conv2d(res5.channels, channels, 3, padding=dilation, dilation=dilation)
        nn.init.normal_(self.last_conv.weight, std=0.01)
        nn.init.zeros_(self.last_conv.bias)
        whole, half = (ShapeSpec(channels=count, stride=res5.stride) for count in (channels, channels // 2))
        self._shapes = {**bottom_up.output_shape(), "head_map": whole, "rpn": half, "head": half}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {name: (B, C, H/s, W/s)}."""
        outputs = self.bottom_up(x)
        return outputs | self.head_maps(outputs["res5"])

    def head_maps(self, res5: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> head_map (B, channels, H, W), and its halves."""
        whole = self.last_conv(res5).relu_()
        return {"head_map": whole} | self.halves(whole)

    @staticmethod
    def halves(head_map: Tensor) -> dict[str, Tensor]:
        """(B, channels, H, W) -> rpn and head, (B, channels / 2, H, W) each."""
        first, second = head_map.chunk(2, dim=1)
        return {"rpn": first, "head": second}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        return self.bottom_up.size_divisibility


def resume(backbone: nn.Module, stage: str, x: Tensor) -> dict[str, Tensor]:
    """Run what comes after `stage` on its output x (B, C, H, W) -> {later output: (B, C', H', W')}."""
    if isinstance(backbone, HeadMapBackbone):
        if stage == "head_map":
            return backbone.halves(x)
        outputs = resume(backbone.bottom_up, stage, x)
        return outputs | backbone.head_maps(x if stage == "res5" else outputs["res5"])
    outputs = {}
    for name in later_outputs(backbone, stage):
        x = getattr(backbone, name)(x)
        outputs[name] = x
    return outputs


def run_to(backbone: nn.Module, images: Tensor, stage: str) -> Tensor:
    """Run the backbone no further than `stage`: (B, 3, H, W) -> its output (B, C, H/s, W/s), what `resume` takes.

    Raises:
        ValueError: for a stage that the backbone does not have.
    """
    if stage == "head_map" and isinstance(backbone, HeadMapBackbone):
        return backbone(images)[stage]  # nothing comes after it
    return finish(backbone, begin(backbone, images, stage, 1), stage, 1)


def later_outputs(backbone: nn.Module, stage: str) -> list[str]:
    """The names of what `resume` computes from the output of `stage`, in their order."""
    if isinstance(backbone, HeadMapBackbone):
        if stage == "head_map":
            return ["rpn", "head"]
        return [*later_outputs(backbone.bottom_up, stage), "head_map", "rpn", "head"]
    names = list(backbone.stage_names)
    return names[names.index(stage) + 1 :]


def begin(backbone: nn.Module, images: Tensor, stage: str, blocks: int) -> Tensor:
    """The first part of a ResNet: (B, 3, H, W) -> the sum before the ReLU of block `blocks` (from 1) of `stage`.

    Of blocks that do not end in one (`ends_in_relu` False, as EfficientNet's) it is the block's output.

    Raises:
        ValueError: for a stage or a block that the backbone does not have.
    """
    resnet = getattr(backbone, "bottom_up", backbone)
    x = resnet.stem(images)
    for name in resnet.stage_names:
        layers = list(getattr(resnet, name))
        if name == stage:
            if not 1 <= blocks <= len(layers):
                raise ValueError(f"{stage} has {len(layers)} blocks: expected 1 to {len(layers)} of them, got {blocks}")
            for block in layers[: blocks - 1]:
                x = block(x)
            return _before_relu(layers[blocks - 1], x)
        x = getattr(resnet, name)(x)
    raise ValueError(f"the backbone has no stage {stage!r}, it has {list(resnet.stage_names)}")


def finish(backbone: nn.Module, x: Tensor, stage: str, blocks: int) -> Tensor:
    """The rest of `stage` after `begin`, whose result x (B, C, H, W) is -> the stage's output."""
    resnet = getattr(backbone, "bottom_up", backbone)
    layers = list(getattr(resnet, stage))
    if _ends_in_relu(layers[blocks - 1]):
        x = x.relu()
    for block in layers[blocks:]:
        x = block(x)
    return x


def _before_relu(block: nn.Module, x: Tensor) -> Tensor:
    """A block without its last ReLU, if it has one: then it is a basic or bottleneck block."""
    if not _ends_in_relu(block):
        return block(x)
    out = block.conv2(block.conv1(x).relu_())
    if hasattr(block, "conv3"):
        out = block.conv3(out.relu_())
    out += x if block.shortcut is None else block.shortcut(x)
    return out


def _ends_in_relu(block: nn.Module) -> bool:
    return getattr(block, "ends_in_relu", True)
