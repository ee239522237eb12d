"""The bias that the relative position of two boxes adds to their attention (Hu et al., Relation Networks, 2018).

Letters: N query boxes, M key boxes, h heads, F = dim / 8 frequencies.

For query box i and key box j, with centres (cx, cy), widths w and heights h in pixels:

    p = ( log(|cx_i - cx_j| / w_i + eps), log(|cy_i - cy_j| / h_i + eps), log(w_i / w_j), log(h_i / h_j) )
    u = scale * p / wavelength^(k / F)                 k = 0 .. F-1
    E = for each of the four p: F sines of u, then F cosines of u      (dim numbers)
    bias = log(max(weight E + bias, floor))                            (h numbers)

The embedding E is dim / h times larger than the result. The compiled op computes it pair by pair, forward and backward,
and never stores it; without the op, `relation_geometry_bias` works through the query boxes in chunks.

The boxes are constants: no gradient flows to them. The gradient of the logarithm is 1 / z above the floor and 0 below.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vod2.ops.library import compiled_device_types
from vod2.ops.portable import is_portable

MIN_SIZE = 1e-3
"""Smallest width and height of a box in pixels: smaller or negative ones count as this, so none divides by zero."""

CHUNK_NUMBERS = 1 << 22
"""How many numbers of the embedding the Python version holds at a time (16 MiB in float32)."""


def relation_geometry_bias(
    query_boxes: Tensor,
    key_boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    scale: float = 100.0,
    wavelength: float = 1000.0,
    eps: float = 1e-3,
    floor: float = 1e-6,
    offset: float = 0.0,
) -> Tensor:
    """Computes the bias (h, N, M) that is added to attention logits before the softmax.

    Args:
        query_boxes: (N, 4) xyxy in pixels; N may be 0.
        key_boxes: (M, 4) xyxy in pixels; M may be 0.
        weight: (h, dim) of the linear layer on the embedding; dim is a multiple of 8 (64 in the literature).
        bias: (h,) of the same layer.
        scale: factor of the embedded quantities, before the division by the wavelengths.
        wavelength: base of the geometric series of wavelengths, positive.
        eps: added to the relative distances before their logarithm, positive.
        floor: smallest value that enters the last logarithm, positive.
        offset: pixels added to widths and heights: 0, or 1 for weights trained with the older box convention.

    Returns:
        (h, N, M) in the dtype of `weight`, at least ``log(floor)``. The computation runs in the widest of the input
        dtypes and at least in float32, also under autocast. Differentiable once, by `weight` and `bias`.

    Raises:
        ValueError: for a shape, a dtype, a device or a constant that does not fit.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 20.0, 30.0]])
        >>> relation_geometry_bias(boxes, boxes, torch.rand(16, 64), torch.zeros(16)).shape
        torch.Size([16, 2, 2])
    """
    constants = (scale, wavelength, eps, floor, offset)
    if is_portable():
        return relation_geometry_bias_reference(query_boxes, key_boxes, weight, bias, *constants)
    if weight.device.type in compiled_device_types():
        return torch.ops.vod2.relation_geometry_bias(query_boxes, key_boxes, weight, bias, *constants)
    return relation_geometry_bias_chunked(query_boxes, key_boxes, weight, bias, *constants)


def relation_geometry_bias_reference(
    query_boxes: Tensor,
    key_boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: float = 100.0,
    wavelength: float = 1000.0,
    eps: float = 1e-3,
    floor: float = 1e-6,
    offset: float = 0.0,
) -> Tensor:
    """`relation_geometry_bias` in plain PyTorch, with the whole embedding (N, M, dim) in memory."""
    _check_inputs(query_boxes, key_boxes, weight, bias, wavelength, eps, floor)
    # The widest of all, so that float64 boxes are not rounded to the dtype of the weight before the logarithms.
    dtype = torch.float32
    for tensor in (query_boxes, key_boxes, weight, bias):
        dtype = torch.promote_types(dtype, tensor.dtype)
    query, key = query_boxes.detach().to(dtype), key_boxes.detach().to(dtype)
    with torch.autocast(weight.device.type, enabled=False):
        pairs = pairwise_geometry(query, key, eps, offset)
        embedding = sinusoidal_embedding(pairs, weight.shape[1] // 8, scale, wavelength)
        # The floor is the ReLU with a logarithm that stays finite: a pair below it counts for next to nothing.
        logits = F.linear(embedding, weight.to(dtype), bias.to(dtype))  # (N, M, h)
        return logits.permute(2, 0, 1).clamp(min=floor).log().to(weight.dtype)  # (h, N, M)


def relation_geometry_bias_chunked(
    query_boxes: Tensor, key_boxes: Tensor, weight: Tensor, bias: Tensor, *constants: float
) -> Tensor:
    """`relation_geometry_bias_reference` for a few query boxes at a time, in memory that does not grow with N.

    Its backward computes each chunk again instead of keeping its embedding.
    """
    _check_inputs(query_boxes, key_boxes, weight, bias)
    numbers_per_query = max(1, key_boxes.shape[0] * weight.shape[1])
    rows = max(1, CHUNK_NUMBERS // numbers_per_query)
    # A single chunk fits into memory, so its backward may keep the embedding.
    if query_boxes.shape[0] <= rows:
        return relation_geometry_bias_reference(query_boxes, key_boxes, weight, bias, *constants)
    arguments = (key_boxes, weight, bias, *constants)
    chunks = [
        checkpoint(relation_geometry_bias_reference, chunk, *arguments, use_reentrant=False, preserve_rng_state=False)
        for chunk in query_boxes.split(rows)
    ]
    return torch.cat(chunks, dim=1)


def pairwise_geometry(query_boxes: Tensor, key_boxes: Tensor, eps: float = 1e-3, offset: float = 0.0) -> Tensor:
    """Relative position and size of all pairs of xyxy boxes (N, 4) and (M, 4) in log space: (N, M, 4), dx dy dw dh."""
    query_centers, query_sizes = _centers_and_sizes(query_boxes, offset)
    key_centers, key_sizes = _centers_and_sizes(key_boxes, offset)
    distances = (query_centers[:, None] - key_centers[None]).abs()
    # By the size of the query, so that the relation is the same at every scale; eps for boxes on the same centre.
    position = (distances / query_sizes[:, None] + eps).log()
    size = (query_sizes[:, None] / key_sizes[None]).log()
    return torch.cat([position, size], dim=-1)


def sinusoidal_embedding(
    values: Tensor, num_frequencies: int, scale: float = 100.0, wavelength: float = 1000.0
) -> Tensor:
    """Embeds each of the last axis' C numbers as F sines, then F cosines: (..., C) -> (..., 2 F C)."""
    # In float64, so that frequencies are rounded once: angles of hundreds of radians magnify their errors.
    exponents = torch.arange(num_frequencies, dtype=torch.float64, device=values.device) / num_frequencies
    frequencies = (scale / wavelength**exponents).to(values.dtype)
    angles = values[..., None] * frequencies  # (..., C, F)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # (..., 2 F C)


def _centers_and_sizes(boxes: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    top_left, bottom_right = boxes[:, :2], boxes[:, 2:]
    return (top_left + bottom_right) / 2, (bottom_right - top_left + offset).clamp(min=MIN_SIZE)


def _check_inputs(
    query_boxes: Tensor,
    key_boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    wavelength: float = 1.0,
    eps: float = 1.0,
    floor: float = 1.0,
) -> None:
    for name, boxes in (("query_boxes", query_boxes), ("key_boxes", key_boxes)):
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{name} must have shape (count, 4), got {list(boxes.shape)}")
    if weight.dim() != 2 or weight.shape[1] == 0 or weight.shape[1] % 8:
        raise ValueError(
            f"weight must have shape (heads, dim) with dim a positive multiple of 8, got {list(weight.shape)}"
        )
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must have shape (heads,) with the {weight.shape[0]} heads of weight, got {list(bias.shape)}"
        )
    for name, tensor in (("query_boxes", query_boxes), ("key_boxes", key_boxes), ("weight", weight), ("bias", bias)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.device != weight.device:
            raise ValueError(f"{name} is on {tensor.device}, but weight is on {weight.device}: move them to one device")
    for name, value in (("wavelength", wavelength), ("eps", eps), ("floor", floor)):
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")


def _fake_forward(query_boxes, key_boxes, weight, bias, *constants):
    _check_inputs(query_boxes, key_boxes, weight, bias)
    return weight.new_empty((weight.shape[0], query_boxes.shape[0], key_boxes.shape[0]))


def _fake_backward(grad, query_boxes, key_boxes, weight, bias, *constants):
    return weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _save_for_backward(ctx, inputs, output):
    query_boxes, key_boxes, weight, bias, *ctx.constants = inputs
    ctx.save_for_backward(query_boxes, key_boxes, weight, bias)


def _backward(ctx, grad):
    grad_weight, grad_bias = torch.ops.vod2.relation_geometry_bias_backward(grad, *ctx.saved_tensors, *ctx.constants)
    # The boxes are constants, see above.
    return None, None, grad_weight, grad_bias, *[None] * len(ctx.constants)


def _refuse_second_derivative(ctx, *grads):
    raise NotImplementedError("relation_geometry_bias is differentiable once: call backward without create_graph")


if compiled_device_types():
    torch.library.register_fake("vod2::relation_geometry_bias", _fake_forward)
    torch.library.register_fake("vod2::relation_geometry_bias_backward", _fake_backward)
    torch.library.register_autograd("vod2::relation_geometry_bias", _backward, setup_context=_save_for_backward)
    torch.library.register_autograd("vod2::relation_geometry_bias_backward", _refuse_second_derivative)
