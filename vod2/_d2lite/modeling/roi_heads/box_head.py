"""From pooled features to one vector for each box."""

from fvcore.nn import weight_init
from torch import nn

from vod2._d2lite.config import configurable
from vod2._d2lite.layers import Conv2d, ShapeSpec, get_norm
from vod2._d2lite.utils.registry import Registry

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")
ROI_BOX_HEAD_REGISTRY.__doc__ = """Modules built with ``(cfg, input_shape: ShapeSpec)``, called with (M, C, P, P); their
``output_shape`` is a `ShapeSpec`."""


def build_box_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """``cfg.MODEL.ROI_BOX_HEAD.NAME``."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions, then fully connected layers, each followed by ReLU.

    Args:
        input_shape: channels, height and width of the pooled features.
        conv_dims: output channels of the convolutions.
        fc_dims: output channels of the fully connected layers.
        conv_norm: normalization after the convolutions; without one they have a bias.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, conv_dims: list[int], fc_dims: list[int], conv_norm=""):
        super().__init__()
        if not conv_dims and not fc_dims:
            raise ValueError("FastRCNNConvFCHead needs at least one layer: set NUM_CONV or NUM_FC of ROI_BOX_HEAD")
        channels, height, width = input_shape.channels, input_shape.height, input_shape.width
        for number, dim in enumerate(conv_dims, start=1):
            conv = Conv2d(
                channels,
                dim,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, dim),
                activation=nn.ReLU(),
            )
            self.add_module(f"conv{number}", conv)
            channels = dim
        self._output_shape = ShapeSpec(channels=channels, height=height, width=width)
        if fc_dims:
            self.add_module("flatten", nn.Flatten())
            channels *= height * width
        for number, dim in enumerate(fc_dims, start=1):
            fc = nn.Linear(channels, dim)
            self.add_module(f"fc{number}", fc)
            self.add_module(f"fc_relu{number}", nn.ReLU())
            channels = dim
            self._output_shape = ShapeSpec(channels=dim)
        # Once all layers exist: with one seed, Detectron2 draws the same weights
        for layer in self:
            if isinstance(layer, Conv2d):
                weight_init.c2_msra_fill(layer)
            elif isinstance(layer, nn.Linear):
                weight_init.c2_xavier_fill(layer)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        options = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "conv_dims": [options.CONV_DIM] * options.NUM_CONV,
            "fc_dims": [options.FC_DIM] * options.NUM_FC,
            "conv_norm": options.NORM,
        }

    @property
    def output_shape(self) -> ShapeSpec:
        return self._output_shape
