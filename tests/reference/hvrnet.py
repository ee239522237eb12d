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


def intra(state: State, video: Video, num_intra: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """b and c of the key proposals, c of the supports."""
    flat = [(f, own) for features, own in video.frames for f in features]
    f1_all = [f for f, _ in flat]
    f2 = [linear(state, "transform.0", relu(f + non_local(state, 0, f, f1_all))) for f in video.key]
    f2_all = [linear(state, "transform.0", relu(f + non_local(state, 0, f, f1_all))) for f in f1_all]
    b = [relu(f + non_local(state, 1, f, f2_all)) for f in f2]
    b_all = [relu(f + non_local(state, 1, f, f2_all)) for f in f2_all]
    if num_intra == 2:
        return b, b, b_all
    f3_all = [
        linear(state, "transform.1", of_key if own else f1) for (f1, own), of_key in zip(flat, b_all, strict=True)
    ]
    f3 = [linear(state, "transform.1", one) for one in b]
    c = [relu(f + non_local(state, 2, f, f3_all)) for f in f3]
    return b, c, [relu(f + non_local(state, 2, f, f3_all)) for f in f3_all]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """0 where a vector is 0."""
    lengths = a.norm() * b.norm()
    return a @ b / lengths if lengths > 0 else torch.zeros_like(lengths)


def video_triplet(videos: list[Video], target: int) -> tuple[int | None, int | None]:
    """Numbers of V+ and V-."""
    means = []
    for video in videos:
        frames = [m.flatten(1).mean(1) for m in video.maps]
        means.append(sum(frames) / len(frames))
    positive = negative = None
    for j, video in enumerate(videos):
        if video.name == videos[target].name:
            continue
        s = cosine(means[target], means[j])
        if video.classes & videos[target].classes:
            if positive is None or s < cosine(means[target], means[positive]):
                positive = j
        elif negative is None or s > cosine(means[target], means[negative]):
            negative = j
    return positive, negative


def proposal_triplet(one: Tensor, label: int, others: list[tuple[Tensor, int]], background: int):
    """Places of P+ and P- in `others`, pairs of feature and label."""
    if label == background:
        return None, None
    similar = [cosine(one.detach(), other.detach()).item() for other, _ in others]
    same = [j for j, (_, other) in enumerate(others) if other == label]
    different = [j for j, (_, other) in enumerate(others) if other != label]
    return min(same, key=similar.__getitem__, default=None), max(different, key=similar.__getitem__, default=None)


def hvr_training(
    state: State,
    videos: list[Video],
    *,
    num_classes: int,
    num_intra: int = 3,
    num_inter: int = 1,
    all_proposals: bool = False,
    dot: bool = False,
    margin: float = 0.3,
) -> tuple[list[list[Tensor]], list[Tensor], list[Tensor]]:
    """beta of the key proposals, relation loss and auxiliary classification loss of every video."""
    bs, cs, _ = zip(*(intra(state, video, num_intra) for video in videos), strict=True)
    partners = [[j for j in video_triplet(videos, i) if j is not None] for i in range(len(videos))]
    chosen, relation_losses, auxiliary_losses = [], [], []
    for i, video in enumerate(videos):
        others = [(c, label) for j in partners[i] for c, label in zip(cs[j], videos[j].labels, strict=True)]
        pairs = [proposal_triplet(c, label, others, num_classes) for c, label in zip(cs[i], video.labels, strict=True)]
        chosen.append(pairs)
        terms = []
        for c, (positive, negative) in zip(cs[i], pairs, strict=True):
            if positive is not None and negative is not None:
                d = torch.dot if dot else cosine
                terms.append((d(c, others[negative][0]) - d(c, others[positive][0]) + margin).clamp(min=0))
        relation_losses.append(sum(terms) / len(terms) if terms else torch.zeros((), dtype=torch.float64))
        logits = [linear(state, "auxiliary", b).log_softmax(0) for b in bs[i]]
        terms = [-row[label] for row, label in zip(logits, video.labels, strict=True)]
        auxiliary_losses.append(sum(terms) / len(terms) if terms else torch.zeros((), dtype=torch.float64))
    values = list(cs)
    for k in range(num_inter):
        e = [[linear(state, f"transform.{num_intra - 1 + k}", x) for x in value] for value in values]
        values = []
        for i in range(len(videos)):
            others = [x for j in partners[i] for x in e[j]]
            values.append([])
            for x, pair in zip(e[i], chosen[i], strict=True):
                looked_at = [others[j] for j in pair if j is not None]
                if all_proposals:
                    looked_at = e[i] + others if partners[i] else []
                values[-1].append(relu(x + non_local(state, num_intra + k, x, looked_at)))
    return values, relation_losses, auxiliary_losses


def hvr_inference(state: State, video: Video, *, num_intra: int = 3, num_inter: int = 1, within: bool = False):
    """The key proposals at test: the inter module dropped, or looking at the same video."""
    _, x, supports = intra(state, video, num_intra)
    for k in range(num_inter):
        name, number = f"transform.{num_intra - 1 + k}", num_intra + k
        x, supports = [linear(state, name, one) for one in x], [linear(state, name, one) for one in supports]
        looked_at = supports if within else []
        x = [relu(one + non_local(state, number, one, looked_at)) for one in x]
        supports = [relu(one + non_local(state, number, one, looked_at)) for one in supports]
    return x
