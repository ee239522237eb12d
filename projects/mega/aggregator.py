"""Global to local aggregation with a long range memory, section 3 of MEGA.

N: proposals of the key frame, M: of the local frames, A: the best of each of these (distilled), S: stages,
D: embedding.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.d2 import CfgNode, configurable
from vod2.layers import ModuleList, RelationModules, init_xavier
from vod2.modeling import PROPOSAL_AGGREGATOR_REGISTRY, Aggregated, ProposalAggregator, build_relations
from vod2.projects.mega.memory import LongRangeMemory, StoredProposals
from vod2.structures import ProposalSet, Role, TemporalContext, as_tensor, cat_rows


class Staged(NamedTuple):
    """What the local stages return.

    Attributes:
        x: the key frame's proposals.
        keys: each stage's keys without the memory, in the order of the local frames.
        shares: (N, keys of the last stage with the memory) what the last stage takes of each, or None if not kept.
    """

    x: ProposalSet
    keys: list[ProposalSet]
    shares: Tensor | None


@PROPOSAL_AGGREGATOR_REGISTRY.register()
class MEGAAggregator(ProposalAggregator):
    """Proposals take from GLOBAL frames, then in S stages from LOCAL ones and the memory, then from GLOBAL ones again.

    With G_k the global and L_s the local relation modules, h_s a fully connected layer with ReLU:

    1. x, the key frame's, and y, the local frames', each += G_0(., global).
    2. For s < S - 1: x and the distilled rows of y, each h_s(. + L_s(., [keys of stage s; memory of stage s])). Keys
       of stage 0 are all rows of y, those of stage s > 0 the distilled ones as stage s - 1 has left them.
    3. The last stage: x += L_s(x, [keys; memory]), without h.
    4. x += G_1(x, global), and so on for further global relations.

    The memory of stage s holds what were keys of that stage, of the frames that have left the local window since the
    stream began: it is carried as `memory.LongRangeMemory` describes. Where the context has MEMORY frames, as in
    training, it is made of these instead, without gradient.

    Example:
        >>> import torch
        >>> from vod2.layers import RelationModules
        >>> from vod2.projects.mega import MEGAAggregator
        >>> from vod2.structures import ProposalSet, TemporalContext
        >>> mega = MEGAAggregator(relations=RelationModules(dim=64, num_heads=4))
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [4.0, 4.0, 20.0, 24.0]])
        >>> query = ProposalSet.of_frame(boxes, torch.rand(2, 64), torch.tensor([2.0, 1.0]), (32, 32))
        >>> mega(query, TemporalContext()).value.shape
        torch.Size([2, 64])
    """

    @configurable
    def __init__(
        self,
        *,
        relations: RelationModules,
        num_stages: int = 3,
        support_topk: int = 75,
        advanced_ratio: float = 0.2,
        num_global: int = 2,
        memory: int = 25,
        keep_relations: bool = False,
    ) -> None:
        """
        Args:
            relations: makes the relation modules; the local ones see where boxes stand to each other.
            num_stages: S, at least 1.
            support_topk: proposals of a support frame that are looked at.
            advanced_ratio: share in (0, 1] of a local frame's that is distilled.
            num_global: global relations: G_0, and those after the stages. 0 ignores GLOBAL frames.
            memory: frames that the memory holds; 0 for no memory.
            keep_relations: also return what the last stage takes of the local frames, the mean of its heads: 0 of what
                was not distilled and of other frames. A row sums to 1 less what is taken of the memory, whose frames
                have left the context.
        """
        super().__init__()
        if num_stages < 1 or min(support_topk, memory, num_global) < 0:
            raise ValueError(
                "MEGA: expected NUM_STAGES of at least 1, SUPPORT_TOPK, MEMORY and NUM_GLOBAL of at least 0, got "
                f"{num_stages}, {support_topk}, {memory}, {num_global}"
            )
        if not 0 < advanced_ratio <= 1:
            raise ValueError(f"MEGA: expected ADVANCED_RATIO in (0, 1], got {advanced_ratio}")

        dim = relations.dim
        self.support_topk, self.memory_size = support_topk, memory
        self.keep_relations = keep_relations
        self.distilled_topk = max(1, round(advanced_ratio * support_topk))
        self.local_relations = ModuleList(relations.with_geometry() for _ in range(num_stages))
        self.global_relations = ModuleList(relations.without_geometry() for _ in range(num_global))
        self.transform = ModuleList(nn.Linear(dim, dim) for _ in range(num_stages - 1))
        init_xavier(*self.transform)  # as the box head's layers begin

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        node = cfg.MODEL.MEGA
        return {
            "relations": build_relations(cfg, dim),
            "num_stages": node.NUM_STAGES,
            "support_topk": cfg.MODEL.VIDEO.SUPPORT_TOPK,
            "advanced_ratio": node.ADVANCED_RATIO,
            "num_global": node.NUM_GLOBAL,
            "memory": node.MEMORY,
            "keep_relations": cfg.MODEL.VIDEO.KEEP_RELATIONS,
        }

    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """The key frame's proposals (N, D) and the context's -> (N, D); carries the memory."""
        local = context.select(Role.KEY, Role.LOCAL)
        global_supports = self._supports(context.select(Role.GLOBAL), query)
        x = self._from_global(0, query, global_supports)
        y = self._from_global(0, self._supports(local, query), global_supports)
        # The frame that was left pending at the step before enters the memory here, if it has left the window by now.
        memory = LongRangeMemory.of_carry(context.carry, len(self.local_relations), query)
        memory = memory.updated([frame.index for frame in local.frames], self.memory_size)
        stored = self._of_memory_frames(context.select(Role.MEMORY), global_supports) or memory.stored
        x, keys, shares = self._stages(x, y, stored)
        # Only the key frame looks at the whole video once more (step 4).
        for k in range(1, len(self.global_relations)):
            x = self._from_global(k, x, global_supports)
        carry = memory.with_pending(local, keys).as_carry() if self.memory_size else {}
        relations = None if shares is None else self._as_relations(shares, y, context)
        return Aggregated(x.features, carry=carry, relations=relations)

    def _as_relations(self, shares: Tensor, y: ProposalSet, context: TemporalContext) -> Tensor:
        """What is taken of the keys of the last stage -> (N, M), of `context.proposals(support_topk)`."""
        support = context.proposals(self.support_topk)
        if support is None:
            return shares[:, :0]
        # `support.frame` counts only the frames that have proposals.
        framed = zip(context.frames, context.roles, strict=True)
        local = [role in (Role.KEY, Role.LOCAL) for frame, role in framed if frame.proposals is not None]
        columns = torch.tensor(local, device=shares.device)[support.frame].nonzero()[:, 0]  # of y, in its order
        # With several stages the last one has seen distilled rows only. What it took of the memory, whose keys come
        # after these, has no column: those frames are not in the context.
        if len(self.local_relations) > 1:
            columns = columns[y.rank() < self.distilled_topk]
        relations = shares.new_zeros(len(shares), len(support))
        return relations.index_copy(1, columns, shares[:, : len(columns)])

    def _supports(self, part: TemporalContext, query: ProposalSet) -> ProposalSet:
        """The best proposals of the part's frames; of none, an empty set like the query."""
        supports = part.proposals(self.support_topk)
        return query[:0] if supports is None else supports

    def _from_global(self, k: int, proposals: ProposalSet, global_supports: ProposalSet) -> ProposalSet:
        """Steps 1 and 4: += G_k. What the global frames have is never updated."""
        if not self.global_relations:
            return proposals
        added = self.global_relations[k](proposals.rows, global_supports.rows, proposals.boxes, global_supports.boxes)
        return replace(proposals, features=proposals.features + added)

    def _of_memory_frames(self, part: TemporalContext, global_supports: ProposalSet) -> Sequence[StoredProposals]:
        """The memory of every stage, made of MEMORY frames that look at nothing but each other; () without any."""
        supports = part.proposals(self.support_topk)
        if supports is None or not self.memory_size:
            return ()
        # As in a stream, whose memory is detached: no gradient reaches the MEMORY frames.
        with torch.no_grad():
            no_query = supports[:0]
            no_memory = LongRangeMemory.empty(len(self.local_relations), supports).stored
            keys = self._stages(no_query, self._from_global(0, supports, global_supports), no_memory).keys
        return [StoredProposals(key.features, key.boxes) for key in keys]

    def _stages(self, x: ProposalSet, y: ProposalSet, memory: Sequence[StoredProposals]) -> Staged:
        """Steps 2 and 3, of x (N rows) and y (M)."""
        last = len(self.local_relations) - 1
        distilled = y[y.rank() < self.distilled_topk]  # (A)
        # Key frame and distilled supports go through the same relation: one call for both.
        features = cat_rows([x.rows, distilled.rows])  # (N + A, D)
        boxes = torch.cat([x.boxes, distilled.boxes])
        # Stage 0 looks at all rows of y, later ones at what the stage before has made of the distilled ones.
        keys_of_stage, keys, shares = y, [], None
        for s, (relation, stored) in enumerate(zip(self.local_relations, memory, strict=True)):
            keys.append(keys_of_stage)
            # Nothing looks at the supports after the last stage: it updates the key frame alone.
            if s == last:
                features, boxes = features[: len(x)], x.boxes
            key = cat_rows([keys_of_stage.rows, stored.features])
            key_boxes = torch.cat([keys_of_stage.boxes, stored.boxes])
            if self.keep_relations and s == last:
                with torch.no_grad():
                    shares = relation.weights(features, key, boxes, key_boxes).mean(dim=0)
            features = as_tensor(features) + relation(features, key, boxes, key_boxes)
            if s < last:
                features = F.relu(self.transform[s](features))
                keys_of_stage = replace(distilled, features=features[len(x) :])
        return Staged(replace(x, features=as_tensor(features)), keys, shares)
