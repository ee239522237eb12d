"""MODEL.VIDEO.KEEP_RELATIONS: what `Aggregated.relations` hold, for every aggregator that can keep them."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from helpers.models import DIM, make_video, tiny_cfg
from helpers.proposals import random_context, random_proposals
from vod2 import VideoPredictor
from vod2.engine.random_weights import draw_weights
from vod2.engine.relations import RelationWatch
from vod2.layers import RelationAttention
from vod2.modeling.roi_heads import ProposalAggregator, build_proposal_aggregator
from vod2.structures import Role, TemporalContext

TOPK = 5
LINEAR = {"MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"}
LOCAL, GLOBAL, KEY = Role.LOCAL, Role.GLOBAL, Role.KEY
COUNTS = [6, 2, 0, 5]  # proposals of the support frames, of which 5, 2, 0 and 5 are looked at
ROLES = [KEY, GLOBAL, LOCAL, LOCAL]
M = 12


def every(mark: list[bool]) -> list[int]:
    """The columns of the key frame's and the others' proposals, once, then again those of the others."""
    frames = [0] * 5 + [1] * 2 + [3] * 5
    return [*range(M), *(column for column, frame in enumerate(frames) if not mark[frame])]


class Case(NamedTuple):
    """Configuration keys, the last relation, and the columns of the supports that its keys are.

    `beyond` keys that follow are no proposals of the context."""

    keys: dict
    last: Callable[[ProposalAggregator], RelationAttention]
    columns: list[int]
    beyond: int = 0


def case(name: str, keys: dict, last: Callable, columns: list[int] | None = None, beyond: int = 0) -> Case:
    return Case({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": name} | keys, last, columns or [*range(M)], beyond)


HVR = "HVRAggregator"
CASES = {
    "RDN": case("RDNAggregator", {}, lambda rdn: rdn.basic[-1]),
    "SELSA": case("SELSAAggregator", LINEAR, lambda selsa: selsa.relation[-1]),
    "MAMBA": case("MAMBAAggregator", LINEAR | {"MODEL.MAMBA.NUM_HEADS": 4}, lambda mamba: mamba.relation[-1]),
    "MST": case("MSTAggregator", {}, lambda mst: mst.relations[-1]),
    "MST, proposal level": case("MSTAggregator", {"MODEL.MST.INSTANCE": False}, lambda mst: mst.relations[-1]),
    "HVR-Net": case(HVR, LINEAR, lambda hvr: hvr.relation[3]),
    "HVR-Net, two inter": case(HVR, LINEAR | {"MODEL.HVRNET.NUM_INTER": 2}, lambda hvr: hvr.relation[4]),
    "HVR-Net, within the video": case(
        HVR, LINEAR | {"MODEL.HVRNET.TEST_INTER": "none"}, lambda hvr: hvr.relation[2], every([True, *[False] * 3])
    ),
    "HVR-Net, initial": case(
        HVR, LINEAR | {"MODEL.HVRNET.NUM_INTER": 0, "MODEL.HVRNET.SKIP": "initial"}, lambda hvr: hvr.relation[2]
    ),
    "HVR-Net, two intra": case(
        HVR, LINEAR | {"MODEL.HVRNET.NUM_INTRA": 2, "MODEL.HVRNET.TEST_INTER": "none"}, lambda hvr: hvr.relation[1]
    ),
    # Of 5 proposals a share of .4 is distilled: the first two of the frames that are not global.
    "MEGA": case(
        "MEGAAggregator",
        {"MODEL.MEGA.ADVANCED_RATIO": 0.4, "MODEL.MEGA.MEMORY": 0},
        lambda mega: mega.local_relations[-1],
        [0, 1, 7, 8],
    ),
    "MEGA, one stage": case(
        "MEGAAggregator",
        {"MODEL.MEGA.NUM_STAGES": 1},
        lambda mega: mega.local_relations[0],
        [*range(5), *range(7, 12)],
    ),
}


@pytest.fixture(params=CASES)
def chosen(request) -> Case:
    return CASES[request.param]


def make(chosen: Case, keep: bool) -> ProposalAggregator:
    keys = chosen.keys | {"MODEL.VIDEO.KEEP_RELATIONS": keep, "MODEL.VIDEO.SUPPORT_TOPK": TOPK}
    aggregator = build_proposal_aggregator(tiny_cfg(keys), DIM)
    draw_weights(aggregator, seed=1)
    return aggregator.cpu().double().eval()


def proposals_and_context(counts: list[int] = COUNTS) -> tuple:
    rng = torch.Generator().manual_seed(0)
    query, context = random_proposals(4, DIM, rng), random_context(counts, DIM, rng)
    return query, TemporalContext(context.frames, tuple(ROLES[: len(counts)]))


def shares(relation: RelationAttention, query: Tensor, key: Tensor, query_boxes: Tensor, key_boxes: Tensor) -> Tensor:
    """(N, M) by the definition: the mean over the heads of softmax(q k scale + bias)."""
    q, k = relation.query(query).chunk(relation.num_heads, dim=1), relation.key(key).chunk(relation.num_heads, dim=1)
    bias = [0.0] * relation.num_heads if relation.geometry is None else relation.geometry(query_boxes, key_boxes)
    weights = [torch.softmax(a @ b.T * relation.scale + c, dim=1) for a, b, c in zip(q, k, bias, strict=True)]
    return torch.stack(weights).mean(dim=0)


def test_the_result_is_the_same_with_and_without(chosen):
    pair = proposals_and_context()
    kept, plain = make(chosen, keep=True)(*pair), make(chosen, keep=False)(*pair)
    assert plain.relations is None and not kept.relations.requires_grad
    assert torch.equal(kept.value, plain.value)
    assert kept.relations.shape == (4, M)


def test_they_are_what_the_last_relation_takes_of_each_support(chosen):
    aggregator, seen = make(chosen, keep=True), []
    relation = chosen.last(aggregator)
    relation.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    query, context = proposals_and_context()
    relations = aggregator(query, context).relations
    of_key_frame = next(inputs for inputs in seen if len(inputs[0]) == len(query))
    expected = torch.zeros(4, M, dtype=torch.float64)
    for column, share in zip(chosen.columns, shares(relation, *of_key_frame[:4]).T, strict=True):
        expected[:, column] += share
    torch.testing.assert_close(relations, expected.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(relations.sum(dim=1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("counts", [[], [0], [0, 2], [3]])
def test_few_supports_have_few_columns(chosen, counts):
    pair = proposals_and_context(counts)
    assert make(chosen, keep=True)(*pair).relations.shape == (4, sum(counts))


def test_what_mega_takes_of_its_memory_is_missing_in_the_sum():
    aggregator = make(CASES["MEGA, one stage"], keep=True)
    rng = torch.Generator().manual_seed(0)
    query, frames = random_proposals(4, DIM, rng), random_context([3, 3], DIM, rng).frames
    first = aggregator(query, TemporalContext(frames[:1], (LOCAL,)))
    second = aggregator(query, TemporalContext(frames[1:], (LOCAL,), first.carry))
    torch.testing.assert_close(first.relations.sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert (second.relations.sum(dim=1) < 0.99).all() and (second.relations > 0).all()


def test_mst_without_a_proposal_level_keeps_none():
    aggregator = make(case("MSTAggregator", {"MODEL.MST.NUM_PROPOSAL": 0}, lambda mst: mst.instance), keep=True)
    assert not aggregator.keep_relations and aggregator(*proposals_and_context()).relations is None


@pytest.mark.parametrize("name", ["HVR-Net", "HVR-Net, within the video", "MEGA", "MST"])
def test_a_stream_shows_the_boxes_that_a_frame_took_most_from(name):
    keys = {"MODEL.VIDEO.KEEP_RELATIONS": True, "VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow"}
    predictor = VideoPredictor(tiny_cfg(CASES[name].keys | keys | {"VIDEO.TEST_SCHEDULE.RADIUS": 1}))
    draw_weights(predictor.model)
    watch = RelationWatch(predictor, 1)
    images = [image.permute(1, 2, 0).numpy() for image in make_video(3)]
    found = list(predictor.stream(watch.frames(images)))[1].output["instances"]
    watch.close()
    weights = [one.weight for one in watch.supports(int(found.proposal_index[0]), 1000)]
    assert sum(weights) == pytest.approx(1, abs=1e-4) and len(weights) > 6
    assert found.next_relation.shape[0] == len(found)
