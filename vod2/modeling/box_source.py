"""Where the boxes of a frame come from: what a detector of clips asks of its proposal generator."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from vod2.d2 import PROPOSAL_GENERATOR_REGISTRY, CfgNode, Instances


class BoxSource(nn.Module, ABC):
    """Makes the boxes of frames of their maps, and trains on the frames with ground truth: `VideoRPN`, `FCOS`.

    Attributes:
        in_features: the maps that it reads.
    """

    in_features: list[str]

    @classmethod
    def maps_read(cls, cfg: CfgNode) -> dict[str, str]:
        """{map: key}, the maps of a backbone that it and the heads after it read, and the key that names each.

        Here those of Detectron2's two stages.
        """
        of_heads = dict.fromkeys(cfg.MODEL.ROI_HEADS.IN_FEATURES, "MODEL.ROI_HEADS.IN_FEATURES")
        return of_heads | dict.fromkeys(cfg.MODEL.RPN.IN_FEATURES, "MODEL.RPN.IN_FEATURES")

    @abstractmethod
    def propose(
        self,
        image_sizes: list[tuple[int, int]],
        features: dict[str, Tensor],
        targets: Sequence[Instances | None] | None = None,
        ignored: Sequence[Tensor | None] | None = None,
        seeds: Sequence[int | None] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose for B frames, and train on those with targets.

        Args:
            image_sizes: B pairs (height, width).
            features: {level: (B, C, H, W)}.
            targets: for each frame `Instances` with gt_boxes, or None for a frame without loss.
            ignored: for each frame its ignore regions (G, 4) xyxy, or None.
            seeds: for each frame what is drawn at random of it is drawn from, or None for the global generator.

        Returns:
            B `Instances` with proposal_boxes and objectness_logits (descending), and {name: loss}.
        """


def maps_read(cfg: CfgNode) -> dict[str, str]:
    """{map: key}, the maps of the backbone that the detector of a configuration reads, and the key that names each."""
    kind = dict(PROPOSAL_GENERATOR_REGISTRY).get(cfg.MODEL.PROPOSAL_GENERATOR.NAME)
    if isinstance(kind, type) and issubclass(kind, BoxSource):
        return kind.maps_read(cfg)
    return BoxSource.maps_read(cfg)
