"""FlowNetS trained on Flying Chairs, alone: what `vod2.layers.FlowNetS` begins with.

Three public codes have it: FlowNetPytorch (with batch normalisation or without), mmtracking, and the PyTorch code of
MEGA, whose names are Caffe's. The first two are trained on RGB and have no bias where the flow is predicted and where
maps are enlarged; here it is 0. All of them put out a twentieth of the flow in pixels of the image that they see. The
mean that they take from an image differs by up to .035 of the pixels' range from MODEL.PIXEL_MEAN, which stays.
"""

import re

import torch
from torch import Tensor

from vod2.checkpoint.sources.rules import Rule, Source, State, Target, Transform
from vod2.d2 import CfgNode
from vod2.layers.flow_warp import PUBLIC_NAMES, FlowNetS

_CONVOLUTIONS = ("1", "2", "3", "3_1", "4", "4_1", "5", "5_1", "6", "6_1")  # of the contracting half
_BN_EPS = 1e-5  # of batch normalisation in FlowNetPytorch


def _reverse_pairs(tensor: Tensor, target: Target) -> Tensor:
    """Of a convolution (C, 6, k, k) on two images."""
    return tensor.unflatten(1, (2, 3)).flip(2).flatten(1, 2) if target.bgr else tensor


_REVERSE_PAIRS = Transform("input channels RGB to INPUT.FORMAT", _reverse_pairs)


def _pytorch_layers() -> dict[str, str]:
    """{layer of FlowNetPytorch: layer of `FlowNetS`}."""
    layers = {f"conv{name}.0": f"contract.{number}" for number, name in enumerate(_CONVOLUTIONS)}
    for number, level in enumerate((5, 4, 3, 2)):
        layers |= {
            f"deconv{level}.0": f"expand.{number}",
            f"predict_flow{level + 1}": f"predict.{number}",
            f"upsampled_flow{level + 1}_to_{level}": f"upsample.{number}",
        }
    return layers | {"predict_flow2": "flow"}


def _mmtracking_layers() -> dict[str, str]:
    """{layer of mmtracking: layer of `FlowNetS`}; "3_1" there is the second of a list."""
    layers = {}
    for number, name in enumerate(_CONVOLUTIONS):
        first, _, second = name.partition("_")
        layers[f"conv{first}.{second or 0}.conv"] = f"contract.{number}"
    for number, level in enumerate((5, 4, 3, 2)):
        layers |= {
            f"deconv{level}.conv": f"expand.{number}",
            f"predict_flow{level + 1}.conv": f"predict.{number}",
            f"upsample_flow{level}.conv": f"upsample.{number}",
        }
    return layers | {"predict_flow.conv": "flow"}


_LAYERS = {  # the first layer of each code -> its layers
    "conv1.0": _pytorch_layers(),
    "conv1.0.conv": _mmtracking_layers(),
    "flow_conv1": {theirs: ours for theirs, ours in PUBLIC_NAMES.items() if ours != "scale"},
}


def _layers(state: State) -> dict[str, str]:
    """The layers of the code that the names are of; empty for none."""
    return next((layers for first, layers in _LAYERS.items() if f"{first}.weight" in _bare(state)), {})


def _bare(state: State) -> dict[str, Tensor]:
    """Names without what the network is called in a detector."""
    return {re.sub(r"^(flownet|motion)\.", "", name): tensor for name, tensor in state.items()}


def _rules(state: State) -> tuple[Rule, ...]:
    rules = []
    for theirs, ours in _layers(state).items():
        # Weights under Caffe's names are already for BGR
        rgb = ours == "contract.0" and theirs != "flow_conv1"
        weight = Rule(rf"{re.escape(theirs)}\.weight", f"{ours}.weight", _REVERSE_PAIRS if rgb else None)
        rules += [weight, Rule(rf"{re.escape(theirs)}\.bias", f"{ours}.bias")]
    return tuple(rules)


def _prepare(state: State) -> State:
    """Bare names, normalisation folded into the convolutions, and a bias for every layer."""
    state = _bare(state)
    for theirs in _layers(state):
        weight = state.get(f"{theirs}.weight")
        if weight is None:
            continue
        norm = f"{theirs.removesuffix('.0')}.1."
        if f"{norm}running_var" in state:
            parts = ("weight", "bias", "running_mean", "running_var")
            # Popped, because no rule knows them
            gain, shift, mean, variance = (state.pop(f"{norm}{part}").double() for part in parts)
            gain = gain / (variance + _BN_EPS).sqrt()
            state[f"{theirs}.weight"] = (weight.double() * gain.view(-1, 1, 1, 1)).to(weight.dtype)
            state[f"{theirs}.bias"] = (shift - mean * gain).to(weight.dtype)
        elif f"{theirs}.bias" not in state:
            # In transposed convolutions the output channels come second
            outputs = weight.shape[1 if "deconv" in theirs or "upsample" in theirs else 0]
            state[f"{theirs}.bias"] = torch.zeros(outputs, dtype=weight.dtype)
    return state


def _default_config(state: State) -> str:
    if not _layers(state):
        raise ValueError("it is no FlowNetS")
    return "DFF_R101.yaml"


def _network(cfg: CfgNode) -> FlowNetS:
    return FlowNetS(cfg.MODEL.FLOWNET.WIDTH)


SOURCE = Source(
    rules=_rules,
    default_config=_default_config,
    settings=lambda state, target: {},
    computed=r".*num_batches_tracked|Convolution5_scale\.(weight|bias)",
    prepare=_prepare,
    network=_network,
    key="MODEL.FLOWNET.WEIGHTS",
)
