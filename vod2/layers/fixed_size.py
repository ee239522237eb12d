"""Selections whose size no value decides, for graphs that are traced once (docs/export.md)."""

import torch
from torch import Tensor


def first_rows(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` rows where `mask` (R,) is True, in their order, filled up with others where there are fewer.

    Args:
        mask: (R,) bool.
        count: at most R.

    Returns:
        Rows (count,) int64, and (count,) bool, True for those that only fill up.

    Example:
        >>> import torch
        >>> from vod2.layers import first_rows
        >>> rows, is_filler = first_rows(torch.tensor([False, True, False, True]), 3)
        >>> rows[:2].tolist(), is_filler.tolist()
        ([1, 3], [False, False, True])
    """
    # No two rows that count have the same number, so the order is theirs.
    numbers = torch.arange(len(mask), 0, -1, device=mask.device)
    number, rows = torch.where(mask, numbers, 0).topk(count)
    return rows, number == 0
