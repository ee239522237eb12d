"""Spatial-temporal context information encoding: level 1 of CSMN.

C: channels, H, W: size of a map.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from vod2.d2 import CfgNode, ShapeSpec, configurable
from vod2.errors import UserError
from vod2.layers import PixelAttention
from vod2.modeling import PIXEL_AGGREGATOR_REGISTRY, Aggregated, PixelAggregator
from vod2.structures import Frame, Role, TemporalContext

SUPPORTS = ("sample", "entering", "plain")


@PIXEL_AGGREGATOR_REGISTRY.register()
class StCIE(PixelAggregator):
    """Every cell of a map takes context from all cells of all frames of the context.

    The key frame is one of them where the schedules put it there, as those of CSMN do. So do the maps of its supports
    (`supports` "sample"): the frames of a sample take from each other, and all proposals are made of encoded maps. In
    inference a support is then encoded again for every key frame, since its sample is another one. "entering" encodes
    it once, when it enters the memory of a stream, from what is there by then and itself; "plain" not at all.

    Example:
        >>> import torch
        >>> from vod2.projects.csmn import StCIE
        >>> from vod2.structures import Frame, Role, TemporalContext
        >>> stcie = StCIE(stage="res5", channels=8, stride=16, relation_dim=4)
        >>> frame = Frame("video", 0, (48, 64), {"res5": torch.rand(1, 8, 3, 4)})
        >>> stcie(frame, TemporalContext((frame,), (Role.KEY,))).value["res5"].shape
        torch.Size([1, 8, 3, 4])
    """

    @configurable
    def __init__(
        self,
        *,
        stage: str,
        channels: int,
        stride: int,
        relation_dim: int,
        normaliser: str = "count",
        temporal: bool = True,
        supports: str = "sample",
        rpn: bool = True,
    ) -> None:
        """
        Args:
            stage: "res5", or "res4" for context before conv5.
            channels, stride: those of the stage.
            relation_dim, normaliser: see `PixelAttention`.
            temporal: False for the context of a frame's own cells only.
            supports: "sample", "entering" or "plain".
            rpn: of stage "res4": whether the RPN proposes on the encoded conv4; else on the plain one.

        Raises:
            ValueError: on another value of supports.
        """
        super().__init__()
        if supports not in SUPPORTS:
            raise ValueError(f"StCIE: SUPPORTS is {supports!r}, expected one of {', '.join(SUPPORTS)}")
        self.stage, self.stride, self.temporal = stage, stride, temporal
        # With context on conv5 the RPN, which reads conv4, sees a plain map in any case.
        self.replaces_stage = rpn or stage != "res4"
        self.encodes_supports = supports != "plain"
        # A frame that takes context of its own cells only has the same in every sample.
        self.per_key_frame = supports == "sample" and temporal
        self.attention = PixelAttention(channels, relation_dim, normaliser)

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.CSMN.STCIE
        if node.STAGE not in ("res4", "res5") or node.STAGE not in shapes:
            raise UserError(
                f"MODEL.CSMN.STCIE.STAGE is {node.STAGE!r}: expected 'res4' or 'res5', one of the backbone's "
                f"OUT_FEATURES {', '.join(shapes)}"
            )
        return {
            "stage": node.STAGE,
            "channels": shapes[node.STAGE].channels,
            "stride": shapes[node.STAGE].stride,
            "relation_dim": node.RELATION_DIM,
            "normaliser": node.NORMALISER,
            "temporal": node.TEMPORAL,
            "supports": node.SUPPORTS,
            "rpn": node.RPN,
        }

    def forward(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]:
        """key and context hold the level `stage` -> {stage: (1, C, H, W)}; with T = 0 the key's own map."""
        return Aggregated(self._encoded([key], context)[0])

    def support_features(self, frame: Frame, context: TemporalContext) -> dict[str, Tensor]:
        """A support's map with the context of the frames that are there by then and of itself."""
        if not self.encodes_supports:
            return {}
        # The frame itself is one of its sources, as the key frame is in its window.
        return self(frame, TemporalContext((*context.frames, frame), (*context.roles, Role.LOCAL))).value

    def features_in_context(self, context: TemporalContext, supports: Sequence[int]) -> list[dict[str, Tensor]] | None:
        """The supports take from the frames of the context, of which the key frame is none."""
        # A subclass may make them in another way for each key frame.
        if not self.per_key_frame or type(self).forward_clip is not StCIE.forward_clip:
            return None
        return self._encoded([context.frames[i] for i in supports], context)

    def forward_clip(
        self, key: Frame, context: TemporalContext, supports: Sequence[int]
    ) -> tuple[Aggregated[dict[str, Tensor]], list[dict[str, Tensor]]]:
        """With `supports` "sample", the sums over the context are made once for the key frame and all supports."""
        if not self.per_key_frame:
            return super().forward_clip(key, context, supports)
        of_key, *of_supports = self._encoded([key, *(context.frames[i] for i in supports)], context)
        return Aggregated(of_key), of_supports

    def _encoded(self, frames: Sequence[Frame], context: TemporalContext) -> list[dict[str, Tensor]]:
        """{stage: (1, C, H, W)} of each frame, with what it takes from the context."""
        maps = [frame.features[self.stage] for frame in frames]
        if len(context) > 0 and self.temporal:
            maps = self.attention.encode(maps, [self._cells_of_image(frame) for frame in context.frames])
        elif len(context) > 0:  # each frame takes from its own cells
            maps = [self.attention(frame.features[self.stage], [self._cells_of_image(frame)]) for frame in frames]
        return [{self.stage: encoded} for encoded in maps]

    def _cells_of_image(self, frame: Frame) -> Tensor:
        """(1, C, H, W): the frame's map without the cells that lie in the padding of its batch."""
        # Padding depends on what a frame was encoded with; as sources its cells would count in the mean.
        height, width = (math.ceil(side / self.stride) for side in frame.image_size)
        return frame.features[self.stage][..., :height, :width]
