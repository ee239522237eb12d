"""Structure-based proposal feature aggregation: level 2 of CSMN.

N: proposals of the key frame, M: support proposals, D: embedding, C: channels of a RoI's map, P: its side, p: patches.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.d2 import CfgNode, build_backbone, configurable
from vod2.errors import UserError
from vod2.layers import ModuleList, PatchAttention, PatchImportance, RelationAttention, init_xavier
from vod2.modeling import PROPOSAL_AGGREGATOR_REGISTRY, Aggregated, ProposalAggregator, ProposalNeeds
from vod2.modeling.roi_heads import require_linear_box_head
from vod2.structures import POOLED_MAPS, ProposalSet, TemporalContext

LAYERS = 2  # fully connected layers, that of the box head and `transform.0`, each followed by an aggregation


@PROPOSAL_AGGREGATOR_REGISTRY.register()
class SPFAAggregator(ProposalAggregator):
    """SELSA's head with SPFA in the place of its relations.

    x = relu(x + A_1(x, H_1)); x = fc_2(x); x = relu(x + A_2(x, H_2)), where x comes from a box head without activation
    (`LinearBoxHead`), H_1 are the support proposals as they come from it, and H_2 = fc_2(relu(H_1)).
    A_k(x, H) = sum_p alpha_k^p sum_j w_j^p H_j: the weights w (`PatchAttention`) compare what was pooled from the boxes
    and are the same for both k, the importance alpha_k of the patches (`PatchImportance`) is not.
    `transform.0` is fc_2. Of a single patch there is no part to compare: then A_k is SELSA's own relation,
    `relation.{k - 1}`, as in the paper's row of one patch.

    `weights` and `patch_importance` give w and alpha to be looked at.

    Example:
        >>> import torch
        >>> from vod2.projects.csmn import SPFAAggregator
        >>> from vod2.structures import POOLED_MAPS, ProposalSet, TemporalContext
        >>> spfa = SPFAAggregator(dim=64, channels=8, side=7)
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [4.0, 4.0, 20.0, 24.0]])
        >>> values = boxes, torch.rand(2, 64), torch.tensor([2.0, 1.0]), (32, 32)
        >>> query = ProposalSet.of_frame(*values, {"pooled_maps": torch.rand(2, 8, 7, 7)})
        >>> spfa(query, TemporalContext()).value.shape
        torch.Size([2, 64])
    """

    @configurable
    def __init__(
        self,
        *,
        dim: int,
        channels: int,
        side: int,
        patches: int = 9,
        importance: str = "learned",
        temperature: float | None = None,
        support_topk: int = 300,
        keep_relations: bool = False,
    ) -> None:
        """
        Args:
            dim: D.
            channels, side: C, P.
            patches: p, the square of a number that is at most P.
            importance: "learned", or "fixed" to 1/p.
            temperature: of the softmax over the supports, see `PatchAttention`; None for 1 / sqrt(d).
            support_topk: proposals of a support frame.
            keep_relations: also return how much each proposal takes from each support in the last aggregation,
                sum_p alpha^p w_j^p.

        Raises:
            ValueError: on other values.
        """
        super().__init__()
        grid = math.isqrt(max(patches, 0))
        if grid * grid != patches or not 1 <= grid <= side:
            raise ValueError(
                f"SPFA: expected PATCHES to be the square of 1 to {side} (POOLER_RESOLUTION), got {patches}"
            )
        if importance not in ("learned", "fixed"):
            raise ValueError(f"SPFA: IMPORTANCE is {importance!r}, expected 'learned' or 'fixed'")
        if support_topk < 0:
            raise ValueError(f"SPFA: expected SUPPORT_TOPK of at least 0, got {support_topk}")
        self.support_topk, self.keep_relations = support_topk, keep_relations
        # A single patch is compared by its embedding: nobody needs the maps then, which take most of the memory.
        self.needs = ProposalNeeds(pooled_maps=patches > 1)
        self.transform = ModuleList(nn.Linear(dim, dim) for _ in range(LAYERS - 1))
        init_xavier(*self.transform)  # as the box head's layers begin
        self.relation: ModuleList[RelationAttention] | None = None
        self.attention: PatchAttention | None = None
        self.importance: ModuleList[PatchImportance] | None = None
        if patches == 1:
            self.relation = ModuleList(RelationAttention(dim, num_heads=1) for _ in range(LAYERS))
            return
        self.attention = PatchAttention(grid, temperature)
        if importance == "learned":
            self.importance = ModuleList(PatchImportance(channels, side, grid) for _ in range(LAYERS))

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        require_linear_box_head(cfg, "SPFA")
        spfa = cfg.MODEL.CSMN.SPFA
        return {
            "dim": dim,
            "channels": _pooled_channels(cfg),
            "side": cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION,
            "patches": spfa.PATCHES,
            "importance": spfa.IMPORTANCE,
            "temperature": spfa.TEMPERATURE or None,
            "support_topk": cfg.MODEL.VIDEO.SUPPORT_TOPK,
            "keep_relations": cfg.MODEL.VIDEO.KEEP_RELATIONS,
        }

    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """The key frame's proposals (N, D) before activation and the context's -> (N, D) after the last activation."""
        support = context.proposals(self.support_topk, like=query)
        if self.needs.pooled_maps and not (POOLED_MAPS in query.fields and POOLED_MAPS in support.fields):
            raise ValueError("SPFA compares what was pooled from the boxes: expected proposals with maps (M, C, P, P)")
        values = self._values(support.features)
        # The weights are the same for both aggregations: computed once, for H_1 and H_2 side by side (M, 2 D).
        if self.attention is not None:
            maps = query.fields[POOLED_MAPS], support.fields[POOLED_MAPS]
            of_patches = self.attention(*maps, torch.cat(values, dim=1)).chunk(LAYERS, dim=2)
        x, relations = query.features, None
        for k, value in enumerate(values):
            if k > 0:
                x = self.transform[k - 1](x)
            if self.keep_relations and k == LAYERS - 1:
                relations = self._relations(x, value, query, support)
            if self.relation is not None:
                taken = self.relation[k](x, value, query.boxes, support.boxes)
            else:
                taken = self._joined(k, query.fields[POOLED_MAPS], of_patches[k])
            x = F.relu(x + taken)
        return Aggregated(x, relations=relations)

    @torch.no_grad()
    def weights(self, query: ProposalSet, support: ProposalSet) -> Tensor:
        """w_ij^p (N, p, M), summing to 1 over the supports: what patch p of a proposal takes from each support.

        It is the same in both aggregations. Both sets have maps, `support` is `context.proposals(support_topk)`.

        Raises:
            ValueError: with a single patch, which has no such weights.
        """
        attention = self._require_patches()
        return attention.weights(query.fields[POOLED_MAPS], support.fields[POOLED_MAPS])

    @torch.no_grad()
    def patch_importance(self, query: ProposalSet, k: int = LAYERS - 1) -> Tensor:
        """alpha_i^p (N, p), summing to 1 over the patches: those of aggregation k (0 or 1), by default of the last.

        The patches of a RoI, of which `query` has the maps, are counted row by row.

        Raises:
            ValueError: with a single patch.
        """
        self._require_patches()
        return self._alpha(k, query.fields[POOLED_MAPS])

    def _require_patches(self) -> PatchAttention:
        if self.attention is None:
            raise ValueError("SPFA: with MODEL.CSMN.SPFA.PATCHES 1 a proposal has no patches to tell apart")
        return self.attention

    def _values(self, support: Tensor) -> list[Tensor]:
        """H_1 (M, D) -> [H_1, H_2], each (M, D) before activation."""
        # Supports go through the fully connected layers without taking relations themselves, as in SELSA.
        values = [support]
        for layer in self.transform:
            values.append(layer(F.relu(values[-1])).to(support.dtype))
        return values

    def _joined(self, k: int, maps: Tensor, of_patches: Tensor) -> Tensor:
        """sum_p alpha^p a^p: maps (N, C, P, P), of_patches (N, p, D) -> (N, D)."""
        return (self._alpha(k, maps)[..., None] * of_patches).sum(dim=1)

    def _alpha(self, k: int, maps: Tensor) -> Tensor:
        """alpha of aggregation k: (N, C, P, P) -> (N, p)."""
        # "fixed": the mean over the patches, a row of the paper's ablation.
        if self.importance is None:
            grid = self._require_patches().grid
            return maps.new_full((len(maps), grid**2), grid**-2)
        return self.importance[k](maps)

    @torch.no_grad()
    def _relations(self, x: Tensor, value: Tensor, query: ProposalSet, support: ProposalSet) -> Tensor:
        """(N, M): how much each proposal takes from each support in the last aggregation."""
        if self.relation is not None:
            return self.relation[-1].weights(x, value, query.boxes, support.boxes).mean(dim=0)
        return torch.einsum("np,npm->nm", self.patch_importance(query), self.weights(query, support))


def _pooled_channels(cfg: CfgNode) -> int:
    """C of what the heads pool: the reduced channels, or those of the backbone."""
    if cfg.MODEL.VIDEO.REDUCE_CHANNELS > 0:
        return cfg.MODEL.VIDEO.REDUCE_CHANNELS
    with torch.device("meta"):  # only its shapes are wanted
        shapes = build_backbone(cfg).output_shape()
    names = list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
    if names[0] not in shapes:
        raise UserError(
            f"MODEL.ROI_HEADS.IN_FEATURES is {names}, which SPFA pools from: the backbone gives {', '.join(shapes)}"
        )
    return shapes[names[0]].channels
