"""R-FCN: score and box maps are made once for a frame, and a RoI takes from each of its bins the maps of that bin.

Source: Dai et al., R-FCN: Object Detection via Region-based Fully Convolutional Networks (NeurIPS 2016), section 2.
B: frames, N: proposals of a frame, M: those of all frames, C: channels, K: classes, P: bins on a side, D: outputs of a
RoI, K + 1 scores and 8 deltas.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import ps_roi_align, roi_align

from vod2.d2 import ROI_BOX_HEAD_REGISTRY, ROI_HEADS_REGISTRY, Boxes, CfgNode, ShapeSpec, configurable
from vod2.errors import UserError
from vod2.layers import init_normal
from vod2.layers.ps_roi_bags import position_sensitive_bags
from vod2.modeling.roi_heads.predictor import VideoBoxPredictor
from vod2.modeling.roi_heads.video_roi_heads import VideoROIHeads
from vod2.ops import is_portable

NUM_DELTAS = 8
"""Deltas of a RoI: 4 of the background, which nobody reads, then the 4 that all classes share (R-FCN's own layout)."""

_SMALLEST = 1e-2  # pixels to which an empty box is widened


def position_sensitive_align(
    maps: Tensor, boxes: Sequence[Tensor], resolution: int, scale: float, sampling_ratio: int
) -> Tensor:
    """Equation 1 of R-FCN before its vote: bin (i, j) of output d is pooled from channel (d * P + i) * P + j alone.

    A bin is the mean of bilinear samples (RoIAlign with its half-pixel offset), as in the other heads; R-FCN's own
    pooling rounds boxes and bins to whole cells, of which an object of 64 pixels has four on a side. Computed in the
    dtype of the maps, at least float32. Boxes get no gradient.

    Args:
        maps: (B, D*P*P, H, W).
        boxes: B times (N, 4) xyxy in pixels, finite; N may be 0.
        resolution: P.
        scale: cells per pixel, 1 / stride of the maps.
        sampling_ratio: samples of a bin along each axis; 0 for as many as the bin has cells, rounded up.

    Returns:
        (M, D, P, P), image after image.

    Example:
        >>> import torch
        >>> maps = torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, 4, 8, 8)  # D = 1, P = 2
        >>> position_sensitive_align(maps, [torch.tensor([[16.0, 16.0, 96.0, 96.0]])], 2, 1 / 16, 2).tolist()
        [[[[0.0, 1.0], [2.0, 3.0]]]]
    """
    dtype = torch.promote_types(maps.dtype, torch.float32)
    numbered = []
    for number, boxes_of_map in enumerate(boxes):
        numbered.append(functional.pad(boxes_of_map.to(dtype), (1, 0), value=number))  # (N, 5)
    rois = torch.cat(numbered)  # (M, 5)
    # ps_roi_align divides by the number of samples, which is 0 where a box is empty and decides about it.
    rois[:, 3:] += _SMALLEST * (rois[:, 3:] == rois[:, 1:3])
    if is_portable():
        return _bins_as_rois(maps.to(dtype), rois, resolution, scale, sampling_ratio)
    return ps_roi_align(maps.to(dtype), rois, resolution, scale, sampling_ratio)


def _bins_as_rois(maps: Tensor, rois: Tensor, resolution: int, scale: float, sampling_ratio: int) -> Tensor:
    """`ps_roi_align` by RoIAlign, which every runtime has: each bin is a RoI of one bin, on the maps of that bin.

    maps (B, D*P*P, H, W), rois (M, 5) with the number of the map and xyxy -> (M, D, P, P).
    """
    P, bins = resolution, resolution**2
    of_bins = maps.unflatten(1, (-1, bins)).transpose(1, 2).flatten(0, 1)  # (B, D*P*P, H, W) -> (B*P*P, D, H, W)
    number, first, last = rois[:, :1], rois[:, None, 1:3], rois[:, None, 3:]  # (M, 1), (M, 1, 2) twice
    place = torch.arange(bins, dtype=rois.dtype, device=rois.device)  # bins row by row
    row = (place / P).floor()
    corner = torch.stack([place - row * P, row], dim=1)  # (P*P, 2), x and y
    size = (last - first) / P
    start = first + corner * size  # (M, P*P, 2)
    numbers = number * bins + place  # (M, P*P)
    bin_rois = torch.cat([numbers[..., None], start, start + size], dim=2).flatten(0, 1)  # (M*P*P, 5)
    pooled = roi_align(of_bins, bin_rois, 1, scale, sampling_ratio, aligned=True)  # (M*P*P, D, 1, 1)
    return pooled.flatten(1).unflatten(0, (-1, P, P)).permute(0, 3, 1, 2)  # (M, P, P, D) -> (M, D, P, P)


class PositionSensitivePooler(nn.Module):
    """1x1 convolutions to P*P*(K+1) score maps and P*P*8 box maps, and what each RoI finds in them.

    Its parameters are named as those of `FastRCNNOutputLayers`, in whose place they stand.

    Args:
        in_channels: of the feature map.
        num_classes: K.
        resolution: P.
        scale: cells per pixel, 1 / stride of the feature map.
        sampling_ratio: see `position_sensitive_align`.

    Example:
        >>> import torch
        >>> from vod2.structures import PreciseBoxes
        >>> settings = {"resolution": 7, "scale": 1 / 16, "sampling_ratio": 2}
        >>> pooler = PositionSensitivePooler(in_channels=16, num_classes=30, **settings)
        >>> pooler([torch.zeros(1, 16, 8, 8)], [PreciseBoxes(torch.tensor([[0.0, 0.0, 64.0, 64.0]]))]).shape
        torch.Size([1, 39, 7, 7])
    """

    def __init__(
        self, *, in_channels: int, num_classes: int, resolution: int, scale: float, sampling_ratio: int
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.scale = scale
        self.sampling_ratio = sampling_ratio
        self.cls_score = nn.Conv2d(in_channels, (num_classes + 1) * resolution**2, 1)
        self.bbox_pred = nn.Conv2d(in_channels, NUM_DELTAS * resolution**2, 1)
        init_normal(self.cls_score, self.bbox_pred, std=0.01)

    def forward(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        """One map (B, C, H, W) and the boxes of B frames -> (M, D, P, P): scores, then deltas, of each bin."""
        (x,) = features
        tensors = [boxes_of_frame.tensor for boxes_of_frame in boxes]
        # On a CPU sums over cells are many times as fast; training stays with torchvision's gradient.
        if x.device.type == "cpu" and not torch.is_grad_enabled() and not is_portable():
            return self._forward_as_bags(x, tensors)
        maps = torch.cat([self.cls_score(x), self.bbox_pred(x)], dim=1)  # (B, D*P*P, H, W)
        return position_sensitive_align(maps, tensors, self.resolution, self.scale, self.sampling_ratio)

    def _forward_as_bags(self, x: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The same to rounding: what a bin needs of a cell, D numbers, lies side by side."""
        bins = self.resolution**2

        def side_by_side(scores: Tensor, deltas: Tensor) -> Tensor:
            """Rows (K + 1)*P*P and 4*P*P of two convolutions, bins last -> P*P*D, bins first."""
            rows = [parameter.unflatten(0, (-1, bins)).transpose(0, 1) for parameter in (scores, deltas)]
            return torch.cat(rows, dim=1).flatten(0, 1)

        assert self.cls_score.bias is not None and self.bbox_pred.bias is not None
        # The convolutions' rows change their order: to change that of the maps takes far longer.
        weight = side_by_side(self.cls_score.weight.flatten(1), self.bbox_pred.weight.flatten(1))
        bias = side_by_side(self.cls_score.bias, self.bbox_pred.bias)
        table = functional.linear(x.permute(0, 2, 3, 1), weight, bias).unflatten(3, (bins, -1))  # (B, H, W, P*P, D)
        return position_sensitive_bags(table, boxes, self.scale, self.sampling_ratio)


@ROI_BOX_HEAD_REGISTRY.register()
class MeanBoxHead(nn.Module):
    """The mean over the bins of a RoI: R-FCN's vote. It has no parameters."""

    @configurable
    def __init__(self, input_shape: ShapeSpec) -> None:
        super().__init__()
        self.output_shape = ShapeSpec(channels=input_shape.channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return {"input_shape": input_shape}

    def forward(self, x: Tensor) -> Tensor:
        """RoIs (M, D, P, P) -> (M, D)."""
        return x.mean(dim=(2, 3))


class PooledBoxPredictor(VideoBoxPredictor):
    """`VideoBoxPredictor` for RoIs whose embedding is their scores and deltas: it has no layers of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # FastRCNNOutputLayers makes them; as unused parameters they would be in checkpoints and wait for gradients.
        del self.cls_score, self.bbox_pred  # the pooler's 1x1 convolutions stand in their place

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(M, K + 1 + 8) -> logits (M, K + 1), deltas (M, 4) of the foreground."""
        scores, _, deltas = x.split([self.num_classes + 1, NUM_DELTAS - 4, 4], dim=1)
        return scores, deltas


@ROI_HEADS_REGISTRY.register()
class RFCNHeads(VideoROIHeads):
    """`VideoROIHeads` of other parts: the embedding (N, D) of a proposal is its K + 1 scores and 8 deltas.

    The feature map comes from `HeadMapBackbone` ("head"). Nothing is computed of a RoI but averages, so that an
    aggregator of proposals has nothing to aggregate: methods of this family aggregate feature maps.
    """

    @classmethod
    def from_config(  # type: ignore[override]  # as StandardROIHeads in Detectron2
        cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]
    ) -> dict:
        _check(cfg)
        (level,) = cfg.MODEL.ROI_HEADS.IN_FEATURES
        num_classes, head = cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_BOX_HEAD
        # Box head and predictor see what the pooler makes, scores and deltas, not the channels of the map.
        pooled = ShapeSpec(channels=num_classes + 1 + NUM_DELTAS, stride=input_shape[level].stride)
        ret = super().from_config(cfg, input_shape | {level: pooled})
        ret["box_pooler"] = PositionSensitivePooler(
            in_channels=input_shape[level].channels,
            num_classes=num_classes,
            resolution=head.POOLER_RESOLUTION,
            scale=1 / input_shape[level].stride,
            sampling_ratio=head.POOLER_SAMPLING_RATIO,
        )
        ret["box_predictor"] = PooledBoxPredictor(cfg, ret["box_head"].output_shape)
        return ret


# {key: (its only value, why RFCNHeads have no other)}
_EXPECTED = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": ("", "embed a proposal as its scores, which nothing aggregates"),
    "MODEL.VIDEO.REDUCE_CHANNELS": (0, "pool score maps, not features"),
    "MODEL.ROI_BOX_HEAD.NAME": ("MeanBoxHead", "let the bins of a RoI vote"),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": (True, "have one box for all classes"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "sample boxes as that does"),
}


def _check(cfg: CfgNode) -> None:
    """Refuse what R-FCN has not."""
    for key, (expected, reason) in _EXPECTED.items():
        value = functools.reduce(getattr, key.split("."), cfg)
        if value != expected:
            raise UserError(f"RFCNHeads {reason}: {key} is {value!r}, set it to {expected!r}")
    levels = cfg.MODEL.ROI_HEADS.IN_FEATURES
    if len(levels) != 1:
        raise UserError(f"RFCNHeads pool one map: MODEL.ROI_HEADS.IN_FEATURES is {levels}, name one level, ['head']")
