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
    """Aggregates feature maps: a pure function, see `Aggregated`.

    Attributes:
        stage: the map that it replaces.
        replaces_stage: whether those who read the stage itself, such as an RPN on conv4, see the new map; else only
            what the backbone makes of it is replaced.
        joint: whether the frames of a context take from each other as the key frame does from them (CSMN). Then their
            proposals are made, anew for each key frame, of what `forward_all` gives for them with the key frame's
            context; nothing that `forward` returns beside the map is used.
    """

    stage: str
    replaces_stage: bool = True
    joint: bool = False

    def encode(self, backbone: nn.Module, images: Tensor, frames: Sequence[Support]) -> list[dict[str, Tensor]]:
        """Images (B, 3, H, W), normalised and padded -> what is kept of each: {level: (1, C, H/s, W/s)}.

        A method that spends less on some frames, or that looks at images, overrides this. In a stream and for the key
        frames of clips the role is None: the frame's number must then tell what the frame is to the method.
        """
        features = backbone(images)
        return [{name: value[row : row + 1] for name, value in features.items()} for row in range(len(images))]

    def enter(self, frame: Frame, context: TemporalContext) -> dict[str, Tensor]:
        """What the proposals of a support are made of: {stage: (1, C, H, W)}, or {} for what `encode` made, as here.

        An aggregator that overrides this returns a map for every frame. `forward` is never given these maps: there the
        frames of the context hold what `encode` made, so that nothing depends on frames that have left the memory.

        Args:
            frame: one that enters the memory of a stream, or a support of a clip.
            context: the frames that the memory holds by then, without `frame`; in training the key frame (of role KEY)
                and the other supports of the clip; in a clip at test the supports before it.
        """
        return {}

    def forward_all(self, frames: Sequence[Frame], context: TemporalContext) -> list[dict[str, Tensor]]:
        """The maps that `forward` gives for each of several frames with one context; a joint one may share work."""
        return [self(frame, context).value for frame in frames]

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
