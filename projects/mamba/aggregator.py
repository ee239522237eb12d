"""The instance level of MAMBA: proposals take from their supports and from a bank of proposals of the past.

N: proposals of the key frame, M: support proposals, R: proposals read from the bank, D: embedding, L: layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.d2 import CfgNode, configurable
from vod2.layers import ModuleList, RelationAttention, init_xavier
from vod2.modeling import PROPOSAL_AGGREGATOR_REGISTRY, Aggregated, ProposalAggregator
from vod2.modeling.roi_heads import require_linear_box_head
from vod2.projects.mamba.bank import BankRules, FeatureBank, local_window
from vod2.structures import Clip, ProposalSet, TemporalContext, cat_rows, through

_BANK = "mamba.instance"


@PROPOSAL_AGGREGATOR_REGISTRY.register()
class MAMBAAggregator(ProposalAggregator):
    """x = relu(x + E_1(x, [H_1; B_1])), then for k = 2 .. L: x = fc_k(x); x = relu(x + E_k(x, [H_k; B_k])).

    x comes from a box head without activation (`LinearBoxHead`). H_k are the proposals of the supports, which go
    through the layers without enhancement: H_k = fc_k(relu(H_{k-1})). B_k, the key set, are at most `rules.keys` of the
    bank, which holds x + E_k of the best `support_topk` proposals of key frames of the past. E is the generalized
    enhancement operation: multi-head attention and a projection. `relation.{k - 1}` is E_k, `transform.{k - 2}` fc_k.

    A key frame is written into the bank in inference if it stands in its own local window (a LOCAL support), and read
    once it has left that window; until then its proposals are supports.

    Example:
        >>> import torch
        >>> from vod2.projects.mamba import MAMBAAggregator
        >>> from vod2.structures import ProposalSet, TemporalContext
        >>> mamba = MAMBAAggregator(dim=64)
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [4.0, 4.0, 20.0, 24.0]])
        >>> query = ProposalSet.of_frame(boxes, torch.rand(2, 64), torch.tensor([2.0, 1.0]), (32, 32))
        >>> mamba(query, TemporalContext()).value.shape
        torch.Size([2, 64])
    """

    @configurable
    def __init__(
        self,
        *,
        dim: int,
        num_layers: int = 2,
        num_heads: int = 16,
        rules: BankRules | None = None,
        support_topk: int = 75,
        keep_relations: bool = False,
    ) -> None:
        """
        Args:
            dim: D.
            num_layers: L, the layer of the box head included.
            num_heads: of an enhancement, a divisor of D.
            rules: of the bank; None for those of `BankRules()`.
            support_topk: proposals of a support frame, and of a key frame that are written.
            keep_relations: also return what the last enhancement takes of the supports, the mean of its heads. A row
                sums to 1 less what is taken of the bank, whose frames are not in the context.
        """
        super().__init__()
        if num_layers < 1 or support_topk < 0:
            raise ValueError(
                f"expected NUM_LAYERS of at least 1 and SUPPORT_TOPK of at least 0, got {num_layers}, {support_topk}"
            )
        self.rules = rules or BankRules()
        self.support_topk, self.keep_relations = support_topk, keep_relations
        self.relation = ModuleList(RelationAttention(dim, num_heads, output=True) for _ in range(num_layers))
        self.transform = ModuleList(nn.Linear(dim, dim) for _ in range(num_layers - 1))
        init_xavier(*self.transform)  # as the box head's layers begin

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        # The first enhancement adds to what fc_1 gives; a head that ends in a ReLU would have cut that already.
        require_linear_box_head(cfg, "MAMBA")
        node = cfg.MODEL.MAMBA
        return {
            "dim": dim,
            "num_layers": node.NUM_LAYERS,
            "num_heads": node.NUM_HEADS,
            "rules": BankRules(node.MEMORY, node.KEYS, node.SAMPLING),
            "support_topk": cfg.MODEL.VIDEO.SUPPORT_TOPK,
            "keep_relations": cfg.MODEL.VIDEO.KEEP_RELATIONS,
        }

    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """The key frame's proposals (N, D) before activation and the context's -> (N, D) after the last activation.

        Of a frame without a number, as here, nothing is written: the bank is carried on as it is.
        """
        return self._enhanced(query, context, t=None)

    def forward_clips(self, clips: Sequence[Clip]) -> list[Aggregated[Tensor]]:
        """As `forward`; the key frames, whose numbers a clip knows, are written into the bank."""
        return [self._enhanced(clip.key.require_proposals(), clip.context, clip.key.index) for clip in clips]

    def _enhanced(self, query: ProposalSet, context: TemporalContext, t: int | None) -> Aggregated[Tensor]:
        window = local_window(context)
        # Of an instance the bank has its features of all layers: (R, L, D).
        like = query.features[:0, None].expand(-1, len(self.relation), -1)
        bank = FeatureBank.of_carry(context.carry, _BANK, like, query.scores)
        keys = self.rules.read(bank, window, t or 0).features

        support = context.proposals(self.support_topk, like=query)
        x, supports, relations = query.features, support.rows, None
        layers: list[Tensor] = []
        for k, relation in enumerate(self.relation):
            if k > 0:
                x, supports = self.transform[k - 1](x), through(supports, self.transform[k - 1], before=F.relu)
            # Without geometry nobody looks at the boxes: the bank has none.
            pair = x, cat_rows([supports, keys[:, k]]), query.boxes, support.boxes
            if self.keep_relations and k == len(self.relation) - 1:
                with torch.no_grad():
                    relations = relation.weights(*pair).mean(dim=0)[:, : len(support)]
            x = x + relation(*pair)
            layers.append(x)  # before the activation, as the proposals of supports are
            x = F.relu(x)

        copies = window.count(t) if t is not None else 0
        if copies and not self.training and self.rules.size:
            best = torch.stack(layers, dim=1)[: self.support_topk]  # (n, L, D): of the highest scores, which come first
            new = FeatureBank.of_frame(best, query.scores[: self.support_topk], t or 0, copies)
            bank = self.rules.written(bank, new, t or 0)
        return Aggregated(x, carry={} if self.training else bank.as_carry(_BANK), relations=relations)
