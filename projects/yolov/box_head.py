"""From the features of both towers to an embedding whose halves stay apart.

N: boxes, C: channels of a tower, D: embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vod2.d2 import ROI_BOX_HEAD_REGISTRY, CfgNode, ShapeSpec, configurable
from vod2.errors import UserError
from vod2.layers import init_xavier


@ROI_BOX_HEAD_REGISTRY.register()
class TwoTowerBoxHead(nn.Module):
    """A fully connected layer and ReLU for the tower of the classes, and another one for that of the boxes.

    Args:
        channels: C.
        dim: D, even.

    Raises:
        UserError: D is odd, or what comes in is not one cell with an even number of channels.
    """

    @configurable
    def __init__(self, *, channels: int, dim: int) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise UserError(f"MODEL.ROI_BOX_HEAD.FC_DIM is {dim}: TwoTowerBoxHead needs an even number, half a tower")
        self.channels = channels
        self.fc_cls, self.fc_box = (nn.Linear(channels, dim // 2) for _ in range(2))
        init_xavier(self.fc_cls, self.fc_box)
        self.output_shape = ShapeSpec(channels=dim)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        shape = input_shape.height, input_shape.width
        channels = int(input_shape.channels or 0)
        if shape != (1, 1) or channels % 2:
            raise UserError(
                "TwoTowerBoxHead takes the two towers of a dense head: set MODEL.ROI_HEADS.NAME to 'RescoringHeads', "
                "or MODEL.ROI_BOX_HEAD.NAME to 'FastRCNNConvFCHead'"
            )
        return {"channels": channels // 2, "dim": cfg.MODEL.ROI_BOX_HEAD.FC_DIM}

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2 C, 1, 1) -> (N, D), D / 2 numbers of each tower."""
        of_classes, of_boxes = x.flatten(1).split(self.channels, dim=1)
        return functional.relu(torch.cat([self.fc_cls(of_classes), self.fc_box(of_boxes)], dim=1))
