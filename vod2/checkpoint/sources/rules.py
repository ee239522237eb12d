"""What a table from public names to vod2's is made of.

A: anchors of a cell, K: classes.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vod2.d2 import CfgNode

State = Mapping[str, Tensor]

FROZEN_BN_EPS = 1e-5
"""What Detectron2 adds to the variance of its normalisation."""

_BOX_FC = "roi_heads.box_head.fc"
_TRANSFORMS = ("roi_heads.aggregator.transform.", "roi_heads.aggregator.parts.0.transform.")
"""Where an aggregator, or the first of several, has the fully connected layers that follow its relations."""


class LaterLayers(NamedTuple):
    """Where a model has the fully connected layers of a detector's box head from number `kept` + 1 on."""

    kept: int
    prefix: str


@dataclass(frozen=True)
class Target:
    """How the model that is to be filled reads its weights.

    Attributes:
        bottom_up: its ResNet is `backbone.bottom_up`, as where more follows it (a pyramid, a map for the heads).
        bgr: the order of the colours of its images.
        box_weights: what its box predictor's deltas are divided by.
        norm_eps: what the normalisation of its backbone adds to the variance.
        ratios: of the aspect ratios of its anchors.
        pyramid: its backbone is a feature pyramid.
        later_fcs: where its aggregator has fully connected layers that follow those of the box head; None where the
            box head has all of them.
        classes: that its box predictor tells apart.
    """

    bottom_up: bool = False
    bgr: bool = True
    box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    norm_eps: float = FROZEN_BN_EPS
    ratios: int = 3
    pyramid: bool = False
    later_fcs: LaterLayers | None = None
    classes: int = 80

    @classmethod
    def of(cls, cfg: CfgNode, model: nn.Module) -> "Target":
        """The model that `cfg` describes."""
        frozen, names = cfg.MODEL.RESNETS.NORM == "FrozenBN", model.state_dict()
        return cls(
            bottom_up=any(name.startswith("backbone.bottom_up.") for name in names),
            bgr=cfg.INPUT.FORMAT == "BGR",
            box_weights=tuple(cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
            norm_eps=cfg.MODEL.LEGACY.FROZEN_BN_EPS if frozen else FROZEN_BN_EPS,
            ratios=len(cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS[0]),
            pyramid=any(name.startswith("backbone.fpn_") for name in names),
            later_fcs=later_fcs_of(names),
            classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        )


class Transform(NamedTuple):
    """What happens to a tensor: in words for the table, and the function itself."""

    words: str
    apply: Callable[[Tensor, Target], Tensor]


class Rule(NamedTuple):
    """One line of a table.

    Attributes:
        pattern: of the whole public name.
        name: vod2's, with the groups of the pattern; the ResNet is always `backbone` here.
        transform: None for the tensor as it is.
    """

    pattern: str
    name: str
    transform: Transform | None = None


@dataclass(frozen=True)
class Source:
    """The conventions of one public code.

    Attributes:
        rules: names -> the table; the first rule whose pattern fits counts.
        computed: pattern of names that hold nothing learned, or nothing that a detector has; the rules do not see them.
        prepare: what joins tensors or adds missing ones, before the rules.
        norm_eps: names -> what the normalisation of its ResNet adds to the variance.
        default_config: names -> the configuration below configs/ that they are for; ValueError if that cannot be told.
        settings: names and the model -> {key: value} of the configuration that the weights need.
        partial: the file is a start for training: that parts of a detector are missing, or of another shape or unused,
            is as it should be.
        network: configuration -> the part of a model that is filled; None for all of it.
        key: of the configuration, which names the converted file.
    """

    rules: Callable[[State], tuple[Rule, ...]]
    default_config: Callable[[State], str]
    settings: Callable[[State, Target], dict[str, object]]
    computed: str = r".*num_batches_tracked"
    prepare: Callable[[State], State] = field(default=dict)
    norm_eps: Callable[[State], float] = lambda state: FROZEN_BN_EPS
    partial: bool = False
    network: Callable[[CfgNode], nn.Module] | None = None
    key: str = "MODEL.WEIGHTS"


def _size_major(tensor: Tensor, target: Target) -> Tensor:
    """(ratios, sizes, ...) of the rows -> (sizes, ratios, ...); the rows are A logits."""
    return _permute_anchors(tensor, target.ratios, 1)


def _size_major_deltas(tensor: Tensor, target: Target) -> Tensor:
    """As `_size_major` for 4 A deltas."""
    return _permute_anchors(tensor, target.ratios, 4)


def _permute_anchors(tensor: Tensor, ratios: int, numbers: int) -> Tensor:
    channels = len(tensor) if tensor.dim() else 0
    if not channels or channels % (ratios * numbers):
        raise ValueError(
            f"{channels} channels of the RPN cannot be {numbers} for each anchor of {ratios} aspect ratios"
        )
    order = torch.arange(len(tensor)).view(ratios, -1, numbers).transpose(0, 1).flatten()  # (sizes, ratios, numbers)
    return tensor.index_select(0, order)


def _background_last(tensor: Tensor, target: Target) -> Tensor:
    return torch.cat([tensor[1:], tensor[:1]])


def _without_background(tensor: Tensor, target: Target) -> Tensor:
    # A view would be saved with the dropped rows
    return tensor[4:].clone()


def _reverse_colours(tensor: Tensor, target: Target) -> Tensor:
    return tensor.flip(1) if target.bgr else tensor


def rescaled_deltas(stds: tuple[float, ...]) -> Transform:
    """Of a box predictor (4 K rows) whose deltas are multiplied by `stds`, where the model divides by its weights."""

    def apply(tensor: Tensor, target: Target) -> Tensor:
        factors = torch.tensor(stds, dtype=torch.float64) * torch.tensor(target.box_weights, dtype=torch.float64)
        # No scaling needed: the tensor stays bit for bit
        if factors.allclose(torch.ones_like(factors)):
            return tensor
        rows = tensor.double().unflatten(0, (-1, 4)) * factors.view(1, 4, *[1] * (tensor.dim() - 1))  # (K, 4, ...)
        return rows.flatten(0, 1).to(tensor.dtype)

    return Transform(f"x stds {' '.join(f'{std:g}' for std in stds)} x BBOX_REG_WEIGHTS", apply)


SIZE_MAJOR = Transform("anchors: ratio-major to size-major", _size_major)
SIZE_MAJOR_DELTAS = Transform("anchors: ratio-major to size-major", _size_major_deltas)
BACKGROUND_LAST = Transform("background: first row to last", _background_last)
WITHOUT_BACKGROUND = Transform("background: first 4 rows dropped", _without_background)
REVERSE_COLOURS = Transform("input channels RGB to INPUT.FORMAT", _reverse_colours)
FLAT = Transform("1x1 convolution to linear", lambda tensor, target: tensor.flatten(1))


def later_fcs_of(names: Collection[str]) -> LaterLayers | None:
    """Where a model has the fully connected layers that follow those of its box head; None where there are none.

    Args:
        names: of the model's tensors.
    """
    for prefix in _TRANSFORMS:
        if f"{prefix}0.weight" in names:
            kept = sum(re.fullmatch(rf"{re.escape(_BOX_FC)}\d+\.weight", name) is not None for name in names)
            return LaterLayers(kept, prefix)
    return None


def name_in_aggregator(name: str, later: LaterLayers | None) -> str:
    """The name of a layer of the box head in a model whose aggregator has all but the first layers.

    A relation stands between two fully connected layers of the image detector (RDN's equation 4, SELSA's head): there
    the second is `transform.0` of the aggregator. All other names stay.

    Example:
        >>> from vod2.checkpoint.sources.rules import LaterLayers, name_in_aggregator
        >>> name_in_aggregator("roi_heads.box_head.fc2.bias", LaterLayers(1, "roi_heads.aggregator.transform."))
        'roi_heads.aggregator.transform.0.bias'
    """
    match = re.fullmatch(rf"{re.escape(_BOX_FC)}(\d+)\.(weight|bias)", name)
    if later is None or match is None or int(match[1]) <= later.kept:
        return name
    return f"{later.prefix}{int(match[1]) - later.kept - 1}.{match[2]}"


def of_resnet(name: str) -> bool:
    """Whether a tensor of that name, vod2's, belongs to a ResNet."""
    return re.match(r"backbone\.(bottom_up\.)?(stem\.|res\d)", name) is not None


def imagenet_colours(target: Target) -> dict[str, object]:
    """Mean and deviation of ImageNet's pixels, in the model's order of colours."""
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    step = -1 if target.bgr else 1
    return {"MODEL.PIXEL_MEAN": mean[::step], "MODEL.PIXEL_STD": std[::step]}


def norm_rule(pattern: str, name: str) -> Rule:
    """Of a batch normalisation; `pattern` and `name` are those of the module."""
    # `name` may refer to groups of `pattern`; the one added here comes after them
    last_group = re.compile(pattern).groups + 1
    return Rule(rf"{pattern}\.(weight|bias|running_mean|running_var)", rf"{name}.\{last_group}")


def resnet_rules(stem: str, stages: str, stem_transform: Transform | None = None) -> tuple[Rule, ...]:
    """Of a ResNet under torchvision's names, whose layer1 .. layer4 are res2 .. res5.

    Args:
        stem, stages: patterns of what stands before conv1 and bn1, and before layer1 .. layer4.
        stem_transform: of the first convolution.
    """
    rules = [
        Rule(rf"{stem}conv1\.weight", "backbone.stem.conv1.weight", stem_transform),
        norm_rule(rf"{stem}bn1", "backbone.stem.conv1.norm"),
    ]
    for number in (1, 2, 3, 4):
        block, ours = rf"{stages}layer{number}\.(\d+)\.", rf"backbone.res{number + 1}.\1."
        rules += [
            Rule(rf"{block}conv(\d)\.weight", rf"{ours}conv\2.weight"),
            Rule(rf"{block}downsample\.0\.weight", f"{ours}shortcut.weight"),
            norm_rule(rf"{block}bn(\d)", rf"{ours}conv\2.norm"),
            norm_rule(rf"{block}downsample\.1", f"{ours}shortcut.norm"),
        ]
    return tuple(rules)


# Blocks of the stage of stride 16, shape of the first 3x3 convolution without its kernel.
_BACKBONES: dict[tuple[int, tuple[int, ...]], str] = {
    (6, (64, 64)): "R50",
    (23, (64, 64)): "R101",
    (23, (256, 4)): "X101",  # 64 groups
    (23, (128, 4)): "X101_32x4d",
}

_START_CONFIGS = {  # a configuration that begins with such a backbone
    "R50": "RDN_Base_R50.yaml",
    "R101": "FasterRCNN_R101.yaml",
    "X101": "RDN_Base_X101.yaml",
    "X101_32x4d": "SELSA_X101.yaml",
}


def backbone_name(state: State, names: str, first: int = 1) -> str:
    """ "R50", "R101", "X101" (64x4d) or "X101_32x4d".

    Args:
        state: {name: tensor} of a ResNet.
        names: of the weights of its convolutions, with {} for the stage, the block and the convolution.
        first: the number of its first stage.

    Raises:
        ValueError: if it is none of them.
    """
    blocks = 0
    while names.format(first + 2, blocks, "conv2") in state:
        blocks += 1
    conv = state.get(names.format(first, 0, "conv2"))
    shape: tuple[int, ...] = () if conv is None else tuple(conv.shape[:2])
    name = _BACKBONES.get((blocks, shape))
    if name is None:
        raise ValueError(
            f"{blocks} blocks in the third stage and a first 3x3 convolution of the shape {shape} are none of "
            f"{', '.join(_BACKBONES.values())}"
        )
    return name


def start_config(state: State, names: str, first: int = 1) -> str:
    """A configuration below configs/ that begins with this backbone; arguments and errors as of `backbone_name`."""
    return _START_CONFIGS[backbone_name(state, names, first)]
