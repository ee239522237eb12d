"""Position-sensitive RoIAlign as sums over few cells: many times as fast as torchvision's operator on a CPU.

B: maps, N: boxes of a map, M: those of all maps, P: bins on a side, D: outputs of a bin, H, W: cells, S: samples of a
bin along an axis, T: cells that they touch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def position_sensitive_bags(table: Tensor, boxes: Sequence[Tensor], scale: float, sampling_ratio: int) -> Tensor:
    """A bin is the mean of bilinear samples of its own D numbers of a cell: a weighted sum over the cells it touches.

    The weights of a bin are the product of those of its rows and of its columns, so that a cell is read once, whatever
    the number of samples. Computed in the dtype of the table, at least float32. Boxes get no gradient.

    Args:
        table: (B, H, W, P*P, D), bins row by row.
        boxes: B times (N, 4) xyxy in pixels, finite; N may be 0.
        scale: cells per pixel, 1 / stride of the maps.
        sampling_ratio: S; 0 for as many as the bin has cells, rounded up.

    Returns:
        (M, D, P, P), image after image: that of `torchvision.ops.ps_roi_align` of the map with D*P*P channels.

    Example:
        >>> import torch
        >>> table = torch.arange(4.0).reshape(4, 1).expand(1, 8, 8, 4, 1)  # P = 2, D = 1
        >>> position_sensitive_bags(table, [torch.tensor([[16.0, 16.0, 96.0, 96.0]])], 1 / 16, 2).tolist()
        [[[[0.0, 1.0], [2.0, 3.0]]]]
    """
    table = table.to(torch.promote_types(table.dtype, torch.float32))
    _, H, W, bins, D = table.shape
    P = math.isqrt(bins)
    corners = torch.cat(list(boxes)).detach().to(table.dtype) * scale - 0.5  # (M, 4); the centre of a cell is whole
    if len(corners) == 0:
        return table.sum(dim=(0, 1, 2, 3))[:, None, None].expand(0, D, P, P)
    rows, row_weights = _cells_of_bins(corners[:, 1], corners[:, 3], P, H, sampling_ratio)  # (M, P, T) each
    columns, column_weights = _cells_of_bins(corners[:, 0], corners[:, 2], P, W, sampling_ratio)  # (M, P, T') each

    # The table becomes one list of entries (B*H*W*P*P, D). Bin (i, j) of the cell (map, row, column) stands at
    #   ((map * H + row) * W + column) * P*P + i * P + j,
    # a sum of a part that only the bin's row knows and one that only its column knows.
    counts = torch.tensor([len(boxes_of_map) for boxes_of_map in boxes], device=table.device)
    map_of_box = torch.arange(len(boxes), device=table.device).repeat_interleave(counts)  # (M,)
    bin_numbers = torch.arange(P, device=table.device)[:, None]  # i or j
    row_part = (rows + map_of_box[:, None, None] * H) * (W * bins) + bin_numbers * P  # (M, P, T)
    column_part = columns * bins + bin_numbers  # (M, P, T')
    entries = row_part[:, :, None, :, None] + column_part[:, None, :, None, :]  # (M, P, P, T, T')
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]

    # A bag is what one bin of one box adds up.
    pooled = functional.embedding_bag(
        entries.flatten(3).flatten(0, 2),  # (M * P * P, T * T')
        table.reshape(-1, D),
        mode="sum",
        per_sample_weights=weights.flatten(3).flatten(0, 2),
    )
    return pooled.unflatten(0, (-1, P, P)).permute(0, 3, 1, 2)  # (M * P * P, D) -> (M, D, P, P)


def _cells_of_bins(start: Tensor, end: Tensor, bins: int, length: int, samples: int) -> tuple[Tensor, Tensor]:
    """The cells (N, P, T) that the bins of spans (N,) touch along one axis of `length` cells, and their weights.

    A sample counts as 0 from one cell outside on, and is the border's value until there.
    """
    # Where the samples lie, and what each counts.
    size = (end - start)[:, None, None] / bins  # (N, 1, 1), cells
    if samples == 0:
        count = size.ceil().clamp(min=1)
    else:
        count = torch.full_like(size, samples)
    sample = torch.arange(int(count.max()), dtype=start.dtype, device=start.device)  # (S,), the last not in all spans
    bin_ = torch.arange(bins, dtype=start.dtype, device=start.device)[:, None]
    place = start[:, None, None] + size * (bin_ + (sample + 0.5) / count)  # (N, P, S)
    weight = ((place >= -1) & (place <= length) & (sample < count)) / count

    # A sample is a mean of the cells below and above it; one beyond the border is the border cell.
    place = place.clamp(0, length - 1)
    low = place.floor()
    share = place - low  # of the cell above

    # Samples of one bin that touch the same cell add up there: cells are counted from the lowest of the bin.
    first = low.amin(dim=2, keepdim=True)  # that of the first sample, but of a span that ends before it begins
    offset = torch.where(weight > 0, low - first, 0).long()
    width = int(offset.max()) + 2  # T: the farthest cell below a sample, and the one above it
    weights = place.new_zeros(*place.shape[:2], width)
    weights.scatter_add_(2, offset, weight * (1 - share))
    weights.scatter_add_(2, offset + 1, weight * share)
    cells = first.long() + torch.arange(width, device=start.device)  # (N, P, T)
    return cells.clamp(max=length - 1), weights  # what lies beyond the last cell has weight 0
