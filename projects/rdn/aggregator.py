"""Relation distillation: the basic and the advanced stage of RDN, section 3.3.

N: reference proposals R^r, M: support pool R^s, A: advanced support pool R^sa, D: embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.d2 import CfgNode, configurable
from vod2.layers import ModuleList, RelationModules, first_rows, remembered_attention, stacked_relations
from vod2.modeling import PROPOSAL_AGGREGATOR_REGISTRY, Aggregated, ProposalAggregator, build_relations
from vod2.structures import VALID, ProposalSet, TemporalContext


@PROPOSAL_AGGREGATOR_REGISTRY.register()
class RDNAggregator(ProposalAggregator):
    """Equations 3 to 7. Every relation module has weights of its own.

    Example:
        >>> import torch
        >>> from vod2.layers import RelationModules, stacked_relations
        >>> from vod2.projects.rdn import RDNAggregator
        >>> from vod2.structures import ProposalSet, TemporalContext
        >>> rdn = RDNAggregator(relations=RelationModules(dim=64, num_heads=4))
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [4.0, 4.0, 20.0, 24.0]])
        >>> query = ProposalSet.of_frame(boxes, torch.rand(2, 64), torch.tensor([2.0, 1.0]), (32, 32))
        >>> rdn(query, TemporalContext()).value.shape
        torch.Size([2, 64])
    """

    takes_padding = True

    @configurable
    def __init__(
        self,
        *,
        relations: RelationModules,
        num_basic: int = 2,
        advanced: bool = True,
        support_topk: int = 75,
        advanced_ratio: float = 0.2,
        advanced_pool: str = "all",
        advanced_fc: bool = False,
        keep_relations: bool = False,
    ) -> None:
        """
        Args:
            relations: makes the relation modules, of M relation features each.
            num_basic: relation modules N_b of the basic stage; 0 is no basic stage.
            advanced: whether there is an advanced stage.
            support_topk: proposals K of a support frame.
            advanced_ratio: share r% in (0, 1] of R^s that is refined.
            advanced_pool: what the share is taken of, by objectness: "all", the whole of R^s (Algorithm 1, line 10), or
                "frame", the K proposals of each support frame, as public code does.
            advanced_fc: whether h() of equation 4 is also applied to the refined proposals, as public code does.
            keep_relations: also return the relation weights of the last basic module, the mean of its heads (w of
                equation 8); without a basic stage there are none.
        """
        super().__init__()
        if num_basic < 0 or support_topk < 0:
            raise ValueError(f"RDN: expected NUM_BASIC and SUPPORT_TOPK of at least 0, got {num_basic}, {support_topk}")
        if not 0 < advanced_ratio <= 1:
            raise ValueError(f"RDN: expected ADVANCED_RATIO in (0, 1], got {advanced_ratio}")
        if advanced_pool not in ("all", "frame"):
            raise ValueError(f"RDN: expected ADVANCED_POOL 'all' or 'frame', got {advanced_pool!r}")

        # Equation 4 has a layer between two modules: none of them before the first.
        dim, relation = relations.dim, relations.with_geometry
        self.support_topk = support_topk
        self.keep_relations = keep_relations
        self.advanced_ratio, self.advanced_pool = advanced_ratio, advanced_pool
        self.basic = ModuleList(relation() for _ in range(num_basic))
        self.transform = ModuleList(nn.Linear(dim, dim) for _ in range(num_basic - 1))  # h() of equation 4
        self.refine = relation() if advanced else None
        self.refine_transform = nn.Linear(dim, dim) if advanced and advanced_fc else None
        self.distill = relation() if advanced else None

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        return {
            "relations": build_relations(cfg, dim),
            "num_basic": cfg.MODEL.RDN.NUM_BASIC,
            "advanced": cfg.MODEL.RDN.ADVANCED,
            "support_topk": cfg.MODEL.VIDEO.SUPPORT_TOPK,
            "advanced_ratio": cfg.MODEL.RDN.ADVANCED_RATIO,
            "advanced_pool": cfg.MODEL.RDN.ADVANCED_POOL,
            "advanced_fc": cfg.MODEL.RDN.ADVANCED_FC,
            "keep_relations": cfg.MODEL.VIDEO.KEEP_RELATIONS,
        }

    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """R^r (N, D) and the context's R^s -> R^r2 (N, D), or R^r1 without advanced stage."""
        support = context.proposals(self.support_topk, like=query)
        features, relations = self._basic_stage(query, support)
        # R^sa is taken of R^s as the box head embedded it: the basic stage updates the key frame alone.
        if self.refine is not None:
            features = self._advanced_stage(features, query.boxes, support, self._advanced_pool(support, context))
        return Aggregated(features, relations=relations)

    def _basic_stage(self, query: ProposalSet, support: ProposalSet) -> tuple[Tensor, Tensor | None]:
        """Equations 3 and 4; the support features stay as they are. The relations (N, M) come second if kept."""
        pair = query.features, support.rows, query.boxes, support.boxes
        mask = support.visible_to(len(query))
        return stacked_relations(self.basic, self.transform, *pair, keep=self.keep_relations, mask=mask)

    def _advanced_stage(self, features: Tensor, boxes: Tensor, support: ProposalSet, pool: ProposalSet) -> Tensor:
        """Equations 5 to 7, with `pool` for R^sa."""
        assert self.refine is not None and self.distill is not None  # who has no advanced stage does not come here
        # Equation 6: the distilled supports look at all of R^s, themselves among them.
        taken = remembered_attention(self.refine, pool, support)
        if taken is None:
            pair = pool.rows, support.rows, pool.boxes, support.boxes
            taken = self.refine(*pair, support.visible_to(len(pool)))
        refined = pool.features + taken
        if self.refine_transform is not None:
            refined = F.relu(self.refine_transform(refined))
        # Equation 7: the key frame's proposals look at the distilled supports alone.
        return features + self.distill(features, refined, boxes, pool.boxes, pool.visible_to(len(features)))

    def _advanced_pool(self, support: ProposalSet, context: TemporalContext) -> ProposalSet:
        """R^sa: the share of R^s, or of each of its frames, that has the highest objectness; at least one proposal."""
        # Public code takes the share of K, the same number of every frame, also of one with fewer proposals.
        if self.advanced_pool == "frame":
            return context.proposals(min(self._share(self.support_topk), self.support_topk), like=support)
        if VALID in support.fields:
            return self._padded_pool(support)
        best = support.scores.argsort(descending=True, stable=True)[: self._share(len(support))]
        return support[best.sort().values]  # frame after frame, as a set has to be

    def _padded_pool(self, support: ProposalSet) -> ProposalSet:
        """The share of the proposals that are no padding, filled up to the share of all rows."""
        valid, size = support.fields[VALID], min(self._share(len(support)), len(support))
        share = (self.advanced_ratio * valid.sum().double()).round().clamp(min=1)  # as `_share` of their number
        best = support.scores.masked_fill(~valid, -torch.inf).topk(size).indices
        is_in_share = torch.arange(size, device=valid.device) < share
        chosen = torch.zeros_like(valid).scatter(0, best, is_in_share) & valid
        rows, is_filler = first_rows(chosen, size)
        return support[rows].with_fields(**{VALID: ~is_filler})

    def _share(self, count: int) -> int:
        return max(1, round(self.advanced_ratio * count))
