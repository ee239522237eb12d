"""Level 2: the proposals of the key frame take from those of its supports.

N: key proposals, D: embedding.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from vod2.d2 import CfgNode, Registry
from vod2.errors import lookup, settings
from vod2.layers import ModuleList, RelationModules
from vod2.modeling.aggregation import Aggregated, merge_disjoint
from vod2.modeling.deprecated import DeprecatedAggregate, warn_renamed
from vod2.structures import Clip, ProposalSet, TemporalContext

PROPOSAL_AGGREGATOR_REGISTRY = Registry("PROPOSAL_AGGREGATOR")
PROPOSAL_AGGREGATOR_REGISTRY.__doc__ = """
Subclasses of `ProposalAggregator`, called with (cfg, D). Chosen by MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME.
"""


@dataclass(frozen=True)
class ProposalNeeds:
    """What an aggregator asks the detector for, beside the embedded proposals.

    Attributes:
        pooled_maps: proposals keep what was pooled from their boxes (`POOLED_MAPS` of `ProposalSet.fields`).
        track_iou: in training proposals tell which object they show (`TRACK_IDS`), the least IoU in [0, 1] with it;
            None for no such field.
        support_pool: proposals of a support that are embedded in training, at least MODEL.VIDEO.SUPPORT_TOPK (None); 0
            for all.
        feature_maps: frames keep the maps that boxes are pooled from (MODEL.ROI_HEADS.IN_FEATURES), in a memory, too.
            There must be no level 1, whose maps may depend on the key frame.
    """

    pooled_maps: bool = False
    track_iou: float | None = None
    support_pool: int | None = None
    feature_maps: bool = False

    @staticmethod
    def joined(needs: Sequence["ProposalNeeds"]) -> "ProposalNeeds":
        """What satisfies all of them.

        Raises:
            ValueError: if they name different `track_iou`.
        """
        # A proposal has one id, so one threshold must do for all.
        asked = sorted({part.track_iou for part in needs if part.track_iou is not None})
        if len(asked) > 1:
            raise ValueError(
                f"expected one least IoU of a proposal with the object that it shows, got {asked}: give the same to "
                "all aggregators that ask for it"
            )
        pools = [part.support_pool for part in needs if part.support_pool is not None]
        # The best of each frame come first, so who asks for fewer finds them there. 0 stands for all.
        largest = 0 if 0 in pools else max(pools, default=None)
        return ProposalNeeds(
            pooled_maps=any(part.pooled_maps for part in needs),
            track_iou=asked[0] if asked else None,
            support_pool=largest,
            feature_maps=any(part.feature_maps for part in needs),
        )


class ProposalAggregator(DeprecatedAggregate, nn.Module, ABC):
    """Aggregates embedded proposals: a pure function, see `Aggregated`.

    Attributes:
        needs: what it asks the detector for.
        takes_padding: whether `vod2 export` takes it. It then leaves out supports that are padding
            (`ProposalSet.visible_to`), its results have sizes that no value decides, it carries nothing, and it reads
            nothing of its context but the supports' proposals, of each the first MODEL.VIDEO.SUPPORT_TOPK: in a graph
            there are no others, all roles are LOCAL, the video is "" and the frames are 0 .. T - 1, where T is the
            largest window, whatever they are in the stream. The export compares the two.
    """

    needs: ProposalNeeds = ProposalNeeds()
    takes_padding: bool = False

    @classmethod
    def asks_for_ids(cls, cfg: CfgNode) -> bool:
        """Whether one that is built from `cfg` has a `track_iou`: its training clips need annotations of all frames."""
        return False

    @abstractmethod
    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """The key frame's N proposals and the context -> (N, D); N and T may be 0."""

    def forward_clips(self, clips: Sequence[Clip]) -> list[Aggregated[Tensor]]:
        """All clips of a batch. Each alone, unless a method relates them to each other in training (HVR-Net)."""
        return [self(clip.key.proposals, clip.context) for clip in clips]


class AggregatorSequence(ProposalAggregator):
    """Several aggregators, one after the other: each gives the key frame's proposals their features for the next.

    All of them look at the same context, whose supports keep the features that they were embedded with, whatever an
    aggregator makes of them for itself. What they carry and their losses are put together; relations are those of the
    last one that keeps any.

    Raises:
        ValueError: if there is none, or two of them ask for different `track_iou`; in `forward` and `forward_clips`, if
            two of them carry something, or have a loss, of the same name.

    Example:
        >>> import torch
        >>> from vod2.modeling import Aggregated, ProposalAggregator
        >>> from vod2.modeling.roi_heads import AggregatorSequence
        >>> from vod2.structures import ProposalSet, TemporalContext
        >>> class Doubled(ProposalAggregator):
        ...     def forward(self, query, context):
        ...         return Aggregated(2 * query.features)
        >>> query = ProposalSet.of_frame(torch.zeros(1, 4), torch.ones(1, 2), torch.zeros(1), (32, 32))
        >>> AggregatorSequence([Doubled(), Doubled()])(query, TemporalContext()).value
        tensor([[4., 4.]])
    """

    def __init__(self, parts: Sequence[ProposalAggregator]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("AggregatorSequence: expected at least one aggregator")
        self.parts = ModuleList(parts)
        self.needs = ProposalNeeds.joined([needs_of(part) for part in parts])
        self.takes_padding = all(part.takes_padding for part in parts)

    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        results = []
        for part in self.parts:
            result = part(query, context)
            # The context stays: each part relates to supports as the box head embedded them.
            query = replace(query, features=result.value)
            results.append(result)
        return _joined(results)

    def forward_clips(self, clips: Sequence[Clip]) -> list[Aggregated[Tensor]]:
        results_of_parts = []
        for part in self.parts:
            results = part.forward_clips(clips)
            clips = [with_features(clip, result.value) for clip, result in zip(clips, results, strict=True)]
            results_of_parts.append(results)
        # From all clips of a part to all parts of a clip.
        return [_joined(results_of_clip) for results_of_clip in zip(*results_of_parts, strict=True)]


def with_features(clip: Clip, features: Tensor) -> Clip:
    """The clip whose key frame's proposals have other features (N, D); its context stays as it is."""
    return replace(clip, key=clip.key.with_(proposals=replace(clip.key.require_proposals(), features=features)))


def _joined(results: Sequence[Aggregated[Tensor]]) -> Aggregated[Tensor]:
    """The results of a sequence's parts for one clip as one."""
    # A later part that keeps none does not hide those of an earlier one.
    relations = None
    for result in results:
        if result.relations is not None:
            relations = result.relations
    return Aggregated(
        value=results[-1].value,
        losses=merge_disjoint(result.losses for result in results),
        carry=merge_disjoint(result.carry for result in results),
        relations=relations,
    )


_OLD_NEEDS = {"needs_maps": "pooled_maps", "id_iou": "track_iou", "support_pool": "support_pool"}
"""Attributes in which an aggregator said what it needs in version 0.1, and their names in `ProposalNeeds`."""


def needs_of(aggregator: ProposalAggregator | None) -> ProposalNeeds:
    """What an aggregator asks for, also one that says it in the attributes of version 0.1; nothing for None."""
    if aggregator is None:
        return ProposalNeeds()
    # An aggregator of version 0.1 sets some of these on its class or on itself; ours have none of them.
    old = {new: getattr(aggregator, name) for name, new in _OLD_NEEDS.items() if hasattr(aggregator, name)}
    if not old:
        return aggregator.needs
    warn_renamed(f"{', '.join(_OLD_NEEDS)} of a {type(aggregator).__name__}", "its attribute needs, a ProposalNeeds")
    return replace(aggregator.needs, **old)


def build_relations(cfg: CfgNode, dim: int) -> RelationModules:
    """The relation modules that MODEL.VIDEO.RELATION describes, for D = dim."""
    node = cfg.MODEL.VIDEO.RELATION
    return RelationModules(dim, node.NUM_HEADS, node.GEOMETRY_DIM, node.GEOMETRY_SCALE, node.GEOMETRY_WAVELENGTH)


def asks_for_ids(cfg: CfgNode) -> bool:
    """Whether level 2 of a configuration asks which object a proposal shows, see `ProposalAggregator.asks_for_ids`."""
    return any(kind.asks_for_ids(cfg) for kind, _ in _named_aggregators(cfg))


def _named_aggregators(cfg: CfgNode) -> list[tuple[type[ProposalAggregator], str]]:
    """The classes that the configuration names, in their order, each with its name."""
    names = cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME
    if not names:
        return []
    key = "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME"
    return [(lookup(PROPOSAL_AGGREGATOR_REGISTRY, name, key), name) for name in names.split("+")]


def build_proposal_aggregator(cfg: CfgNode, dim: int) -> ProposalAggregator | None:
    """The aggregator that the configuration names, for D = dim, or None; names joined by "+" make a sequence."""
    parts = []
    for kind, name in _named_aggregators(cfg):
        with settings(name):
            parts.append(kind(cfg, dim))
    if not parts:
        return None
    # A single one is not wrapped: its parameters would be named parts.0.*.
    with settings(cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME):
        return parts[0] if len(parts) == 1 else AggregatorSequence(parts)
