"""YOLOV's feature aggregation: two attentions that are weighed by the scores of the boxes, and a pooling of like ones.

N: boxes of the key frame, M: support boxes, D: embedding, h: heads, d = D / 2h.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vod2.d2 import CfgNode, configurable
from vod2.layers import init_xavier
from vod2.modeling import PROPOSAL_AGGREGATOR_REGISTRY, Aggregated, ProposalAggregator
from vod2.structures import FeatureRows, ProposalSet, TemporalContext, as_tensor, through


class HalfLinear(nn.Linear):
    """A linear layer on one half of the embedding: that of the classes, or that of the boxes.

    Args:
        dim: D, even.
        second: whether it is the second half, that of the boxes.
    """

    def __init__(self, dim: int, second: bool) -> None:
        super().__init__(dim // 2, dim // 2)
        init_xavier(self)
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D / 2)."""
        return super().forward(x.chunk(2, dim=1)[int(self.second)])


@PROPOSAL_AGGREGATOR_REGISTRY.register()
class YOLOVAggregator(ProposalAggregator):
    """x = relu(fc(x) + W [SA, AP]) of an embedding whose halves are those of the two towers (`TwoTowerBoxHead`).

    SA = (softmax(P Q_c K_c^T / sqrt(d)) + softmax(P Q_r K_r^T / sqrt(d))) / 2 V_c, with P the scores of the supports,
    and AP the mean of the values V_c of those whose cosine with the key frame's is above tau. Without supports both
    are 0.

    Example:
        >>> import torch
        >>> from vod2.projects.yolov import YOLOVAggregator
        >>> from vod2.structures import ProposalSet, TemporalContext
        >>> yolov = YOLOVAggregator(dim=64)
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [4.0, 4.0, 20.0, 24.0]])
        >>> query = ProposalSet.of_frame(boxes, torch.rand(2, 64), torch.tensor([2.0, 1.0]), (32, 32))
        >>> yolov(query, TemporalContext()).value.shape
        torch.Size([2, 64])
    """

    @configurable
    def __init__(self, *, dim: int, num_heads: int = 4, similarity: float = 0.75, support_topk: int = 75) -> None:
        """
        Args:
            dim: D.
            num_heads: h, a divisor of D / 2.
            similarity: tau, in [-1, 1].
            support_topk: boxes of a support frame.
        """
        super().__init__()
        if dim % 2 or num_heads < 1 or (dim // 2) % num_heads:
            raise ValueError(f"expected NUM_HEADS that divide half of the embedding, {dim} / 2, got {num_heads}")
        if not -1 <= similarity <= 1:
            raise ValueError(f"expected SIMILARITY in [-1, 1], got {similarity}")
        self.num_heads, self.similarity, self.support_topk = num_heads, similarity, support_topk
        self.query_cls, self.key_cls, self.value = (HalfLinear(dim, second=False) for _ in range(3))
        self.query_box, self.key_box = (HalfLinear(dim, second=True) for _ in range(2))
        self.transform = nn.ModuleList([nn.Linear(dim, dim)])
        # A linear layer of [x, SA, AP] is the sum of one of x and one of the others.
        self.take = nn.Linear(dim, dim, bias=False)
        init_xavier(self.transform[0])  # type: ignore[arg-type]
        nn.init.kaiming_uniform_(self.take.weight, a=1)

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        node = cfg.MODEL.YOLOV
        return {
            "dim": dim,
            "num_heads": node.NUM_HEADS,
            "similarity": node.SIMILARITY,
            "support_topk": cfg.MODEL.VIDEO.SUPPORT_TOPK,
        }

    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """The key frame's boxes (N, D) and the context's -> (N, D)."""
        support = context.proposals(self.support_topk, like=query)
        x, rows = query.features, support.rows
        values = as_tensor(through(rows, self.value))  # (M, D / 2)
        confidence = support.scores.sigmoid().to(values.dtype)
        weights = (
            self._weights(self.query_cls(x), through(rows, self.key_cls), confidence)
            + self._weights(self.query_box(x), through(rows, self.key_box), confidence)
        ) / 2
        attended = (weights @ self._heads(values)).transpose(0, 1).flatten(1)  # (h, N, d) -> (N, D / 2)
        taken = torch.cat([attended, self._pooled(self.value(x), values)], dim=1)
        return Aggregated(functional.relu(self.transform[0](x) + self.take(taken)))

    def _weights(self, query: Tensor, key: Tensor | FeatureRows, confidence: Tensor) -> Tensor:
        """(N, D / 2), (M, D / 2) and the scores (M,) of the supports -> (h, N, M), rows that sum to 1."""
        q, k = self._heads(query), self._heads(as_tensor(key))
        return (q @ k.transpose(1, 2) / math.sqrt(q.shape[2]) * confidence).softmax(dim=2)

    def _pooled(self, values: Tensor, supports: Tensor) -> Tensor:
        """(N, D / 2), (M, D / 2) -> (N, D / 2), the mean of the supports that are like each box, or 0."""
        # What is alike is a choice, through which no gradient goes.
        with torch.no_grad():
            cosine = functional.normalize(values, dim=1) @ functional.normalize(supports, dim=1).T
            alike = (cosine > self.similarity).to(supports.dtype)
            alike = alike / alike.sum(dim=1, keepdim=True).clamp(min=1)
        return alike @ supports

    def _heads(self, x: Tensor) -> Tensor:
        """(N, D / 2) -> (h, N, d)."""
        return x.unflatten(1, (self.num_heads, -1)).transpose(0, 1)
