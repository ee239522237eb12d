"""From pooled RoIs to the embedding that level 2 aggregates."""

from torch import Tensor

from vod2.d2 import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead


@ROI_BOX_HEAD_REGISTRY.register()
class LinearBoxHead(FastRCNNConvFCHead):
    """`FastRCNNConvFCHead`, with its keys and parameters, less the last ReLU.

    For aggregators that take the embedding before its activation (SELSA: relu(x + relation)).
    """

    def forward(self, x: Tensor) -> Tensor:
        """RoIs (N, C, P, P) -> (N, D)."""
        for layer in list(self)[:-1]:
            x = layer(x)
        return x
