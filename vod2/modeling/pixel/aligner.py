"""Aligners: one frame's feature map is warped so that it is aligned with another frame's.

C: channels, H, W: size of the maps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from vod2.d2 import CfgNode, Registry
from vod2.errors import lookup, settings

ALIGNER_REGISTRY = Registry("ALIGNER")
ALIGNER_REGISTRY.__doc__ = """
Subclasses of `Aligner`, called with (cfg, C). Chosen by MODEL.ALIGNER.NAME; see also `register_aligner`.
"""


class Aligner(nn.Module, ABC):
    """Interchangeable in the methods that align maps (LSTS, MST): a pure function.

    Attributes:
        needs_images: whether `forward` looks at the images.
        portable: whether all that it computes has a form that can be traced (`vod2.ops.portable`): then `vod2 export`
            takes a method that aligns with it.
    """

    needs_images: bool = False
    portable: bool = False

    @abstractmethod
    def forward(
        self, source: Tensor, target: Tensor, source_image: Tensor | None = None, target_image: Tensor | None = None
    ) -> Tensor:
        """Warp `source` so that it is aligned with `target`.

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


def register_aligner(name: str) -> Callable[[type[Aligner]], type[Aligner]]:
    """Register a class under a name of its own, for an aligner whose layer has the method's name already.

    Args:
        name: value of MODEL.ALIGNER.NAME.
    """

    def register(kind: type[Aligner]) -> type[Aligner]:
        # `register` of the registry itself knows no other name than the class's.
        ALIGNER_REGISTRY._do_register(name, kind)
        return kind

    return register


def build_aligner(cfg: CfgNode, channels: int) -> Aligner:
    """The aligner that MODEL.ALIGNER describes, for maps of C = channels."""
    kind = lookup(ALIGNER_REGISTRY, cfg.MODEL.ALIGNER.NAME, "MODEL.ALIGNER.NAME")
    with settings("MODEL.ALIGNER"):
        return kind(cfg, channels)
