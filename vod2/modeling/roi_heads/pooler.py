"""Pooling of boxes from feature maps, by the project's operator."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vod2.d2 import Boxes, CfgNode, ROIPooler, ShapeSpec
from vod2.ops import ROIAlign, is_portable


class FastROIPooler(ROIPooler):
    """`ROIPooler` with `vod2.ops.roi_align`, which is many times as fast as torchvision's operator on a CPU.

    Constructor, rule for the levels of a pyramid and results (to rounding) are the same, and there are no parameters.
    Pooler types other than ROIAlign and ROIAlignV2 stay as they are. In half precision, boxes keep theirs.

    Example:
        >>> import torch
        >>> from vod2.structures import PreciseBoxes
        >>> pooler = FastROIPooler(output_size=7, scales=(1 / 16,), sampling_ratio=2, pooler_type="ROIAlignV2")
        >>> pooler([torch.zeros(1, 4, 8, 8)], [PreciseBoxes(torch.tensor([[0.0, 0.0, 64.0, 64.0]]))]).shape
        torch.Size([1, 4, 7, 7])
    """

    def __init__(
        self, output_size: int, scales: Sequence[float], sampling_ratio: int, pooler_type: str, **kwargs: Any
    ) -> None:
        super().__init__(output_size, scales, sampling_ratio, pooler_type, **kwargs)
        # In the place of those that ROIPooler has built. Neither has parameters: checkpoints do not tell them apart.
        if pooler_type in ("ROIAlign", "ROIAlignV2"):
            aligned = pooler_type == "ROIAlignV2"
            self.level_poolers = nn.ModuleList(
                ROIAlign(self.output_size, scale, sampling_ratio, aligned) for scale in scales
            )

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Maps (B, C, H, W) of each level and the boxes of B images, (M, 4) xyxy in all -> (M, C, P, P).

        Within `vod2.ops.portable` there is one level, and the number of boxes is that of their tensors, which a traced
        program knows.
        """
        if not is_portable() or len(self.level_poolers) > 1:
            return super().forward(x, box_lists)
        rois = []
        for image, boxes in enumerate(box_lists):
            rois.append(functional.pad(boxes.tensor, (1, 0), value=float(image)))  # the number of the image comes first
        return self.level_poolers[0](x[0], torch.cat(rois))


def build_pooler(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> FastROIPooler:
    """That of MODEL.ROI_BOX_HEAD.POOLER_* for the maps MODEL.ROI_HEADS.IN_FEATURES of `input_shape`."""
    head = cfg.MODEL.ROI_BOX_HEAD
    return FastROIPooler(
        output_size=head.POOLER_RESOLUTION,
        scales=tuple(1.0 / input_shape[name].stride for name in cfg.MODEL.ROI_HEADS.IN_FEATURES),
        sampling_ratio=head.POOLER_SAMPLING_RATIO,
        pooler_type=head.POOLER_TYPE,
    )
