"""Weights of other code: what computes the same there and here. Relations: test_convert_relations.py."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

from helpers.conversion import on_nothing, part, random
from helpers.models import ROOT
from helpers.parity import public_shapes
from vod2 import UserError
from vod2.checkpoint import SOURCES, Target, compare, convert, default_config
from vod2.checkpoint.settings import differing
from vod2.d2 import DefaultAnchorGenerator, ShapeSpec, build_backbone
from vod2.d2 import FrozenBatchNorm2d as OurNorm
from vod2.engine import load_config

BOX_HEAD = "roi_heads.box.feature_extractor."
MODELS = {
    "base": "FasterRCNN_R101",
    "rdn_base": "RDN_Base_R101",
    "rdn": "RDN_R101",
    "mega": "MEGA_R101",
    "fgfa": "FGFA_R101",
    "dff": "DFF_R101",
}


def public_keys(model: str) -> dict[str, Tensor]:
    return {name: torch.ones(1).expand(shape) for name, shape in public_shapes(model).items()}


def on_resnet50(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of a model on ResNet-50, whose heads pool from 256 channels; MEGA's looks at global frames once."""
    deeper = tuple(f"backbone.body.layer3.{block}." for block in range(6, 23))
    second_look = tuple(f"{BOX_HEAD}g_{name}.1" for name in ("Wqs", "Wks", "Wvs", "us"))
    left = {name: value for name, value in state.items() if not name.startswith(deeper + second_look)}
    left |= {name: torch.ones(1).expand(1024, 12544) for name, value in left.items() if value.shape == (1024, 100352)}
    return left | {
        f"{BOX_HEAD}conv.weight": torch.ones(1).expand(256, 2048, 1, 1),
        f"{BOX_HEAD}conv.bias": torch.ones(1).expand(256),
    }


# Names


@pytest.mark.parametrize("model", MODELS)
def test_every_public_name_of_mega_has_its_place(model):
    state = public_keys(model)
    config = default_config(state, "mega")
    assert config == f"published/{MODELS[model]}.yaml"
    done = convert(state, "mega")
    report = compare(on_nothing(config), done.state, model)
    assert not done.unused and not report.unused and not report.new and not report.other_shape
    assert len(done.moves) == len(report.loaded)


@pytest.mark.parametrize("model", [model for model in MODELS if model != "rdn"])  # which is published on R-101 alone
def test_every_public_name_of_mega_on_resnet50_has_its_place(model):
    state = on_resnet50(public_keys(model))
    config = default_config(state, "mega")
    assert config == f"published/{MODELS[model].replace('R101', 'R50')}.yaml"
    done = convert(state, "mega")
    report = compare(on_nothing(config), done.state, model)
    assert not done.unused and not report.unused and not report.new and not report.other_shape
    assert report.loaded["roi_heads.reduce.res5.0.weight"] == (256, 2048, 1, 1)


@pytest.mark.parametrize("model", MODELS)
def test_mega_needs_all_that_its_configuration_changes_of_how_boxes_come_out(model):
    """Of keys that a configuration without its conventions has otherwise, whatever the schedule."""
    published = load_config(str(ROOT / "configs" / "published" / f"{MODELS[model]}.yaml"))
    settings = convert(public_keys(model), "mega").settings
    assert differing(published, settings) == []
    assert {
        *("INPUT.RESIZE_TRUNCATES", "TEST.VID_PROTOCOL"),
        *(f"MODEL.ANCHOR_GENERATOR.{key}" for key in ("NAME", "OFFSET", "SIZES", "ASPECT_RATIOS")),
    } <= settings.keys()
    assert ("VIDEO.TEST_SCHEDULE.EDGE" in settings) == (model in ("rdn_base", "rdn", "mega", "fgfa"))


def test_anchors_that_mega_was_not_published_with_are_left_to_the_configuration():
    done = convert({"rpn.head.cls_logits.bias": random(15)}, "mega", Target(ratios=3))
    assert "MODEL.ANCHOR_GENERATOR.SIZES" not in done.settings


def test_the_parallel_wrapper_and_counters_are_ignored():
    done = convert(
        {"module.backbone.body.stem.bn1.weight": random(4), "module.bn.num_batches_tracked": random()}, "mega"
    )
    assert list(done.state) == ["backbone.stem.conv1.norm.weight"] and not done.unused


def test_what_no_rule_knows_is_told():
    done = convert({"backbone.body.stem.bn1.weight": random(4), "strange.weight": random(2, 3)}, "mega")
    assert done.unused == {"strange.weight": (2, 3)}


def test_a_resnet_below_something_else_is_called_bottom_up():
    done = convert({"conv1.weight": random(4, 3, 7, 7)}, "torchvision", Target(bottom_up=True))
    assert list(done.state) == ["backbone.bottom_up.stem.conv1.weight"]


@pytest.mark.parametrize("state", [{}, {"a.weight": torch.zeros(1)}])
@pytest.mark.parametrize("source", SOURCES)
def test_names_of_something_else_are_refused(state, source):
    with pytest.raises(UserError, match=f"not of {source}"):
        convert(state, source)


def test_an_unknown_source_is_refused():
    with pytest.raises(UserError, match="'caffe' cannot be converted: expected one of mega"):
        convert({}, "caffe")


def test_a_tensor_of_an_impossible_shape_is_refused():
    with pytest.raises(UserError, match="7 channels of the RPN cannot be 1 for each anchor of 3 aspect ratios"):
        convert({"rpn.head.cls_logits.bias": random(7)}, "mega")


def test_an_offset_of_mega_that_is_missing_is_refused():
    with pytest.raises(UserError, match="l_us.1 of 8 numbers is missing"):
        convert({f"{BOX_HEAD}l_Wqs.1.bias": random(8)}, "mega")


def test_two_names_that_the_parallel_wrapper_tells_apart_are_refused():
    name = "backbone.body.stem.bn1.weight"
    with pytest.raises(UserError, match=f"'module.{name}' is one of two tensors for '{name}'"):
        convert({f"module.{name}": random(4), name: random(4)}, "mega")


# The meaning of the numbers


def test_every_anchor_keeps_its_logit_and_deltas():
    ratios, sizes = (0.5, 1.0, 2.0), (64.0, 128.0, 256.0, 512.0)
    logits, deltas = random(12), random(48)
    done = convert({"rpn.head.cls_logits.bias": logits, "rpn.head.bbox_pred.bias": deltas}, "mega").state
    generator = DefaultAnchorGenerator(sizes=[list(sizes)], aspect_ratios=[list(ratios)], strides=[16])
    (anchors,) = generator([torch.zeros(1, 1, 1, 1)])
    here = {
        (round((h / w).item(), 1), round(math.sqrt(w * h))): (logit.item(), delta.tolist())
        for (w, h), logit, delta in zip(
            (anchors.tensor[:, 2:] - anchors.tensor[:, :2]),
            done["proposal_generator.rpn_head.objectness_logits.bias"],
            done["proposal_generator.rpn_head.anchor_deltas.bias"].view(12, 4),
            strict=True,
        )
    }
    for (ratio, size), logit, delta in zip(itertools.product(ratios, sizes), logits, deltas.view(12, 4), strict=True):
        assert here[ratio, round(size)] == (logit.item(), delta.tolist())


def test_the_background_goes_from_the_first_class_to_the_last():
    names = [f"roi_heads.box.predictor.{name}" for name in ("cls_score.bias", "bbox_pred.bias")]
    done = convert({names[0]: torch.tensor([9.0, 0.0, 1.0]), names[1]: torch.arange(12.0)}, "mega").state
    assert done["roi_heads.box_predictor.cls_score.bias"].tolist() == [0.0, 1.0, 9.0]
    assert done["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]


@pytest.mark.parametrize("eps", [1e-20, 1e-5])
def test_a_small_variance_computes_the_same_with_any_eps(eps):
    """There weight / sqrt(variance) in float32; a difference of variances would be 0 or off by half."""
    variances, weights = torch.tensor([0.5, 1e-5, 1.00001e-5, 1e-13]), torch.tensor([0.3, -2.0, 1.0, 1e-6])
    there = "backbone.body.stem.bn1"
    state = {f"{there}.running_var": variances, f"{there}.weight": weights}
    state |= {f"{there}.bias": torch.zeros(4), f"{there}.running_mean": torch.zeros(4)}
    done = convert(state, "mega", Target(norm_eps=eps))
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        norm = OurNorm(4, eps=eps).to(dtype)
        norm.load_state_dict(part(done.state, "backbone.stem.conv1.norm."))
        found = norm(torch.ones(1, 4, 1, 1, dtype=dtype)).flatten()
        wanted = weights.double() / variances.double().sqrt()
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=0)
    assert done.state["backbone.stem.conv1.norm.running_var"].equal(variances)
    words = {move.name: move.transform for move in done.moves}
    assert "variance" in words["backbone.stem.conv1.norm.weight"] and not words["backbone.stem.conv1.norm.bias"]


def test_a_normalisation_that_adds_the_same_keeps_its_weight():
    state = {"bn1.running_var": random(4).abs(), "bn1.weight": random(4, seed=1)}
    done = convert(state, "torchvision")
    assert done.state["backbone.stem.conv1.norm.weight"].equal(state["bn1.weight"])


def test_a_variance_of_zero_where_nothing_is_added_is_refused():
    state = {"backbone.body.stem.bn1.running_var": torch.zeros(4), "backbone.body.stem.bn1.weight": torch.ones(4)}
    with pytest.raises(UserError, match="norm.running_var' [+] 0 is not positive everywhere"):
        convert(state, "mega")


@pytest.mark.parametrize("colours", ["BGR", "RGB"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_resnet_of_torchvision_computes_the_same_features(colours, frozen):
    """ImageNet's adds 1e-5 to variances; a detector's, with frozen normalisation, adds nothing."""
    torch.manual_seed(0)
    theirs = resnet50(norm_layer=(lambda width: FrozenBatchNorm2d(width, eps=0.0)) if frozen else None).double().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(1e-5, 1.0)
            module.weight.data.uniform_(0.1, 0.3)
    options = ["MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.RESNETS.DEPTH", 50, "INPUT.FORMAT", colours]
    cfg = load_config("", [*options, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res5"]])
    state = {f"backbone.body.{name}" if frozen else name: value for name, value in theirs.state_dict().items()}
    done = convert(state, "torchvision", Target(bgr=colours == "BGR"))
    ours = build_backbone(cfg, ShapeSpec(channels=3)).double().eval()
    ours.load_state_dict(part(done.state, "backbone."))

    rgb = random(1, 3, 64, 64, seed=1)
    features = ours(rgb.flip(1) if colours == "BGR" else rgb)
    x = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(rgb)))))
    torch.testing.assert_close(features["res2"], x, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(features["res5"], theirs.layer4(theirs.layer3(theirs.layer2(x))), rtol=1e-8, atol=1e-10)


def test_a_detector_of_torchvision_has_detectron2s_names():
    state = {
        "backbone.body.conv1.weight": random(8, 3, 7, 7),
        "backbone.fpn.inner_blocks.0.0.weight": random(4, 8, 1, 1),
        "backbone.fpn.inner_blocks.1.weight": random(4, 8, 1, 1),
        "backbone.fpn.layer_blocks.3.1.running_var": random(4),
        "rpn.head.conv.0.0.weight": random(4, 4, 3, 3),
        "rpn.head.cls_logits.bias": torch.arange(3.0),
        "roi_heads.box_head.fc7.bias": random(4),
        "roi_heads.box_predictor.cls_score.bias": torch.tensor([9.0, 0.0, 1.0]),
    }
    done = convert(state, "torchvision", Target(bottom_up=True))
    assert list(done.state) == [
        "backbone.bottom_up.stem.conv1.weight",
        "backbone.fpn_lateral2.weight",
        "backbone.fpn_lateral3.weight",
        "backbone.fpn_output5.norm.running_var",
        "proposal_generator.rpn_head.conv.weight",
        "proposal_generator.rpn_head.objectness_logits.bias",
        "roi_heads.box_head.fc2.bias",
        "roi_heads.box_predictor.cls_score.bias",
    ]
    assert done.state["proposal_generator.rpn_head.objectness_logits.bias"].tolist() == [0.0, 1.0, 2.0]
    assert done.state["roi_heads.box_predictor.cls_score.bias"].tolist() == [0.0, 1.0, 9.0]
    assert done.settings["MODEL.PIXEL_MEAN"] == [103.53, 116.28, 123.675]


def test_conv5_in_the_heads_of_detectron2_becomes_the_backbones():
    state = {"backbone.res4.0.conv1.weight": random(2), "roi_heads.res5.0.conv1.weight": random(3)}
    assert list(convert(state, "detectron2").state) == ["backbone.res4.0.conv1.weight", "backbone.res5.0.conv1.weight"]


def test_names_of_caffe2_and_its_normalisation_without_statistics():
    scale = random(4)
    state = {"conv1_w": random(4, 3, 7, 7), "res2_0_branch2b_w": random(4, 4, 3, 3), "fc1000_w": random(2, 2)}
    done = convert(state | {"res2_0_branch1_bn_s": scale, "res2_0_branch1_bn_b": random(4)}, "detectron2")
    norm = part(done.state, "backbone.res2.0.shortcut.norm.")
    assert {"backbone.stem.conv1.weight", "backbone.res2.0.conv2.weight"} <= done.state.keys()
    assert norm["weight"].equal(scale) and done.unused == {"fc1000_w": (2, 2)}
    assert (norm["running_var"] + 1e-5).allclose(torch.ones(4, dtype=torch.float64)) and not norm["running_mean"].any()


CONVERTED = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if "datasets/pretrained/" in path.read_text()]


@pytest.mark.parametrize("path", CONVERTED, ids=lambda path: path.stem)
def test_the_documents_tell_how_the_file_is_made_that_a_configuration_begins_with(path):
    lines = path.read_text().splitlines()
    (name,) = (line.split('"')[1] for line in lines if "WEIGHTS:" in line and "datasets/pretrained/" in line)
    assert f"| {name.removeprefix('datasets/pretrained/')} |" in (ROOT / "docs" / "model_zoo.md").read_text()
    assert "convert_checkpoint.py --from torchvision" in path.read_text()


def test_a_start_of_torchvision_fits_the_configuration_of_mmtracking():
    config = "published/SELSA_mmtracking_R50.yaml"
    model = on_nothing(config)
    with torch.device("meta"):
        theirs = resnet50()
    state = {name: torch.tensor(1.0).expand(value.shape) for name, value in theirs.state_dict().items()}
    target = Target.of(load_config(str(ROOT / "configs" / config)), model)
    report = compare(model, convert(state, "torchvision", target).state, "")
    resnet = {name for name in model.state_dict() if name.startswith("backbone.bottom_up.")}
    assert report.loaded.keys() == resnet and not report.unused
