"""Relations of other code: what computes the same there and here."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.conversion import boxes, on_nothing, part, random
from vod2.checkpoint import Target, compare, convert, default_config
from vod2.d2 import Box2BoxTransform
from vod2.layers import GeometryBias, RelationAttention
from vod2.projects.selsa import SELSAAggregator
from vod2.structures import Frame, ProposalSet, Role, TemporalContext

BOX_HEAD = "roi_heads.box.feature_extractor."


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


@pytest.mark.parametrize(
    "config, default",
    [
        ("published/SELSA_mmtracking_R50.yaml", "published/SELSA_mmtracking_R50.yaml"),
        ("published/TROIAlign_mmtracking_R50.yaml", "published/TROIAlign_mmtracking_R50.yaml"),
        ("MAMBA_R101.yaml", "published/SELSA_mmtracking_R101.yaml"),  # the same names: a user names the configuration
    ],
)
def test_the_configuration_of_mmtracking_has_a_place_for_every_name(config, default):
    model = on_nothing(config)
    theirs = {}
    for ours, value in model.state_dict().items():
        theirs[mmtracking_name(ours)] = torch.zeros(1).expand(value.shape)
    assert default_config(theirs, "mmtracking-selsa") == default
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
        ("roi_heads.aggregator.transform.1", "detector.roi_head.bbox_head.shared_fcs.2"),
        ("roi_heads.temporal.attention.embed", "detector.roi_head.bbox_roi_extractor.embed_network.conv"),
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
