"""Optical flow as an aligner, and the flow network that the configuration describes.

B: pairs, C: channels, H, W: size of the maps.
"""

from torch import Tensor

from vod2 import layers
from vod2.d2 import CfgNode, configurable
from vod2.modeling.pixel.aligner import Aligner, register_aligner
from vod2.moved import moved

__getattr__ = moved(__name__, {"FlowNetS": f"{__name__}:FlowNetSAligner"})


def build_flownet(cfg: CfgNode, scale_channels: int = 0) -> layers.FlowNetS:
    """The flow network that MODEL.FLOWNET describes, for images normalised as MODEL.PIXEL_STD says."""
    return layers.FlowNetS(cfg.MODEL.FLOWNET.WIDTH, scale_channels, cfg.MODEL.PIXEL_STD)


@register_aligner("FlowNetS")
class FlowNetSAligner(Aligner):
    """The source's map moved along the optical flow between the two images; for maps of stride 16."""

    needs_images = True

    @configurable
    def __init__(self, *, flownet: layers.FlowNetS, legacy_warp: bool = False) -> None:
        """
        Args:
            flownet: gives the flow.
            legacy_warp: see `vod2.layers.warp`.
        """
        super().__init__()
        self.flownet = flownet
        self.legacy_warp = legacy_warp

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: int) -> dict:
        return {"flownet": build_flownet(cfg), "legacy_warp": cfg.MODEL.FLOWNET.LEGACY_WARP}

    def forward(
        self, source: Tensor, target: Tensor, source_image: Tensor | None = None, target_image: Tensor | None = None
    ) -> Tensor:
        """See `Aligner.forward`; of `target` (B, C, H, W) only the image is looked at.

        Raises:
            ValueError: without images.
        """
        if source_image is None or target_image is None:
            raise ValueError("FlowNetS aligns by images: expected source_image and target_image, got None")
        # From the target to the source: `warp` asks for each cell of the target where the source has what is there.
        flow = self.flownet(self.flownet.prepare(target_image), self.flownet.prepare(source_image)).flow
        return layers.warp(source, flow, legacy=self.legacy_warp)
