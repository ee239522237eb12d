"""Alignment and frame level of MST, sections III-B and III-C.

T: frames that are looked at, C: channels of conv4, H, W: its cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vod2.d2 import CfgNode, ShapeSpec, configurable
from vod2.layers import MapAttention
from vod2.modeling import PIXEL_AGGREGATOR_REGISTRY, Aggregated, PixelAggregator
from vod2.modeling.backbone import forward_stages, split_maps
from vod2.modeling.pixel import Aligner, build_aligner
from vod2.structures import Frame, Role, Support, TemporalContext

IMAGE = "image"  # the level that holds the image, where the aligner looks at it


@PIXEL_AGGREGATOR_REGISTRY.register()
class MSTFrames(PixelAggregator):
    """Equations 1 to 6: each frame takes from its own map and from those of the others, brought to where it stands.

    The order of frames does not matter. With QUERY "all" the proposals of a support are made of what it took from the
    frames that were there when it entered the memory, so they depend on the history of the stream; the attention itself
    only ever looks at maps as the backbone made them.
    """

    stage = "res4"

    @configurable
    def __init__(
        self, *, align: Aligner | None, attend: MapAttention | None, query: str = "all", align_to: str = "neighbour"
    ) -> None:
        """
        Args:
            align: brings the maps of other frames to a frame's own, or None.
            attend: the frame level. Without it key frames stay as they are, and supports are aligned (Table III, e): in
                training to the key frame.
            query: which frames are enhanced: "all", or the "reference" alone.
            align_to: what supports are aligned to at test where there is no frame level: the "neighbour", the frame
                nearest in time of those before it, once; or the "reference", each key frame anew.
        """
        super().__init__()
        if query not in ("all", "reference"):
            raise ValueError(f"MODEL.MST.QUERY: expected 'all' or 'reference', got {query!r}")
        if align_to not in ("neighbour", "reference"):
            raise ValueError(f"MODEL.MST.ALIGN_TO: expected 'neighbour' or 'reference', got {align_to!r}")
        if align_to == "reference" and attend is not None:
            raise ValueError("MODEL.MST.ALIGN_TO 'reference' is for MODEL.MST.FRAME False: set it to 'neighbour'")
        if align is None and attend is None:
            raise ValueError("set MODEL.MST.FRAME to True or MODEL.ALIGNER.NAME: without both there is nothing to do")
        self.align, self.attend, self.query = align, attend, query
        self.per_key_frame = align_to == "reference"

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> dict:
        channels, node = shapes[cls.stage].channels, cfg.MODEL.MST
        heads = cfg.MODEL.VIDEO.RELATION.NUM_HEADS
        return {
            "align": build_aligner(cfg, channels) if cfg.MODEL.ALIGNER.NAME else None,
            "attend": MapAttention(channels, heads, node.KEY_STRIDE) if node.FRAME else None,
            "query": node.QUERY,
            "align_to": node.ALIGN_TO,
        }

    def encode(self, backbone: nn.Module, images: Tensor, frames: Sequence[Support]) -> list[dict[str, Tensor]]:
        """No more than res4: later maps are computed from the result of `forward` and `support_features`."""
        maps = {self.stage: forward_stages(backbone, images, until=self.stage)[self.stage]}
        if self.align is not None and self.align.needs_images:
            maps[IMAGE] = images
        return split_maps(maps)

    def forward(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]:
        """F''_t (1, C, H, W) of equation 6; with T = 0 the key's own map unchanged."""
        key_map = key.features[self.stage]
        # The window of a frame names the frame itself, which needs no alignment; a still image has no other.
        others = [frame for frame in context.frames if frame.index != key.index] or list(context.frames)
        if self.attend is None or not others:
            return Aggregated({self.stage: key_map.clone()})  # a result shares no memory with the frames
        # The frame's own cells are among those that its cells look at.
        maps = torch.cat([key_map, self._aligned(others, key)])
        return Aggregated({self.stage: key_map + self.attend(key_map, maps)})

    def support_features(self, frame: Frame, context: TemporalContext) -> dict[str, Tensor]:
        """F''_tau of a support; without frame level F'_tau, without alignment either the map itself."""
        # Once, when the support enters a memory, and not again for every key frame of its window.
        if self.query == "all" and self.attend is not None:
            return self(frame, context).value
        target = self._target(frame, context)
        if self.attend is None and target is not None:
            return {self.stage: self._aligned([frame], target)}
        return {self.stage: frame.features[self.stage]}

    def _aligned(self, frames: Sequence[Frame], target: Frame) -> Tensor:
        """Equation 3: F' (T, C, H, W), the maps of `frames` where `target` has the same things."""
        maps = torch.cat([frame.features[self.stage] for frame in frames])
        if self.align is None:
            return maps
        # The pairs share their target: one call of the aligner for all T.
        wanted = target.features[self.stage].expand_as(maps)
        if not self.align.needs_images:
            return self.align(maps, wanted)
        images = torch.cat([frame.features[IMAGE] for frame in frames])
        return self.align(maps, wanted, images, target.features[IMAGE].expand_as(images))

    @staticmethod
    def _target(frame: Frame, context: TemporalContext) -> Frame | None:
        """What a support is aligned to when it enters: the key frame, or else the frame nearest in time."""
        if key := context.select(Role.KEY).frames:
            return key[0]
        return min(context.frames, key=lambda other: abs(other.index - frame.index), default=None)
