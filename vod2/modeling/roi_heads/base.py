"""Level 2: the proposals of the key frame take from those of its supports.

N: key proposals, D: embedding.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vod2.d2 import CfgNode, Registry
from vod2.errors import lookup, settings
from vod2.modeling.aggregation import Aggregated
from vod2.structures import ProposalSet, TemporalContext

PROPOSAL_AGGREGATOR_REGISTRY = Registry("PROPOSAL_AGGREGATOR")
PROPOSAL_AGGREGATOR_REGISTRY.__doc__ = """
Subclasses of `ProposalAggregator`, called with (cfg, D). Chosen by MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME.
"""


class ProposalAggregator(nn.Module, ABC):
    """Aggregates embedded proposals: a pure function, see `Aggregated`."""

    @abstractmethod
    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """The key frame's N proposals and the context -> (N, D); N and T may be 0."""


def build_proposal_aggregator(cfg: CfgNode, dim: int) -> ProposalAggregator | None:
    """The aggregator that the configuration names, for D = dim, or None."""
    name = cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME
    if not name:
        return None
    kind = lookup(PROPOSAL_AGGREGATOR_REGISTRY, name, "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME")
    with settings(name):
        return kind(cfg, dim)
