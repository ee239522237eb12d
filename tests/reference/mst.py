"""MST's modules as the paper writes them: loops over cells, taps, boxes and heads, in float64.

Sources: equations 1 to 12 of Xu et al. (TCSVT 2022); the relation weights are those of Hu et al. (2018), the modulated
deformable convolution is that of Zhu et al. (2019). Maps are (C, H, W).
"""

import math

import torch
from torch import Tensor

State = dict[str, Tensor]
GRID = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0), (0, 1), (1, -1), (1, 0), (1, 1)]  # R of equation 1, (down, right)


def part(state: State, prefix: str) -> State:
    """The parameters below `prefix`, in float64."""
    return {k.removeprefix(prefix): v.detach().double() for k, v in state.items() if k.startswith(prefix)}


def sample(x: Tensor, row: float, column: float) -> Tensor:
    """(C,): bilinear interpolation; 0 outside of the map."""
    _, height, width = x.shape
    value = torch.zeros(len(x), dtype=torch.float64)
    top, left = math.floor(row), math.floor(column)
    for r in (top, top + 1):
        for c in (left, left + 1):
            if 0 <= r < height and 0 <= c < width:
                value += (1 - abs(row - r)) * (1 - abs(column - c)) * x[:, r, c]
    return value


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolution of 1x1 or 3x3, zero padded."""
    _, height, width = x.shape
    half = weight.shape[2] // 2
    out = torch.zeros(len(weight), height, width, dtype=torch.float64)
    for r in range(height):
        for c in range(width):
            out[:, r, c] = bias
            for i in range(-half, half + 1):
                for j in range(-half, half + 1):
                    if 0 <= r + i < height and 0 <= c + j < width:
                        out[:, r, c] += weight[:, :, i + half, j + half] @ x[:, r + i, c + j]
    return out


def deformable(state: State, x: Tensor, guide: Tensor) -> Tensor:
    """Equation 2; offsets, and masks for the taps if there are 27 numbers, are a convolution of `guide`."""
    sampling = convolve(guide, state["sampling.weight"], state["sampling.bias"])
    _, height, width = x.shape
    out = torch.zeros(len(state["weight"]), height, width, dtype=torch.float64)
    for r in range(height):
        for c in range(width):
            out[:, r, c] = state["bias"]
            for n, (down, right) in enumerate(GRID):
                moved_down, moved_right = sampling[2 * n, r, c].item(), sampling[2 * n + 1, r, c].item()
                mask = 2 / (1 + math.exp(-sampling[18 + n, r, c].item())) if len(sampling) == 27 else 1.0
                value = sample(x, r + down + moved_down, c + right + moved_right)
                out[:, r, c] += state["weight"][:, :, down + 1, right + 1] @ (mask * value)
    return out


def align(state: State, source: Tensor, target: Tensor, residual: bool = False) -> Tensor:
    """DAlign: F'_tau (C, H, W), which has things where F_t has them; `residual` adds it to F_tau."""
    reduce, expand = part(state, "reduce."), part(state, "expand.")
    small, wanted = (convolve(x.double(), reduce["weight"], reduce["bias"]).clamp(min=0) for x in (source, target))
    guide = torch.cat([wanted, small])
    for layer in ("fuse.0.", "fuse.1."):
        guide = deformable(part(state, layer), guide, guide).clamp(min=0)
    moved = deformable(part(state, "align."), small, guide).clamp(min=0)
    moved = deformable(part(state, "refine."), moved, moved).clamp(min=0)
    aligned = convolve(moved, expand["weight"], expand["bias"])
    return source.double() + aligned if residual else aligned


def pool(x: Tensor, stride: int) -> list[Tensor]:
    """The means (C,) of cells stride x stride, row by row; at the border of what there is."""
    _, height, width = x.shape
    return [
        x[:, r : r + stride, c : c + stride].double().flatten(1).mean(dim=1)
        for r in range(0, height, stride)
        for c in range(0, width, stride)
    ]


def frame_level(state: State, query: Tensor, maps: list[Tensor], *, heads: int, stride: int) -> Tensor:
    """Equations 4 to 6: F'' (C, H, W) of the map `query`, which takes from all of `maps`."""
    state = part(state, "")
    cells = [cell for one in maps for cell in pool(one, stride)]
    channels, height, width = query.shape
    out = query.double().clone()
    if not cells:
        return out
    d = channels // heads
    keys, values = (
        [state[f"{name}.weight"][:, :, 0, 0] @ cell + state[f"{name}.bias"] for cell in cells]
        for name in ("key", "value")
    )
    for r in range(height):
        for c in range(width):
            q = state["query.weight"][:, :, 0, 0] @ query[:, r, c].double() + state["query.bias"]
            for m in range(heads):
                part_of = slice(m * d, (m + 1) * d)
                logits = torch.stack([q[part_of] @ k[part_of] / math.sqrt(d) for k in keys])
                weights = logits.exp() / logits.exp().sum()
                out[part_of, r, c] += sum(w * v[part_of] for w, v in zip(weights, values, strict=True))
    return out


def size_bias(
    state: State, box: list[float], other: list[float], scale: float, wavelength: float, terms: int = 2
) -> Tensor:
    """Equation 9 for each head, as what is added to the logits: log(max(relu(W E + b), 1e-6)).

    A `terms` of 3 has the difference of aspect ratios.
    """
    weight, bias = state["geometry.projection.weight"], state["geometry.projection.bias"]
    (w, h), (other_w, other_h) = ((x2 - x1, y2 - y1) for x1, y1, x2, y2 in (box, other))
    logarithms = [math.log(w / other_w), math.log(h / other_h), math.log(abs(w / h - other_w / other_h) + 1e-3)]
    count = weight.shape[1] // (2 * terms)
    numbers = []
    for logarithm in logarithms[:terms]:
        angles = [scale * logarithm / wavelength ** (k / count) for k in range(count)]
        numbers += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return (weight @ torch.tensor(numbers, dtype=torch.float64) + bias).clamp(min=1e-6).log()


def similarities(
    state: State, query, key, query_box, key_boxes, allowed: list[int], *, heads: int, scaled: bool = False, **size
) -> Tensor:
    """Equations 7 and 8: the weights s_ij (heads, len(allowed)) of one proposal i among the supports `allowed`.

    The paper's products of query and key are not `scaled` by the square root of a head's dimension.
    """
    d = len(query) // heads
    q = state["query.weight"] @ query + state["query.bias"]
    columns = []
    for j in allowed:
        k = state["key.weight"] @ key[j] + state["key.bias"]
        appearance = torch.stack([q[m * d : (m + 1) * d] @ k[m * d : (m + 1) * d] for m in range(heads)])
        appearance = appearance / math.sqrt(d) if scaled else appearance
        columns.append(appearance + size_bias(state, query_box.tolist(), key_boxes[j].tolist(), **size))
    logits = torch.stack(columns, dim=1)
    logits = logits - logits.max(dim=1, keepdim=True).values  # the quotient is the same, and finite
    return logits.exp() / logits.exp().sum(dim=1, keepdim=True)


def relate(state: State, query, key, query_box, key_boxes, allowed: list[int], *, heads: int, **size) -> Tensor:
    """The sum of equation 10 (D,) for one proposal, over the supports `allowed`; 0 without any."""
    out = torch.zeros_like(query)
    if not allowed:
        return out
    weights = similarities(state, query, key, query_box, key_boxes, allowed, heads=heads, **size)
    d = len(query) // heads
    for column, j in enumerate(allowed):
        value = state["value.weight"] @ key[j] + state["value.bias"]
        for m in range(heads):
            out[m * d : (m + 1) * d] += weights[m, column] * value[m * d : (m + 1) * d]
    return out


def mst_head(
    state: State, query, supports: list, *, heads: int, best: int, pool: int, topk: int, ratio: float, **size
) -> Tensor:
    """Equations 7 to 12 with the parameters of an `MSTAggregator`: R^r (N, D) -> R''.

    `query` and `supports` (R^s, one for each frame, by descending scores) have boxes, features, scores and ids; with
    ids the instance level is that of training, -1 is the background, -2 nobody knows. R^st are the `best` of each
    frame; the instance level looks at the first `pool` of each frame. `size`: of `similarities`.
    """
    state = part(state, "")
    size = {"heads": heads} | size
    features, boxes = query.features.detach().double(), query.boxes.double()
    key, key_boxes, everyone = _joined(query, supports, best)
    k = 0
    while f"relations.{k}.query.weight" in state:
        if k > 0:
            weight, bias = state[f"transform.{k - 1}.weight"], state[f"transform.{k - 1}.bias"]
            features = (features @ weight.T + bias).clamp(min=0)
        module = part(state, f"relations.{k}.")
        added = [relate(module, features[i], key, boxes[i], key_boxes, everyone, **size) for i in range(len(features))]
        features = torch.stack([f + a for f, a in zip(features, added, strict=True)]) if added else features
        k += 1
    module = part(state, "instance.")
    if not module:
        return features
    key, key_boxes, everyone = _joined(query, supports, pool)
    ids = None
    if "track_ids" in query.fields:
        ids = [number for one in supports for number in one.fields["track_ids"][:pool].tolist()]
    result = features.clone()
    for i in range(len(features)):
        if ids is not None:
            allowed = [
                j for j in everyone if query.fields["track_ids"][i] >= 0 and ids[j] == query.fields["track_ids"][i]
            ]
        else:
            allowed = _most_similar(module, i, query, features, key, boxes, key_boxes, topk, ratio, size)
        result[i] += relate(module, features[i], key, boxes[i], key_boxes, allowed, **size)
    return result


def _joined(query, supports: list, count: int) -> tuple[Tensor, Tensor, list[int]]:
    """Features and boxes of the first `count` proposals of each support, and their numbers."""
    features = torch.cat([query.features[:0].double(), *(one.features[:count].double() for one in supports)]).detach()
    boxes = torch.cat([query.boxes[:0].double(), *(one.boxes[:count].double() for one in supports)])
    return features, boxes, list(range(len(boxes)))


def _most_similar(module, i, query, features, key, boxes, key_boxes, topk, ratio, size) -> list[int]:
    """The supports that proposal i looks at in the instance level at test; none if it is copied."""
    everyone = list(range(len(key)))
    best = sorted(range(len(query.scores)), key=lambda row: -query.scores[row].item())[:topk]
    if i not in best or not everyone:
        return []
    weights = similarities(module, features[i], key, boxes[i], key_boxes, everyone, **size).mean(dim=0)
    count = max(1, round(ratio * len(everyone)))
    return sorted(sorted(everyone, key=lambda j: -weights[j].item())[:count])
