"""The pixel level of MAMBA: cells of a map take from those of its supports and from a bank of cells of the past.

C: channels, H, W: cells of a map, S: cells of the supports, R: cells read from the bank.
"""

import math

import torch
from torch import Tensor

from vod2.d2 import CfgNode, ShapeSpec, configurable
from vod2.layers import RelationAttention
from vod2.modeling import PIXEL_AGGREGATOR_REGISTRY, Aggregated, PixelAggregator
from vod2.modeling.pixel import aggregated_stage
from vod2.projects.mamba.bank import BankRules, FeatureBank, choose, local_window
from vod2.structures import Frame, TemporalContext

_BANK = "mamba.pixel"


@PIXEL_AGGREGATOR_REGISTRY.register()
class MAMBAPixels(PixelAggregator):
    """F + E(F, [S; B]): every cell of the key frame's map takes from cells S of the supports, and B of the bank.

    E is the generalized enhancement operation of the instance level, of C features. Of each support `cells` are read,
    of each key frame as many enhanced ones are written, by the rule of `MAMBAAggregator`. The proposals of supports are
    made of maps without enhancement.

    Example:
        >>> import torch
        >>> from vod2.projects.mamba import MAMBAPixels
        >>> from vod2.structures import Frame, Role, TemporalContext
        >>> pixels = MAMBAPixels(stage="res5", channels=8, stride=16, num_heads=2)
        >>> frame = Frame("video", 0, (48, 64), {"res5": torch.rand(1, 8, 3, 4)})
        >>> pixels(frame, TemporalContext((frame,), (Role.LOCAL,))).value["res5"].shape
        torch.Size([1, 8, 3, 4])
    """

    @configurable
    def __init__(
        self,
        *,
        stage: str,
        channels: int,
        stride: int,
        num_heads: int = 16,
        cells: int = 1000,
        rules: BankRules | None = None,
    ) -> None:
        """
        Args:
            stage, channels, stride: the map that is enhanced.
            num_heads: of the enhancement, a divisor of the channels.
            cells: of a frame.
            rules: of the bank, and by which the cells of a frame are chosen; None for those of `BankRules()`.
        """
        super().__init__()
        if cells < 1:
            raise ValueError(f"expected CELLS of at least 1, got {cells}")
        self.stage, self.stride, self.cells = stage, stride, cells
        self.rules = rules or BankRules()
        self.relation = RelationAttention(channels, num_heads, output=True)

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.MAMBA.PIXEL
        stage = aggregated_stage(cfg, shapes, node.STAGE, "MODEL.MAMBA.PIXEL.STAGE")
        return {
            "stage": stage,
            "channels": shapes[stage].channels,
            "stride": shapes[stage].stride,
            "num_heads": node.NUM_HEADS,
            "cells": node.CELLS,
            "rules": BankRules(node.MEMORY, node.KEYS, node.SAMPLING),
        }

    def forward(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]:
        """key and context hold the level `stage` -> {stage: (1, C, H, W)}; without supports and bank the key's own."""
        own, window = key.features[self.stage], local_window(context)
        cells = own[0].flatten(1).T  # (H*W, C)
        bank = FeatureBank.of_carry(context.carry, _BANK, cells, cells[:, 0])
        past = self.rules.read(bank, window, key.index).features
        sources = torch.cat([*(self._of_frame(frame, frame.features[self.stage])[0] for frame in context.frames), past])

        enhanced = own
        if len(sources):
            boxes = cells.new_zeros(0, 4)  # without geometry nobody looks at them
            taken = self.relation(cells, sources, boxes, boxes)  # (H*W, C)
            enhanced = own + taken.T.unflatten(1, own.shape[2:])
        copies = window.count(key.index)
        if copies and not self.training and self.rules.size:
            new = FeatureBank.of_frame(*self._of_frame(key, enhanced), key.index, copies)
            bank = self.rules.written(bank, new, key.index)
        return Aggregated({self.stage: enhanced}, carry={} if self.training else bank.as_carry(_BANK))

    def _of_frame(self, frame: Frame, values: Tensor) -> tuple[Tensor, Tensor]:
        """A map (1, C, H, W) of the frame -> the cells (n, C) that are chosen inside the image, and their scores."""
        # Padding depends on what a frame was encoded with: its cells are of no frame.
        height, width = (math.ceil(side / self.stride) for side in frame.image_size)
        cells = values[0, :, :height, :width].flatten(1).T
        scores = torch.linalg.vector_norm(cells.detach(), dim=1)
        # In a stream the same cells whenever it is read; in training others each time.
        rows = choose(scores, self.cells, self.rules.sampling, seed=None if self.training else frame.index)
        return cells[rows], scores[rows]
