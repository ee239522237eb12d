"""MAMBA's instance level as its equations say it: loops over proposals, and a list for the bank.

Sources: generalized enhancement operation and memory bank, section 3 of Sun et al. (AAAI 2021). D: embedding.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from reference.selsa import State, semantic_aggregation
from vod2.structures import ProposalSet, TemporalContext


@dataclass
class Bank:
    """What a stream remembers: (frame, copies of it in its window, its feature (D,) of each layer)."""

    rows: list[tuple[int, int, list[Tensor]]] = field(default_factory=list)


def mamba_head(
    state: State,
    query: ProposalSet,
    context: TemporalContext,
    *,
    heads: int,
    topk: int,
    bank: Bank | None = None,
    window: list[int] | None = None,
    t: int = 0,
) -> Tensor:
    """(N, D) with the parameters `state` of a `MAMBAAggregator`; frame t is written where it stands in `window`.

    The whole bank is read, but for what stands in the window as often as when it was written.
    """
    bank, window = bank or Bank(), window or []
    past = [layers for frame, copies, layers in bank.rows if window.count(frame) < copies]
    x, pool = list(query.features), []
    for frame in context.frames:
        pool += list(frame.proposals.features[:topk])
    layers_of_rows: list[list[Tensor]] = [[] for _ in x]
    k = 0
    while f"relation.{k}.query.weight" in state:
        relation = {name.removeprefix(f"relation.{k}."): v for name, v in state.items() if f"relation.{k}." in name}
        if k > 0:
            x = [linear(state, f"transform.{k - 1}", one) for one in x]
            pool = [linear(state, f"transform.{k - 1}", one.clamp(min=0)) for one in pool]
        keys = [*pool, *(layers[k] for layers in past)]
        x = [one + more for one, more in zip(x, semantic_aggregation(relation, x, keys, heads), strict=True)]
        for layers, one in zip(layers_of_rows, x, strict=True):
            layers.append(one)
        x = [one.clamp(min=0) for one in x]
        k += 1
    if t in window:
        bank.rows += [(t, window.count(t), layers) for layers in layers_of_rows[:topk]]
    return torch.stack(x) if x else query.features


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]
