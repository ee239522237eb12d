"""SELSA's head as its equations say it: loops over proposals and heads, in float64.

Sources: equations 1 to 3 of Wu et al. (ICCV 2019) and the order of layers in its section 3. D: embedding.
"""

import math

import torch
from torch import Tensor

from vod2.structures import ProposalSet, TemporalContext

State = dict[str, Tensor]


def semantic_aggregation(state: State, query: list[Tensor], key: list[Tensor], heads: int) -> list[Tensor]:
    """S of every query (D,): the softmax of its similarities sums up whole keys, then the projections; 0 without keys.

    `state` holds query, key, value and, if heads are projected in the end, output, each with weight and bias.
    """
    if not key:
        return [torch.zeros_like(one) for one in query]
    results = []
    for one in query:
        width = len(one) // heads
        parts = []
        for m in range(heads):
            rows = slice(m * width, (m + 1) * width)
            q = _linear(state, "query", one)[rows]
            similar = [q @ _linear(state, "key", other)[rows] / math.sqrt(width) for other in key]
            total = sum(value.exp() for value in similar)
            summed = sum(value.exp() / total * other for value, other in zip(similar, key, strict=True))
            parts.append(_linear(state, "value", summed)[rows])
        joined = torch.cat(parts)
        results.append(_linear(state, "output", joined) if "output.weight" in state else joined)
    return results


def selsa_head(
    state: State,
    query: ProposalSet,
    context: TemporalContext,
    *,
    heads: int = 1,
    topk: int = 300,
    update_supports: bool = False,
) -> Tensor:
    """(N, D): the key frame's proposals after the last layer, with the parameters `state` of a `SELSAAggregator`."""
    x = list(query.features)
    pool = []
    for frame in context.frames:
        best = sorted(range(len(frame.proposals)), key=lambda row: -frame.proposals.scores[row].item())[:topk]
        pool += [frame.proposals.features[row] for row in best]
    k = 0
    while f"relation.{k}.query.weight" in state:
        relation = {name.removeprefix(f"relation.{k}."): v for name, v in state.items() if f"relation.{k}." in name}
        if k > 0:
            x = [_linear(state, f"transform.{k - 1}", one) for one in x]
            pool = [_linear(state, f"transform.{k - 1}", one.clamp(min=0)) for one in pool]
        taken = semantic_aggregation(relation, x, pool, heads)
        x = [(one + more).clamp(min=0) for one, more in zip(x, taken, strict=True)]
        if update_supports:
            taken = semantic_aggregation(relation, pool, pool, heads)
            pool = [one + more for one, more in zip(pool, taken, strict=True)]
        k += 1
    return torch.stack(x) if x else query.features


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]
