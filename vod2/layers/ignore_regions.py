"""Parts of an image whose objects are not annotated one by one."""

from torch import Tensor


def covered(boxes: Tensor, regions: Tensor, share: float) -> Tensor:
    """Which boxes have more than `share` of their own area in one of the regions.

    Args:
        boxes: (N, 4) xyxy.
        regions: (G, 4) xyxy, in the same pixels.
        share: in [0, 1).

    Returns:
        (N,) bool; False for boxes without area.

    Example:
        >>> import torch
        >>> from vod2.layers import covered
        >>> region = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> covered(torch.tensor([[6.0, 0.0, 12.0, 10.0], [4.0, 0.0, 16.0, 10.0]]), region, 0.5).tolist()
        [True, False]
    """
    regions = regions.to(boxes.dtype)
    corner, end = boxes[:, None, :2].maximum(regions[:, :2]), boxes[:, None, 2:].minimum(regions[:, 2:])
    inside = (end - corner).clamp(min=0).prod(dim=2)  # (N, G)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    # A product in place of a quotient: boxes without area compare 0 with 0.
    return (inside > share * area[:, None]).any(dim=1)
