"""Narrow models of timm as backbones of the tiny VideoRCNN."""

import torch
from torch import Tensor

from helpers.models import PYRAMID_KEYS, tiny_cfg
from vod2.d2 import BACKBONE_REGISTRY, Backbone, ShapeSpec

LEVELS = ["res2", "res3", "res4", "res5"]

SWIN = [["embed_dim", 16], ["depths", [1, 2, 2, 2]], ["num_heads", [1, 2, 2, 4]], ["window_size", 3]]
MODELS = {
    "ConvNeXt": {"MODEL.TIMM.NAME": "test_convnext"},
    "Swin": {"MODEL.TIMM.NAME": "swin_tiny_patch4_window7_224", "MODEL.TIMM.OPTIONS": SWIN},
    # By default each block begins as what goes past it: the gradient of most of its weights would be 0.
    "ResNet": {"MODEL.TIMM.NAME": "test_resnet", "MODEL.TIMM.OPTIONS": [["zero_init_last", False]]},
    "EfficientNet": {"MODEL.TIMM.NAME": "test_efficientnet"},
}
"""{model: its keys}, models with maps of several strides."""
TRANSFORMERS = {
    "ViT": {"MODEL.TIMM.NAME": "test_vit"},
    "ViT-14": {"MODEL.TIMM.NAME": "test_vit", "MODEL.TIMM.OPTIONS": [["patch_size", 14], ["img_size", 56]]},
}
"""{model: its keys}, plain vision transformers."""
_PYRAMID_KEYS = PYRAMID_KEYS | {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}
FPN_KEYS = _PYRAMID_KEYS | {"MODEL.BACKBONE.NAME": "build_timm_fpn_backbone"}
"""A feature pyramid on one of MODELS in the tiny VideoRCNN."""
VIT_KEYS = _PYRAMID_KEYS | {
    "MODEL.BACKBONE.NAME": "build_timm_vit_pyramid_backbone",
    "MODEL.FPN.IN_FEATURES": [],
    "MODEL.FPN.NORM": "LN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [24], [36], [54]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
}
"""A simple pyramid of one of TRANSFORMERS in the tiny VideoRCNN."""
SINGLE_KEYS = {
    "MODEL.BACKBONE.NAME": "build_timm_backbone",
    "MODEL.TIMM.OUT_FEATURES": ["res4", "res5"],
}
"""One of MODELS without a pyramid in the tiny VideoRCNN."""
DETECTORS = {name: FPN_KEYS | keys for name, keys in MODELS.items()} | {
    name: VIT_KEYS | keys for name, keys in TRANSFORMERS.items()
}
"""{model: the keys of a tiny VideoRCNN with a pyramid on it}."""


def make_backbone(keys: dict, seed: int = 0) -> Backbone:
    cfg = tiny_cfg(SINGLE_KEYS | {"MODEL.TIMM.OUT_FEATURES": LEVELS} | keys)
    torch.manual_seed(seed)
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, ShapeSpec(channels=3)).eval()


def named_as_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of FeatureListNet, "stages_0.blocks", as the model alone has them, "stages.0.blocks"."""
    names = {
        name: name.replace("_", ".", 1) if name.split("_")[0] in ("stem", "stages", "layers") else name
        for name in state
    }
    return {names[name]: value for name, value in state.items()}
