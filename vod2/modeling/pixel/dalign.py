"""Alignment by deformable convolutions (MST)."""

from torch import Tensor

from vod2.d2 import CfgNode
from vod2.layers import DeformAlign
from vod2.modeling.pixel.aligner import ALIGNER_REGISTRY, Aligner


@ALIGNER_REGISTRY.register()
class DAlign(Aligner):
    """`DeformAlign` of MODEL.ALIGNER.WIDTH channels; RESIDUAL and MODULATED of MODEL.ALIGNER are its options."""

    def __init__(self, cfg: CfgNode, channels: int) -> None:
        super().__init__()
        node = cfg.MODEL.ALIGNER
        self.layers = DeformAlign(channels, node.WIDTH, residual=node.RESIDUAL, modulated=node.MODULATED)

    def forward(
        self, source: Tensor, target: Tensor, source_image: Tensor | None = None, target_image: Tensor | None = None
    ) -> Tensor:
        return self.layers(source, target)
