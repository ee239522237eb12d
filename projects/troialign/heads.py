"""RoI heads that pool the key frame's boxes with Temporal RoI Align.

N: proposals of the key frame, C: channels, P: pooled side, D: embedding, H, W: cells of a map.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vod2.d2 import ROI_HEADS_REGISTRY, CfgNode, ShapeSpec, configurable
from vod2.errors import UserError, settings
from vod2.modeling import Aggregated, ProposalNeeds, VideoROIHeads
from vod2.modeling.roi_heads import with_features
from vod2.projects.troialign.align import TemporalRoIAlign
from vod2.structures import Clip, Frame


@ROI_HEADS_REGISTRY.register()
class TemporalROIHeads(VideoROIHeads):
    """`VideoROIHeads` whose key frame is pooled by `TemporalRoIAlign` from its own map and those of its supports.

    What comes out goes through the box head, and then, as the key frame's proposals, into any aggregator of level 2
    (SELSA in the paper's detector). Supports are pooled from their own map alone. Without supports it is the detector
    of `VideoROIHeads`.
    """

    @configurable
    def __init__(self, *, temporal: TemporalRoIAlign, stride: int, **kwargs: Any) -> None:
        """
        Args:
            temporal: of the channels that are pooled.
            stride: pixels of a cell of the map.
            kwargs: those of `VideoROIHeads`; `box_in_features` names one level.
        """
        super().__init__(**kwargs)
        self.temporal, self.stride = temporal, stride
        self.needs = ProposalNeeds.joined([self.needs, ProposalNeeds(feature_maps=True)])

    @classmethod
    def from_config(  # type: ignore[override]  # as StandardROIHeads in Detectron2
        cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]
    ) -> dict:
        levels = cfg.MODEL.ROI_HEADS.IN_FEATURES
        if len(levels) != 1:
            raise UserError(
                f"TemporalROIHeads look for similar cells in one map: MODEL.ROI_HEADS.IN_FEATURES is {list(levels)}, "
                "name one level"
            )
        ret = super().from_config(cfg, input_shape)
        shape, node = input_shape[levels[0]], cfg.MODEL.TROIALIGN
        channels = cfg.MODEL.VIDEO.REDUCE_CHANNELS or shape.channels
        with settings("TemporalROIHeads"):
            ret["temporal"] = TemporalRoIAlign(channels, node.NUM_SIMILAR, node.NUM_HEADS)
        ret["stride"] = shape.stride
        return ret

    def aggregate(self, clips: Sequence[Clip]) -> list[Aggregated[Tensor]]:
        """Level 2 of key frames that have been pooled anew: (N, D) each."""
        return super().aggregate([self._with_temporal_features(clip) for clip in clips])

    def _with_temporal_features(self, clip: Clip) -> Clip:
        """The clip whose key frame's proposals have features of all its frames."""
        if len(clip.context) == 0:
            return clip
        key, proposals = clip.key, clip.key.require_proposals()
        rois = self.pool(self.maps_to_pool(key.features), [proposals.boxes], [key.image_size])
        pooled = self.temporal(rois, [self._map_of_image(frame) for frame in clip.context.frames])
        return with_features(clip, self.embed_pooled(pooled, proposals.boxes))

    def _map_of_image(self, frame: Frame) -> Tensor:
        """(1, C, H, W): the frame's map without the cells that lie in the padding of its batch."""
        # Padding depends on what a frame was encoded with: its cells are of no frame.
        (whole,) = self.maps_to_pool(frame.features)
        height, width = (math.ceil(side / self.stride) for side in frame.image_size)
        return whole[..., :height, :width]
