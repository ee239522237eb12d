"""CSMN's two modules as the paper describes them: loops over cells, patches and proposals, in float64.

Source: Han et al., Context and Structure Mining Network (IJCV 2021). t: target, s: source, S: source cells,
f: proposal features, p and q: patches, P: side of a RoI's map.
"""

import math

import torch
from torch import Tensor

from vod2.structures import ProposalSet, TemporalContext

State = dict[str, Tensor]


def encoded_map(state: State, target: Tensor, sources: list[Tensor], normaliser: str = "count") -> Tensor:
    """stCIE: target (C, H, W), sources (C, H_s, W_s) -> (C, H, W), y_t = g_t(x_t) + sum_s w_ts g_s(x_s).

    w is the cosine of theta(x_t) and phi(x_s), divided by S ("count"), or its softmax over s ("softmax").
    """
    state = {name: value.detach().double() for name, value in state.items()}

    def convolved(name: str, cell: Tensor) -> Tensor:
        return state[f"{name}.weight"][:, :, 0, 0] @ cell + state[f"{name}.bias"]

    cells = [source[:, y, x].double() for source in sources for y, x in _places(source)]
    keys = [convolved("source_relation", cell) for cell in cells]
    contents = [convolved("source_content", cell) for cell in cells]
    result = torch.zeros(target.shape, dtype=torch.float64)
    for y, x in _places(target):
        cell = target[:, y, x].double()
        query = convolved("target_relation", cell)
        cosines = [float(query @ key / (query.norm() * key.norm())) for key in keys]
        if normaliser == "count":
            weights = [cosine / len(cells) for cosine in cosines]
        else:
            total = sum(math.exp(cosine) for cosine in cosines)
            weights = [math.exp(cosine) / total for cosine in cosines]
        context = sum(weight * content for weight, content in zip(weights, contents, strict=True))
        result[:, y, x] = convolved("target_content", cell) + context
    return result


def encoded_sample(state: State, maps: list[Tensor], normaliser: str = "count") -> list[Tensor]:
    """stCIE of all maps (C, H, W) of a sample, each of which takes from the cells of all, its own included."""
    return [encoded_map(state, own, maps, normaliser) for own in maps]


def _places(x: Tensor) -> list[tuple[int, int]]:
    return [(row, column) for row in range(x.shape[1]) for column in range(x.shape[2])]


def patches_of(roi: Tensor, grid: int) -> list[Tensor]:
    """(C, P, P) -> grid^2 patches, flattened; zeros around it where grid does not divide P, the odd one at the end."""
    channels, side, _ = roi.shape
    cells = math.ceil(side / grid)
    padded = roi.new_zeros(channels, cells * grid, cells * grid)
    before = (cells * grid - side) // 2
    padded[:, before : before + side, before : before + side] = roi
    rows = [padded[:, cells * k : cells * (k + 1)] for k in range(grid)]
    return [row[:, :, cells * k : cells * (k + 1)].flatten() for row in rows for k in range(grid)]


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """sum((a - mean a)(b - mean b)) / (d sigma_a sigma_b); 0 where one does not vary."""
    sigmas = a.std(correction=0) * b.std(correction=0)
    if sigmas < 1e-12:
        return 0 * (a.sum() + b.sum())
    return ((a - a.mean()) * (b - b.mean())).sum() / (len(a) * sigmas)


def patch_weights(target: Tensor, supports: Tensor, grid: int, temperature: float | None = None) -> Tensor:
    """One RoI (C, P, P) and M supports (M, C, P, P) -> (grid^2, M): softmax over j of max over q; differentiable.

    temperature: divides the maxima; None for 1 / sqrt(d), d the numbers of a patch.
    """
    rows = []
    if temperature is None:
        temperature = 1 / math.sqrt(len(patches_of(target, grid)[0]))
    for patch in patches_of(target, grid):
        found = [torch.stack([correlation(patch, q) for q in patches_of(roi, grid)]).max() for roi in supports]
        rows.append(torch.stack(found).div(temperature).softmax(dim=0))
    return torch.stack(rows)


def spfa_head(state: State, query: ProposalSet, context: TemporalContext, *, grid: int, topk: int) -> Tensor:
    """The head of `SPFAAggregator` with its parameters: f (N, D) -> (N, D).

    Args:
        state: state_dict of the aggregator; without `importance`, all patches count the same.
        topk: proposals of a support frame, those of the highest objectness.
    """
    state = {name: value.detach().double() for name, value in state.items()}
    features = query.features.detach().double()
    sets = [frame.proposals for frame in context.frames]
    pool = torch.cat([features[:0], *[one.features[:topk].detach().double() for one in sets]])
    maps = torch.cat([query.fields["pooled_maps"][:0], *[one.fields["pooled_maps"][:topk] for one in sets]]).double()
    rows = []
    for i in range(len(query)):
        x, h = features[i], pool
        for k in range(2):
            if k > 0:
                weight, bias = state["transform.0.weight"], state["transform.0.bias"]
                x, h = weight @ x + bias, h.clamp(min=0) @ weight.T + bias
            if len(maps):
                weights = patch_weights(query.fields["pooled_maps"][i].double(), maps, grid)
                of_patches = [(weights[p][:, None] * h).sum(dim=0) for p in range(grid * grid)]
                alpha = _importance(state, k, query.fields["pooled_maps"][i].double(), grid)
                x = x + sum(a * of_patch for a, of_patch in zip(alpha, of_patches, strict=True))
            x = x.clamp(min=0)
        rows.append(x)
    return torch.stack(rows) if rows else features


def _importance(state: State, k: int, roi: Tensor, grid: int) -> Tensor:
    """alpha of the patches of a RoI: softmax of a linear layer of each patch."""
    patches = patches_of(roi, grid)
    if f"importance.{k}.score.weight" not in state:
        return torch.full((len(patches),), 1 / len(patches), dtype=torch.float64)
    return torch.stack([state[f"importance.{k}.score.weight"][0] @ patch for patch in patches]).softmax(dim=0)
