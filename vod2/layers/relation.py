"""Attention between proposals: the relation module of RDN, SELSA, MEGA, HVR-Net and MST.

N: queries, M: keys, D: embedding, h: heads, d = D / h.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.layers.geometry import GeometryBias
from vod2.layers.initialisation import init_normal
from vod2.moved import renamed_method
from vod2.structures import FeatureRows, as_tensor, through

_CLOSED = -1e4  # logit of a pair that the mask forbids; finite, so that a row without any key has a gradient of 0


class RelationAttention(nn.Module):
    """The h relation features of RDN's equation 1, concatenated; the sum of equation 2 is the caller's.

    Query i takes, in head m, sum_j w_ij W_L f_j, where w is a softmax over the keys j of
    (W_Q f_i) . (W_K f_j) / sqrt(d) + geometry bias; the 1 / sqrt(d) can be left out. Each head projects the
    whole key feature to d numbers, which is multi-head attention with a value projection D -> D and, unless asked for,
    no output projection. Without keys the result is 0.

    Args:
        dim: D.
        num_heads: h, a divisor of D.
        geometry: bias of box pairs with h heads, or None for attention without position.
        output: whether a projection D -> D of the concatenated heads follows.
        scaled: whether the products of queries and keys are divided by sqrt(d); MST's equation 8 does not.

    Raises:
        ValueError: if h does not divide D.

    Example:
        >>> import torch
        >>> from vod2.layers import RelationAttention
        >>> boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
        >>> relation = RelationAttention(dim=32, num_heads=4)
        >>> relation(torch.ones(1, 32), torch.ones(5, 32), boxes, boxes.repeat(5, 1)).shape
        torch.Size([1, 32])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        geometry: GeometryBias | None = None,
        *,
        output: bool = False,
        scaled: bool = True,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"RelationAttention: {num_heads} heads do not divide {dim} features")
        self.num_heads = num_heads
        self.scale = 1 / math.sqrt(dim // num_heads) if scaled else 1.0
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim) if output else None
        self.geometry = geometry
        layers = filter(None, (self.query, self.key, self.value, self.output))
        init_normal(*layers, std=0.32 / math.sqrt(dim))  # .01 at the papers' 1024

    def forward(
        self,
        query: Tensor | FeatureRows,
        key: Tensor | FeatureRows,
        query_boxes: Tensor,
        key_boxes: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """query (N, D), key (M, D), boxes (N, 4) and (M, 4) xyxy pixels -> (N, D).

        Of `FeatureRows`, proposals of frames that a memory holds, the projections are computed once a frame.
        `mask` (N, M) bool is True where query i may look at key j; a query that may look at none gets 0.
        """
        q, k = self.in_heads(query, self.query), self.in_heads(key, self.key)
        # The weights of a query sum to 1, so a single head may project after the sum: N rows instead of M.
        project_late = self.num_heads == 1 and len(query) < len(key)
        v = as_tensor(key).to(q.dtype)[None] if project_late else self.in_heads(key, self.value)
        bias = self._bias(query_boxes, key_boxes, mask)
        bias = None if bias is None else bias.to(q.dtype)[None]
        # (1, h, N, d): with a batch axis PyTorch may choose a kernel that never stores the (N, M) weights.
        out = F.scaled_dot_product_attention(q[None], k[None], v[None], bias, scale=self.scale)
        out = out[0].transpose(0, 1).flatten(1)  # (h, N, d) -> (N, D)
        if project_late:
            out = self.value(out)
        if self.output is not None:
            out = self.output(out)
        # Without keys nothing is taken, but the bias of a projection would remain; a query whose pairs are all closed
        # has taken from all keys. A product, so that the weights keep a gradient, which is 0.
        if mask is None:
            return out * (len(key) > 0)
        return out * mask.any(dim=1, keepdim=True)

    def weights(
        self, query: Tensor | FeatureRows, key: Tensor | FeatureRows, query_boxes: Tensor, key_boxes: Tensor
    ) -> Tensor:
        """(h, N, M): the relation weights w of equation 1, for linking and for pictures; rows sum to 1."""
        q, k = self.in_heads(query, self.query), self.in_heads(key, self.key)
        return self.logits(q, k, query_boxes, key_boxes).softmax(dim=-1)

    def logits(self, q: Tensor, k: Tensor, query_boxes: Tensor, key_boxes: Tensor) -> Tensor:
        """Queries (h, N, d) and keys (h, M, d) as `in_heads` makes them -> (h, N, M), what the softmax is taken of."""
        logits = q @ k.transpose(1, 2) * self.scale
        bias = self._bias(query_boxes, key_boxes, None)
        return logits if bias is None else logits + bias

    def in_heads(self, rows: Tensor | FeatureRows, projection: nn.Linear) -> Tensor:
        """Rows (N, D) through one of the projections: (h, N, d)."""
        x = as_tensor(through(rows, projection))
        return x.unflatten(1, (self.num_heads, -1)).transpose(0, 1)  # (N, D) -> (h, N, d)

    def _bias(self, query_boxes: Tensor, key_boxes: Tensor, mask: Tensor | None) -> Tensor | None:
        bias = None if self.geometry is None else self.geometry(query_boxes, key_boxes)
        if mask is None:
            return bias
        # Added to the logits, as the geometry is: one bias for both.
        closed = torch.where(mask, 0.0, _CLOSED)
        return closed[None].expand(self.num_heads, -1, -1) if bias is None else bias + closed


def stacked_relations(
    relations: Sequence[RelationAttention],
    transforms: Sequence[nn.Module],
    features: Tensor,
    support: Tensor | FeatureRows,
    boxes: Tensor,
    support_boxes: Tensor,
    keep: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Relations one after the other to supports that stay as they are: RDN's equations 3 and 4, MST's equation 10.

    Each adds what it takes to the features; before each but the first they go through a transform and a ReLU.

    Args:
        relations: k modules.
        transforms: k - 1 modules D -> D.
        features, support: (N, D), (M, D).
        boxes, support_boxes: (N, 4), (M, 4) xyxy in pixels.
        keep: also return the weights of the last relation, which know no mask.
        mask: (N, M) bool, see `RelationAttention.forward`, or None for all pairs.

    Returns:
        (N, D), and with `keep` (N, M), the mean over the heads of the last relation's weights, else None.

    Example:
        >>> import torch
        >>> from vod2.layers import RelationModules, stacked_relations
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [4.0, 4.0, 20.0, 24.0]])
        >>> modules = [RelationModules(dim=8, num_heads=2).with_geometry() for _ in range(2)]
        >>> features, weights = stacked_relations(
        ...     modules, [torch.nn.Linear(8, 8)], torch.rand(1, 8), torch.rand(2, 8), boxes[:1], boxes, keep=True
        ... )
        >>> features.shape, weights.shape
        (torch.Size([1, 8]), torch.Size([1, 2]))
    """
    weights = None
    for k, relation in enumerate(relations):
        if k > 0:
            features = F.relu(transforms[k - 1](features))
        if keep and k == len(relations) - 1:
            # To be looked at and linked by: `forward` itself never has the weights of all pairs.
            with torch.no_grad():
                weights = relation.weights(features, support, boxes, support_boxes).mean(dim=0)
        # The supports are the same for all modules: RDN updates them in its advanced stage only.
        features = features + relation(features, support, boxes, support_boxes, mask)
    return features, weights


@dataclass(frozen=True)
class RelationModules:
    """Makes the relation modules of an aggregator: they have the same sizes, and weights of their own.

    Args:
        dim: D.
        num_heads: h, a divisor of D.
        geometry_dim, scale, wavelength: embedding of box pairs, see `GeometryBias`.
        scaled: see `RelationAttention`.

    Example:
        >>> from vod2.layers import RelationModules
        >>> make = RelationModules(dim=64, num_heads=4)
        >>> sizes = make.with_geometry(position=False)
        >>> make.with_geometry().geometry.position, sizes.geometry.position, make.without_geometry().geometry
        (True, False, None)
    """

    dim: int
    num_heads: int = 16
    geometry_dim: int = 64
    scale: float = 100.0
    wavelength: float = 1000.0
    scaled: bool = True

    def with_geometry(self, *, position: bool = True, aspect: bool = False) -> RelationAttention:
        """One that sees the relative position and size of two boxes, without `position` only the relative size.

        With `aspect`, which goes without `position`, it sees the difference of their aspect ratios, too.
        """
        geometry = GeometryBias(
            self.num_heads, self.geometry_dim, self.scale, self.wavelength, position=position, aspect=aspect
        )
        return RelationAttention(self.dim, self.num_heads, geometry, scaled=self.scaled)

    def without_geometry(self) -> RelationAttention:
        """One that sees features alone."""
        return RelationAttention(self.dim, self.num_heads, scaled=self.scaled)

    located = renamed_method("RelationModules", "located", "with_geometry")
    anywhere = renamed_method("RelationModules", "anywhere", "without_geometry")
