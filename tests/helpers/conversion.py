"""What tests of the checkpoint converter share: drawn numbers, models, a public file and how the tool is called.

SMALL: options that make RDN's basic stage on ResNet-50 (CONFIG) narrow.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.models import ROOT
from helpers.modules import load_module
from vod2.d2 import build_model
from vod2.engine import load_config
from vod2.errors import UserError

TOOL = ROOT / "tools" / "convert_checkpoint.py"
CONFIG = str(ROOT / "configs" / "RDN_Base_R50.yaml")
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.WIDTH_PER_GROUP", "4", "MODEL.RPN.CONV_DIMS", "[16]"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.VIDEO.RELATION.NUM_HEADS", "4"),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def boxes(count: int, seed: int = 0) -> Tensor:
    corner = 50 * random(count, 2, seed=seed).abs()
    return torch.cat([corner, corner + 5 + 40 * random(count, 2, seed=seed + 1).abs()], dim=1)


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def on_nothing(config: str) -> nn.Module:
    """The model of a file below configs/, without numbers."""
    cfg = load_config(str(ROOT / "configs" / config), ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


@functools.cache
def small_state() -> dict[str, Tensor]:
    """What is learned of the small model: not to be changed."""
    torch.manual_seed(0)
    return build_model(load_config(CONFIG, SMALL)).state_dict()


@functools.cache
def public_state() -> dict[str, Tensor]:
    """`small_state` as MEGA's code would save it; the anchors' numbers are in another order. Not to be changed."""
    state = {}
    for name, value in small_state().items():
        there, value = _public_name(name), value.clone()
        if "Wvs" in there or "Wgs" in there:
            value = value[..., None, None] if there.endswith("weight") else value
        if "cls_score" in there:
            value = torch.cat([value[-1:], value[:-1]])
        if "predictor.bbox_pred" in there:
            value = torch.cat([torch.full_like(value[:4], 9.0), value])
        state[f"module.{there}"] = value
    return state


def _public_name(name: str) -> str:
    """Of MEGA's code for a name of RDN's basic stage here, by plain replacement."""
    head = "roi_heads.box.feature_extractor."
    for stage in (2, 3, 4):
        name = name.replace(f"backbone.res{stage}.", f"backbone.body.layer{stage - 1}.")
    for number in (0, 1):
        for here, there in (("query", "Wqs"), ("key", "Wks"), ("value", "Wvs"), ("geometry.projection", "Wgs")):
            name = name.replace(f"roi_heads.aggregator.basic.{number}.{here}", f"{head}{there}.{number}")
    for here, there in (
        ("backbone.stem.", "backbone.body.stem."),
        ("backbone.res5.", f"{head}head.layer4."),
        ("proposal_generator.rpn_head.objectness_logits", "rpn.head.cls_logits"),
        ("proposal_generator.rpn_head.anchor_deltas", "rpn.head.bbox_pred"),
        ("proposal_generator.rpn_head.", "rpn.head."),
        ("roi_heads.box_head.fc1", f"{head}fcs.0"),
        ("roi_heads.aggregator.transform.0", f"{head}fcs.1"),
        ("roi_heads.box_predictor.", "roi_heads.box.predictor."),
        ("shortcut.norm", "downsample.1"),
        ("shortcut", "downsample.0"),
        *((f"conv{number}.norm", f"bn{number}") for number in (1, 2, 3)),
    ):
        name = name.replace(here, there)
    return name


@functools.cache
def tool_main() -> Callable[[list[str]], None]:
    """The main function of tools/convert_checkpoint.py."""
    return load_module(TOOL).main


def arguments(source: str, path: str, *more: str, opts: tuple[str, ...] = ()) -> list[str]:
    """The words on its command line, for the small model."""
    return ["--from", source, path, "out.safetensors", "--config-file", CONFIG, *more, "--opts", *SMALL, *opts]


def refusal(words: list[str]) -> str:
    """The one sentence that the tool ends with; nothing is written."""
    before = {path.name for path in Path().iterdir()}
    with pytest.raises(UserError) as error:
        tool_main()(words)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    assert {path.name for path in Path().iterdir()} == before
    return message
