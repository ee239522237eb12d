"""Weights of other code: what computes the same there and here."""

import itertools
import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d
from vod2.projects.selsa import SELSAAggregator

from vod2 import UserError
from vod2.checkpoint import SOURCES, Target, compare, convert, default_config
from vod2.d2 import Box2BoxTransform, DefaultAnchorGenerator, ShapeSpec, build_backbone, build_model
from vod2.engine import load_config
from vod2.layers import GeometryBias, RelationAttention
from vod2.structures import Frame, ProposalSet, Role, TemporalContext

ROOT = Path(__file__).resolve().parents[1]
PARITY = Path(os.environ.get("VOD2_PARITY_DIR", ROOT.parent / "shared" / "parity"))
BOX_HEAD = "roi_heads.box.feature_extractor."
MODELS = {
    "base": "FasterRCNN_R101",
    "rdn_base": "RDN_Base_R101",
    "rdn": "RDN_R101",
    "mega": "MEGA_R101",
    "fgfa": "FGFA_R101",
    "dff": "DFF_R101",
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def boxes(count: int, seed: int = 0) -> Tensor:
    corner = 50 * random(count, 2, seed=seed).abs()
    return torch.cat([corner, corner + 5 + 40 * random(count, 2, seed=seed + 1).abs()], dim=1)


def on_nothing(config: str) -> nn.Module:
    cfg = load_config(str(ROOT / "configs" / config), ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def public_keys(model: str) -> dict[str, Tensor]:
    path = PARITY / f"{model}_keys.json"
    if not path.is_file():
        pytest.skip(f"the list of the public code's names is not here ({path}): set VOD2_PARITY_DIR to its folder")
    shapes = json.loads(path.read_text())
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


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


def public_embedding(query: Tensor, key: Tensor) -> Tensor:
    """(N, 4), (M, 4) -> (N, M, 64): for dx, dy, dw, dh 8 sines, then 8 cosines."""
    rows = torch.zeros(len(query), len(key), 64, dtype=torch.float64)
    for i, j in itertools.product(range(len(query)), range(len(key))):
        (cx, cy), (w, h) = (query[i, :2] + query[i, 2:]) / 2, query[i, 2:] - query[i, :2]
        (cx2, cy2), (w2, h2) = (key[j, :2] + key[j, 2:]) / 2, key[j, 2:] - key[j, :2]
        position = (
            ((cx - cx2).abs() / w + 1e-3).log(),
            ((cy - cy2).abs() / h + 1e-3).log(),
            (w / w2).log(),
            (h / h2).log(),
        )
        angles = [[100 * p / 1000 ** (k / 8) for k in range(8)] for p in position]
        waves = [f(a) for one in angles for f in (math.sin, math.cos) for a in one]
        rows[i, j] = torch.tensor(waves, dtype=torch.float64)
    return rows


def public_relation(state: dict[str, Tensor], query: Tensor, key: Tensor, where: Tensor, there: Tensor) -> Tensor:
    """Grouped convolution over the heads' sums of whole features, with u and log(relu + 1e-6)."""
    heads, D = 4, query.shape[1]
    q = F.linear(query, state["l_Wqs.0.weight"], state["l_Wqs.0.bias"]).view(len(query), heads, -1).transpose(0, 1)
    k = F.linear(key, state["l_Wks.0.weight"], state["l_Wks.0.bias"]).view(len(key), heads, -1).transpose(0, 1)
    logits = (q @ k.transpose(1, 2) + state["l_us.0"] @ k.transpose(1, 2)) / math.sqrt(D // heads)
    geometry = F.conv2d(
        public_embedding(where, there).permute(2, 0, 1)[None], state["l_Wgs.0.weight"], state["l_Wgs.0.bias"]
    )
    weights = (logits + (geometry[0].relu() + 1e-6).log()).softmax(dim=-1)  # (h, N, M)
    sums = (weights @ key).transpose(0, 1).reshape(len(query), heads * D, 1, 1)
    return F.conv2d(sums, state["l_Wvs.0.weight"], state["l_Wvs.0.bias"], groups=heads).flatten(1)


def test_a_relation_of_mega_computes_the_same():
    """u folded into the bias of the query, the grouped convolution as linear layer, the floor of the geometry."""
    D, heads = 16, 4
    shapes = {
        "Wqs.0.weight": (D, D),
        "Wks.0.weight": (D, D),
        "Wvs.0.weight": (D, D, 1, 1),
        "Wgs.0.weight": (4, 64, 1, 1),
    }
    shapes |= {"Wqs.0.bias": (D,), "Wks.0.bias": (D,), "Wvs.0.bias": (D,), "Wgs.0.bias": (4,), "us.0": (4, 1, 4)}
    state = {f"l_{name}": random(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}
    done = convert({BOX_HEAD + name: value for name, value in state.items()}, "mega")
    assert not done.unused
    relation = RelationAttention(D, heads, GeometryBias(heads)).double()
    relation.load_state_dict(part(done.state, "roi_heads.aggregator.local_relations.0."))
    inputs = random(3, D, seed=20), random(5, D, seed=21), boxes(3, seed=22), boxes(5, seed=23)
    torch.testing.assert_close(relation(*inputs), public_relation(state, *inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_sum_is_exact_whatever_the_type_and_the_originals_keep_their_numbers(dtype):
    numbers = torch.randn(4, generator=torch.Generator().manual_seed(0)).to(dtype)
    state = {f"{BOX_HEAD}Wgs.0.bias": numbers.clone(), f"{BOX_HEAD}Wqs.0.bias": numbers.clone()}
    done = convert(state, "mega").state
    bias = done["roi_heads.aggregator.basic.0.geometry.projection.bias"]
    assert bias.dtype == torch.float64 and bias.equal(numbers.double() + 1e-6)
    assert done["roi_heads.aggregator.basic.0.query.bias"].dtype == dtype
    assert all(value.equal(numbers) for value in state.values())


def test_what_is_added_to_a_variance_there_is_in_the_variance_here():
    state = {"backbone.body.stem.bn1.running_var": torch.tensor([0.5], dtype=torch.float64)}
    name = "backbone.stem.conv1.norm.running_var"
    assert convert(state, "mega", Target(norm_eps=0.0)).state[name].item() == 0.5
    assert convert(state, "mega", Target(norm_eps=1e-5)).state[name].item() == pytest.approx(0.5 - 1e-5, rel=1e-12)


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


def public_selsa(state: dict[str, Tensor], x: Tensor, supports: Tensor, heads: int) -> Tensor:
    """From what comes out of the first shared layer to what the predictor gets."""

    def linear(name: str, value: Tensor) -> Tensor:
        return F.linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    for layer in (0, 1):
        if layer:
            x, supports = linear("shared_fcs.1", x), linear("shared_fcs.1", supports)
        columns = []
        for part_of in range(heads):
            d = x.shape[1] // heads
            cut = slice(part_of * d, (part_of + 1) * d)
            q = linear(f"aggregator.{layer}.fc_embed", x)[:, cut]
            k = linear(f"aggregator.{layer}.ref_fc_embed", supports)[:, cut]
            v = linear(f"aggregator.{layer}.ref_fc", supports)[:, cut]
            columns.append((q @ k.T / math.sqrt(d)).softmax(dim=1) @ v)
        x = (x + linear(f"aggregator.{layer}.fc", torch.cat(columns, dim=1))).relu()
        supports = supports.relu()
    return x


def test_the_head_of_mmtracking_computes_the_same():
    D, heads = 16, 4
    names = [f"aggregator.{i}.{name}" for i in (0, 1) for name in ("fc_embed", "ref_fc_embed", "ref_fc", "fc")]
    state = {}
    for seed, name in enumerate(["shared_fcs.1", *names]):
        state |= {f"{name}.weight": random(D, D, seed=seed) / 4, f"{name}.bias": random(D, seed=50 + seed)}
    done = convert({f"detector.roi_head.bbox_head.{name}": value for name, value in state.items()}, "mmtracking-selsa")
    assert not done.unused
    selsa = SELSAAggregator(dim=D, num_heads=heads, output_projection=True).double()
    selsa.load_state_dict(part(done.state, "roi_heads.aggregator."))
    x, supports = random(3, D, seed=90), random(5, D, seed=91)
    query = ProposalSet.of_frame(boxes(3), x, torch.zeros(3, dtype=torch.float64), (99, 99))
    pool = ProposalSet.of_frame(boxes(5), supports, torch.zeros(5, dtype=torch.float64), (99, 99))
    context = TemporalContext((Frame("", 1, (99, 99), proposals=pool),), (Role.GLOBAL,))
    found = selsa(query, context).value
    torch.testing.assert_close(found, public_selsa(state, x, supports, heads))


@pytest.mark.parametrize("weights", [(5.0, 5.0, 5.0, 5.0), (10.0, 10.0, 5.0, 5.0)])
def test_deltas_of_mmtracking_decode_to_the_same_boxes(weights):
    name = "detector.roi_head.bbox_head.fc_reg.bias"
    bias = random(8) / 4
    done = convert({name: bias}, "mmtracking-selsa", Target(box_weights=weights)).state
    where = boxes(1)
    found = Box2BoxTransform(weights=weights).apply_deltas(done["roi_heads.box_predictor.bbox_pred.bias"][None], where)
    wanted = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)).apply_deltas(0.2 * bias[None], where)
    torch.testing.assert_close(found, wanted)


def test_the_configuration_of_mmtracking_has_a_place_for_every_name():
    model = on_nothing("published/SELSA_mmtracking_R50.yaml")
    theirs = {}
    for name, value in model.state_dict().items():
        theirs[mmtracking_name(name)] = torch.zeros(1).expand(value.shape)
    assert default_config(theirs, "mmtracking-selsa") == "published/SELSA_mmtracking_R50.yaml"
    done = convert(theirs, "mmtracking-selsa", Target(bottom_up=True, box_weights=(5.0, 5.0, 5.0, 5.0)))
    report = compare(model, done.state, "")
    assert not done.unused and not report.new and not report.other_shape and not report.unused


def mmtracking_name(name: str) -> str:
    """The other way round, by plain replacement."""
    for stage in (2, 3, 4, 5):
        name = name.replace(f"backbone.bottom_up.res{stage}.", f"detector.backbone.layer{stage - 1}.")
    for here, there in (
        ("backbone.bottom_up.stem.", "detector.backbone."),
        ("backbone.last_conv", "detector.neck.convs.0.conv"),
        ("proposal_generator.rpn_head.conv", "detector.rpn_head.rpn_conv"),
        ("proposal_generator.rpn_head.objectness_logits", "detector.rpn_head.rpn_cls"),
        ("proposal_generator.rpn_head.anchor_deltas", "detector.rpn_head.rpn_reg"),
        ("roi_heads.box_head.fc1", "detector.roi_head.bbox_head.shared_fcs.0"),
        ("roi_heads.aggregator.transform.0", "detector.roi_head.bbox_head.shared_fcs.1"),
        ("roi_heads.aggregator.relation", "detector.roi_head.bbox_head.aggregator"),
        ("roi_heads.box_predictor.cls_score", "detector.roi_head.bbox_head.fc_cls"),
        ("roi_heads.box_predictor.bbox_pred", "detector.roi_head.bbox_head.fc_reg"),
        (".query.", ".fc_embed."),
        (".key.", ".ref_fc_embed."),
        (".value.", ".ref_fc."),
        (".output.", ".fc."),
        ("shortcut.norm", "downsample.1"),
        ("shortcut", "downsample.0"),
        *((f"conv{number}.norm", f"bn{number}") for number in (1, 2, 3)),
    ):
        name = name.replace(here, there)
    return name
