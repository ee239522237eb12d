"""A narrow ResNet for a CPU, a ResNet that ends in two maps, and parts of a ResNet on their own.

B: images, C: channels, H, W: size of a map.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from vod2.d2 import (
    BACKBONE_REGISTRY,
    Backbone,
    BasicBlock,
    BasicStem,
    CfgNode,
    CNNBlockBase,
    ResNet,
    ShapeSpec,
)
from vod2.errors import UserError, lookup
from vod2.layers import init_normal


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
    bottom_up = lookup(BACKBONE_REGISTRY, node.BOTTOM_UP, "MODEL.HEAD_MAP.BOTTOM_UP")(cfg, input_shape)
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
        init_normal(self.last_conv, std=0.01)
        whole, half = (ShapeSpec(channels=count, stride=res5.stride) for count in (channels, channels // 2))
        self._shapes = {**bottom_up.output_shape(), "head_map": whole, "rpn": half, "head": half}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {name: (B, C, H/s, W/s)}."""
        outputs = self.bottom_up(x)
        whole = self.head_map(outputs["res5"])
        return outputs | {"head_map": whole, "rpn": _first_half(whole), "head": _second_half(whole)}

    def head_map(self, res5: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H, W)."""
        return self.last_conv(res5).relu_()

    def ordered_stages(self) -> list["Stage"]:
        """Those of the ResNet, and what comes after them; see `stages_of`."""
        return [
            *stages_of(self.bottom_up),
            Stage("head_map", "res5", self.head_map),
            Stage("rpn", "head_map", _first_half),
            Stage("head", "head_map", _second_half),
        ]

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        return self.bottom_up.size_divisibility


class Stage(NamedTuple):
    """A part of a backbone: `run` makes the map `name` of the map `source`, both (B, C, H, W)."""

    name: str
    source: str
    run: Callable[[Tensor], Tensor]


_IMAGES, _STEM = "images", "stem"


def stages_of(backbone: Any) -> list[Stage]:
    """The stages of a ResNet, or of a backbone that lists its own (`ordered_stages`), in their order.

    Raises:
        UserError: the backbone is none of these.
    """
    if hasattr(backbone, "ordered_stages"):
        return backbone.ordered_stages()
    if not hasattr(backbone, "stage_names"):
        raise UserError(
            f"{type(backbone).__name__} of MODEL.BACKBONE.NAME does not run stage after stage, as level 1 "
            "(MODEL.VIDEO.PIXEL_AGGREGATOR) and build_head_map_backbone need it: take a ResNet, a ConvNeXt or a Swin, "
            "or a MODEL.VIDEO.PROPOSAL_AGGREGATOR instead"
        )
    # Each stage reads the one before. The last name is the source of none, so the lists differ in length.
    names = [_STEM, *backbone.stage_names]
    sources = [_IMAGES, *names]
    return [Stage(name, source, getattr(backbone, name)) for name, source in zip(names, sources, strict=False)]


def outputs_after(backbone: nn.Module, stage: str) -> list[str]:
    """The names of what a backbone makes after `stage`, in their order."""
    names = [part.name for part in stages_of(backbone)]
    return names[_position(names, stage) + 1 :]


def forward_stages(
    backbone: nn.Module, x: Tensor, *, after: str | None = None, until: str | None = None, block: int | None = None
) -> dict[str, Tensor]:
    """Run a part of a backbone.

    Args:
        backbone: see `stages_of`.
        x: images (B, 3, H, W), or (B, C, H/s, W/s), the map of the stage `after`.
        after: the stage that x comes out of; None for images.
        until: the last stage that is run; None for all.
        block: cuts a stage in two after its block number `block`, from 1: the stage `after` where that is given, of
            which the rest of the blocks then runs on x, else `until`, of which the rest does not run. The cut is at the
            sum before the last ReLU of the block, if it ends in one (a block with `ends_in_relu` False, as
            EfficientNet's, does not).

    Returns:
        {stage: (B, C, H/s, W/s)}, every map that was made; of a stage that is cut after `block`, that sum.

    Raises:
        ValueError: for a stage or a block that the backbone does not have.

    Example:
        >>> import torch
        >>> from vod2.d2 import build_backbone
        >>> from vod2.engine import load_config
        >>> from vod2.modeling.backbone import forward_stages
        >>> backbone = build_backbone(load_config("configs/quick/RDN.yaml"))
        >>> maps = forward_stages(backbone, torch.zeros(1, 3, 32, 32), until="res4")
        >>> list(maps), list(forward_stages(backbone, maps["res4"], after="res4"))
        (['stem', 'res2', 'res3', 'res4'], ['res5'])
    """
    stages = stages_of(backbone)
    names = [stage.name for stage in stages]
    first = 0 if after is None else _position(names, after) + 1
    end = len(names) if until is None else _position(names, until) + 1
    inputs, outputs = {after or _IMAGES: x}, {}
    # The cut stage goes on from the sum, and its output takes the place of the input x under the same name.
    if after is not None and block is not None:
        outputs[after] = _run_after_block(stages[first - 1], x, block)
    for stage in stages[first:end]:
        # Not always the map before it: "rpn" and "head" of `HeadMapBackbone` both read "head_map".
        source = (inputs | outputs)[stage.source]
        # With `after`, `block` is of that stage, whose rest has run above.
        is_cut = after is None and stage.name == until
        outputs[stage.name] = stage.run(source) if block is None or not is_cut else _run_to_block(stage, source, block)
    return outputs


def block_shapes(backbone: nn.Module) -> dict[str, ShapeSpec]:
    """{"res4/2": shape of the map after the second block of res4, ...}, of all stages that consist of blocks.

    The blocks of a ResNet's stage have one width, those of an EfficientNet's may differ. {} for a backbone without
    such stages.
    """
    shapes: dict[str, ShapeSpec] = {}
    if not (hasattr(backbone, "ordered_stages") or hasattr(backbone, "stage_names")):
        return shapes
    stride = 1
    for stage in stages_of(backbone):
        blocks = list(stage.run) if isinstance(stage.run, nn.Sequential) else [stage.run]
        for number, block in enumerate(blocks, 1):
            if isinstance(block, CNNBlockBase):
                stride *= block.stride
                shapes[f"{stage.name}/{number}"] = ShapeSpec(channels=block.out_channels, stride=stride)
    return shapes


def split_maps(maps: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """{name: (B, C, H, W)} of a batch -> B times {name: (1, C, H, W)}, views, not to be written to."""
    if not len(next(iter(maps.values()))):  # splitting nothing gives one part
        return []
    # One split a map: in the backward every slice would cost a map of the whole batch, zeros but for its own image.
    images = zip(*(value.split(1) for value in maps.values()), strict=True)
    return [dict(zip(maps, parts, strict=True)) for parts in images]


def _position(names: list[str], stage: str) -> int:
    if stage not in names:
        raise ValueError(f"the backbone has no stage {stage!r}, it has {names}")
    return names.index(stage)


def _blocks_of(stage: Stage, block: int) -> list[nn.Module]:
    """The blocks of a stage that has one with the number `block`."""
    blocks = list(stage.run) if isinstance(stage.run, nn.Sequential) else []
    if not 1 <= block <= len(blocks):
        raise ValueError(f"{stage.name} has {len(blocks)} blocks: expected 1 to {len(blocks)} of them, got {block}")
    return blocks


def _run_to_block(stage: Stage, x: Tensor, block: int) -> Tensor:
    *before, last = _blocks_of(stage, block)[:block]
    for module in before:
        x = module(x)
    return _without_last_relu(last, x)


def _run_after_block(stage: Stage, x: Tensor, block: int) -> Tensor:
    blocks = _blocks_of(stage, block)
    # Not in place: x, the sum before the ReLU, belongs to the caller.
    if _ends_in_relu(blocks[block - 1]):
        x = x.relu()
    for module in blocks[block:]:
        x = module(x)
    return x


def _without_last_relu(block: Any, x: Tensor) -> Tensor:
    """The output of a block before its last ReLU, if it has one: then it is a basic or bottleneck block."""
    if not _ends_in_relu(block):
        return block(x)
    # Detectron2's own forward, step by step: it has no switch for the last ReLU.
    out = block.conv2(block.conv1(x).relu_())
    if hasattr(block, "conv3"):
        out = block.conv3(out.relu_())
    out += x if block.shortcut is None else block.shortcut(x)
    return out


def _ends_in_relu(block: nn.Module) -> bool:
    return getattr(block, "ends_in_relu", True)


def _first_half(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, ceil(C / 2), H, W)."""
    return x.chunk(2, dim=1)[0]


def _second_half(x: Tensor) -> Tensor:
    return x.chunk(2, dim=1)[1]
