"""What follows the boxes of a frame, whatever they come from: their features, level 2, and the prediction.

B: frames, N: proposals of a frame, D: embedding.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from vod2.d2 import Instances
from vod2.modeling.aggregation import Aggregated, next_relations
from vod2.modeling.roi_heads.base import ProposalAggregator, needs_of
from vod2.structures import Clip, ProposalSet


class HeadOutput(NamedTuple):
    """Instances in inference, losses in training, level 2's results in both."""

    instances: list[Instances]
    losses: dict[str, Tensor]
    aggregated: list[Aggregated[Tensor]]


class VideoHeads(nn.Module, ABC):
    """Host level 2: `VideoROIHeads` pool from the boxes, `RescoringHeads` have the features of a dense head.

    Attributes:
        aggregator: level 2, or None.
        needs: what it asks for.
        support_topk: proposals that are embedded of a support frame in training.
        box_in_features: names of the maps that are pooled from; () for none.
    """

    aggregator: ProposalAggregator | None
    support_topk: int
    box_in_features: Any

    def host(self, aggregator: ProposalAggregator | None, support_topk: int) -> None:
        """Take the aggregator in; to be called once, in the constructor."""
        self.aggregator = aggregator
        self.needs = needs_of(aggregator)
        self.support_topk = support_topk

    @abstractmethod
    def select(
        self,
        proposals: list[Instances],
        targets: Sequence[Instances | None] | None,
        ignored: Sequence[Tensor | None] | None = None,
        seeds: Sequence[int | None] | None = None,
    ) -> list[Instances]:
        """Which proposals are embedded, of a frame with targets with what each is trained on.

        Args:
            proposals: of B frames, the best first.
            targets: for each frame its ground truth, or None for a support; None in inference.
            ignored: for each frame its ignore regions (G, 4) xyxy, or None.
            seeds: for each frame what is drawn at random is drawn from, or None for the global generator.
        """

    @abstractmethod
    def embed(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[ProposalSet]:
        """{level of `box_in_features`: (B, C, H, W)} and the selected proposals of B frames -> sets with features."""

    @abstractmethod
    def predict(
        self, clips: Sequence[Clip], aggregated: Sequence[Aggregated[Tensor]]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """What `aggregate` returned for each clip -> instances and no losses, or in training the other way round."""

    def detect(self, clips: Sequence[Clip]) -> HeadOutput:
        """Level 2 and the prediction, in both modes.

        Args:
            clips: with embedded proposals; in training key frames also have the selected proposals as `targets`.
        """
        aggregated = self.aggregate(clips)
        return HeadOutput(*self.predict(clips, aggregated), aggregated)

    def aggregate(self, clips: Sequence[Clip]) -> list[Aggregated[Tensor]]:
        """Level 2: what the proposals of the key frames become, (N, D) each."""
        if self.aggregator is None:
            return [Aggregated(clip.key.require_proposals().features) for clip in clips]
        return self.aggregator.forward_clips(clips)

    def top_of_supports(self, proposals: Sequence[Instances]) -> list[Instances]:
        """As many of the best proposals of each frame as are embedded of a support in training."""
        # The best come first: who asks for fewer than others finds them among more.
        asked = self.needs.support_pool
        if asked is None:
            asked = self.support_topk
        count = max(self.support_topk, asked) if asked else None
        return [of_frame[:count] if count is not None else of_frame for of_frame in proposals]

    def add_relations(
        self, detected: Sequence[Instances], clips: Sequence[Clip], aggregated: Sequence[Aggregated[Tensor]]
    ) -> None:
        """Give the detections, by their proposal_index, the relations to the next frame, where level 2 keeps any."""
        for clip, result, detections in zip(clips, aggregated, detected, strict=True):
            if result.relations is not None:
                # Rows of proposals become rows of detections: several classes may keep the same proposal.
                table = next_relations(result.relations, clip.context, clip.key.index, self.support_topk)
                detections.next_relation = table[detections.proposal_index]
