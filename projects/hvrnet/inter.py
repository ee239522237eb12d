"""Relations between the videos of a batch: video triplets, proposal triplets, equations 4 and 6.

n: key proposals of the target video, m: those that it may look at, D: embedding, C: channels, B: clips of a batch.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.d2 import Instances
from vod2.errors import UserError
from vod2.layers import RelationAttention
from vod2.projects.hvrnet.mining import (
    Selected,
    random_similarities,
    select_proposals,
    select_videos,
    similarities,
)
from vod2.structures import Clip, FeatureRows, Frame, as_tensor, remembered_together


def attend(
    relation: RelationAttention,
    query: Tensor | FeatureRows,
    key: Tensor | FeatureRows,
    mask: Tensor | None = None,
) -> Tensor:
    """NL(query, key): (n, D), (m, D) -> (n, D). The relations of HVR-Net do not look at boxes."""
    # Any box does: a relation without geometry does not read it.
    box = relation.query.weight.new_zeros(1, 4)
    return relation(query, key, box.expand(len(query), 4), box.expand(len(key), 4), mask)


@torch.no_grad()
def attention_shares(relation: RelationAttention, query: Tensor | FeatureRows, key: Tensor | FeatureRows) -> Tensor:
    """(n, D), (m, D) -> (n, m): how much `attend` takes of each key, 1 in all."""
    box = relation.query.weight.new_zeros(1, 4)
    return relation.weights(query, key, box.expand(len(query), 4), box.expand(len(key), 4)).mean(dim=0)


def within_video(
    relation: RelationAttention, x: Tensor, supports: FeatureRows | Tensor, *, is_last: bool
) -> tuple[Tensor, FeatureRows | Tensor | None]:
    """A relation between videos that looks at the same video: (n, D), (M, D) -> (n, D), (M, D) after ReLU.

    What it makes of the supports is None if it `is_last`: nothing looks at them again.
    """
    related = F.relu(x + attend(relation, x, supports))
    if is_last:
        return related, None
    return related, remembered_together(
        supports, relation, lambda: F.relu(as_tensor(supports) + attend(relation, supports, supports))
    )


def classes_of(clip: Clip) -> frozenset[int]:
    """The classes that a training clip stands for: the one that it was drawn for (`TripletVideos`), or its objects'."""
    if "triplet_class" in clip.inputs:
        return frozenset({clip.inputs["triplet_class"]})
    assert clip.targets is not None  # a training clip has them
    return frozenset(clip.targets.gt_classes.tolist())


def rois_of(clip: Clip) -> Instances:
    """The sampled RoIs of a training clip's key frame, with gt_classes."""
    assert clip.key.targets is not None
    return clip.key.targets


class RelatedClip(NamedTuple):
    """A clip after the relations within its video.

    Attributes:
        clip: as the detector gave it.
        features: (n, D) alpha of equation 2, of the key proposals.
        supports: (M, D) the same of its support proposals, where the relation between videos is to look at them
            instead of other videos; else None.
    """

    clip: Clip
    features: Tensor
    supports: Tensor | None = None


class Mined(NamedTuple):
    """Proposal triplets of a target video.

    Attributes:
        query: (n, D), keys: (m, D) what the relation loss compares, of the target's proposals and of those that their
            P+ and P- are chosen from.
        selected: rows of `keys`.
        first: how many of the target's own proposals stand before `keys` in [own, V+, V-].
    """

    query: Tensor
    keys: Tensor
    selected: Selected
    first: int


class InterVideo:
    """Selects triplets and relates their proposals; the layers are the caller's.

    Every video of the batch is the target once. A video without partners, or a proposal without P+ and P-, takes
    nothing from others.

    Args:
        num_classes: K.
        video_similarity: "mean", "max" or "random", see MODEL.HVRNET.VIDEO_SIMILARITY.
        video_negative: V- is the most similar video to the "target", or to target and V+, "both".
        video_level: name of the feature map that videos are compared by.
        proposals: a proposal takes from its "hard" P+ and P-, or from "all" key proposals of the video triplet.
        mining: P+ and P- are chosen by the cosine of "features" (section 3.3) and are compared by these in the loss, or
            by the "kernel" of the first relation between videos, query and key, the target's own proposals among them
            (public code).
        proposal_similarity: of the relation loss, "cosine", "dot" or "euclidean", the negative distance.
        margin: lambda of equation 6.
        relation_weight: gamma of equation 5; 0 for no relation loss.
        share: of the videos of a batch that take from others, in [0, 1]. The rest are treated as at test: their
            proposals look at `RelatedClip.supports`, or at nothing. Which proposals have partners, and what these show,
            follows from the labels: a classifier that always sees partners learns to read the label from them.

    Raises:
        ValueError: if a name is none of those, or the share not in its range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        video_similarity: str = "mean",
        video_negative: str = "target",
        video_level: str = "res4",
        proposals: str = "hard",
        mining: str = "features",
        proposal_similarity: str = "cosine",
        margin: float = 0.3,
        relation_weight: float = 1.0,
        share: float = 1.0,
    ) -> None:
        for key, value, allowed in (
            ("VIDEO_SIMILARITY", video_similarity, ("mean", "max", "random")),
            ("VIDEO_NEGATIVE", video_negative, ("target", "both")),
            ("PROPOSALS", proposals, ("hard", "all")),
            ("MINING", mining, ("features", "kernel")),
            ("PROPOSAL_SIMILARITY", proposal_similarity, ("cosine", "dot", "euclidean")),
        ):
            if value not in allowed:
                raise ValueError(f"HVR-Net: expected {key} to be one of {', '.join(allowed)}, got {value!r}")
        if not 0 <= share <= 1:
            raise ValueError(f"HVR-Net: expected INTER_SHARE in [0, 1], got {share}")
        self.share = share
        self.num_classes = num_classes
        self.video_similarity, self.video_level = video_similarity, video_level
        self.like_both = video_negative == "both"
        self.all_proposals = proposals == "all"
        self.by_kernel = mining == "kernel"
        self.proposal_similarity = proposal_similarity
        self.margin, self.relation_weight = margin, relation_weight

    def __call__(
        self, clips: Sequence[RelatedClip], layers: Sequence[tuple[nn.Linear, RelationAttention]]
    ) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """B clips and (fully connected layer, relation) of every module -> B times beta (n, D) and losses."""
        # Chosen once, before any relation between videos, and kept for all of them.
        partners = self.partners(clips)
        mined = []
        for clip, numbers in zip(clips, partners, strict=True):
            mined.append(self._mine(clip, [clips[number] for number in numbers], layers[0]))

        values = [clip.features for clip in clips]
        supports = [clip.supports for clip in clips]
        for depth, (transform, relation) in enumerate(layers, start=1):
            # All videos first: each looks at the others as they are before this relation.
            embedded = [transform(value) for value in values]
            for target in range(len(clips)):
                if self.takes(target):
                    others = [embedded[number] for number in partners[target]]
                    values[target] = self._related(relation, embedded[target], others, mined[target])
                elif supports[target] is not None:
                    values[target], of_supports = within_video(
                        relation, embedded[target], transform(supports[target]), is_last=depth == len(layers)
                    )
                    supports[target] = None if of_supports is None else as_tensor(of_supports)
                else:
                    values[target] = self._related(relation, embedded[target], [], None)

        losses: list[dict[str, Tensor]] = [{} for _ in clips]
        if self.relation_weight != 0:
            for losses_of_clip, triplets in zip(losses, mined, strict=True):
                losses_of_clip["loss_relation"] = self.relation_weight * self._relation_loss(triplets)
        return values, losses

    def takes(self, number: int) -> bool:
        """Whether video `number` of a batch takes from others: `share` of all do, evenly spread."""
        # By the place in the batch, not by chance: as many in every batch of a size, and a step can be repeated.
        return math.ceil((number + 1) * self.share) > math.ceil(number * self.share)

    def partners(self, clips: Sequence[RelatedClip]) -> list[list[int]]:
        """The numbers of V+ and V- of every clip (section 3.1), of those that there are."""
        selected = select_videos(
            self._video_similarities(clips),
            [classes_of(related.clip) for related in clips],
            [related.clip.key.video_id for related in clips],
            like_both=self.like_both,
        )
        partners = []
        for positive, negative in zip(selected.positive.tolist(), selected.negative.tolist(), strict=True):
            partners.append([number for number in (positive, negative) if number >= 0])  # -1 stands for none
        return partners

    @torch.no_grad()
    def _video_similarities(self, clips: Sequence[RelatedClip]) -> Tensor:
        """(B, B): of descriptors of the videos, the mean or the maximum of those of their frames."""
        if self.video_similarity == "random":
            return random_similarities(len(clips), torch.default_generator)
        frames_of_videos = [(related.clip.key, *related.clip.supports) for related in clips]
        # All maps of a batch have been padded to the largest frame.
        sizes = [frame.image_size for frames in frames_of_videos for frame in frames]
        canvas = tuple(torch.tensor(sizes).amax(dim=0).tolist())
        rows = []
        for frames in frames_of_videos:
            pooled = torch.stack([self._pooled(frame, canvas) for frame in frames])  # (T, C)
            rows.append(pooled.mean(dim=0) if self.video_similarity == "mean" else pooled.amax(dim=0))
        descriptors = torch.stack(rows)
        return similarities(descriptors, descriptors, "cosine" if self.video_similarity == "mean" else "dot")

    def _pooled(self, frame: Frame, canvas: tuple[int, int]) -> Tensor:
        """(C,): the mean of a frame's map over its cells, without those that pad it to the largest frame `canvas`."""
        if self.video_level not in frame.features:
            raise UserError(
                f"MODEL.HVRNET.VIDEO_LEVEL is {self.video_level!r}: expected a map of the backbone, one of "
                f"{', '.join(frame.features)}"
            )
        value = frame.features[self.video_level][0]
        rows = math.ceil(value.shape[1] * frame.image_size[0] / canvas[0])
        columns = math.ceil(value.shape[2] * frame.image_size[1] / canvas[1])
        value = value[:, :rows, :columns]
        # Similarities decide between videos that are nearly alike: half precision would tie some.
        return value.to(torch.promote_types(value.dtype, torch.float32)).mean(dim=(1, 2))

    def _mine(
        self, target: RelatedClip, others: Sequence[RelatedClip], layer: tuple[nn.Linear, RelationAttention]
    ) -> Mined:
        """P+ and P- of the target's key proposals among those of the others, by `layer` or by themselves."""
        features = target.features
        labels = rois_of(target.clip).gt_classes
        # An empty part first: there may be no others.
        keys = torch.cat([features[:0], *(other.features for other in others)])
        key_labels = torch.cat([labels[:0], *(rois_of(other.clip).gt_classes for other in others)])
        if not self.by_kernel:
            selected = select_proposals(similarities(features, keys), labels, key_labels, self.num_classes)
            return Mined(features, keys, selected, first=len(features))
        transform, relation = layer
        if others:  # as in public code, the target's own proposals are among the keys
            keys, key_labels = torch.cat([features, keys]), torch.cat([labels, key_labels])
        query, keys = relation.query(transform(features)), relation.key(transform(keys))
        selected = select_proposals(similarities(query, keys, "dot"), labels, key_labels, self.num_classes)
        return Mined(query, keys, selected, first=0)

    def _related(
        self, relation: RelationAttention, features: Tensor, others: Sequence[Tensor], mined: Mined | None
    ) -> Tensor:
        """Equation 4 and ReLU: (n, D), those of the other videos -> (n, D).

        The target's own proposals are among the keys, so that the relation has a gradient, if 0, even without others.
        """
        keys = torch.cat([features, *others])
        # Closed everywhere: what is not opened below, such as a background proposal, takes nothing.
        mask = torch.zeros(len(features), len(keys), dtype=torch.bool, device=features.device)
        if self.all_proposals:
            mask |= len(others) > 0
        elif others and mined is not None:
            # Equation 4 has P+ and P-; a proposal may lack either (-1).
            for chosen in mined.selected:
                rows = (chosen >= 0).nonzero()[:, 0]
                mask[rows, mined.first + chosen[rows]] = True
        return F.relu(features + attend(relation, features, keys, mask))

    def _relation_loss(self, mined: Mined) -> Tensor:
        """Equation 6 with d as a similarity, the mean over the proposals that have both P+ and P-."""
        positive, negative = mined.selected
        dtype = torch.promote_types(mined.query.dtype, torch.float32)
        rows = ((positive >= 0) & (negative >= 0)).nonzero()[:, 0]
        query, keys = mined.query[rows].to(dtype), mined.keys.to(dtype)
        like, unlike = (self._compare(query, keys[chosen[rows]]) for chosen in (positive, negative))
        # d is read as a similarity: the text asks for one to P+ that is larger by lambda. Without triplets the sum is 0
        # and keeps its graph.
        return (unlike - like + self.margin).clamp(min=0).sum() / max(len(rows), 1)

    def _compare(self, first: Tensor, second: Tensor) -> Tensor:
        """(n, D), (n, D) -> (n,): the higher, the more alike."""
        if self.proposal_similarity == "cosine":
            return F.cosine_similarity(first, second, dim=1)
        if self.proposal_similarity == "euclidean":
            return -torch.linalg.vector_norm(first - second, dim=1)
        return (first * second).sum(dim=1)
