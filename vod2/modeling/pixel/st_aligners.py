"""Aligners that compare the cells of two maps: LSTS and the two that table 3 of its paper compares it with."""

from torch import Tensor, nn

from vod2.d2 import CfgNode, configurable
from vod2.layers import st_sampling as layers
from vod2.modeling.pixel.aligner import ALIGNER_REGISTRY, Aligner, register_aligner


@register_aligner("LearnedSampling")
class LearnedSamplingAligner(Aligner):
    """`vod2.layers.LearnedSampling`, by the keys of MODEL.ALIGNER."""

    portable = True

    @configurable
    def __init__(self, *, layer: nn.Module) -> None:
        """
        Args:
            layer: (source, target), each (B, C, H, W), to (B, C, H, W).
        """
        super().__init__()
        self.layer = layer

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: int) -> dict:
        node = cfg.MODEL.ALIGNER
        layer = layers.LearnedSampling(
            channels,
            node.EMBEDDING_DIM,
            node.NUM_LOCATIONS,
            node.INIT,
            init_std=node.INIT_STD,
            learned=node.LEARNED,
            normaliser=node.NORMALISER,
            lr_multiplier=node.LR_MULTIPLIER,
            equal_start=node.EQUAL_START,
        )
        return {"layer": layer}

    def forward(
        self, source: Tensor, target: Tensor, source_image: Tensor | None = None, target_image: Tensor | None = None
    ) -> Tensor:
        return self.layer(source, target)

    def share_locations(self, other: Aligner) -> None:
        # NonLocalAlign looks everywhere and has none.
        if hasattr(self.layer, "locations"):
            assert isinstance(other, LearnedSamplingAligner)  # of the same class, as the contract says
            # The very same parameter: it gets the gradients of both, and a checkpoint has it under both names.
            self.layer.locations = other.layer.locations


@register_aligner("MatchTrans")
class MatchTransAligner(LearnedSamplingAligner):
    """`vod2.layers.MatchTrans`, a window of 4 cells to each side.

    Reads EMBEDDING_DIM, EQUAL_START and NORMALISER of MODEL.ALIGNER.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: int) -> dict:
        node = cfg.MODEL.ALIGNER
        return {
            "layer": layers.MatchTrans(
                channels, node.EMBEDDING_DIM, normaliser=node.NORMALISER, equal_start=node.EQUAL_START
            )
        }


@ALIGNER_REGISTRY.register()
class NonLocal(LearnedSamplingAligner):
    """`NonLocalAlign`: attention over all cells; keys EMBEDDING_DIM and EQUAL_START of MODEL.ALIGNER."""

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: int) -> dict:
        node = cfg.MODEL.ALIGNER
        return {"layer": layers.NonLocalAlign(channels, node.EMBEDDING_DIM, equal_start=node.EQUAL_START)}
