"""From pooled RoIs to the embedding that level 2 aggregates."""

from torch import Tensor

from vod2.d2 import ROI_BOX_HEAD_REGISTRY, CfgNode, FastRCNNConvFCHead, ShapeSpec
from vod2.errors import UserError


@ROI_BOX_HEAD_REGISTRY.register()
class LinearBoxHead(FastRCNNConvFCHead):
    """`FastRCNNConvFCHead`, with its keys and parameters, less the last ReLU.

    For aggregators that take the embedding before its activation (SELSA: relu(x + relation)).
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        if cfg.MODEL.ROI_BOX_HEAD.NUM_FC < 1:
            raise UserError(
                "LinearBoxHead ends with a fully connected layer: set MODEL.ROI_BOX_HEAD.NUM_FC to 1 or more"
            )
        return super().from_config(cfg, input_shape)

    def forward(self, x: Tensor) -> Tensor:
        """RoIs (N, C, P, P) -> (N, D)."""
        # The last layer is the ReLU after the last fully connected one.
        for layer in list(self)[:-1]:
            x = layer(x)
        return x


@ROI_BOX_HEAD_REGISTRY.register()
class AveragedBoxHead(FastRCNNConvFCHead):
    """`FastRCNNConvFCHead`, with its keys, on the mean of a RoI's cells: the first layer is C -> D, not C P P -> D.

    MST's whole model has 65.027 M parameters (its Table IV), which leaves no room for 2048 x 7 x 7 inputs.

    Raises:
        UserError: MODEL.ROI_BOX_HEAD.NUM_CONV is not 0: a mean leaves nothing to convolve.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        if cfg.MODEL.ROI_BOX_HEAD.NUM_CONV:
            raise UserError(
                f"AveragedBoxHead takes the mean of a RoI: MODEL.ROI_BOX_HEAD.NUM_CONV is "
                f"{cfg.MODEL.ROI_BOX_HEAD.NUM_CONV}, set it to 0"
            )
        # What the layers see is one cell, so that the first one is C -> D.
        return super().from_config(cfg, ShapeSpec(channels=input_shape.channels, height=1, width=1))

    def forward(self, x: Tensor) -> Tensor:
        """RoIs (N, C, P, P) -> (N, D)."""
        return super().forward(x.mean(dim=(2, 3), keepdim=True))


def require_linear_box_head(cfg: CfgNode, method: str) -> None:
    """Make sure that the embedding has not gone through its activation yet, for aggregators that add to it before.

    Raises:
        UserError: if MODEL.ROI_BOX_HEAD.NAME is the head that ends with one; names `method`.
    """
    if cfg.MODEL.ROI_BOX_HEAD.NAME == "FastRCNNConvFCHead":
        raise UserError(
            f"{method} adds relations before the activation, but FastRCNNConvFCHead ends with one: set "
            "MODEL.ROI_BOX_HEAD.NAME to 'LinearBoxHead'"
        )
