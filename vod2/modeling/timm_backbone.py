"""Backbones of timm that make maps of several strides: ConvNeXt, Swin, ResNets, EfficientNets and many others.

B: images, C: channels, H, W: size of a map.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vod2.d2 import BACKBONE_REGISTRY, FPN, CfgNode, CNNBlockBase, LastLevelMaxPool, ShapeSpec
from vod2.errors import UserError
from vod2.modeling.backbone import Stage
from vod2.modeling.pyramid import build_pyramid
from vod2.modeling.timm_models import TimmModel, TimmSettings, create_timm_model

_PROBE = 64  # side of the image that a new backbone is shown, in pixels: two cells of stride 32


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> "TimmBackbone":
    """The model MODEL.TIMM.NAME of timm, its maps named as a ResNet's: see `TimmBackbone`.

    Reads MODEL.TIMM and MODEL.BACKBONE.FREEZE_AT.

    Raises:
        UserError: timm is missing or does not have the model, it has no such maps, or is a plain vision transformer.
    """
    return timm_backbone_of(cfg, input_shape, cfg.MODEL.TIMM.OUT_FEATURES, "MODEL.TIMM.OUT_FEATURES")


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid with p6 on a model of timm, of which it takes the maps MODEL.FPN.IN_FEATURES.

    Reads MODEL.FPN and what `build_timm_backbone` reads, without OUT_FEATURES.
    """
    bottom_up = timm_backbone_of(cfg, input_shape, cfg.MODEL.FPN.IN_FEATURES, "MODEL.FPN.IN_FEATURES")
    return build_pyramid(cfg, bottom_up, LastLevelMaxPool())


def timm_backbone_of(cfg: CfgNode, input_shape: ShapeSpec, out_features: Sequence[str], key: str) -> "TimmBackbone":
    """The backbone that gives `out_features`, the value of the configuration key `key`: see `build_timm_backbone`."""
    settings = TimmSettings.from_config(cfg, input_shape)
    # Which maps there are, the model itself says.
    info: Any = create_timm_model(settings, features_only=True).feature_info
    reductions = [level["reduction"] for level in info.info]
    if len(reductions) > 1 and len(set(reductions)) == 1:
        raise UserError(
            f"MODEL.TIMM.NAME is {settings.name!r}, a vision transformer whose maps all have stride {reductions[0]}: "
            "set MODEL.BACKBONE.NAME to 'build_timm_vit_pyramid_backbone'"
        )
    levels = level_names(reductions)
    unknown = [name for name in out_features if name not in levels]
    if unknown or not out_features:
        raise UserError(f"{key} is {list(out_features)}: expected one or more of {', '.join(levels)}")
    names = list(levels)[: 1 + max(list(levels).index(name) for name in out_features)]
    # What comes after the last map is not computed, and would not learn.
    arguments: dict[str, Any] = {"features_only": True, "out_indices": tuple(levels[name] for name in names)}
    model = create_timm_model(settings, **arguments)
    options: dict[str, Any] = {"freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT, "freeze_norm": cfg.MODEL.TIMM.FREEZE_NORM}
    parts = chain_of(model)
    backbone: TimmBackbone
    if parts is None:
        backbone = TimmBackbone(model, names, out_features, **options)
    else:
        backbone = StagedTimmBackbone(model, names, out_features, parts, **options)
    backbone.settings, backbone.arguments = settings, arguments
    return backbone


def level_names(reductions: Sequence[int]) -> dict[str, int]:
    """{name: number of the level}: res2 of stride 4 to res5 of stride 32; one that keeps the stride has the next name.

    Example:
        >>> from vod2.modeling.timm_backbone import level_names
        >>> level_names([2, 4, 8, 16, 32]), level_names([4, 8, 16, 16])
        ({'res2': 1, 'res3': 2, 'res4': 3, 'res5': 4}, {'res2': 0, 'res3': 1, 'res4': 2, 'res5': 3})
    """
    names: dict[str, int] = {}
    latest = 1
    for number, stride in enumerate(reductions):
        if stride >= 4:
            latest = max(int(math.log2(stride)), latest + 1)
            names[f"res{latest}"] = number
    return names


class TimmBackbone(TimmModel):
    """A model of timm that gives a list of maps.

    Normalisation over a batch, as in ResNets and EfficientNets, keeps the statistics and weights that it has, unless
    `freeze_norm` is False; that of single positions (LayerNorm) learns. A part of which no parameter learns is in
    evaluation mode during training, too.

    Args:
        model: (B, 3, H, W) -> one map for each of `levels`, in their order.
        levels: names of the maps.
        out_features: those that the backbone gives.
        freeze_at: the first parts that do not learn; 0 here, where the model has no parts in an order.
        freeze_norm: see above.

    Raises:
        UserError: for another `freeze_at`.

    Example:
        >>> import torch
        >>> from vod2.d2 import build_backbone
        >>> from vod2.engine import load_config
        >>> cfg = load_config("configs/timm/Quick_ConvNeXt.yaml")
        >>> maps = build_backbone(cfg)(torch.zeros(1, 3, 64, 96))  # doctest: +SKIP
        >>> {name: tuple(value.shape) for name, value in maps.items()}  # doctest: +SKIP
        {'p3': (1, 64, 8, 12), 'p4': (1, 64, 4, 6), 'p5': (1, 64, 2, 3), 'p6': (1, 64, 1, 2)}
    """

    def __init__(
        self,
        model: nn.Module,
        levels: Sequence[str],
        out_features: Sequence[str],
        *,
        freeze_at: int = 0,
        freeze_norm: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self._levels = list(levels)
        self._out_features = [name for name in levels if name in out_features]
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._freeze_norm = freeze_norm
        self._shapes = self._probe()
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {name: (B, C, H/s, W/s)}; H and W are multiples of `size_divisibility`."""
        maps = dict(zip(self._levels, self.model(x), strict=True))
        return {name: _channels_first(maps[name], self._channels_last) for name in self._out_features}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: self._shapes[name] for name in self._out_features}

    @property
    def size_divisibility(self) -> int:
        # Otherwise maps would be rounded, each in its own way, and a model may refuse an image.
        return max(shape.stride for shape in self._shapes.values())

    def freeze(self, freeze_at: int) -> None:
        """Let the first parts not learn: 1 the stem, 2 also res2, and so on."""
        parts = self._parts()
        if freeze_at and not parts:
            raise UserError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, and {type(self.model).__name__} of MODEL.TIMM.NAME has no "
                "stages in an order: set it to 0"
            )
        for part in parts[: max(freeze_at, 0)]:
            for parameter in part.parameters():
                parameter.requires_grad_(False)
        if self._freeze_norm:
            for norm in self._batch_norms():
                for parameter in norm.parameters():
                    parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "TimmBackbone":
        """As in PyTorch; what does not learn stays in evaluation mode."""
        super().train(mode)
        parts: Sequence[nn.Module] = self._parts() or [self.model]
        for part in parts:
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        if self._freeze_norm:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def _parts(self) -> list[nn.ModuleList]:
        """Stem, res2, res3 ... where the model has them."""
        return []

    def _batch_norms(self) -> Iterator[nn.Module]:
        return (module for module in self.model.modules() if isinstance(module, _BatchNorm))

    @torch.no_grad()
    def _probe(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map, by making it."""
        training = self.model.training
        maps = self.model.eval()(_probe_image(self.model))
        self.model.train(training)
        return {
            name: _shape_of(_channels_first(value, self._channels_last))
            for name, value in zip(self._levels, maps, strict=True)
        }


class StagedTimmBackbone(TimmBackbone):
    """A model of timm that runs part after part, so that level 1 can run some of them: see `forward_stages`.

    Args:
        parts: the modules of the stem, of res2, res3 ..., in the order in which they run.
        model, levels, out_features, options: as in `TimmBackbone`.
    """

    def __init__(
        self,
        model: nn.Module,
        levels: Sequence[str],
        out_features: Sequence[str],
        parts: Sequence[Sequence[nn.Module]],
        **options: Any,
    ) -> None:
        # A plain list: `model` has registered the modules
        self._modules_of_parts = [list(part) for part in parts]
        self._stages: list[Stage] = []
        super().__init__(model, levels, out_features, **options)

    def ordered_stages(self) -> list[Stage]:
        """The stem, res2, res3 ...; see `stages_of`."""
        return self._stages

    def _parts(self) -> list[nn.ModuleList]:
        return [nn.ModuleList(part) for part in self._modules_of_parts]

    @torch.no_grad()
    def _probe(self) -> dict[str, ShapeSpec]:
        """As in `TimmBackbone`; makes the stages, block by block, too."""
        training = self.model.training
        self.model.eval()
        x, source, shapes = _probe_image(self.model), "images", {}
        last = self._channels_last
        for name, part in zip(["stem", *self._levels], self._modules_of_parts, strict=True):
            blocks: list[_Block] = []
            for layers in _blocks_of(part):
                begins = name == "stem" and not blocks
                run = _Layers(layers, reads_last=last and not begins, writes_last=last)
                before, x = x, run(x)
                blocks.append(_Block(run, before.shape[1], x.shape[1], before.shape[-1] // x.shape[-1]))
            self._stages.append(Stage(name, source, nn.Sequential(*blocks)))
            source, shapes[name] = name, _shape_of(x)
        self.model.train(training)
        return {name: shapes[name] for name in self._levels}


class _Layers(nn.Module):
    """Layers of timm, one after the other: (B, C, H, W) -> (B, C', H', W'), whichever order they have inside.

    Args:
        reads_last, writes_last: whether the first layer takes, and the last one gives, channels last.
    """

    def __init__(self, layers: Sequence[nn.Module], *, reads_last: bool, writes_last: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.reads_last, self.writes_last = reads_last, writes_last

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x.permute(0, 2, 3, 1) if self.reads_last else x)  # (B, H, W, C) or (B, C, H, W)
        return _channels_first(x, self.writes_last)


class _Block(CNNBlockBase):
    """What a stage can be cut after, see `forward_stages`."""

    ends_in_relu = False  # nor need one that does be cut before it: what follows is learned for what it gets

    def __init__(self, run: _Layers, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def chain_of(model: Any) -> list[list[nn.Module]] | None:
    """The modules of a model with `features_only`, [those of the stem, of its first map, of its second ...].

    None for a model whose modules do not run one after the other.
    """
    if hasattr(model, "return_layers"):  # FeatureListNet
        chain = [(module, name in model.return_layers) for name, module in model.items()]
    elif hasattr(model, "conv_stem") and getattr(model, "feature_hooks", model) is None:  # EfficientNetFeatures
        ends = {model.get_submodule(name) for name in model.feature_info.module_name()}
        chain = [(module, module in ends) for module in (model.conv_stem, model.bn1, *model.blocks)]
        last = max(number for number, (_, is_end) in enumerate(chain) if is_end)
        # It keeps what comes after the last map: without a gradient that would be carried along.
        chain, model.blocks = chain[: last + 1], model.blocks[: last - 1]
    else:
        return None
    parts: list[list[nn.Module]] = [[]]
    for module, is_end in chain:
        parts[-1].append(module)
        if is_end:
            parts.append([])
    (*stem, first), *others, _ = parts
    return [stem, [first], *others]


def _blocks_of(part: Sequence[nn.Module]) -> Iterator[list[nn.Module]]:
    """The layers of each block of a part."""
    from timm.models.convnext import ConvNeXtStage
    from timm.models.swin_transformer import SwinTransformerStage

    for module in part:
        if isinstance(module, ConvNeXtStage | SwinTransformerStage):
            first, *others = module.blocks
            yield [module.downsample, first]
            yield from ([block] for block in others)
        elif isinstance(module, nn.Sequential):
            yield from ([block] for block in module)
        else:
            yield [module]


def _channels_first(x: Tensor, channels_last: bool) -> Tensor:
    """(B, H, W, C) or (B, C, H, W) -> (B, C, H, W)."""
    return x.permute(0, 3, 1, 2) if channels_last else x


def _probe_image(model: nn.Module) -> Tensor:
    first = next(model.parameters())
    channels = next(part.in_channels for part in model.modules() if isinstance(part, nn.Conv2d))
    return first.new_zeros(1, channels, _PROBE, _PROBE)


def _shape_of(probed: Tensor) -> ShapeSpec:
    return ShapeSpec(channels=probed.shape[1], stride=_PROBE // probed.shape[-1])
