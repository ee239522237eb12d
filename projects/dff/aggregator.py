"""Deep feature flow: the map of the last keyframe, moved along the optical flow and scaled.

C: channels, H, W: size of the map.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from vod2.d2 import CfgNode, ShapeSpec, configurable
from vod2.errors import UserError
from vod2.layers import FlowNetS, warp
from vod2.modeling import PIXEL_AGGREGATOR_REGISTRY, Aggregated, PixelAggregator
from vod2.modeling.backbone import begin, finish
from vod2.modeling.pixel import build_flownet
from vod2.structures import Frame, Role, Support, TemporalContext

IMAGE = "half_image"  # the level that holds what the flow network takes of a frame


@PIXEL_AGGREGATOR_REGISTRY.register()
class DFFAggregator(PixelAggregator):
    """Equations 1 and 2. Only keyframes go through the backbone.

    The keyframe of a frame is the last support of role KEYFRAME; a keyframe is its own and is treated alike.
    """

    stage = "res4"

    @configurable
    def __init__(self, *, flownet: FlowNetS, interval: int, legacy_warp: bool = False) -> None:
        """
        Args:
            flownet: gives flow and scale map, the latter with the channels of `stage`.
            interval: distance of two keyframes; frame 0 is one.
            legacy_warp: see `vod2.layers.warp`.
        """
        super().__init__()
        self.flownet = flownet
        self.interval = interval
        self.legacy_warp = legacy_warp

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> dict:
        if cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME:
            raise UserError(
                "DFFAggregator leaves frames without proposals of their own: set MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME "
                f"to '', it is {cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME!r}"
            )
        return {
            "flownet": build_flownet(cfg, shapes[cls.stage].channels),
            "interval": cfg.VIDEO.TEST_SCHEDULE.INTERVAL,
            "legacy_warp": cfg.MODEL.FLOWNET.LEGACY_WARP,
        }

    def encode(self, backbone: nn.Module, images: Tensor, frames: Sequence[Support]) -> list[dict[str, Tensor]]:
        """Half-size images of all frames, and the map `stage` of keyframes.

        Those are the frames of role KEYFRAME, and in inference every `interval`-th frame.
        """
        maps = [{IMAGE: half} for half in self.flownet.prepare(images).split(1)]
        rows = [row for row, frame in enumerate(frames) if self._is_keyframe(frame)]
        if rows:
            value = finish(backbone, begin(backbone, images[rows], self.stage, 1), self.stage, 1)
            for row, one in zip(rows, value.split(1), strict=True):
                maps[row][self.stage] = one
        return maps

    def _is_keyframe(self, frame: Support) -> bool:
        return frame.role is Role.KEYFRAME or (not self.training and frame.index % self.interval == 0)

    def forward(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]:
        """-> {stage: (1, C, H, W)}; without a keyframe in the context the key's own map.

        Raises:
            UserError: if there is no keyframe, and the frame is none itself.
        """
        keyframes = context.select(Role.KEYFRAME).frames
        if not keyframes:
            return Aggregated({self.stage: self._own(key)})
        keyframe = max(keyframes, key=lambda frame: frame.index)
        flow, scale = self.flownet(key.features[IMAGE], keyframe.features[IMAGE])
        warped = warp(keyframe.features[self.stage], flow, legacy=self.legacy_warp)
        return Aggregated({self.stage: warped * scale})

    def _own(self, key: Frame) -> Tensor:
        if self.stage not in key.features:
            raise UserError(
                f"frame {key.index} of video {key.video_id!r} has no keyframe: DFFAggregator needs "
                "VIDEO.TRAIN_SCHEDULE.NAME 'RandomKeyframe' and VIDEO.TEST_SCHEDULE.NAME 'Keyframes'"
            )
        return key.features[self.stage]
