"""Hierarchical video relations: first within a video, then between the videos of a batch (section 3).

N: key proposals, M: support proposals, D: embedding, K: classes (background is K), B: clips of a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.d2 import CfgNode, configurable
from vod2.layers import ModuleList, PreciseBoxTransform, RelationAttention, init_xavier
from vod2.modeling import PROPOSAL_AGGREGATOR_REGISTRY, Aggregated, ProposalAggregator
from vod2.modeling.roi_heads import require_linear_box_head
from vod2.projects.hvrnet.auxiliary import AuxiliaryHead
from vod2.projects.hvrnet.inter import InterVideo, RelatedClip, attend, attention_shares, rois_of, within_video
from vod2.structures import (
    Clip,
    FeatureRows,
    ProposalSet,
    Role,
    TemporalContext,
    as_tensor,
    cat_rows,
    remembered_together,
    through,
    with_rows,
)


class Intra(NamedTuple):
    """What the relations within a video make of its proposals; all after ReLU.

    Attributes:
        middle: (N, D) b, the key frame's after the second relation.
        last: (N, D) alpha of equation 2, the key frame's after the last relation.
        supports: (M, D) the supports' after the last relation, or None where nobody asked for them.
        relations: (N, M) how much the last relation takes of each support, or None likewise.
    """

    middle: Tensor
    last: Tensor
    supports: FeatureRows | Tensor | None
    relations: Tensor | None


@PROPOSAL_AGGREGATOR_REGISTRY.register()
class HVRAggregator(ProposalAggregator):
    """Equations 2 to 6 on the embedding f1 of a box head without activation (`LinearBoxHead`).

    Within a video, with supports S (the key frame among them where the schedules put it into its context):

        a = relu(f1 + NL1(f1, f1_S)), also of the supports;    f2 = fc2(a)
        b = relu(f2 + NL2(f2, f2_S));    f3 = fc3(b), f3_S = fc3([f1_S, a_S]), but fc3(b) for the key frame among them
        c = relu(f3 + NL3(f3, f3_S))

    The third relation's [f1_S, a_S] is the skip connection from the first: "both initial and transformed proposals of
    support frames" (section 4.1) stand side by side. Between videos, in training: e = fc4(c) and
    relu(e + NL4(e, [e+, e-])), see `InterVideo`; at test relu(e + NL4(e, e_S)) with what the three relations make of
    the supports. `relation.{k - 1}` is NLk, `transform.{k - 2}` is fck, so that SELSA's weights, or those of a training
    without relations between videos, fit.

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
        skip: str = "both",
        inter: dict | None = None,
        auxiliary_weight: float = 1.0,
        auxiliary: dict | None = None,
        test_inter: str = "video",
        support_topk: int = 300,
        keep_relations: bool = False,
    ) -> None:
        """
        Args:
            dim: D.
            num_classes: K.
            num_intra: relations within the video, 2 or 3.
            num_inter: relations between videos; 0 for none.
            skip: the supports in the third relation are "both" initial and transformed, or "initial" alone.
            inter: further arguments of `InterVideo`.
            auxiliary_weight: of the losses of b in training; 0 for no such branch.
            auxiliary: further arguments of `AuxiliaryHead`.
            test_inter: "video" lets the relations between videos look at the supports of the same video in inference,
                "none" drops them (their fully connected layers stay).
            support_topk: proposals of a support frame.
            keep_relations: in inference, also return what the last relation that looks at the supports takes of each.
                Where it sees one twice, initial and transformed, the two weights are added.
        """
        super().__init__()
        if num_intra not in (2, 3) or num_inter < 0:
            raise ValueError(
                f"HVR-Net: expected NUM_INTRA of 2 or 3 and NUM_INTER of at least 0, got {num_intra}, {num_inter}"
            )
        choices = (("TEST_INTER", test_inter, ("video", "none")), ("SKIP", skip, ("both", "initial")))
        for key, value, allowed in choices:
            if value not in allowed:
                raise ValueError(f"HVR-Net: expected {key} to be one of {', '.join(allowed)}, got {value!r}")
        self.skips_both = skip == "both"
        self.looks_within = test_inter == "video" and num_inter > 0
        self.support_topk, self.keep_relations = support_topk, keep_relations
        self.relation = ModuleList(RelationAttention(dim, 1) for _ in range(num_intra + num_inter))
        self.transform = ModuleList(nn.Linear(dim, dim) for _ in range(num_intra + num_inter - 1))
        init_xavier(*self.transform)  # as the box head's layers begin
        self.num_intra = num_intra
        self.inter = InterVideo(num_classes=num_classes, **(inter or {})) if num_inter else None
        self.auxiliary = None
        if auxiliary_weight:
            self.auxiliary = AuxiliaryHead(dim, num_classes, weight=auxiliary_weight, **(auxiliary or {}))

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        require_linear_box_head(cfg, "HVR-Net")
        node, head, num_classes = cfg.MODEL.HVRNET, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS.NUM_CLASSES
        return {
            "dim": dim,
            "num_classes": num_classes,
            "num_intra": node.NUM_INTRA,
            "num_inter": node.NUM_INTER,
            "skip": node.SKIP,
            "inter": {
                "video_similarity": node.VIDEO_SIMILARITY,
                "video_negative": node.VIDEO_NEGATIVE,
                "video_level": node.VIDEO_LEVEL,
                "proposals": node.PROPOSALS,
                "mining": node.MINING,
                "proposal_similarity": node.PROPOSAL_SIMILARITY,
                "margin": node.MARGIN,
                "relation_weight": node.RELATION_WEIGHT,
                "share": node.INTER_SHARE,
            },
            "auxiliary_weight": node.AUXILIARY_WEIGHT,
            "auxiliary": {
                "box_dim": node.AUXILIARY_BOXES * (4 if head.CLS_AGNOSTIC_BBOX_REG else 4 * num_classes),
                "transform": PreciseBoxTransform(weights=head.BBOX_REG_WEIGHTS),
                "beta": head.SMOOTH_L1_BETA,
            },
            "test_inter": node.TEST_INTER,
            "support_topk": cfg.MODEL.VIDEO.SUPPORT_TOPK,
            "keep_relations": cfg.MODEL.VIDEO.KEEP_RELATIONS,
        }

    def forward(self, query: ProposalSet, context: TemporalContext) -> Aggregated[Tensor]:
        """One clip without others: the key frame's f1 (N, D) and the context's -> (N, D)."""
        is_key = [role is Role.KEY for role in context.roles]
        intra = self._intra(query, context, is_key, also_supports=self.looks_within)
        x, supports, relations = intra.last, intra.supports, intra.relations
        layers = self._inter_layers()
        for number, (transform, relation) in enumerate(layers, start=1):
            # "none" (section 4.2) leaves out the relation, not the layer before it: the predictor was trained on both.
            x = transform(x)
            if not self.looks_within:
                x = F.relu(x)
                continue
            assert supports is not None  # `_intra` was asked for them
            supports = through(supports, transform)
            is_last = number == len(layers)
            if self.keep_relations and is_last:
                relations = attention_shares(relation, x, supports)
            x, supports = within_video(relation, x, supports, is_last=is_last)
        return Aggregated(x, relations=relations)

    def forward_clips(self, clips: Sequence[Clip]) -> list[Aggregated[Tensor]]:
        """All clips of a batch; in training each is the target video once, the others are its support videos."""
        if not self.training:
            return [self(clip.key.proposals, _with_key(clip.context, _is_key(clip))) for clip in clips]

        # Within each video.
        values: list[Tensor] = []
        losses: list[dict[str, Tensor]] = []
        related = []
        for number, clip in enumerate(clips):
            # The supports go on only where the relations between videos will look at them.
            also_supports = self.looks_within and self.inter is not None and not self.inter.takes(number)
            intra = self._intra(clip.key.require_proposals(), clip.context, _is_key(clip), also_supports)
            values.append(intra.last)
            losses.append({} if self.auxiliary is None else self.auxiliary.losses(intra.middle, rois_of(clip)))
            supports = None if intra.supports is None else as_tensor(intra.supports)
            related.append(RelatedClip(clip, intra.last, supports))

        # Between the videos of the batch.
        if self.inter is not None:
            # After all clips have gone through the relations within: each is a support video of the others.
            values, relation_losses = self.inter(related, self._inter_layers())
            losses = [of_clip | relation_loss for of_clip, relation_loss in zip(losses, relation_losses, strict=True)]
        return [Aggregated(value, of_clip) for value, of_clip in zip(values, losses, strict=True)]

    def _intra(
        self, query: ProposalSet, context: TemporalContext, is_key: Sequence[bool], also_supports: bool = False
    ) -> Intra:
        """Equation 2, `num_intra` times. `is_key` tells which frames of the context are the key frame itself."""
        support = context.proposals(self.support_topk, like=query)
        keeps_relations = self.keep_relations and not self.training
        relations = supports = None

        # The first relation: of the key proposals x and of all supports, a.
        # s stays as it is: the third relation looks at the initial supports.
        first = self.relation[0]
        x, s = query.features, support.rows
        x, dtype = F.relu(x + attend(first, x, s)), support.features.dtype
        a = remembered_together(s, first, lambda: F.relu(as_tensor(s) + attend(first, s, s)).to(dtype))

        # The second.
        second = self.relation[1]
        x, s2 = self.transform[0](x), through(a, self.transform[0])
        middle = F.relu(x + attend(second, x, s2))
        if self.num_intra == 2:
            if keeps_relations:
                relations = attention_shares(second, x, s2)
            if also_supports:
                supports = remembered_together(s2, second, lambda: F.relu(as_tensor(s2) + attend(second, s2, s2)))
            return Intra(middle, middle, supports, relations)

        # The third looks at the supports as they were initially, but at the key frame's own as the second left them, b;
        # with `skips_both` also at the other supports as the first left them.
        third = self.relation[2]
        of_key = _marked(support, context, is_key)
        initial, transformed, others = s, a, (~of_key).nonzero()[:, 0]
        if len(others) < len(of_key):
            own = s2[of_key]
            b = F.relu(as_tensor(own) + attend(second, own, s2))
            initial, transformed = with_rows(s, of_key.nonzero()[:, 0], b.to(dtype)), a[others]
        x, s3 = self.transform[1](middle), through(initial, self.transform[1])
        pool = s3
        if self.skips_both:
            pool = cat_rows([s3, through(transformed, self.transform[1])])
        last = F.relu(x + attend(third, x, pool))
        if keeps_relations:
            relations = attention_shares(third, x, pool)
            if self.skips_both:  # the other supports stand in the pool twice: what is taken of them adds up
                relations = relations[:, : len(s3)].index_add(1, others, relations[:, len(s3) :])
        if also_supports:
            supports = remembered_together(pool, third, lambda: F.relu(as_tensor(s3) + attend(third, s3, pool)))
        return Intra(middle, last, supports, relations)

    def _inter_layers(self) -> list[tuple[nn.Linear, RelationAttention]]:
        """(fully connected layer, relation) of every relation between videos."""
        return list(zip(self.transform[self.num_intra - 1 :], self.relation[self.num_intra :], strict=True))


def _is_key(clip: Clip) -> list[bool]:
    """Which frames of a clip's context are its key frame itself, whatever role they have."""
    return [frame.index == clip.key.index for frame in clip.context.frames]


def _with_key(context: TemporalContext, is_key: Sequence[bool]) -> TemporalContext:
    """The context in which those frames have the role KEY, and only those, that are the key frame itself."""
    roles = tuple(Role.KEY if mark else Role.LOCAL for mark in is_key)
    return TemporalContext(context.frames, roles, context.carry)


def _marked(support: ProposalSet, context: TemporalContext, marks: Sequence[bool]) -> Tensor:
    """(M,) bool: which of `support` come from the context's frames that have a mark."""
    # `ProposalSet.frame` counts the frames that have proposals.
    framed = [mark for mark, frame in zip(marks, context.frames, strict=True) if frame.proposals is not None]
    if not framed:
        return torch.zeros_like(support.frame, dtype=torch.bool)
    return torch.tensor(framed, dtype=torch.bool, device=support.frame.device)[support.frame]
