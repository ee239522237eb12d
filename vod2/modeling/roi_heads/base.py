"""Level 2: the proposals of the key frame take from those of its supports.

N: key proposals, D: embedding.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from vod2.d2 import CfgNode, Registry
from vod2.errors import lookup, settings
from vod2.modeling.aggregation import Aggregated
from vod2.structures import Frame, ProposalSet, TemporalContext

PROPOSAL_AGGREGATOR_REGISTRY = Registry("PROPOSAL_AGGREGATOR")
PROPOSAL_AGGREGATOR_REGISTRY.__doc__ = """
Subclasses of `ProposalAggregator`, called with (cfg, D). Chosen by MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME.
"""


class ProposalAggregator(nn.Module, ABC):
    """Aggregates embedded proposals: a pure function, see `Aggregated`.

    Attributes:
        needs_maps: whether proposals are to keep what was pooled from their boxes (`ProposalSet.maps`).
        training_levels: the feature maps that key frames and supports are to keep in training.
        id_iou: where proposals are to tell in training which object they show (`ProposalSet.ids`), the least IoU with
            it, else None.
    """

    needs_maps: bool = False
    training_levels: tuple[str, ...] = ()
    id_iou: float | None = None

    @abstractmethod
    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """The key frame's N proposals and the context -> (N, D); N and T may be 0."""

    def aggregate(self, keys: Sequence[Frame], contexts: Sequence[TemporalContext]) -> list[Aggregated[Tensor]]:
        """All clips of a batch. Each alone, unless a method relates them to each other in training (HVR-Net)."""
        return [self(key.proposals, context) for key, context in zip(keys, contexts, strict=True)]


def build_proposal_aggregator(cfg: CfgNode, dim: int) -> ProposalAggregator | None:
    """The aggregator that the configuration names, for D = dim, or None."""
    name = cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME
    if not name:
        return None
    kind = lookup(PROPOSAL_AGGREGATOR_REGISTRY, name, "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME")
    with settings(name):
        return kind(cfg, dim)
