"""Level 1: the feature map of the key frame takes from those of its supports.

T: supports, C: channels, H, W: size of the map.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from vod2.d2 import CfgNode, Registry, ShapeSpec
from vod2.errors import lookup, settings
from vod2.modeling.aggregation import Aggregated
from vod2.structures import Frame, Support, TemporalContext

PIXEL_AGGREGATOR_REGISTRY = Registry("PIXEL_AGGREGATOR")
PIXEL_AGGREGATOR_REGISTRY.__doc__ = """
Subclasses of `PixelAggregator`, called with (cfg, {level: ShapeSpec} of the backbone).
Chosen by MODEL.VIDEO.PIXEL_AGGREGATOR.NAME.
"""


class PixelAggregator(nn.Module, ABC):
    """Aggregates feature maps: a pure function, see `Aggregated`. `stage`, "res4" or "res5", is what it replaces."""

    stage: str

    def encode(self, backbone: nn.Module, images: Tensor, frames: Sequence[Support]) -> list[dict[str, Tensor]]:
        """Images (B, 3, H, W), normalised and padded -> what is kept of each: {level: (1, C, H/s, W/s)}.

        A method that spends less on some frames, or that looks at images, overrides this. In a stream and for the key
        frames of clips the role is None: the frame's number must then tell what the frame is to the method.
        """
        features = backbone(images)
        return [{name: value[row : row + 1] for name, value in features.items()} for row in range(len(images))]

    @abstractmethod
    def forward(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]:
        """key and context hold what `encode` made -> {stage: (1, C, H, W)}; with T = 0 the key's own map unchanged."""


def build_pixel_aggregator(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> PixelAggregator | None:
    """The aggregator that the configuration names, or None."""
    name = cfg.MODEL.VIDEO.PIXEL_AGGREGATOR.NAME
    if not name:
        return None
    kind = lookup(PIXEL_AGGREGATOR_REGISTRY, name, "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME")
    with settings(name):
        return kind(cfg, shapes)
