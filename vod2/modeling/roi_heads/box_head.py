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
        for layer in list(self)[:-1]:
            x = layer(x)
        return x


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
