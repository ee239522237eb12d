"""What every backbone is, and how the configuration names one."""

from abc import ABCMeta, abstractmethod

from torch import Tensor, nn

from vod2._d2lite.layers import ShapeSpec
from vod2._d2lite.utils.registry import Registry

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = """Functions (or classes) called with ``(cfg, input_shape: ShapeSpec)`` -> `Backbone`."""


class Backbone(nn.Module, metaclass=ABCMeta):
    """An image to named feature maps.

    A subclass sets ``_out_features``, ``_out_feature_channels``, ``_out_feature_strides``, or overrides `output_shape`.
    """

    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of it; 0: no requirement."""
        return 0

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> {name: (B, C', H / stride, W / stride)}."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each output."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def build_backbone(cfg, input_shape: ShapeSpec | None = None) -> Backbone:
    """The backbone ``cfg.MODEL.BACKBONE.NAME``; the input has the channels of the pixel mean unless given."""
    # PIXEL_MEAN has one value per channel
    input_shape = input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    if not isinstance(backbone, Backbone):
        raise TypeError(f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME!r} gave {type(backbone)}, expected a Backbone")
    return backbone
