"""Flow-guided feature aggregation: maps of near frames, moved along the optical flow and averaged by similarity.

T: supports, C: channels, E: channels of the embedding, H, W: size of the map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vod2.d2 import CfgNode, ShapeSpec, configurable
from vod2.layers import FlowNetS, init_he, warp
from vod2.modeling import PIXEL_AGGREGATOR_REGISTRY, Aggregated, PixelAggregator
from vod2.modeling.backbone import forward_stages, split_maps
from vod2.modeling.pixel import aggregated_stage, build_flownet
from vod2.structures import Frame, Role, Support, TemporalContext

IMAGE = "half_image"  # the level that holds what the flow network takes of a frame
EMBEDDING = "embedding"  # the level by which frames are compared
_EPS = 1e-10  # added to the norm of an embedding


@PIXEL_AGGREGATOR_REGISTRY.register()
class FGFAAggregator(PixelAggregator):
    """Equations 1 to 3, over the frames of the context and the key frame, which is added where it is not among them.

    Attributes:
        stage: the map that is aggregated, "head_map" of R-FCN or "res4".
    """

    @configurable
    def __init__(
        self,
        *,
        flownet: FlowNetS,
        channels: int,
        stage: str = "res4",
        embedding_dims: tuple[int, int, int] = (512, 512, 2048),
        legacy_warp: bool = False,
        whole_backbone: bool = False,
    ) -> None:
        """
        Args:
            flownet: gives the flow.
            channels: C.
            stage: the map that is aggregated.
            embedding_dims: channels of the embedding's 1x1, 3x3 and 1x1 convolution; E is the last.
            legacy_warp: see `vod2.layers.warp`; the key's embedding is then warped, too, along its flow to itself.
            whole_backbone: keep all that the backbone puts out, for the proposals of supports.
        """
        super().__init__()
        if len(embedding_dims) != 3 or min(embedding_dims) < 1:
            raise ValueError(f"FGFA: expected three positive EMBEDDING_DIMS, got {tuple(embedding_dims)}")
        self.flownet = flownet
        self.stage = stage
        first, second, last = embedding_dims
        self.embedding = nn.Sequential(
            nn.Conv2d(channels, first, 1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(second, last, 1),
        )
        init_he(*(layer for layer in self.embedding if isinstance(layer, nn.Conv2d)))
        self.legacy_warp = legacy_warp
        self.whole_backbone = whole_backbone

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> dict:
        stage = aggregated_stage(cfg, shapes, cfg.MODEL.FGFA.STAGE, "MODEL.FGFA.STAGE")
        return {
            "flownet": build_flownet(cfg),
            "channels": shapes[stage].channels,
            "stage": stage,
            "embedding_dims": tuple(cfg.MODEL.FGFA.EMBEDDING_DIMS),
            "legacy_warp": cfg.MODEL.FLOWNET.LEGACY_WARP,
            "whole_backbone": bool(cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME),
        }

    def encode(self, backbone: nn.Module, images: Tensor, frames: Sequence[Support]) -> list[dict[str, Tensor]]:
        """All that depends on a frame alone: the map `stage`, its embedding (1, E, H, W), the half-size image."""
        # Without level 2 nobody makes proposals of supports: what follows the stage runs for the key frame alone.
        if self.whole_backbone:
            features = backbone(images)
        else:
            features = {self.stage: forward_stages(backbone, images, until=self.stage)[self.stage]}
        features[EMBEDDING] = self.embedding(features[self.stage])
        features[IMAGE] = self.flownet.prepare(images)
        return split_maps(features)

    def forward(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]:
        """-> {stage: (1, C, H, W)}; with T = 0 the key's own map."""
        if not len(context):
            return Aggregated({self.stage: key.features[self.stage]})
        # Equation 2 sums over the key frame, too. A window names it, a training clip need not.
        if all((frame.video_id, frame.index) != (key.video_id, key.index) for frame in context.frames):
            context = TemporalContext((key, *context.frames), (Role.KEY, *context.roles))
        images = context.features(IMAGE)
        # From the key frame to each support, all in one call.
        flow = self.flownet(key.features[IMAGE].expand_as(images), images).flow  # (T, 2, H, W)
        maps = warp(context.features(self.stage), flow, legacy=self.legacy_warp)
        embeddings = warp(context.features(EMBEDDING), flow, legacy=self.legacy_warp)
        # Compared after the warp, and weighed at every cell by itself: a support may help in one place only.
        weights = _cosine(embeddings, self._reference(key)).softmax(dim=0)
        return Aggregated({self.stage: (weights.to(maps.dtype) * maps).sum(dim=0, keepdim=True)})

    def _reference(self, key: Frame) -> Tensor:
        """(1, E, H, W): the key's embedding. Public code moves it, like all others, along the key's flow to itself."""
        if not self.legacy_warp:
            return key.features[EMBEDDING]
        flow = self.flownet(key.features[IMAGE], key.features[IMAGE]).flow
        return warp(key.features[EMBEDDING], flow, legacy=True)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """(T, E, H, W) and (1, E, H, W) -> (T, 1, H, W), cell by cell; in half precision computed in float32."""
    # The sum of E = 2048 squares leaves the range of float16.
    dtype = torch.promote_types(a.dtype, torch.float32)
    a, b = (x.to(dtype) / (x.to(dtype).norm(dim=1, keepdim=True) + _EPS) for x in (a, b))
    return (a * b).sum(dim=1, keepdim=True)
