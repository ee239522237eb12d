"""A narrow ResNet for a CPU, and the second half of a ResNet on its own.

B: images, C: channels, H, W: size of a map.
"""

from torch import Tensor

from vod2.d2 import BACKBONE_REGISTRY, BasicBlock, BasicStem, CfgNode, ResNet, ShapeSpec


@BACKBONE_REGISTRY.register()
def build_narrow_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """A ResNet of basic blocks with any widths, stride 16 from res4 on (res5 is dilated instead).

    Reads MODEL.NARROW_RESNET, and MODEL.RESNETS.NORM, OUT_FEATURES; FREEZE_AT as in Detectron2.
    """
    node, norm = cfg.MODEL.NARROW_RESNET, cfg.MODEL.RESNETS.NORM
    stem = BasicStem(in_channels=input_shape.channels, out_channels=node.STEM_CHANNELS, norm=norm)
    stages, before = [], node.STEM_CHANNELS
    for number, (channels, blocks) in enumerate(zip(node.CHANNELS, node.BLOCKS, strict=True)):
        stride = 2 if number in (1, 2) else 1
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


def resume(backbone: ResNet, stage: str, x: Tensor) -> dict[str, Tensor]:
    """Run the stages after `stage` on its output x (B, C, H, W) -> {later stage: (B, C', H', W')}."""
    names = list(backbone.stage_names)
    outputs = {}
    for name in names[names.index(stage) + 1 :]:
        x = getattr(backbone, name)(x)
        outputs[name] = x
    return outputs
