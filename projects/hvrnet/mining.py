"""Multi-level triplet selection: sections 3.1 and 3.3.

B: videos of a batch, n: key proposals of the target video, m: key proposals of the videos to choose from, K: classes
(background is K), D: length of a descriptor or an embedding. A selected row is -1 where there is none. Of equals the
lowest row is selected.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Selected(NamedTuple):
    """Rows (n,) int64 of the partners of each video or proposal: `positive` is V+ or P+, `negative` V- or P-."""

    positive: Tensor
    negative: Tensor


@torch.no_grad()
def similarities(first: Tensor, second: Tensor, kind: str = "cosine") -> Tensor:
    """(n, D) and (m, D) -> (n, m): "cosine", or "dot" for the dot product over sqrt(D); at least float32."""
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    first, second = first.to(dtype), second.to(dtype)
    with torch.autocast(first.device.type, enabled=False):
        if kind == "cosine":
            return F.normalize(first, dim=1) @ F.normalize(second, dim=1).T
        return first @ second.T / first.shape[1] ** 0.5


def random_similarities(count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """(count, count) uniform numbers: with them, selected are any that qualify, all equally likely."""
    return torch.rand(count, count, generator=generator).to(device)


@torch.no_grad()
def select_videos(
    similarity: Tensor, classes: Sequence[frozenset[int]], videos: Sequence[str], *, like_both: bool = False
) -> Selected:
    """V+ and V- of every video of a batch as the target (equation 1).

    V+ is the least similar video that shares a class, V- the most similar one that shares none. A video that stands in
    the batch more than once is never its own partner.

    Args:
        similarity: (B, B), row of the target and column of the other.
        classes: B sets of classes in [0, K).
        videos: B names.
        like_both: V- is the one that is most similar to target and V+ together, by the sum of two softmaxes over the
            videos that it is chosen from (public code), instead of to the target alone.
    """
    # Names, not places: the same video may stand in a batch twice.
    count = len(videos)
    shares_class = torch.zeros(count, count, dtype=torch.bool)
    is_other_video = torch.zeros(count, count, dtype=torch.bool)
    for target in range(count):
        for other in range(count):
            shares_class[target, other] = not classes[target].isdisjoint(classes[other])
            is_other_video[target, other] = videos[target] != videos[other]
    positive = (shares_class & is_other_video).to(similarity.device)
    negative = (~shares_class & is_other_video).to(similarity.device)
    selected = _select(similarity, positive, negative)
    if not like_both or similarity.numel() == 0:
        return selected

    to_target = similarity.masked_fill(~negative, -torch.inf).softmax(dim=1)
    to_positive = similarity[selected.positive.clamp(min=0)].masked_fill(~negative, -torch.inf).softmax(dim=1)
    # A target without V+ is compared by itself alone.
    to_both = to_target + to_positive * (selected.positive >= 0)[:, None]
    return Selected(selected.positive, _select(to_both, positive, negative).negative)


@torch.no_grad()
def select_proposals(similarity: Tensor, labels: Tensor, other_labels: Tensor, num_classes: int) -> Selected:
    """P+ and P- of every key proposal of the target video (equation 3).

    P+ is the least similar proposal of the same class, P- the most similar one of another, background included. A
    proposal of the background has neither.

    Args:
        similarity: (n, m), row of the target's proposal and column of the other.
        labels: (n,) in [0, K].
        other_labels: (m,) in [0, K].
        num_classes: K.
    """
    # Background is no class that two proposals could share: it may be a P-, but has no partners itself.
    foreground = ((labels >= 0) & (labels < num_classes))[:, None]
    same = labels[:, None] == other_labels
    return _select(similarity, same & foreground, ~same & foreground)


def _select(similarity: Tensor, positive: Tensor, negative: Tensor) -> Selected:
    """The column of the least similar of `positive` and of the most similar of `negative` (n, m), in every row."""
    if similarity.numel() == 0:
        none = torch.full((len(similarity),), -1, device=similarity.device)
        return Selected(none, none.clone())
    # A row without candidates is all infinite, and its 0 of argmin means nothing: it becomes -1.
    least = similarity.masked_fill(~positive, torch.inf).argmin(dim=1)
    most = similarity.masked_fill(~negative, -torch.inf).argmax(dim=1)
    return Selected(
        least.masked_fill(~positive.any(dim=1), -1),
        most.masked_fill(~negative.any(dim=1), -1),
    )
