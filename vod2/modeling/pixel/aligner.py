"""How one frame's feature map is brought to where another frame has the same things.

C: channels, H, W: size of the maps.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vod2.d2 import CfgNode, Registry
from vod2.errors import lookup, settings

ALIGNER_REGISTRY = Registry("ALIGNER")
ALIGNER_REGISTRY.__doc__ = """
Subclasses of `Aligner`, called with (cfg, C). Chosen by MODEL.ALIGNER.NAME.
"""


class Aligner(nn.Module, ABC):
    """Interchangeable in the methods that align maps (LSTS, MST): a pure function.

    Attributes:
        needs_images: whether `forward` looks at the images.
    """

    needs_images: bool = False

    @abstractmethod
    def forward(
        self, source: Tensor, target: Tensor, source_image: Tensor | None = None, target_image: Tensor | None = None
    ) -> Tensor:
        """Bring `source` to where `target` has the same things.

        Args:
            source, target: (B, C, H, W) maps of two frames.
            source_image, target_image: (B, 3, H*s, W*s), normalised, where `needs_images`.

        Returns:
            (B, C, H, W), made of `source`.
        """

    def share_locations(self, other: "Aligner") -> None:
        """Look at the places where `other`, of the same class, looks, now and after training; where an aligner has no
        such places, nothing happens.
        """


def build_aligner(cfg: CfgNode, channels: int) -> Aligner:
    """The aligner that MODEL.ALIGNER describes, for maps of C = channels."""
    kind = lookup(ALIGNER_REGISTRY, cfg.MODEL.ALIGNER.NAME, "MODEL.ALIGNER.NAME")
    with settings("MODEL.ALIGNER"):
        return kind(cfg, channels)
