"""Position-sensitive pooling and voting as R-FCN's equation 1 writes them: loops over boxes, bins and samples.

Sources: Dai et al., R-FCN (NeurIPS 2016), section 2; a bin's samples are RoIAlign's (He et al., Mask R-CNN, section 3),
whose cell (0, 0) has its centre at half a cell.
"""

import math

import torch
from torch import Tensor


def bilinear(channel: Tensor, y: float, x: float) -> Tensor:
    """A map (H, W) between the centres of its cells: 0 from one cell outside on, the border's value until there."""
    height, width = channel.shape
    if y < -1 or y > height or x < -1 or x > width:
        return channel.new_zeros(())
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    value = channel.new_zeros(())
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            if weight > 0:
                value = value + weight * channel[row, column]
    return value


def position_sensitive_pool(maps: Tensor, box: list[float], side: int, scale: float, samples: int) -> Tensor:
    """One image's maps (D * side * side, H, W) and a box xyxy in pixels -> (D, side, side).

    Bin (i, j) of output d is the mean of samples * samples values of channel d * side * side + i * side + j.
    """
    x1, y1, x2, y2 = (corner * scale - 0.5 for corner in box)
    outputs = maps.shape[0] // side**2
    result = []
    for d in range(outputs):
        for i in range(side):
            for j in range(side):
                channel = maps[d * side**2 + i * side + j]
                total = maps.new_zeros(())
                for a in range(samples):
                    for b in range(samples):
                        y = y1 + (y2 - y1) / side * (i + (a + 0.5) / samples)
                        x = x1 + (x2 - x1) / side * (j + (b + 0.5) / samples)
                        total = total + bilinear(channel, y, x)
                result.append(total / samples**2)
    return torch.stack(result).reshape(outputs, side, side)


def rfcn_head(
    state: dict[str, Tensor], feature: Tensor, boxes: Tensor, *, classes: int, side: int, scale: float, samples: int
) -> tuple[Tensor, Tensor]:
    """One image's feature map (C, H, W) and its boxes (N, 4) -> scores (N, classes + 1), foreground deltas (N, 4).

    `state` holds cls_score and bbox_pred, each with weight (channels, C, 1, 1) and bias.
    """

    def vote(name: str) -> Tensor:
        weight, bias = state[f"{name}.weight"][:, :, 0, 0], state[f"{name}.bias"]
        maps = torch.einsum("oc,chw->ohw", weight, feature) + bias[:, None, None]
        pooled = [position_sensitive_pool(maps, box, side, scale, samples) for box in boxes.tolist()]
        return torch.stack([one.sum(dim=(1, 2)) / side**2 for one in pooled])

    scores, deltas = vote("cls_score"), vote("bbox_pred")
    assert scores.shape[1] == classes + 1 and deltas.shape[1] == 8
    return scores, deltas[:, 4:]
