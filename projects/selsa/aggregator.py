"""Sequence level semantics aggregation: fully connected layers with a relation to the whole sequence after each.

N: proposals of the key frame, M: support proposals, D: embedding, L: layers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.d2 import CfgNode, configurable
from vod2.layers import ModuleList, RelationAttention, init_xavier
from vod2.modeling import PROPOSAL_AGGREGATOR_REGISTRY, Aggregated, ProposalAggregator
from vod2.modeling.roi_heads import require_linear_box_head
from vod2.structures import FeatureRows, ProposalSet, TemporalContext, as_tensor, through


@PROPOSAL_AGGREGATOR_REGISTRY.register()
class SELSAAggregator(ProposalAggregator):
    """x = relu(x + S_1(x, H_1)), then for k = 2 .. L: x = fc_k(x); x = relu(x + S_k(x, H_k)).

    x comes from a box head without activation (`LinearBoxHead`), H_1 are the support proposals as they come from it.
    The key frame's own proposals are among them where the schedules put that frame into its context. `relation.{k - 1}`
    is S_k, `transform.{k - 2}` is fc_k.

    Example:
        >>> import torch
        >>> from vod2.projects.selsa import SELSAAggregator
        >>> from vod2.structures import ProposalSet, TemporalContext
        >>> selsa = SELSAAggregator(dim=64)
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [4.0, 4.0, 20.0, 24.0]])
        >>> query = ProposalSet.of_frame(boxes, torch.rand(2, 64), torch.tensor([2.0, 1.0]), (32, 32))
        >>> selsa(query, TemporalContext()).value.shape
        torch.Size([2, 64])
    """

    takes_padding = True

    @configurable
    def __init__(
        self,
        *,
        dim: int,
        num_layers: int = 2,
        num_heads: int = 1,
        output_projection: bool = False,
        update_supports: bool = False,
        support_topk: int = 300,
        keep_relations: bool = False,
    ) -> None:
        """
        Args:
            dim: D.
            num_layers: L, the layer of the box head included.
            num_heads: of a relation.
            output_projection: whether a relation ends with a projection of its concatenated heads.
            update_supports: H_k = fc_k(relu(H_{k-1} + S_{k-1}(H_{k-1}, H_{k-1}))); without, fc_k(relu(H_{k-1})).
            support_topk: proposals of a support frame.
            keep_relations: also return the weights of the last relation, the mean of its heads.
        """
        super().__init__()
        if num_layers < 1 or support_topk < 0:
            raise ValueError(
                "SELSA: expected NUM_LAYERS of at least 1 and SUPPORT_TOPK of at least 0, "
                f"got {num_layers}, {support_topk}"
            )
        self.update_supports = update_supports
        self.support_topk = support_topk
        self.keep_relations = keep_relations
        self.relation = ModuleList(
            RelationAttention(dim, num_heads, output=output_projection) for _ in range(num_layers)
        )
        self.transform = ModuleList(nn.Linear(dim, dim) for _ in range(num_layers - 1))
        init_xavier(*self.transform)  # as the box head's layers begin

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        # The first relation adds to what fc_1 gives; a head that ends in a ReLU would have cut that already.
        require_linear_box_head(cfg, "SELSA")
        selsa = cfg.MODEL.SELSA
        return {
            "dim": dim,
            "num_layers": selsa.NUM_LAYERS,
            "num_heads": selsa.NUM_HEADS,
            "output_projection": selsa.OUTPUT_PROJECTION,
            "update_supports": selsa.UPDATE_SUPPORTS,
            "support_topk": cfg.MODEL.VIDEO.SUPPORT_TOPK,
            "keep_relations": cfg.MODEL.VIDEO.KEEP_RELATIONS,
        }

    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """The key frame's proposals (N, D) before activation and the context's -> (N, D) after the last activation."""
        support = context.proposals(self.support_topk, like=query)
        x, supports, relations = query.features, support.rows, None
        mask = support.visible_to(len(query))
        for k, relation in enumerate(self.relation):
            if k > 0:
                x, supports = self.transform[k - 1](x), self._next_supports(k, supports, support)
            pair = x, supports, query.boxes, support.boxes
            # `relation` itself never has the weights of all pairs: they are computed once more where they are kept.
            if self.keep_relations and k == len(self.relation) - 1:
                with torch.no_grad():
                    relations = relation.weights(*pair).mean(dim=0)
            x = F.relu(x + relation(*pair, mask))
        return Aggregated(x, relations=relations)

    def _next_supports(self, k: int, supports: Tensor | FeatureRows, support: ProposalSet) -> Tensor | FeatureRows:
        """H_k -> H_{k+1}, both (M, D) before activation, of the proposals `support`."""
        # By S_{k-1}, which the key frame's proposals have just gone through: supports get no relation of their own.
        if self.update_supports:
            boxes, mask = support.boxes, support.visible_to(len(support))
            supports = as_tensor(supports) + self.relation[k - 1](supports, supports, boxes, boxes, mask)
        return through(supports, self.transform[k - 1], before=F.relu)
