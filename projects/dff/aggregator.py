"""Deep feature flow: the map of the last keyframe, moved along the optical flow and scaled.

C: channels, H, W: size of the map.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from vod2.d2 import CfgNode, ShapeSpec, configurable
from vod2.errors import UserError
from vod2.layers import FlowNetS, warp
from vod2.modeling import PIXEL_AGGREGATOR_REGISTRY, Aggregated, PixelAggregator
from vod2.modeling.backbone import forward_stages
from vod2.modeling.pixel import aggregated_stage, build_flownet
from vod2.structures import Frame, Role, Support, TemporalContext

IMAGE = "half_image"  # the level that holds what the flow network takes of a frame


@PIXEL_AGGREGATOR_REGISTRY.register()
class DFFAggregator(PixelAggregator):
    """Equations 1 and 2. Only keyframes go through the backbone.

    The keyframe of a frame is the last support of role KEYFRAME. A frame that is its own keyframe, as a still image is,
    keeps its map (Algorithm 1).

    Attributes:
        stage: the map that is propagated, "head_map" of R-FCN, so that nothing but the heads comes after it, or "res4".
    """

    @configurable
    def __init__(
        self,
        *,
        flownet: FlowNetS,
        interval: int,
        stage: str = "res4",
        warp_keyframes: bool = False,
        legacy_warp: bool = False,
    ) -> None:
        """
        Args:
            flownet: gives flow and scale map, the latter with the channels of `stage`.
            interval: distance of two keyframes; frame 0 is one.
            stage: the map that is propagated.
            warp_keyframes: a keyframe's map is warped by the flow to itself and scaled, too.
            legacy_warp: see `vod2.layers.warp`.
        """
        super().__init__()
        self.flownet = flownet
        self.interval = interval
        self.stage = stage
        self.warp_keyframes = warp_keyframes
        self.legacy_warp = legacy_warp

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> dict:
        if cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME:
            raise UserError(
                "DFFAggregator leaves frames without proposals of their own: set MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME "
                f"to '', it is {cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME!r}"
            )
        stage = aggregated_stage(cfg, shapes, cfg.MODEL.DFF.STAGE, "MODEL.DFF.STAGE")
        return {
            "flownet": build_flownet(cfg, shapes[stage].channels),
            "interval": cfg.VIDEO.TEST_SCHEDULE.INTERVAL,
            "stage": stage,
            "warp_keyframes": cfg.MODEL.DFF.WARP_KEYFRAMES,
            "legacy_warp": cfg.MODEL.FLOWNET.LEGACY_WARP,
        }

    def encode(self, backbone: nn.Module, images: Tensor, frames: Sequence[Support]) -> list[dict[str, Tensor]]:
        """Half-size images of all frames, and the map `stage` of keyframes.

        Those are the frames of role KEYFRAME, and in inference every `interval`-th frame.
        """
        maps = [{IMAGE: half} for half in self.flownet.prepare(images).split(1)]
        # The others cost a flow network on an image of half the size: that is what DFF saves.
        rows = [row for row, frame in enumerate(frames) if self._is_keyframe(frame)]
        if rows:
            value = forward_stages(backbone, images[rows], until=self.stage)[self.stage]
            for row, map_of_frame in zip(rows, value.split(1), strict=True):
                maps[row][self.stage] = map_of_frame
        return maps

    def _is_keyframe(self, frame: Support) -> bool:
        # A stream knows frames by their numbers. In training these say nothing: the schedule names the keyframe,
        # however far it is.
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
        if keyframe.index == key.index and not self.warp_keyframes:
            # A copy: what comes after may work in place, and the memory keeps this map for the frames that follow.
            return Aggregated({self.stage: keyframe.features[self.stage].clone()})
        # From the frame to its keyframe: equation 1 samples the keyframe's map at p + flow(p).
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
