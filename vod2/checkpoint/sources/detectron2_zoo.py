"""Detectron2's model zoo: its names are ours. ImageNet backbones come without a prefix, or under Caffe2's names.

Files do not say which colours, mean and stride they were trained with: in the zoo that stands in the YAML beside them.
Backbones of Caffe2 have their normalisation's statistics in its weight and bias.
"""

import re

import torch

from vod2.checkpoint.sources.rules import FROZEN_BN_EPS, Rule, Source, State, backbone_name, start_config

_CAFFE2_CONVS = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
_CAFFE2_NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}

_CAFFE2 = (
    Rule(r"(?:res_)?conv1_w", "backbone.stem.conv1.weight"),
    *(
        Rule(r"(?:res_)?conv1_bn_" + theirs, f"backbone.stem.conv1.norm.{ours}")
        for theirs, ours in _CAFFE2_NORM.items()
    ),
    *(
        Rule(rf"res(\d)_(\d+)_{theirs}_w", rf"backbone.res\1.\2.{ours}.weight")
        for theirs, ours in _CAFFE2_CONVS.items()
    ),
    *(
        Rule(rf"res(\d)_(\d+)_{conv_theirs}_bn_{theirs}", rf"backbone.res\1.\2.{conv_ours}.norm.{ours}")
        for conv_theirs, conv_ours in _CAFFE2_CONVS.items()
        for theirs, ours in _CAFFE2_NORM.items()
    ),
)

_RULES = (
    *_CAFFE2,
    # Before the last rule, which would keep "bottom_up.": `Target.bottom_up` decides about that
    Rule(r"(?:backbone\.)?(?:bottom_up\.)?((?:stem|res[2-5])\..*)", r"backbone.\1"),
    Rule(r"roi_heads\.(res5\..*)", r"backbone.\1"),  # C4 detectors
    Rule(r"((?:backbone|proposal_generator|roi_heads|pixel_aggregator)\..*)", r"\1"),
)


def _with_statistics(state: State) -> State:
    """Mean 0 and a variance that, with what is added to it, is 1, where Caffe2's normalisation has none."""
    complete = dict(state)
    for name, scale in state.items():
        stem = name.removesuffix("_bn_s")
        if stem != name and f"{stem}_bn_rm" not in state:
            complete[f"{stem}_bn_rm"] = torch.zeros_like(scale)
            complete[f"{stem}_bn_riv"] = torch.full_like(scale, 1 - FROZEN_BN_EPS)
    return complete


def _detector(state: State) -> str:
    """ "FPN" or "DC5" of a Faster R-CNN of the zoo whose heads have two fully connected layers; "" of all else."""
    if not {"roi_heads.box_predictor.cls_score.weight", "roi_heads.box_head.fc2.weight"} <= state.keys():
        return ""
    return "FPN" if "backbone.fpn_lateral2.weight" in state else "DC5"


def _default_config(state: State) -> str:
    caffe2 = {re.sub(r"(res\d)_(\d+)_branch2b_w", r"\1.\2.conv2.weight", name): state[name] for name in state}
    for prefix in ("backbone.bottom_up.", "backbone.", ""):
        if f"{prefix}res2.0.conv2.weight" in caffe2:
            names = prefix + "res{}.{}.{}.weight"
            backbone = backbone_name(caffe2, names, first=2)
            if (kind := _detector(state)) and backbone in ("R50", "R101"):
                return f"COCO/FasterRCNN_{backbone}_{kind}.yaml"
            return start_config(caffe2, names, first=2)
    raise ValueError("it has no ResNet of bottleneck blocks")


SOURCE = Source(
    rules=lambda state: _RULES,
    default_config=_default_config,
    settings=lambda state, target: {},
    # ImageNet's classifier is called stem.fc in ResNets that came from torchvision.
    computed=r".*num_batches_tracked|.*cell_anchors\.\d+|pixel_(mean|std)|.*_momentum|lr|(stem\.)?fc\.(weight|bias)",
    prepare=_with_statistics,
    partial=True,
)
