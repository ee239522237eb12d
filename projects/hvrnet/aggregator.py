"""Hierarchical video relations: first within a video, then between the videos of a batch (section 3).

N: key proposals, M: support proposals, D: embedding, K: classes (background is K), B: clips of a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vod2.projects.hvrnet.inter import Clip, InterVideo, attend

from vod2.d2 import CfgNode, configurable
from vod2.layers import RelationAttention
from vod2.modeling import PROPOSAL_AGGREGATOR_REGISTRY, Aggregated, ProposalAggregator
from vod2.modeling.roi_heads import require_linear_box_head
from vod2.structures import Frame, ProposalSet, Role, TemporalContext


class Intra(NamedTuple):
    """What the relations within a video make of its proposals; all after ReLU.

    Attributes:
        middle: (N, D) b, the key frame's after the second relation.
        last: (N, D) alpha of equation 2, the key frame's after the last relation.
        supports: (M, D) the supports' after the last relation, or None where nobody asked for them.
    """

    middle: Tensor
    last: Tensor
    supports: Tensor | None


@PROPOSAL_AGGREGATOR_REGISTRY.register()
class HVRAggregator(ProposalAggregator):
    """Equations 2 to 6 on the embedding f1 of a box head without activation (`LinearBoxHead`).

    Within a video, with supports S (the key frame among them where the schedules put it into its context):

        a = relu(f1 + NL1(f1, f1_S)), also of the supports;    f2 = fc2(a)
        b = relu(f2 + NL2(f2, f2_S));    f3 = fc3(b), f3_S = fc3(f1_S), but fc3(b) for the key frame among them
        c = relu(f3 + NL3(f3, f3_S))

    Between videos, in training: e = fc4(c) and relu(e + NL4(e, [e+, e-])), see `InterVideo`. `relation.{k - 1}` is NLk,
    `transform.{k - 2}` is fck, so that SELSA's weights, or those of a training without relations between videos, fit.

    Example:
        >>> import torch
        >>> from vod2.projects.hvrnet import HVRAggregator
        >>> from vod2.structures import ProposalSet, TemporalContext
        >>> hvr = HVRAggregator(dim=64, num_classes=30).eval()
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [4.0, 4.0, 20.0, 24.0]])
        >>> query = ProposalSet.of_frame(boxes, torch.rand(2, 64), torch.tensor([2.0, 1.0]), (32, 32))
        >>> hvr(query, TemporalContext()).value.shape
        torch.Size([2, 64])
    """

    @configurable
    def __init__(
        self,
        *,
        dim: int,
        num_classes: int,
        num_intra: int = 3,
        num_inter: int = 1,
        inter: dict | None = None,
        auxiliary_weight: float = 1.0,
        test_inter: str = "none",
        support_topk: int = 300,
    ) -> None:
        """
        Args:
            dim: D.
            num_classes: K.
            num_intra: relations within the video, 2 or 3.
            num_inter: relations between videos; 0 for none.
            inter: further arguments of `InterVideo`.
            auxiliary_weight: of the classification of b in training; 0 for no such layer.
            test_inter: "none" drops the relations between videos in inference (their fully connected layers stay),
                "video" lets them look at the supports of the same video.
            support_topk: proposals of a support frame.
        """
        super().__init__()
        if num_intra not in (2, 3) or num_inter < 0:
            raise ValueError(
                f"HVR-Net: expected NUM_INTRA of 2 or 3 and NUM_INTER of at least 0, got {num_intra}, {num_inter}"
            )
        if test_inter not in ("none", "video"):
            raise ValueError(f"HVR-Net: expected TEST_INTER 'none' or 'video', got {test_inter!r}")
        self.test_inter = test_inter
        self.support_topk = support_topk
        self.auxiliary_weight = auxiliary_weight
        self.relation = nn.ModuleList(RelationAttention(dim, 1) for _ in range(num_intra + num_inter))
        self.transform = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_intra + num_inter - 1))
        for layer in self.transform:  # as the box head's layers begin
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        self.num_intra = num_intra
        self.inter = InterVideo(num_classes=num_classes, **(inter or {})) if num_inter else None
        self.training_levels = self.inter.levels if self.inter else ()
        self.auxiliary = nn.Linear(dim, num_classes + 1) if auxiliary_weight else None
        if self.auxiliary is not None:  # as the classifier of the box predictor begins
            nn.init.normal_(self.auxiliary.weight, std=0.01)
            nn.init.zeros_(self.auxiliary.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        require_linear_box_head(cfg, "HVR-Net")
        node = cfg.MODEL.HVRNET
        return {
            "dim": dim,
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "num_intra": node.NUM_INTRA,
            "num_inter": node.NUM_INTER,
            "inter": {
                "video_similarity": node.VIDEO_SIMILARITY,
                "video_level": node.VIDEO_LEVEL,
                "proposals": node.PROPOSALS,
                "proposal_similarity": node.PROPOSAL_SIMILARITY,
                "margin": node.MARGIN,
                "relation_weight": node.RELATION_WEIGHT,
                "share": node.INTER_SHARE,
            },
            "auxiliary_weight": node.AUXILIARY_WEIGHT,
            "test_inter": node.TEST_INTER,
            "support_topk": cfg.MODEL.VIDEO.SUPPORT_TOPK,
        }

    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """One clip without others: the key frame's f1 (N, D) and the context's -> (N, D)."""
        return Aggregated(self._alone(query, context, [role is Role.KEY for role in context.roles]))

    def aggregate(self, keys: Sequence[Frame], contexts: Sequence[TemporalContext]) -> list[Aggregated[Tensor]]:
        """All clips of a batch; in training each is the target video once, the others are its support videos."""
        own = [
            [frame.index == key.index for frame in context.frames] for key, context in zip(keys, contexts, strict=True)
        ]
        clips = zip(keys, contexts, own, strict=True)
        if not self.training:
            return [Aggregated(self._alone(key.proposals, context, at)) for key, context, at in clips]
        intra = [self._intra(key.proposals, context, at) for key, context, at in clips]
        losses = [self._auxiliary_loss(one.middle, key) for key, one in zip(keys, intra, strict=True)]
        values = [one.last for one in intra]
        if self.inter is not None:
            batch = [Clip(*clip) for clip in zip(keys, contexts, values, strict=True)]
            values, relation_losses = self.inter(batch, self._inter_layers())
            losses = [one | other for one, other in zip(losses, relation_losses, strict=True)]
        return [Aggregated(value, loss) for value, loss in zip(values, losses, strict=True)]

    def _alone(self, query: ProposalSet, context: TemporalContext, own: Sequence[bool]) -> Tensor:
        """A clip whose relations between videos find no other video."""
        within = self.test_inter == "video" and self.inter is not None and not self.training
        found = self._intra(query, context, own, also_supports=within)
        x, supports = found.last, found.supports
        for transform, relation in self._inter_layers():
            x = transform(x)
            if within:
                supports = transform(supports)
                x, supports = x + attend(relation, x, supports), supports + attend(relation, supports, supports)
                supports = F.relu(supports)
            x = F.relu(x)
        return x

    def _intra(
        self, query: ProposalSet, context: TemporalContext, own: Sequence[bool], also_supports: bool = False
    ) -> Intra:
        """Equation 2, `num_intra` times. `own` tells which frames of the context are the key frame itself."""
        support = context.proposals(self.support_topk)
        if support is None:
            support = query[:0]
        first, second = self.relation[0], self.relation[1]
        x, s = query.features, support.features
        x, s2 = F.relu(x + attend(first, x, s)), F.relu(s + attend(first, s, s))
        x, s2 = self.transform[0](x), self.transform[0](s2)
        middle = F.relu(x + attend(second, x, s2))
        if self.num_intra == 2:
            return Intra(middle, middle, F.relu(s2 + attend(second, s2, s2)) if also_supports else None)
        third, rows = self.relation[2], _rows(support, context, own)
        of_key = F.relu(s2[rows] + attend(second, s2[rows], s2))
        x, s3 = self.transform[1](middle), self.transform[1](s.index_copy(0, rows, of_key.to(s.dtype)))
        last = F.relu(x + attend(third, x, s3))
        return Intra(middle, last, F.relu(s3 + attend(third, s3, s3)) if also_supports else None)

    def _inter_layers(self) -> list[tuple[nn.Module, nn.Module]]:
        """(fully connected layer, relation) of every relation between videos."""
        return list(zip(self.transform[self.num_intra - 1 :], self.relation[self.num_intra :], strict=True))

    def _auxiliary_loss(self, middle: Tensor, key: Frame) -> dict[str, Tensor]:
        """Classification of the key frame's sampled RoIs by b (N, D)."""
        if self.auxiliary is None:
            return {}
        labels = key.targets.gt_classes
        summed = F.cross_entropy(self.auxiliary(middle), labels, reduction="sum")
        return {"loss_cls_intra": self.auxiliary_weight * summed / max(len(labels), 1)}


def _rows(support: ProposalSet, context: TemporalContext, own: Sequence[bool]) -> Tensor:
    """Rows of `support` that come from the context's frames that are marked in `own`."""
    framed = [mark for mark, frame in zip(own, context.frames, strict=True) if frame.proposals is not None]
    marks = torch.tensor(framed, dtype=torch.bool, device=support.frame.device)
    if len(marks) == 0:
        return support.frame[:0]
    return marks[support.frame].nonzero()[:, 0]
