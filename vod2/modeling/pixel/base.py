"""Level 1: the feature map of the key frame takes from those of its supports.

T: supports, C: channels, H, W: size of the map.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vod2.d2 import CfgNode, Registry, ShapeSpec
from vod2.errors import lookup, settings
from vod2.modeling.aggregation import Aggregated
from vod2.structures import Frame, TemporalContext

PIXEL_AGGREGATOR_REGISTRY = Registry("PIXEL_AGGREGATOR")
PIXEL_AGGREGATOR_REGISTRY.__doc__ = """
Subclasses of `PixelAggregator`, called with (cfg, {level: ShapeSpec} of the backbone).
Chosen by MODEL.VIDEO.PIXEL_AGGREGATOR.NAME.
"""


class PixelAggregator(nn.Module, ABC):
    """Aggregates feature maps: a pure function, see `Aggregated`. `stage`, "res4" or "res5", is what it replaces."""

    stage: str

    @abstractmethod
    def forward(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]:
        """key and context hold the level `stage` -> {stage: (1, C, H, W)}; with T = 0 the key's own map unchanged."""


def build_pixel_aggregator(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> PixelAggregator | None:
    """The aggregator that the configuration names, or None."""
    name = cfg.MODEL.VIDEO.PIXEL_AGGREGATOR.NAME
    if not name:
        return None
    kind = lookup(PIXEL_AGGREGATOR_REGISTRY, name, "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME")
    with settings(name):
        return kind(cfg, shapes)
