"""Proposal level and instance level of MST, section III-C.

N: reference proposals R^r, M: support proposals R^s, K: candidates of the instance level, D: embedding.
"""

import functools
from dataclasses import replace

import torch
from torch import Tensor, nn

from vod2.d2 import CfgNode, configurable
from vod2.layers import ModuleList, RelationModules, stacked_relations
from vod2.modeling import PROPOSAL_AGGREGATOR_REGISTRY, Aggregated, ProposalAggregator, ProposalNeeds, build_relations
from vod2.structures import TRACK_IDS, UNKNOWN, ProposalSet, TemporalContext


@PROPOSAL_AGGREGATOR_REGISTRY.register()
class MSTAggregator(ProposalAggregator):
    """Equations 7 to 12. Every relation module has weights of its own.

    The proposal level looks at the best `support_topk` proposals of each support frame (R^st), the instance level at
    `instance_pool` of them, by default all (R^s).

    The instance level, where the proposals tell which object they show (training): each that shows one looks at the
    supports that show the same; those that are UNKNOWN neither look nor are looked at. Where they do not (inference;
    in training if all of the key frame or all supports are UNKNOWN): each of the `topk` proposals of the highest
    objectness looks at the most similar `ratio` of the supports. All others are copied.

    Example:
        >>> import torch
        >>> from vod2.layers import RelationModules, stacked_relations
        >>> from vod2.projects.mst import MSTAggregator
        >>> from vod2.structures import ProposalSet, TemporalContext
        >>> mst = MSTAggregator(relations=RelationModules(dim=64, num_heads=4))
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [4.0, 4.0, 20.0, 24.0]])
        >>> query = ProposalSet.of_frame(boxes, torch.rand(2, 64), torch.tensor([2.0, 1.0]), (32, 32))
        >>> mst(query, TemporalContext()).value.shape
        torch.Size([2, 64])
    """

    @configurable
    def __init__(
        self,
        *,
        relations: RelationModules,
        num_proposal: int = 2,
        instance: bool = True,
        support_topk: int = 75,
        aspect: bool = False,
        instance_pool: int = 0,
        id_iou: float = 0.5,
        topk: int = 20,
        ratio: float = 0.2,
        keep_relations: bool = False,
    ) -> None:
        """
        Args:
            relations: makes the relation modules, which see the sizes of two boxes.
            num_proposal: relation modules of the proposal level; 0 is no proposal level.
            instance: whether there is an instance level.
            support_topk: proposals of a support frame that the proposal level looks at.
            aspect: whether the relation modules see the difference of two boxes' aspect ratios, too, a reading of the
                third term of equation 9.
            instance_pool: proposals of a support frame that the instance level looks at, those of the highest
                objectness; 0 for all.
            id_iou: least IoU in [0, 1] with the object that a proposal shows.
            topk: K.
            ratio: share in (0, 1] of the M supports that a candidate looks at.
            keep_relations: also return the relation weights of the last module of the proposal level, the mean of its
                heads; without a proposal level there are none.
        """
        super().__init__()
        if min(num_proposal, support_topk, topk, instance_pool) < 0:
            raise ValueError(
                "MST: expected NUM_PROPOSAL, SUPPORT_TOPK, TOPK and INSTANCE_POOL of at least 0, got "
                f"{num_proposal}, {support_topk}, {topk}, {instance_pool}"
            )
        if not 0 < ratio <= 1:
            raise ValueError(f"MST: expected RATIO in (0, 1], got {ratio}")
        if not 0 <= id_iou <= 1:
            raise ValueError(f"MST: expected ID_IOU in [0, 1], got {id_iou}")

        dim, relation = relations.dim, functools.partial(relations.with_geometry, position=False, aspect=aspect)
        self.support_topk, self.topk, self.ratio = support_topk, topk, ratio
        self.keep_relations = keep_relations and num_proposal > 0
        self.instance_pool = instance_pool
        # Ids are for training. With the whole pool, supports are embedded beyond SUPPORT_TOPK there, too.
        self.needs = ProposalNeeds(track_iou=id_iou, support_pool=instance_pool) if instance else ProposalNeeds()
        self.relations = ModuleList(relation() for _ in range(num_proposal))
        self.transform = ModuleList(nn.Linear(dim, dim) for _ in range(num_proposal - 1))  # h() of RDN's equation 4
        self.instance = relation() if instance else None

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        node = cfg.MODEL.MST
        return {
            "relations": replace(build_relations(cfg, dim), scaled=node.SCALED),
            "num_proposal": node.NUM_PROPOSAL,
            "instance": node.INSTANCE,
            "support_topk": cfg.MODEL.VIDEO.SUPPORT_TOPK,
            "aspect": node.ASPECT,
            "instance_pool": node.INSTANCE_POOL,
            "id_iou": node.ID_IOU,
            "topk": node.TOPK,
            "ratio": node.RATIO,
            "keep_relations": cfg.MODEL.VIDEO.KEEP_RELATIONS,
        }

    @classmethod
    def asks_for_ids(cls, cfg: CfgNode) -> bool:
        return cfg.MODEL.MST.INSTANCE

    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """R^r (N, D) and the context's R^s -> R'' (N, D), or R' without instance level."""
        # All of R^s: the proposal level looks at the best of it, the instance level at the rest, too (section III-C).
        support = context.proposals(like=query)
        features, relations = self._proposal_level(query, support.top(self.support_topk))
        if self.instance is None:
            return Aggregated(features, relations=relations)
        if self.instance_pool:
            support = support.top(self.instance_pool)
        # Rows that are not chosen are copied, background among them.
        rows, mask = self._same_object(features, query, support)
        added = self.instance(features[rows], support.rows, query.boxes[rows], support.boxes, mask)
        features = features.index_add(0, rows, added.to(features.dtype))  # equation 12
        return Aggregated(features, relations=relations)

    def _proposal_level(self, query: ProposalSet, support: ProposalSet) -> tuple[Tensor, Tensor | None]:
        """Equation 10, module after module; the support features stay as they are. Relations come second if kept."""
        pair = query.features, support.rows, query.boxes, support.boxes
        return stacked_relations(self.relations, self.transform, *pair, keep=self.keep_relations)

    def _same_object(self, features: Tensor, query: ProposalSet, support: ProposalSet) -> tuple[Tensor, Tensor]:
        """The rows (K,) of R' to be updated, and the supports that each looks at, (K, M) bool."""
        if _tells_objects(query) and _tells_objects(support):
            # All rows, so that the weights have a gradient, if 0, where no proposal shows an object.
            rows = torch.arange(len(query), device=query.boxes.device)
            # BACKGROUND and UNKNOWN are negative: neither looks, nor equals an id that does.
            ids, support_ids = query.fields[TRACK_IDS], support.fields[TRACK_IDS]
            return rows, (ids >= 0)[:, None] & (ids[:, None] == support_ids[None])
        rows = query.scores.argsort(descending=True, stable=True)[: self.topk]
        assert self.instance is not None  # who has no instance level does not come here
        # Which supports are looked at is a choice, through which no gradient could flow.
        with torch.no_grad():
            weights = self.instance.weights(features[rows], support.rows, query.boxes[rows], support.boxes)
        similarity = weights.mean(dim=0)  # (K, M), over the heads
        count = min(len(support), max(1, round(self.ratio * len(support))))
        mask = torch.zeros_like(similarity, dtype=torch.bool)
        return rows, mask.scatter(1, similarity.topk(count, dim=1).indices, True)


def _tells_objects(proposals: ProposalSet) -> bool:
    """Whether there are ids, and not all of them are UNKNOWN."""
    return TRACK_IDS in proposals.fields and bool((proposals.fields[TRACK_IDS] != UNKNOWN).any())
