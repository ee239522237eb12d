"""A feature pyramid of the last map of a plain vision transformer (ViTDet, Li et al., ECCV 2022, section 3).

B: images, C: channels of the transformer, D: channels of the pyramid, H, W: size of an image.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vod2.d2 import BACKBONE_REGISTRY, Backbone, CfgNode, Conv2d, LastLevelMaxPool, ShapeSpec, get_norm
from vod2.errors import UserError
from vod2.modeling.timm_models import TimmModel, TimmSettings, create_timm_model

_STRIDE = 16
"""Of the map of the transformer, in pixels of the image."""
_PATCHES = (14, 16)
_MAP = "last"


@BACKBONE_REGISTRY.register()
def build_timm_vit_pyramid_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> "SimplePyramid":
    """Maps p2 .. p6 of a vision transformer of timm, such as DINOv2 or DINOv3.

    Reads MODEL.TIMM without OUT_FEATURES, OUTPUT_STRIDE and FREEZE_NORM; MODEL.BACKBONE.FREEZE_AT, where 1 is the
    embedding of patches and positions, and each further one a block; MODEL.FPN.OUT_CHANNELS and NORM.

    Raises:
        UserError: timm is missing or does not have the model, or it is no vision transformer with patches of 14 or 16.
    """
    settings = TimmSettings.from_config(cfg, input_shape)._replace(output_stride=32)
    model: Any = create_timm_model(settings, num_classes=0)
    strides = {level["reduction"] for level in getattr(model, "feature_info", ())}
    if not (hasattr(model, "forward_intermediates") and hasattr(model, "blocks") and len(strides) == 1):
        raise UserError(
            f"MODEL.TIMM.NAME is {settings.name!r}, no plain vision transformer: set MODEL.BACKBONE.NAME to "
            "'build_timm_fpn_backbone', or choose one, such as 'vit_small_patch14_dinov2'"
        )
    (patch,) = strides
    if patch not in _PATCHES:
        raise UserError(f"MODEL.TIMM.NAME is {settings.name!r} with patches of {patch} pixels: expected 14 or 16")
    bottom_up = PlainTransformer(model, patch, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)
    bottom_up.settings, bottom_up.arguments = settings, {"num_classes": 0}
    return SimplePyramid(bottom_up, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM)


class PlainTransformer(TimmModel):
    """The last map of a vision transformer of timm, normalised, under the name "last", with stride 16.

    Position embeddings are interpolated for each size of image. With patches of 14 pixels the image is first made
    smaller by 14 / 16, so that a patch covers 16 of its pixels, and no weight changes its shape.

    Args:
        model: a vision transformer of timm that takes images of any size.
        patch: side of its patches, in pixels.
        freeze_at: the first parts that do not learn: 1 the embedding, 2 the first block, too, and so on.
    """

    def __init__(self, model: Any, patch: int, freeze_at: int = 0) -> None:
        super().__init__()
        # Neither a classifier nor a pooling of its own: they would not learn
        model.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
        self.model = model
        self._patch = patch
        self._channels = model.feature_info[-1]["num_chs"]
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"last": (B, C, H/16, W/16)}; H and W are multiples of 16."""
        if self._patch != _STRIDE:
            size = [side // _STRIDE * self._patch for side in x.shape[-2:]]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        (last,) = self.model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        return {_MAP: last}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {_MAP: ShapeSpec(channels=self._channels, stride=_STRIDE)}

    @property
    def size_divisibility(self) -> int:
        return _STRIDE

    def freeze(self, freeze_at: int) -> None:
        """Let the first parts not learn.

        Raises:
            UserError: there are not so many.
        """
        blocks = list(self.model.blocks)
        if freeze_at > len(blocks) + 1:
            raise UserError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}: expected at most {len(blocks) + 1}, the embedding and "
                f"{len(blocks)} blocks"
            )
        if freeze_at > 0:
            for name, parameter in self.model.named_parameters():
                if not name.startswith(("blocks.", "norm.")):
                    parameter.requires_grad_(False)
        for block in blocks[: max(freeze_at - 1, 0)]:
            block.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "PlainTransformer":
        """As in PyTorch; a block that does not learn is always whole."""
        super().train(mode)
        for block in self.model.blocks:
            if not any(parameter.requires_grad for parameter in block.parameters()):
                block.eval()
        return self


class SimplePyramid(Backbone):
    """p2 .. p5 of one map of stride 16, by transposed convolutions and pooling, and p6.

    Each is scaled to its stride, then goes through a 1x1 and a 3x3 convolution.

    Args:
        bottom_up: a backbone that gives one map, of stride 16.
        channels: of every level.
        norm: normalisation after the 1x1 and 3x3 convolutions and between the two transposed ones of p2, as
            Detectron2 names it; "LN" in the paper.

    Example:
        >>> import torch
        >>> from vod2.d2 import Backbone, ShapeSpec
        >>> from vod2.modeling.simple_pyramid import SimplePyramid
        >>> class Patches(Backbone):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed = torch.nn.Conv2d(3, 8, 16, stride=16)
        ...     def forward(self, x):
        ...         return {"map": self.embed(x)}
        ...     def output_shape(self):
        ...         return {"map": ShapeSpec(channels=8, stride=16)}
        >>> maps = SimplePyramid(Patches(), 4, "LN")(torch.zeros(1, 3, 64, 96))
        >>> {name: tuple(value.shape[1:]) for name, value in maps.items()}
        {'p2': (4, 16, 24), 'p3': (4, 8, 12), 'p4': (4, 4, 6), 'p5': (4, 2, 3), 'p6': (4, 1, 2)}
    """

    def __init__(self, bottom_up: Backbone, channels: int, norm: str = "LN") -> None:
        super().__init__()
        ((self._source, shape),) = bottom_up.output_shape().items()
        if shape.stride != _STRIDE:
            raise ValueError(f"SimplePyramid: expected a map of stride {_STRIDE}, got {shape.stride}")
        self.bottom_up = bottom_up
        width = shape.channels
        half, quarter = width // 2, width // 4
        scaled: dict[str, tuple[Sequence[nn.Module], int]] = {
            "p2": ((*_twice(width, half, norm), nn.GELU(), *_twice(half, quarter)), quarter),
            "p3": (_twice(width, half), half),
            "p4": ((), width),
            "p5": ((nn.MaxPool2d(kernel_size=2, stride=2),), width),
        }
        self.levels = nn.ModuleDict(
            {
                name: nn.Sequential(
                    *layers, _convolution(before, channels, 1, norm), _convolution(channels, channels, 3, norm)
                )
                for name, (layers, before) in scaled.items()
            }
        )
        self.top_block = LastLevelMaxPool()
        self._shapes = {
            f"p{level}": ShapeSpec(channels=channels, stride=2**level)
            for level in range(2, 6 + self.top_block.num_levels)
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"p2": (B, D, H/4, W/4), ..., "p6": (B, D, H/64, W/64)}, the last rounded up.

        H and W are multiples of `size_divisibility`.
        """
        last = self.bottom_up(x)[self._source]
        outputs = {name: level(last) for name, level in self.levels.items()}
        (top,) = self.top_block(outputs[self.top_block.in_feature])
        return outputs | {"p6": top}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        return 2 * _STRIDE


def _twice(in_channels: int, out_channels: int, norm: str = "") -> list[nn.Module]:
    """Layers to a map of twice the size."""
    layers: list[nn.Module] = [nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)]
    normalisation = get_norm(norm, out_channels)
    return layers if normalisation is None else [*layers, normalisation]


def _convolution(in_channels: int, out_channels: int, size: int, norm: str) -> Conv2d:
    return Conv2d(in_channels, out_channels, size, padding=size // 2, bias=not norm, norm=get_norm(norm, out_channels))
