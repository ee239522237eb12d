"""Learnable spatio-temporal sampling: the core of LSTS (Jiang et al., ECCV 2020, section 3.2, equations 1 to 4).

Letters: B maps, C channels of the values, E of the embeddings, H, W cells, N locations, U offsets.

At every cell p, with N locations l_n that all cells share (zero outside the map, bilinear between cells):

    s_n = < key(p + l_n), query(p) >
    S_n = softmax of s over n, or s_n / sum s
    out(p) = sum_n S_n value(p + l_n)

Because the locations are shared, the bilinear weights form one matrix T (N, U) from U whole offsets u, the corners of
the grid squares in which the locations lie, each counted once. Both sums then need whole offsets only:

    c_u(p) = < key(p + u), query(p) >          s = T c            `shift_correlation`
    out(p) = sum_u a_u(p) value(p + u)         a = T' S           `shift_sum`

which costs (C + E) U instead of 4 (C + E) N products a cell and holds nothing larger than (U, H, W) besides the maps.
The gradient of each of the two is made of the two, and that of the locations goes through T.

At a whole number the bilinear weights have a kink: the derivative there is the one to the right and downward (the grid
square of a location is [floor, floor + 1)).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vod2.moved import moved
from vod2.ops.library import compiled_device_types
from vod2.ops.portable import is_portable

# Empty also where the extension was built before it had these kernels.
COMPILED = compiled_device_types() if hasattr(torch.ops.vod2, "shift_sum") else ()

SAMPLING_NORMALISERS = ("softmax", "linear")
__getattr__ = moved(__name__, {"NORMALISERS": f"{__name__}:SAMPLING_NORMALISERS"})

SUM_FLOOR = 1e-3
"""Smallest magnitude of the denominator of "linear", as a share of the sum of the magnitudes."""


def st_sampling(value: Tensor, key: Tensor, query: Tensor, locations: Tensor, normaliser: str = "softmax") -> Tensor:
    """Brings `value` to where `query` has what `key` has, among N locations around each cell.

    Args:
        value: (B, C, H, W), the map that is moved.
        key: (B, E, H, W), an embedding of the same map.
        query: (B, E, H, W), an embedding of the map that it is moved to.
        locations: (N, 2), dx and dy in cells, N at least 1.
        normaliser: "softmax", or "linear" for s / sum s as in equation 3. There, scores of both signs could cancel: a
            denominator of less than `SUM_FLOOR` times the sum of the magnitudes is replaced by that number with the
            denominator's sign (0 counts as positive), so the weights' magnitudes sum to 1000 at most; if all scores
            are 0, all weights are.

    Returns:
        (B, C, H, W) in the dtype of `value`. The computation runs in the widest of the input dtypes and at least in
        float32, also under autocast. Differentiable by all four, also twice. A location that is not finite gives NaN.

    Raises:
        ValueError: for a shape, a dtype, a device or a normaliser that does not fit.

    Example:
        >>> maps = torch.rand(3, 1, 8, 6, 7).unbind()
        >>> st_sampling(*maps, torch.tensor([[0.0, 0.0], [0.5, -1.5]])).shape
        torch.Size([1, 8, 6, 7])
    """
    if is_portable():
        return st_sampling_reference(value, key, query, locations, normaliser)
    _check_inputs(value, key, query, locations, normaliser)
    dtype = _compute_dtype(value, key, query, locations)
    with torch.autocast(value.device.type, enabled=False):
        offsets, bilinear = bilinear_matrix(locations.to(dtype), value.shape[2:])
        k, q, v = (_channels_last(tensor.to(dtype)) for tensor in (key, query, value))
        scores = shift_correlation(q, k, offsets) @ bilinear.T  # (B, H, W, N)
        weights = normalise(scores, normaliser) @ bilinear  # (B, H, W, U)
        out = shift_sum(weights, v, offsets).to(value.dtype)
        # In the order in which `value` came: layers that get maps of both orders mix them slowly.
        return out.permute(0, 3, 1, 2) if _has_channels_last(value) else _channels_first(out)


def st_sampling_reference(
    value: Tensor, key: Tensor, query: Tensor, locations: Tensor, normaliser: str = "softmax"
) -> Tensor:
    """`st_sampling` with `grid_sample`: N sampled copies of both maps in memory."""
    _check_inputs(value, key, query, locations, normaliser)
    dtype = _compute_dtype(value, key, query, locations)
    with torch.autocast(value.device.type, enabled=False):
        sampled_key, sampled_value = (_sample(tensor.to(dtype), locations.to(dtype)) for tensor in (key, value))
        scores = torch.einsum("bnehw,behw->bhwn", sampled_key, query.to(dtype))
        out = torch.einsum("bnchw,bhwn->bchw", sampled_value, normalise(scores, normaliser))
        return out.to(value.dtype)


def normalise(scores: Tensor, normaliser: str) -> Tensor:
    """Weights (..., N) of scores (..., N); see `st_sampling`."""
    if normaliser == "softmax":
        return scores.softmax(dim=-1)
    total, magnitude = (x.sum(dim=-1, keepdim=True) for x in (scores, scores.abs()))
    smallest = SUM_FLOOR * magnitude
    # + 0.0 makes a 0 of the -0.0 that a sum may be: copysign would take its sign.
    denominator = torch.where(total.abs() < smallest, torch.copysign(smallest, total + 0.0), total)
    # All scores 0: 0 / 1 instead of 0 / 0, whose gradient would be NaN.
    return scores / torch.where(magnitude == 0, 1.0, denominator)


def bilinear_matrix(locations: Tensor, size: Sequence[int]) -> tuple[list[tuple[int, int]], Tensor]:
    """The whole offsets (dx, dy) that bilinear sampling at `locations` (N, 2) needs, and the weights (N, U) of each.

    Locations beyond a map of `size` (H, W) are moved to where all is zero, too. Weights of 0 are left out, unless a
    gradient has to flow through them.
    """
    height, width = size
    differentiable = locations.requires_grad and torch.is_grad_enabled()
    # A constant: the derivative by a location is that within its grid square.
    corner = locations.detach().floor()
    x, y = (locations - corner).unbind(dim=1)
    weights = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], dim=1).flatten()  # (N * 4)
    limit = corner.new_tensor([width, height])
    # Beyond -limit - 1 .. limit all corners are outside: offsets stay small enough for indices.
    whole = torch.maximum(torch.minimum(corner.nan_to_num(), limit), -limit - 1).long()
    columns: dict[tuple[int, int], int] = {}  # {offset: its column}; locations that lie together share corners
    entries, places = [], []
    needed = [True] * len(weights) if differentiable else (weights != 0).tolist()  # NaN is needed
    for row, (left, top) in enumerate(whole.tolist()):
        for tap in range(4):  # the corners in the order of `weights`: right is odd, below is 2 or 3
            if not needed[4 * row + tap]:
                continue
            offset = (left + tap % 2, top + tap // 2)
            entries.append(4 * row + tap)
            places.append((row, columns.setdefault(offset, len(columns))))
    # The matrix is filled by an op that passes gradients on to the weights, and by them to the locations.
    flat = torch.tensor([row * len(columns) + column for row, column in places], device=locations.device)
    chosen = weights[torch.tensor(entries, device=locations.device)]
    matrix = locations.new_zeros(len(locations) * len(columns)).index_copy(0, flat, chosen)
    return list(columns), matrix.unflatten(0, (len(locations), len(columns)))


def shift_correlation(query: Tensor, key: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """c_u(p) = < query(p), key(p + u) >, 0 where p + u is outside: (B, H, W, E) twice -> (B, H, W, U).

    Both maps have their channels last and are float32 or float64.
    """
    if query.device.type in COMPILED:
        return torch.ops.vod2.shift_correlation(query, key, *_columns(offsets))
    return ShiftCorrelation.apply(query, key, tuple(offsets))


def shift_sum(weights: Tensor, value: Tensor, offsets: Sequence[tuple[int, int]], transposed: bool = False) -> Tensor:
    """out(p) = sum_u weights_u(p) value(p + u), zero outside: (B, H, W, U) and (B, H, W, C) -> (B, H, W, C).

    `transposed`: its adjoint in `value`, out(p) = sum_u weights_u(p - u) value(p - u).
    """
    if value.device.type in COMPILED:
        return torch.ops.vod2.shift_sum(weights, value, *_columns(offsets), transposed)
    return ShiftSum.apply(weights, value, tuple(offsets), transposed)


class ShiftCorrelation(torch.autograd.Function):
    """`shift_correlation` on shifted views of whole maps."""

    @staticmethod
    def forward(ctx, query, key, offsets):
        # Saved as they came, so that a second derivative finds the tensors of the graph.
        ctx.save_for_backward(query, key)
        ctx.offsets = offsets
        query, key = query.contiguous(), key.contiguous()  # gradients come with their channels first
        out = query.new_zeros(*query.shape[:3], len(offsets))
        for u, (here, there) in enumerate(_overlaps(query, offsets)):
            out[here][..., u] = torch.linalg.vecdot(query[here], key[there])
        return out

    @staticmethod
    def backward(ctx, grad):
        query, key = ctx.saved_tensors
        grad_query = ShiftSum.apply(grad, key, ctx.offsets, False) if ctx.needs_input_grad[0] else None
        grad_key = ShiftSum.apply(grad, query, ctx.offsets, True) if ctx.needs_input_grad[1] else None
        return grad_query, grad_key, None


class ShiftSum(torch.autograd.Function):
    """`shift_sum` on shifted views of whole maps."""

    @staticmethod
    def forward(ctx, weights, value, offsets, transposed):
        ctx.save_for_backward(weights, value)
        ctx.offsets, ctx.transposed = offsets, transposed
        value = value.contiguous()
        out = torch.zeros_like(value)
        for u, (here, there) in enumerate(_overlaps(value, offsets)):
            # The adjoint sends to p + u what the sum reads there.
            target, source = (there, here) if transposed else (here, there)
            out[target].addcmul_(weights[here][..., u : u + 1], value[source])
        return out

    @staticmethod
    def backward(ctx, grad):
        weights, value = ctx.saved_tensors
        grad_weights = grad_value = None
        if ctx.needs_input_grad[0]:
            query, key = (value, grad) if ctx.transposed else (grad, value)
            grad_weights = ShiftCorrelation.apply(query, key, ctx.offsets)
        if ctx.needs_input_grad[1]:
            grad_value = ShiftSum.apply(weights, grad, ctx.offsets, not ctx.transposed)
        return grad_weights, grad_value, None, None


def _overlaps(maps: Tensor, offsets: Sequence[tuple[int, int]]):
    """For each offset the cells p (B, H, W, ...) for which p + u is inside, and those p + u, as two indices."""
    height, width = maps.shape[1:3]
    for dx, dy in offsets:
        # An offset beyond the map leaves an empty rectangle, not one that counts from the other end.
        left, top = min(max(0, -dx), width), min(max(0, -dy), height)
        right, bottom = max(min(width, width - dx), left), max(min(height, height - dy), top)
        here = (slice(None), slice(top, bottom), slice(left, right))
        yield here, (slice(None), slice(top + dy, bottom + dy), slice(left + dx, right + dx))


def _columns(offsets: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [dx for dx, _ in offsets], [dy for _, dy in offsets]


def _channels_last(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C)


def _has_channels_last(maps: Tensor) -> bool:
    return maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()


def _channels_first(maps: Tensor) -> Tensor:
    if len(maps) == 0:
        return maps.permute(0, 3, 1, 2).contiguous()
    # Map by map: PyTorch transposes a matrix several times faster than it permutes four axes.
    out = torch.stack([cells.t().contiguous() for cells in maps.flatten(1, 2)])  # (B, C, H * W)
    return out.unflatten(2, maps.shape[1:3])  # (B, C, H, W)


def _sample(maps: Tensor, locations: Tensor) -> Tensor:
    """(B, N, C, H, W): `maps` (B, C, H, W) at every cell plus each location."""
    B, C, H, W = maps.shape
    y, x = torch.meshgrid(torch.arange(H).to(locations), torch.arange(W).to(locations), indexing="ij")
    points = torch.stack([x, y], dim=-1) + locations[:, None, None]  # (N, H, W, 2)
    grid = (2 * points + 1) / points.new_tensor([W, H]) - 1
    grid = grid.flatten(0, 1).expand(B, -1, -1, -1)  # (B, N * H, W, 2)
    return F.grid_sample(maps, grid, align_corners=False).unflatten(2, (-1, H)).transpose(1, 2)


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _check_inputs(value: Tensor, key: Tensor, query: Tensor, locations: Tensor, normaliser: str) -> None:
    if value.dim() != 4:
        raise ValueError(f"value must have shape (B, C, H, W), got {list(value.shape)}")
    B, _, H, W = value.shape
    for name, tensor in (("key", key), ("query", query)):
        if tensor.dim() != 4 or (tensor.shape[0], *tensor.shape[2:]) != (B, H, W) or tensor.shape[1] != key.shape[1]:
            raise ValueError(
                f"{name} must have shape (B, E, H, W) with B, H, W = {B}, {H}, {W} of value and the E of key, "
                f"got {list(tensor.shape)}"
            )
    if locations.dim() != 2 or locations.shape[1] != 2 or len(locations) == 0:
        raise ValueError(f"locations must have shape (N, 2) with N at least 1, got {list(locations.shape)}")
    for name, tensor in (("value", value), ("key", key), ("query", query), ("locations", locations)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.device != value.device:
            raise ValueError(f"{name} is on {tensor.device}, but value is on {value.device}: move them to one device")
    if normaliser not in SAMPLING_NORMALISERS:
        raise ValueError(f"normaliser must be one of {', '.join(SAMPLING_NORMALISERS)}, got {normaliser!r}")


def _fake_correlation(query, key, dx, dy):
    return query.new_empty((*query.shape[:3], len(dx)))


def _fake_sum(weights, value, dx, dy, transposed):
    return value.new_empty(value.shape)


def _save_correlation(ctx, inputs, output):
    query, key, *ctx.offsets = inputs
    ctx.save_for_backward(query, key)


def _save_sum(ctx, inputs, output):
    weights, value, *ctx.offsets, ctx.transposed = inputs
    ctx.save_for_backward(weights, value)


def _correlation_backward(ctx, grad):
    query, key = ctx.saved_tensors
    shift_sum = torch.ops.vod2.shift_sum
    grad_query = shift_sum(grad, key, *ctx.offsets, False) if ctx.needs_input_grad[0] else None
    grad_key = shift_sum(grad, query, *ctx.offsets, True) if ctx.needs_input_grad[1] else None
    return grad_query, grad_key, None, None


def _sum_backward(ctx, grad):
    weights, value = ctx.saved_tensors
    grad_weights = grad_value = None
    if ctx.needs_input_grad[0]:
        query, key = (value, grad) if ctx.transposed else (grad, value)
        grad_weights = torch.ops.vod2.shift_correlation(query, key, *ctx.offsets)
    if ctx.needs_input_grad[1]:
        grad_value = torch.ops.vod2.shift_sum(weights, grad, *ctx.offsets, not ctx.transposed)
    return grad_weights, grad_value, None, None, None


if COMPILED:
    torch.library.register_fake("vod2::shift_correlation", _fake_correlation)
    torch.library.register_fake("vod2::shift_sum", _fake_sum)
    torch.library.register_autograd("vod2::shift_correlation", _correlation_backward, setup_context=_save_correlation)
    torch.library.register_autograd("vod2::shift_sum", _sum_backward, setup_context=_save_sum)
