"""Warping, FlowNetS, DFF and FGFA as they are described, cell by cell and layer by layer.

Sources: section 3 of Zhu et al. (CVPR 2017, DFF) and of Zhu et al. (ICCV 2017, FGFA), FlowNetSimple of Dosovitskiy et
al. (ICCV 2015). C: channels, H, W: cells of a map.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def bilinear(map_: Tensor, x: float, y: float) -> Tensor:
    """(C,): `map_` (C, H, W) at column x and row y; beyond its outermost cells it goes on with their values."""
    _, height, width = map_.shape
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = min(int(x), max(width - 2, 0)), min(int(y), max(height - 2, 0))
    value = torch.zeros_like(map_[:, 0, 0])
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            if row_weight * column_weight > 0:
                value = value + row_weight * column_weight * map_[:, row, column]
    return value


def warped(map_: Tensor, flow: Tensor, legacy: bool = False) -> Tensor:
    """(C, H, W) and a flow (2, H, W) in cells -> (C, H, W)."""
    _, height, width = map_.shape
    out = torch.empty_like(map_)
    for row in range(height):
        for column in range(width):
            x, y = column + flow[0, row, column].item(), row + flow[1, row, column].item()
            if legacy:
                x, y = x * width / (width - 1) - 0.5, y * height / (height - 1) - 0.5
            out[:, row, column] = bilinear(map_, x, y)
    return out


def flownet(state: State, current: Tensor, reference: Tensor) -> tuple[Tensor, Tensor | None]:
    """Images (3, h, w) of a normalisation that divides by 1 -> flow (2, H, W) and, if there are weights, scale map."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.1 * x)

    def double(x: Tensor, name: str, like: Tensor) -> Tensor:
        """Transposed convolution without padding, cut from (1, 1) on to the size of `like`."""
        x = F.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2)
        return x[..., 1 : 1 + like.shape[-2], 1 : 1 + like.shape[-1]]

    def step(x: Tensor, skip: Tensor, number: int) -> Tensor:
        up, flow = double(x, f"expand.{number}", skip), conv(x, f"predict.{number}")
        return torch.cat([skip, leaky(up), double(flow, f"upsample.{number}", skip)], dim=1)

    x = mean_of_2x2(torch.cat([current, reference]) / 255)[None]
    conv2 = leaky(conv(leaky(conv(x, "contract.0", 2)), "contract.1", 2))
    conv3 = leaky(conv(leaky(conv(conv2, "contract.2", 2)), "contract.3"))
    conv4 = leaky(conv(leaky(conv(conv3, "contract.4", 2)), "contract.5"))
    conv5 = leaky(conv(leaky(conv(conv4, "contract.6", 2)), "contract.7"))
    conv6 = leaky(conv(leaky(conv(conv5, "contract.8", 2)), "contract.9"))
    x = step(step(step(step(conv6, conv5, 0), conv4, 1), conv3, 2), conv2, 3)
    x = mean_of_2x2(x[0])[None]
    scale = 1 + F.conv2d(x, state["scale.weight"])[0] if "scale.weight" in state else None
    return 2.5 * conv(x, "flow")[0], scale


def mean_of_2x2(x: Tensor) -> Tensor:
    """(C, h, w) -> (C, ceil(h/2), ceil(w/2)); at an odd edge the mean of what is there."""
    _, height, width = x.shape
    rows = [
        torch.stack([x[:, i : i + 2, j : j + 2].mean(dim=(1, 2)) for j in range(0, width, 2)], dim=1)
        for i in range(0, height, 2)
    ]
    return torch.stack(rows, dim=1)


def dff(state: State, image: Tensor, keyframe_image: Tensor, keyframe_map: Tensor) -> Tensor:
    """(C, H, W): the keyframe's map at the place of the current frame's things, times the scale map."""
    flow, scale = flownet(state, image, keyframe_image)
    return warped(keyframe_map, flow) * scale


def embedding(state: State, map_: Tensor) -> Tensor:
    """(C, H, W) -> (E, H, W): 1x1, 3x3 and 1x1 convolution with ReLU between them."""
    x = map_[None]
    for number in (0, 2, 4):
        weight = state[f"{number}.weight"]
        x = F.conv2d(x, weight, state[f"{number}.bias"], padding=weight.shape[-1] // 2)
        x = x.relu() if number < 4 else x
    return x[0]


def fgfa(
    flow_state: State, embedding_state: State, image: Tensor, map_: Tensor, images: list[Tensor], maps: list[Tensor]
) -> Tensor:
    """(C, H, W): the supports' maps, warped, weighted cell by cell with exp(cosine) of the warped embeddings."""
    own = embedding(embedding_state, map_)
    moved = []
    for support_image, support in zip(images, maps, strict=True):
        flow, _ = flownet(flow_state, image, support_image)
        moved.append((warped(support, flow), warped(embedding(embedding_state, support), flow)))
    out = torch.zeros_like(map_)
    _, height, width = map_.shape
    for row in range(height):
        for column in range(width):
            a = own[:, row, column]
            weights = []
            for _, embedded in moved:
                b = embedded[:, row, column]
                weights.append(math.exp((a @ b / ((a.norm() + 1e-10) * (b.norm() + 1e-10))).item()))
            for (value, _), weight in zip(moved, weights, strict=True):
                out[:, row, column] += weight / sum(weights) * value[:, row, column]
    return out
