"""`inference_copy` gives what the model gives, and leaves the model alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers.models import LSTS_KEYS, assert_same_detections, build_detector, make_video, tiny_cfg
from helpers.streams import detect_as_stream
from vod2.d2 import Conv2d, FrozenBatchNorm2d, ShapeSpec, build_resnet_backbone, get_cfg
from vod2.engine import VideoPredictor, convert_for_inference, inference_copy
from vod2.engine.random_weights import draw_weights
from vod2.temporal import Keyframes, SlidingWindow

RESNETS = {
    "basic blocks": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
    "bottlenecks": {"DEPTH": 50, "STRIDE_IN_1X1": False},
    "deformable": {"DEPTH": 50, "DEFORM_ON_PER_STAGE": [False, False, False, True]},
    "running statistics": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "NORM": "BN"},
    "another normalisation": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "NORM": "GN"},
}
RFCN = {
    "MODEL.BACKBONE.NAME": "build_head_map_backbone",
    "MODEL.HEAD_MAP.BOTTOM_UP": "build_narrow_resnet_backbone",
    "MODEL.HEAD_MAP.CHANNELS": 32,
    "MODEL.RPN.IN_FEATURES": ["rpn"],
    "MODEL.RPN.CONV_DIMS": [],
    "MODEL.ROI_HEADS.NAME": "RFCNHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["head"],
    "MODEL.ROI_BOX_HEAD.NAME": "MeanBoxHead",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
}
SMALL_FLOW = {"MODEL.FLOWNET.WIDTH": 0.0625, "VIDEO.TEST_SCHEDULE.INTERVAL": 3}
SPFA = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SPFAAggregator",
    "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
    "MODEL.CSMN.SPFA.PATCHES": 4,
}
METHODS = {
    "R-FCN": RFCN,
    "RDN": {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"},
    "CSMN": SPFA | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "StCIE", "MODEL.CSMN.STCIE.RELATION_DIM": 8},
    "FGFA": SMALL_FLOW
    | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "FGFAAggregator", "MODEL.FGFA.EMBEDDING_DIMS": (8, 8, 16)},
    "DFF": SMALL_FLOW | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "DFFAggregator"},
    "LSTS": LSTS_KEYS | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator"},
    "LSTS on R-FCN": LSTS_KEYS
    | RFCN
    | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator", "MODEL.LSTS.STAGE": "head_map"},
}


def random_statistics(model: nn.Module) -> None:
    """Normalisation of which every number counts."""
    rng = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            module.weight.data.copy_(torch.rand(module.weight.shape, generator=rng) + 0.5)
            module.bias.data.copy_(torch.randn(module.bias.shape, generator=rng))


def build_resnet(name: str, dtype: torch.dtype) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    for key, value in RESNETS[name].items():
        cfg.MODEL.RESNETS[key] = value
    resnet = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    draw_weights(resnet)
    random_statistics(resnet)
    for module in resnet.modules():
        if hasattr(module, "conv2_offset"):
            module.conv2_offset.bias.data.fill_(0.3)
    return resnet.to(dtype).eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [None, functional.relu])
def test_a_convolution_with_frozen_normalisation_becomes_one_convolution(bias, activation):
    layer = Conv2d(3, 4, 3, bias=bias, norm=FrozenBatchNorm2d(4), activation=activation).double()
    layer.norm.running_mean.copy_(torch.arange(4.0))
    layer.norm.running_var.copy_(torch.arange(4.0) + 0.5)
    random_statistics(layer)
    folded, x = inference_copy(layer), torch.randn(2, 3, 6, 7, dtype=torch.float64)
    assert folded.norm is None and folded.activation is activation
    torch.testing.assert_close(folded(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RESNETS)
@torch.no_grad()
def test_a_resnet_has_the_same_outputs(name):
    resnet = build_resnet(name, torch.float64)
    wanted = resnet(x := torch.randn(1, 3, 64, 96, dtype=torch.float64))
    found = inference_copy(resnet)(x)
    for level, value in wanted.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(found[level], value, rtol=1e-10, atol=1e-10 * scale, msg=level)


def test_only_what_follows_a_plain_convolution_is_folded():
    folded = {name: inference_copy(build_resnet(name, torch.float32)) for name in RESNETS}
    kinds = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.GroupNorm)
    left = {name: sum(isinstance(one, kinds) for one in resnet.modules()) for name, resnet in folded.items()}
    assert left == {
        "basic blocks": 0,
        "bottlenecks": 0,
        "deformable": 3,  # the 3x3 convolutions of conv5
        "running statistics": 0,
        "another normalisation": 20,  # all: 17 convolutions and 3 shortcuts
    }


@torch.no_grad()
def test_maps_have_their_channels_last_on_a_cpu():
    resnet = build_resnet("bottlenecks", torch.float32)
    x = torch.randn(1, 3, 64, 96)
    found, wanted = inference_copy(resnet)(x)["res4"], resnet(x)["res4"]
    assert found.is_contiguous(memory_format=torch.channels_last) and wanted.is_contiguous()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


def test_the_model_stays_as_it_is():
    model = build_detector().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copied = inference_copy(model)
    assert model.training and not copied.training
    assert any(p.requires_grad for p in model.parameters()) and not any(p.requires_grad for p in copied.parameters())
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())


@torch.no_grad()
def test_the_model_itself_can_be_converted():
    model = build_resnet("bottlenecks", torch.float64)
    wanted = inference_copy(model)(x := torch.randn(1, 3, 64, 96, dtype=torch.float64))
    converted = convert_for_inference(model.train())
    assert converted is model and not model.training
    for level, value in wanted.items():
        assert torch.equal(converted(x)[level], value), level


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_has_the_same_detections(method):
    model, video = build_detector(METHODS[method], dtype=torch.float64), make_video(5)
    interval = METHODS[method].get("VIDEO.TEST_SCHEDULE.INTERVAL") if method != "FGFA" else None
    schedule = Keyframes(interval) if interval else SlidingWindow(1)
    pairs = zip(*(detect_as_stream(one, video, schedule) for one in (model, inference_copy(model))), strict=True)
    for wanted, found in pairs:
        assert_same_detections(found, wanted, 1e-8)


def test_a_predictor_runs_the_copy_where_it_is_told_to(tmp_path):
    torch.save({"model": build_detector().state_dict()}, tmp_path / "model.pth")
    frames = [image.permute(1, 2, 0).numpy() for image in make_video(2)]
    plain, fused = (VideoPredictor(tiny_cfg(), tmp_path / "model.pth", fused=flag) for flag in (False, True))
    kinds = [any(isinstance(one, nn.BatchNorm2d) for one in predictor.model.modules()) for predictor in (plain, fused)]
    assert kinds == [True, False]
    for wanted, found in zip(plain.stream(frames), fused.stream(frames), strict=True):
        scores = [one.output["instances"].scores for one in (found, wanted)]
        torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)
