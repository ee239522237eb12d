"""RDN's relation module and head as the paper writes them: loops over boxes and heads, in float64.

Sources: equations 1 to 7 of Deng et al. (ICCV 2019); the relation weights are those of the object relation module of Hu
et al. (2018). R^r: reference proposals, R^s: support pool, R^sa: advanced support pool, D: embedding.
"""

import math

import torch
from torch import Tensor

from vod2.structures import ProposalSet, TemporalContext

State = dict[str, Tensor]


def box_pair_embedding(box: list[float], other: list[float], dim: int, scale: float, wavelength: float) -> Tensor:
    """(dim,): sines and cosines of the relative position and size of two xyxy boxes, quantity after quantity."""
    w, h = box[2] - box[0], box[3] - box[1]
    other_w, other_h = other[2] - other[0], other[3] - other[1]
    dx = (box[0] + box[2]) / 2 - (other[0] + other[2]) / 2
    dy = (box[1] + box[3]) / 2 - (other[1] + other[3]) / 2
    quantities = [
        math.log(abs(dx) / w + 1e-3),
        math.log(abs(dy) / h + 1e-3),
        math.log(w / other_w),
        math.log(h / other_h),
    ]
    frequencies = dim // 8
    numbers = []
    for quantity in quantities:
        angles = [scale * quantity / wavelength ** (k / frequencies) for k in range(frequencies)]
        numbers += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return torch.tensor(numbers, dtype=torch.float64)


def relation_features(
    state: State,
    query: Tensor,
    key: Tensor,
    query_boxes: Tensor,
    key_boxes: Tensor,
    *,
    heads: int,
    scale: float = 100.0,
    wavelength: float = 1000.0,
) -> Tensor:
    """Equation 1 for every query and head, concatenated: (N, D) x (M, D) -> (N, D); 0 without keys.

    `state` holds query, key, value and, if there is geometry, geometry.projection, each with weight and bias.
    Each head sums the whole features of the keys, then applies its own rows of the value projection.
    """
    state = {name: value.detach().double() for name, value in state.items()}
    query, key = query.detach().double(), key.detach().double()
    n, dim = query.shape
    result = torch.zeros(n, dim, dtype=torch.float64)
    if len(key) == 0:
        return result
    width = dim // heads
    geometry = _geometry(state, query_boxes, key_boxes, scale, wavelength)
    for m in range(heads):
        rows = slice(m * width, (m + 1) * width)
        for i in range(n):
            q = state["query.weight"][rows] @ query[i] + state["query.bias"][rows]
            logits = torch.zeros(len(key), dtype=torch.float64)
            for j in range(len(key)):
                k = state["key.weight"][rows] @ key[j] + state["key.bias"][rows]
                logits[j] = q @ k / math.sqrt(width)
                if geometry is not None:
                    logits[j] += math.log(max(geometry[i, j, m].item(), 1e-6))
            weights = logits.exp() / logits.exp().sum()
            summed = torch.einsum("j,jd->d", weights, key)
            result[i, rows] = state["value.weight"][rows] @ summed + state["value.bias"][rows]
    return result


def _geometry(state: State, query_boxes: Tensor, key_boxes: Tensor, scale: float, wavelength: float) -> Tensor | None:
    """(N, M, heads): relu(W_g E) of all pairs."""
    if "geometry.projection.weight" not in state:
        return None
    weight, bias = state["geometry.projection.weight"], state["geometry.projection.bias"]
    result = torch.zeros(len(query_boxes), len(key_boxes), len(weight), dtype=torch.float64)
    for i, box in enumerate(query_boxes.double().tolist()):
        for j, other in enumerate(key_boxes.double().tolist()):
            embedding = box_pair_embedding(box, other, weight.shape[1], scale, wavelength)
            result[i, j] = (weight @ embedding + bias).clamp(min=0)
    return result


def rdn_head(
    state: State, query: ProposalSet, context: TemporalContext, *, heads: int, topk: int, advanced_topk: int, pool: str
) -> Tensor:
    """Equations 2 to 7 with the parameters of an `RDNAggregator`: R^r (N, D) -> R^r1, or R^r2 with `refine` in `state`.

    Args:
        state: state_dict of the aggregator.
        topk: K proposals of a support frame, those of the highest objectness.
        advanced_topk: how many of R^s belong to the advanced pool; of the K of each frame if `pool` is "frame".
    """
    state = {name: value.detach().double() for name, value in state.items()}
    features, boxes = query.features.detach().double(), query.boxes.double()
    support, support_boxes, scores = _pool(context, topk, features)
    if pool == "frame":
        advanced, advanced_boxes, _ = _pool(context, min(topk, advanced_topk), features)
    else:
        best = sorted(range(len(scores)), key=lambda j: -scores[j])[:advanced_topk]
        advanced, advanced_boxes = support[best], support_boxes[best]

    k = 0
    while f"basic.{k}.query.weight" in state:
        if k > 0:  # h() of equation 4
            weight, bias = state[f"transform.{k - 1}.weight"], state[f"transform.{k - 1}.bias"]
            features = (features @ weight.T + bias).clamp(min=0)
        features = features + relation_features(
            _part(state, f"basic.{k}."), features, support, boxes, support_boxes, heads=heads
        )
        k += 1
    if "refine.query.weight" not in state:
        return features
    refined = advanced + relation_features(
        _part(state, "refine."), advanced, support, advanced_boxes, support_boxes, heads=heads
    )
    if "refine_transform.weight" in state:  # in public code, not in the paper
        refined = (refined @ state["refine_transform.weight"].T + state["refine_transform.bias"]).clamp(min=0)
    return features + relation_features(_part(state, "distill."), features, refined, boxes, advanced_boxes, heads=heads)


def _pool(context: TemporalContext, top: int, like: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """Features, boxes and scores of the `top` proposals of the highest objectness of every support frame."""
    features, boxes, scores = [like.new_zeros(0, like.shape[1])], [like.new_zeros(0, 4)], []
    for frame in context.frames:
        best = sorted(range(len(frame.proposals)), key=lambda row: -frame.proposals.scores[row].item())[:top]
        features.append(frame.proposals.features[best].detach().double())
        boxes.append(frame.proposals.boxes[best].double())
        scores += [frame.proposals.scores[row].item() for row in best]
    return torch.cat(features), torch.cat(boxes), scores


def _part(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
