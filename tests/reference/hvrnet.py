"""HVR-Net's head as its equations say it: loops over videos and proposals, in float64.

Sources: equations 1 to 6, figure 3 and section 4.1 of Han et al. (ECCV 2020). D: embedding, K: classes (the label
of the background).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass
class Video:
    """One clip: the key frame's proposals (D,), those of each frame that it looks at and whether that is the key frame.

    labels: of the key proposals. classes: that the video stands for. maps: (C, H, W) of every frame, without padding.
    """

    name: str
    key: list[Tensor]
    frames: list[tuple[list[Tensor], bool]]
    labels: list[int]
    classes: set[int]
    maps: list[Tensor]


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]


def non_local(state: State, number: int, one: Tensor, others: list[Tensor]) -> Tensor:
    """Embedded Gaussian: the weighted sum of equations 2 and 4; 0 if there are no others."""
    if not others:
        return torch.zeros_like(one)
    name = f"relation.{number}"
    theta = linear(state, f"{name}.query", one)
    kernel = [(theta @ linear(state, f"{name}.key", other) / math.sqrt(len(one))).exp() for other in others]
    values = [linear(state, f"{name}.value", other) for other in others]
    return sum(k / sum(kernel) * value for k, value in zip(kernel, values, strict=True))


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def intra(
    state: State, video: Video, num_intra: int, skip_both: bool = True
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """b and c of the key proposals, c of the supports."""
    flat = [(f, own) for features, own in video.frames for f in features]
    f1_all = [f for f, _ in flat]
    a = [relu(f + non_local(state, 0, f, f1_all)) for f in video.key]
    a_all = [relu(f + non_local(state, 0, f, f1_all)) for f in f1_all]
    f2 = [linear(state, "transform.0", one) for one in a]
    f2_all = [linear(state, "transform.0", one) for one in a_all]
    b = [relu(f + non_local(state, 1, f, f2_all)) for f in f2]
    b_all = [relu(f + non_local(state, 1, f, f2_all)) for f in f2_all]
    if num_intra == 2:
        return b, b, b_all
    f3_all = [
        linear(state, "transform.1", of_key if own else f1) for (f1, own), of_key in zip(flat, b_all, strict=True)
    ]
    pool = list(f3_all)
    if skip_both:  # initial and transformed proposals of the supports
        for (_, own), transformed in zip(flat, a_all, strict=True):
            if not own:
                pool.append(linear(state, "transform.1", transformed))
    f3 = [linear(state, "transform.1", one) for one in b]
    c = [relu(f + non_local(state, 2, f, pool)) for f in f3]
    return b, c, [relu(f + non_local(state, 2, f, pool)) for f in f3_all]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """0 where a vector is 0."""
    lengths = a.norm() * b.norm()
    return a @ b / lengths if lengths > 0 else torch.zeros_like(lengths)


def kinds_of_similarity(kind: str):
    """d of equation 6, read as a similarity: the negative of the distance that the paper names."""
    if kind == "euclidean":
        return lambda a, b: -((a - b) ** 2).sum().sqrt()
    return {"cosine": cosine, "dot": torch.dot}[kind]


def descriptors(videos: list[Video], kind: str) -> list[Tensor]:
    pooled = [[m.flatten(1).mean(1) for m in video.maps] for video in videos]
    if kind == "mean":
        return [sum(frames) / len(frames) for frames in pooled]
    return [torch.stack(frames).amax(0) for frames in pooled]


def video_triplet(
    videos: list[Video], target: int, kind: str = "mean", like_both: bool = False
) -> tuple[int | None, int | None]:
    """Numbers of V+ and V-."""
    found = descriptors(videos, kind)

    def similar(i: int, j: int) -> float:
        if kind == "mean":
            return cosine(found[i], found[j]).item()
        return (found[i] @ found[j]).item() / math.sqrt(len(found[i]))

    others = [j for j, video in enumerate(videos) if video.name != videos[target].name]
    same = [j for j in others if videos[j].classes & videos[target].classes]
    different = [j for j in others if j not in same]
    positive = min(same, key=lambda j: similar(target, j), default=None)

    def shares(i: int) -> dict[int, float]:
        powers = {j: math.exp(similar(i, j)) for j in different}
        return {j: power / sum(powers.values()) for j, power in powers.items()}

    score = shares(target)
    if like_both and positive is not None:
        score = {j: share + shares(positive)[j] for j, share in score.items()}
    return positive, max(different, key=lambda j: score[j], default=None)


def proposal_triplet(query: Tensor, label: int, others: list[tuple[Tensor, int]], background: int, similar=cosine):
    """Places of P+ and P- in `others`, pairs of feature and label."""
    if label == background:
        return None, None
    scores = [similar(query.detach(), other.detach()).item() for other, _ in others]
    same = [j for j, (_, other) in enumerate(others) if other == label]
    different = [j for j, (_, other) in enumerate(others) if other != label]
    return min(same, key=scores.__getitem__, default=None), max(different, key=scores.__getitem__, default=None)


@dataclass
class Options:
    """What the keys of MODEL.HVRNET of the same names choose."""

    num_classes: int
    num_intra: int = 3
    num_inter: int = 1
    skip_both: bool = True
    video_similarity: str = "mean"
    like_both: bool = False
    all_proposals: bool = False
    by_kernel: bool = False
    d: str = "cosine"
    margin: float = 0.3
    alone: tuple[int, ...] = ()  # the videos of the batch that take nothing from others
    within: bool = True  # in these, the relation between videos looks at the supports


def relation_loss(queries: list[Tensor], others: list[tuple[Tensor, int]], pairs: list, options: Options) -> Tensor:
    """Equation 6, the mean over the proposals with both partners."""
    d, terms = kinds_of_similarity(options.d), []
    for query, (positive, negative) in zip(queries, pairs, strict=True):
        if positive is not None and negative is not None:
            terms.append((d(query, others[negative][0]) - d(query, others[positive][0]) + options.margin).clamp(min=0))
    return sum(terms) / len(terms) if terms else torch.zeros((), dtype=torch.float64)


def mine(state: State, videos: list[Video], cs: list[list[Tensor]], i: int, partners: list[int], options: Options):
    """Pairs of places in the key proposals of [target, V+, V-], and the relation loss, of video i."""
    everyone = [i, *partners]
    pool = [(c, label) for j in everyone for c, label in zip(cs[j], videos[j].labels, strict=True)]
    first = len(cs[i])
    if not options.by_kernel:
        others, queries = pool[first:], cs[i]
        pairs = [
            proposal_triplet(c, label, others, options.num_classes)
            for c, label in zip(queries, videos[i].labels, strict=True)
        ]
        loss = relation_loss(queries, others, pairs, options)
        return [tuple(None if j is None else j + first for j in pair) for pair in pairs], loss
    name, fc = f"relation.{options.num_intra}", f"transform.{options.num_intra - 1}"
    queries = [linear(state, f"{name}.query", linear(state, fc, c)) for c in cs[i]]
    keys = [(linear(state, f"{name}.key", linear(state, fc, c)), label) for c, label in pool]
    if not partners:
        keys = []
    pairs = [
        proposal_triplet(q, label, keys, options.num_classes, torch.dot)
        for q, label in zip(queries, videos[i].labels, strict=True)
    ]
    return pairs, relation_loss(queries, keys, pairs, options)


def hvr_training(state: State, videos: list[Video], **options) -> tuple[list[list[Tensor]], list[Tensor], list[Tensor]]:
    """beta of the key proposals, relation loss and auxiliary classification loss of every video."""
    options = Options(**options)
    bs, cs, support_cs = zip(
        *(intra(state, video, options.num_intra, options.skip_both) for video in videos), strict=True
    )
    partners = [
        [j for j in video_triplet(videos, i, options.video_similarity, options.like_both) if j is not None]
        for i in range(len(videos))
    ]
    mined = [mine(state, videos, cs, i, partners[i], options) for i in range(len(videos))]
    auxiliary_losses = []
    for b, video in zip(bs, videos, strict=True):
        logits = [linear(state, "auxiliary", one).log_softmax(0) for one in b]
        terms = [-row[label] for row, label in zip(logits, video.labels, strict=True)]
        auxiliary_losses.append(sum(terms) / len(terms) if terms else torch.zeros((), dtype=torch.float64))
    values, supports = list(cs), list(support_cs)
    for k in range(options.num_inter):
        fc, number = f"transform.{options.num_intra - 1 + k}", options.num_intra + k
        e = [[linear(state, fc, x) for x in value] for value in values]
        values = []
        for i in range(len(videos)):
            if i in options.alone:
                of_supports = [linear(state, fc, x) for x in supports[i]] if options.within else []
                values.append([relu(x + non_local(state, number, x, of_supports)) for x in e[i]])
                supports[i] = [relu(x + non_local(state, number, x, of_supports)) for x in of_supports]
                continue
            pool = [x for j in [i, *partners[i]] for x in e[j]]
            values.append([])
            for x, pair in zip(e[i], mined[i][0], strict=True):
                looked_at = [pool[j] for j in pair if j is not None]
                if options.all_proposals:
                    looked_at = pool if partners[i] else []
                values[-1].append(relu(x + non_local(state, number, x, looked_at)))
    return values, [loss for _, loss in mined], auxiliary_losses


def hvr_inference(
    state: State,
    video: Video,
    *,
    num_intra: int = 3,
    num_inter: int = 1,
    within: bool = False,
    skip_both: bool = True,
):
    """The key proposals at test: the inter module dropped, or looking at the same video."""
    _, x, supports = intra(state, video, num_intra, skip_both)
    for k in range(num_inter):
        name, number = f"transform.{num_intra - 1 + k}", num_intra + k
        x, supports = [linear(state, name, one) for one in x], [linear(state, name, one) for one in supports]
        looked_at = supports if within else []
        x = [relu(one + non_local(state, number, one, looked_at)) for one in x]
        supports = [relu(one + non_local(state, number, one, looked_at)) for one in supports]
    return x
