"""Detectors of COCO as other code has them, narrow, with drawn weights that give boxes of many classes and scores."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import (
    FasterRCNN,
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
    _default_anchorgen,
)
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from helpers.models import ROOT
from vod2.coco import COCO_IDS
from vod2.d2 import CfgNode
from vod2.engine import load_config

NARROW = [
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 64, "MODEL.ROI_BOX_HEAD.CONV_DIM", 32),
]
"""A ResNet-50 of narrow bottlenecks, with all of its blocks, and a pyramid and heads with few channels."""


_DEVIATIONS = (
    {"cls_logits": 2.0, "objectness_logits": 2.0, "rpn.head.bbox_pred": 0.3, "anchor_deltas": 0.3},
    {"cls_score": 3.0, "box_predictor.bbox_pred": 0.5},
)


def coco_cfg(name: str, *options: object) -> CfgNode:
    """configs/COCO/NAME.yaml on the CPU."""
    return load_config(str(ROOT / "configs" / "COCO" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu", *options])


def torchvision_detector(**options: object) -> FasterRCNN:
    """fasterrcnn_resnet50_fpn as its published weights need it: frozen normalisation that adds nothing to variances."""
    backbone = _pyramid(lambda width: FrozenBatchNorm2d(width, eps=0.0), None)
    head = TwoMLPHead(32 * 7 * 7, 64)
    return FasterRCNN(backbone, box_head=head, box_predictor=FastRCNNPredictor(64, 91), **options)


def torchvision_detector_v2(**options: object) -> FasterRCNN:
    """fasterrcnn_resnet50_fpn_v2: normalisation in pyramid and head, two convolutions in the RPN, four in the head."""
    backbone, anchors = _pyramid(nn.BatchNorm2d, nn.BatchNorm2d), _default_anchorgen()
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(32, anchors.num_anchors_per_location()[0], conv_depth=2),
        box_head=FastRCNNConvFCHead((32, 7, 7), [32] * 4, [64], norm_layer=nn.BatchNorm2d),
        box_predictor=FastRCNNPredictor(64, 91),
        **options,
    )


def _pyramid(resnet_norm: Callable[[int], nn.Module], norm: Callable[[int], nn.Module] | None) -> BackboneWithFPN:
    resnet = ResNet(Bottleneck, [3, 4, 6, 3], width_per_group=8, norm_layer=resnet_norm)
    layers = {f"layer{number}": str(number - 1) for number in (1, 2, 3, 4)}
    return BackboneWithFPN(resnet, layers, [256, 512, 1024, 2048], 32, norm_layer=norm)


def draw_detector(model: nn.Module, detect: Callable[[], object], seed: int = 0) -> None:
    """Draw the weights of a detector of torchvision or Detectron2, in place, and set it to inference mode.

    Its layers that predict are scaled so that their outputs for one picture have mean 0 and a deviation at which the
    boxes are of many classes. Ids of COCO that no category has get a logit that no picture raises, as by training.

    Args:
        detect: runs the model on that picture.
    """
    torch.manual_seed(seed)
    for name, module in model.eval().named_modules():
        if hasattr(module, "running_var"):
            _draw_norm(module, is_last=name.endswith(("bn3", "conv3.norm")))
    # The RPN first: what the predictor sees depends on it
    for deviations in _DEVIATIONS:
        layers = {}
        for name, layer in model.named_modules():
            found = [deviation for end, deviation in deviations.items() if name.endswith(end)]
            if found:
                layers[layer] = found[0]
        _standardise(layers, detect)
    scores = model.roi_heads.box_predictor.cls_score
    if len(scores.bias) == 91:
        unused = [row for row in range(1, 91) if row not in COCO_IDS]
        with torch.no_grad():
            scores.weight[unused], scores.bias[unused] = 0.0, -60.0


def _draw_norm(norm: nn.Module, is_last: bool) -> None:
    """Statistics that are no identity; a block adds little to what goes past it, or a deep ResNet would be infinite."""
    with torch.no_grad():
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.uniform_(0.1, 0.3) if is_last else norm.weight.uniform_(0.7, 1.3)
        norm.bias.normal_(std=0.1)


@torch.no_grad()
def _standardise(layers: dict[nn.Module, float], detect: Callable[[], object]) -> None:
    outputs: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}

    def keep(layer: nn.Module, inputs: object, output: Tensor) -> None:
        outputs[layer].append(output.transpose(0, 1).flatten(1))

    hooks = []
    for layer in layers:
        nn.init.normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        hooks.append(layer.register_forward_hook(keep))
    detect()
    for hook in hooks:
        hook.remove()
    for layer, deviation in layers.items():
        found = torch.cat(outputs[layer], dim=1)  # (rows of the layer, all cells or boxes)
        scale = deviation / found.std(dim=1)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias.sub_(found.mean(dim=1) * scale)


def pictures(sizes: Iterable[tuple[int, int]], seed: int = 0) -> list[Tensor]:
    """(3, H, W) uint8 RGB: squares of noise at three scales."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for height, width in sizes:
        picture = torch.zeros(3, height, width, dtype=torch.int64)
        for side in (64, 16, 4):
            noise = torch.randint(0, 85, (3, -(-height // side), -(-width // side)), generator=rng)
            picture += noise.repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)[:, :height, :width]
        found.append(picture.to(torch.uint8))
    return found
