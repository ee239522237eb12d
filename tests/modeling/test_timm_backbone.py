"""Backbones of timm: their maps and stages, what learns, where weights come from, and what is refused."""

import copy
import sys

import pytest
import torch
from torch import Tensor, nn

from helpers.contracts import check_gradients, check_stream_equals_clips
from helpers.models import FCOS_KEYS, LSTS_KEYS, build_detector, make_video, tiny_cfg
from helpers.streams import detect_as_stream, window_clip
from helpers.timm_models import DETECTORS, FPN_KEYS, LEVELS, MODELS, SINGLE_KEYS, make_backbone, named_as_timm
from vod2.d2 import DetectionCheckpointer, build_model
from vod2.errors import UserError
from vod2.modeling.backbone import forward_stages, stages_of
from vod2.modeling.timm_backbone import TimmBackbone
from vod2.temporal import Keyframes, NoWindow, SlidingWindow

timm = pytest.importorskip("timm", reason="timm is not installed")

CHANNELS = {
    "ConvNeXt": [24, 32, 48, 64],
    "Swin": [16, 32, 64, 128],
    "EfficientNet": [24, 32, 48, 64],
}
CUT = {
    "ConvNeXt": MODELS["ConvNeXt"],
    "Swin": MODELS["Swin"],
    "ResNet": {
        "MODEL.TIMM.NAME": "test_resnet",
        "MODEL.TIMM.OPTIONS": [["layers", [1, 1, 2, 1]], ["zero_init_last", False]],
    },
}
"""Models whose res4 has two blocks."""
UNSTAGED = {"MODEL.TIMM.NAME": "test_convnext", "MODEL.TIMM.OPTIONS": [["feature_cls", "hook"]]}


def images(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def refusal(keys: dict) -> str:
    with pytest.raises(UserError) as error:
        make_backbone({"MODEL.TIMM.NAME": "test_convnext"} | keys)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


# Maps


@pytest.mark.parametrize("name", MODELS)
def test_maps_are_named_by_their_stride_and_have_the_channels_of_the_model(name):
    model = make_backbone(MODELS[name])
    shapes = {level: (shape.channels, shape.stride) for level, shape in model.output_shape().items()}
    assert list(shapes) == LEVELS and [stride for _, stride in shapes.values()] == [4, 8, 16, 32]
    if name != "ResNet":  # of which timm says it, below
        assert [channels for channels, _ in shapes.values()] == CHANNELS[name]
    with torch.no_grad():
        maps = model(images())
    assert {level: tuple(value.shape) for level, value in maps.items()} == {
        level: (2, channels, 64 // stride, 96 // stride) for level, (channels, stride) in shapes.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_maps_are_those_of_timm_itself(name):
    model, keys = make_backbone(MODELS[name]), MODELS[name]
    options = dict(keys.get("MODEL.TIMM.OPTIONS", []))
    if name == "Swin":
        options |= {"dynamic_img_size": True, "always_partition": True}
    plain = timm.create_model(keys["MODEL.TIMM.NAME"], **options).eval()
    assert not plain.load_state_dict(named_as_timm(model.model.state_dict()), strict=False).unexpected_keys
    with torch.no_grad():
        wanted = plain.forward_intermediates(images(), intermediates_only=True)[-4:]
        for found, expected in zip(model(images()).values(), wanted, strict=True):
            torch.testing.assert_close(found, expected)


def test_a_model_ends_with_the_last_map_that_is_read():
    whole, short = (
        make_backbone(MODELS["EfficientNet"] | {"MODEL.TIMM.OUT_FEATURES": levels}) for levels in (LEVELS, ["res3"])
    )
    assert list(short.output_shape()) == ["res3"] and short.size_divisibility == 8
    short.load_state_dict({name: value for name, value in whole.state_dict().items() if name in short.state_dict()})
    with torch.no_grad():
        torch.testing.assert_close(short(images())["res3"], whole(images())["res3"])
    assert len(short.state_dict()) < len(whole.state_dict())


def test_res5_may_keep_the_stride_of_res4():
    model = make_backbone(MODELS["ConvNeXt"] | {"MODEL.TIMM.OUTPUT_STRIDE": 16})
    assert [shape.stride for shape in model.output_shape().values()] == [4, 8, 16, 16]
    assert model(images())["res5"].shape[-2:] == (4, 6) and model.size_divisibility == 16


def test_a_swin_takes_images_of_any_size():
    model = make_backbone(MODELS["Swin"])
    with torch.no_grad():
        assert model(images(32, 64))["res5"].shape[-2:] == (1, 2)
        assert model(images(96, 160))["res2"].shape[-2:] == (24, 40)


def test_a_state_of_the_detector_is_saved_and_loaded(tmp_path):
    model = build_detector(DETECTORS["EfficientNet"])
    DetectionCheckpointer(model, str(tmp_path)).save("weights")
    other = build_model(tiny_cfg(DETECTORS["EfficientNet"]))
    DetectionCheckpointer(other).load(str(tmp_path / "weights.pth"))
    assert model.state_dict().keys() == other.state_dict().keys()
    assert all(value.equal(other.state_dict()[name]) for name, value in model.state_dict().items())
    names = [name for name in model.state_dict() if name.startswith("backbone.bottom_up.")]
    assert names and all(name.startswith("backbone.bottom_up.model.") for name in names)  # each tensor once


# Stages


@pytest.mark.parametrize("name", MODELS)
def test_stages_one_after_the_other_are_the_whole(name):
    model = make_backbone(MODELS[name])
    assert [stage.name for stage in stages_of(model)] == ["stem", *LEVELS]
    with torch.no_grad():
        whole, staged = model(images()), forward_stages(model, images())
        for level in LEVELS:
            torch.testing.assert_close(staged[level], whole[level])


@pytest.mark.parametrize("name", CUT)
def test_a_stage_that_is_cut_goes_on_to_the_same(name):
    model = make_backbone(CUT[name])
    with torch.no_grad():
        whole = model(images())
        begun = forward_stages(model, images(), until="res4", block=1)["res4"]
        rest = forward_stages(model, begun, after="res4", block=1)
    assert not begun.equal(whole["res4"])
    for level in ("res4", "res5"):
        torch.testing.assert_close(rest[level], whole[level])


def test_a_copy_has_stages_of_its_own():
    model = make_backbone(MODELS["Swin"])
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        assert forward_stages(other, images())["res5"].eq(0).all()
        assert forward_stages(model, images())["res5"].ne(0).any()


@pytest.mark.parametrize("name", CUT)
def test_a_method_of_keyframes_runs_parts_of_it(name):
    keys = SINGLE_KEYS | CUT[name] | LSTS_KEYS | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator"}
    model = build_detector(keys | {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 1e-4})
    runs: list[int] = []
    list(stages_of(model.backbone)[-2].run)[-1].register_forward_hook(lambda *call: runs.append(len(call[2])))
    for instances in detect_as_stream(model, make_video(4), Keyframes(3)):
        assert len(instances) and instances.scores.isfinite().all()
    assert len(runs) == 2  # frames 0 and 3


def test_level_1_says_what_it_needs_of_a_model_without_stages():
    keys = SINGLE_KEYS | UNSTAGED | LSTS_KEYS | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator"}
    with pytest.raises(UserError, match="^TimmBackbone .* not run stage after stage, .* take a ResNet, a ConvNeXt"):
        build_model(tiny_cfg(keys))
    assert build_model(tiny_cfg(SINGLE_KEYS | UNSTAGED))  # a single frame needs no stages


def test_level_1_says_what_it_needs_of_a_pyramid():
    keys = FPN_KEYS | MODELS["Swin"] | LSTS_KEYS | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator"}
    with pytest.raises(UserError, match="needs one map of a ResNet .* gives p3, p4, p5"):
        build_model(tiny_cfg(keys))


# What learns


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_first_parts_can_be_frozen():
    model = make_backbone(MODELS["ConvNeXt"] | {"MODEL.BACKBONE.FREEZE_AT": 2}).train()
    assert {name.split(".")[1] for name in learning(model)} == {"stages_1", "stages_2", "stages_3"}
    assert not model.model["stages_0"].training and model.model["stages_1"].training


def test_all_parts_can_be_frozen_and_leave_no_block_out():
    keys = {"MODEL.BACKBONE.FREEZE_AT": 9, "MODEL.TIMM.DROP_PATH": 0.5}
    model = make_backbone(MODELS["ConvNeXt"] | keys).train()
    assert not learning(model)
    assert model(images())["res5"].equal(model(images())["res5"])


def test_blocks_are_left_out_in_training_alone():
    model = make_backbone(MODELS["ConvNeXt"] | {"MODEL.TIMM.DROP_PATH": 0.9})
    # With the small factors that it begins with, a block changes next to nothing.
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.ones_(parameter)
    assert model(images())["res5"].equal(model(images())["res5"])
    model.train()
    assert not model(images())["res5"].equal(model(images())["res5"])


def test_normalisation_over_batches_stays_as_it_is_and_layernorm_learns():
    model = make_backbone(MODELS["EfficientNet"]).train()
    before = copy.deepcopy(dict(model.named_buffers()))
    model(images())["res5"].sum().backward()
    assert all(value.equal(before[name]) for name, value in model.named_buffers())
    norms = [name for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms and not {name.rpartition(".")[0] for name in learning(model)} & set(norms)
    assert any("norm" in name for name in learning(make_backbone(MODELS["ConvNeXt"])))


def test_normalisation_over_batches_learns_where_it_shall():
    model = make_backbone(MODELS["EfficientNet"] | {"MODEL.TIMM.FREEZE_NORM": False}).train()
    before = copy.deepcopy(dict(model.named_buffers()))
    model(images())
    assert learning(model) == {name for name, _ in model.named_parameters()}
    assert any(not value.equal(before[name]) for name, value in model.named_buffers())


def test_a_model_without_stages_cannot_be_frozen_in_part():
    assert "FREEZE_AT is 2, and FeatureHookNet" in refusal(UNSTAGED | {"MODEL.BACKBONE.FREEZE_AT": 2})
    assert type(make_backbone(UNSTAGED)) is TimmBackbone


# Detectors


RDN = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"}
SELSA = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SELSAAggregator", "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"}


@pytest.mark.parametrize("method", [{}, RDN, SELSA], ids=["single frame", "RDN", "SELSA"])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_stream_of_its_detector_gives_what_whole_clips_give(name, method):
    schedule = SlidingWindow(2) if method else NoWindow()
    # Clips encode their frames together: in single precision a batch rounds otherwise.
    check_stream_equals_clips(build_detector(DETECTORS[name] | method, dtype=torch.float64), schedule, 1e-8)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_gradient_reaches_every_parameter_that_learns(name):
    model = build_detector(DETECTORS[name] | RDN | {"MODEL.TIMM.FREEZE_NORM": False}, dtype=torch.float64)
    # key.bias adds the same to all logits of a query; the p6 of these detectors is read by nobody, and has no weights
    check_gradients(model, window_clip(make_video(3), 1, SlidingWindow(1)), ("key.bias",))


@pytest.mark.parametrize("method", [{}, RDN], ids=["single frame", "RDN"])
def test_a_one_stage_detector_has_its_pyramid_on_it(method):
    keys = FCOS_KEYS | MODELS["ConvNeXt"] | {"MODEL.PYRAMID.BOTTOM_UP": "build_timm_backbone"}
    keys |= {"MODEL.TIMM.OUT_FEATURES": ["res3", "res4"], "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}
    model = build_detector(keys | method, dtype=torch.float64)
    assert isinstance(model.backbone.bottom_up, TimmBackbone)
    check_stream_equals_clips(model, SlidingWindow(2) if method else NoWindow(), 1e-8)


# What is refused


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"MODEL.TIMM.NAME": "test_convnex"}, "is 'test_convnex', no model of timm .* did you mean test_convnext"),
        ({"MODEL.TIMM.NAME": "?"}, r"of which timm.list_models\(\) has a list"),
        ({"MODEL.TIMM.NAME": "test_convnext.nowhere"}, "'test_convnext.nowhere', which timm does not make"),
        ({"MODEL.TIMM.NAME": "test_vit"}, "maps all have stride 16: set MODEL.BACKBONE.NAME to 'build_timm_vit_pyr"),
        ({"MODEL.TIMM.NAME": "coatnet_nano_rw_224"}, "takes images of one size alone"),
        ({"MODEL.TIMM.OUT_FEATURES": ["res6"]}, r"OUT_FEATURES is \['res6'\]: expected .* res2, res3, res4, res5"),
        ({"MODEL.TIMM.OUT_FEATURES": []}, r"OUT_FEATURES is \[\]: expected one or more"),
        (FPN_KEYS | {"MODEL.FPN.IN_FEATURES": ["p3"]}, r"FPN.IN_FEATURES is \['p3'\]: expected .* res2"),
        (MODELS["Swin"] | {"MODEL.TIMM.OUTPUT_STRIDE": 16}, "OUTPUT_STRIDE is set, but swin.* does not take it"),
        ({"MODEL.TIMM.OUTPUT_STRIDE": 5}, "MODEL.TIMM.NAME is 'test_convnext', which timm does not make"),
        ({"MODEL.TIMM.OPTIONS": [["widths", 3]]}, "OPTIONS is set, but test_convnext of timm does not take 'widths'"),
        (
            {"MODEL.TIMM.NAME": "hrnet_w18_small", "MODEL.TIMM.OPTIONS": [["widths", 3]]},
            "OPTIONS is set, but hrnet_w18",
        ),
        ({"MODEL.TIMM.OPTIONS": ["dims", 3]}, "OPTIONS has 'dims': expected pairs"),
        ({"MODEL.TIMM.DROP_PATH": 1.0}, "DROP_PATH is 1.0: expected a probability"),
    ],
)
def test_what_timm_or_the_model_does_not_have_is_refused(keys, said):
    with pytest.raises(UserError, match=said):
        make_backbone({"MODEL.TIMM.NAME": "test_convnext"} | keys)
    refusal(keys)


def test_a_missing_timm_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install 'vod2[timm]'" in refusal({})
