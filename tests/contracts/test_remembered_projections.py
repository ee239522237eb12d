"""Aggregators over a memory: what depends on a support alone is computed once, and the numbers are those of a clip."""

import gc
import weakref

import pytest
import torch
from torch import nn

from helpers.device import device, tolerance
from helpers.models import draw_weights, tiny_cfg
from helpers.proposals import IMAGE_SIZE, random_proposals
from vod2.modeling.roi_heads import build_proposal_aggregator
from vod2.structures import FeatureRows, Frame, ProposalSet, TemporalContext
from vod2.temporal import FrameMemory, GlobalSample, ScheduleUnion, SlidingWindow

DIM, PROPOSALS, LENGTH = 32, 6, 12
LINEAR_HEAD = {"MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"}
CASES = {
    # Layers that see only features which do not depend on other frames.
    "RDNAggregator": ({}, ("basic.0.key", "basic.1.value", "refine.query", "refine.key", "refine.value")),
    "MSTAggregator": ({}, ("relations.0.key", "relations.1.value", "instance.key", "instance.value")),
    "SELSAAggregator": (LINEAR_HEAD, ("relation.0.key", "relation.1.key")),
    "HVRAggregator": (LINEAR_HEAD, ("relation.0.query", "relation.0.key", "relation.0.value")),
    "MEGAAggregator": ({"MODEL.MEGA.MEMORY": 0}, ("global_relations.0.key", "global_relations.1.value")),
}


def make_aggregator(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    keys = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": name, "MODEL.VIDEO.RELATION.GEOMETRY_SCALE": 1.0} | CASES[name][0]
    aggregator = build_proposal_aggregator(tiny_cfg(keys), DIM)
    draw_weights(aggregator, seed=1)
    return aggregator.to(device(), dtype).eval()


class Stream:
    """A memory whose frames are drawn when they enter, and a second context without it."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.memory = FrameMemory(ScheduleUnion([SlidingWindow(2), GlobalSample(2)]))
        self.memory.start("video", LENGTH)
        self.rng, self.dtype = torch.Generator().manual_seed(0), dtype

    def step(self, t: int) -> tuple[ProposalSet, TemporalContext]:
        for index in self.memory.missing(t):
            proposals = random_proposals(PROPOSALS, DIM, self.rng, dtype=self.dtype)
            self.memory.put(Frame("video", index, IMAGE_SIZE, proposals=proposals))
        return self.memory.frame(t).proposals, self.memory.context(t)


def forgotten(query: ProposalSet, context: TemporalContext) -> tuple[ProposalSet, TemporalContext]:
    """The same as a clip has them."""
    frames = tuple(frame.with_(proposals=plain(frame.proposals)) for frame in context.frames)
    return plain(query), TemporalContext(frames, context.roles, context.carry)


def plain(proposals: ProposalSet) -> ProposalSet:
    return proposals.detach()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@torch.no_grad()
def test_a_memory_gives_the_numbers_of_a_clip(name, dtype, bound):
    aggregator, stream = make_aggregator(name, dtype), Stream(dtype)
    for t in range(LENGTH):
        query, context = stream.step(t)
        actual, expected = aggregator(query, context).value, aggregator(*forgotten(query, context)).value
        assert isinstance(context.frames[0].proposals.rows, FeatureRows)
        error = (actual - expected).norm() / expected.norm()
        assert error <= tolerance(bound, 10 * bound), f"frame {t}: {error:.1e}"


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_each_support_goes_through_a_projection_once(name):
    aggregator, stream = make_aggregator(name), Stream()
    rows = dict.fromkeys(CASES[name][1], 0)
    for part in rows:
        layer = aggregator.get_submodule(part)
        layer.register_forward_hook(lambda layer, inputs, out, part=part: rows.__setitem__(part, rows[part] + len(out)))
    for t in range(3):  # the whole of the first window, and the window moves
        aggregator(*stream.step(t))
    rows.update(dict.fromkeys(rows, 0))
    num_steps = 4
    for t in range(3, 3 + num_steps):
        aggregator(*stream.step(t))
    for part, count in rows.items():
        # HVR-Net's first relation is also asked by the key frame: its query, and its sum, which is projected late.
        most = num_steps * PROPOSALS * (2 if part in ("relation.0.query", "relation.0.value") else 1)
        assert count <= most, f"{part}: {count} rows in {num_steps} steps, each with {PROPOSALS} new ones"


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_changed_weights_and_another_mode_are_seen_at_the_next_step(name):
    aggregator, stream = make_aggregator(name), Stream()
    query, context = stream.step(4)
    aggregator(query, context)
    draw_weights(aggregator, seed=2)
    changed = aggregator(query, context).value
    torch.testing.assert_close(changed, aggregator(*forgotten(query, context)).value, rtol=1e-10, atol=1e-10)
    aggregator.float()
    with pytest.raises(RuntimeError):  # features of the memory are float64: no value from before hides that
        aggregator(query, context)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_what_is_remembered_of_a_stream_does_not_grow(name):
    aggregator, stream, values = make_aggregator(name), Stream(), []
    for part in CASES[name][1]:
        aggregator.get_submodule(part).register_forward_hook(
            lambda layer, inputs, out: values.append(weakref.ref(out)) and None
        )
    alive = []
    for t in range(2, LENGTH - 2):  # windows of one size
        aggregator(*stream.step(t))
        gc.collect()
        alive.append(sum(value() is not None for value in values))
    frames = 5 + 2  # of the window, with those of the sample
    assert 0 < max(alive) <= frames * len(CASES[name][1])


@pytest.mark.parametrize("test_inter", ["video", "none"])
@torch.no_grad()
def test_hvrnet_relates_the_supports_of_a_whole_video_once(test_inter, monkeypatch):
    name = "HVRAggregator"
    monkeypatch.setitem(CASES[name][0], "MODEL.HVRNET.TEST_INTER", test_inter)
    monkeypatch.setitem(CASES[name][0], "MODEL.HVRNET.NUM_INTER", 1)
    aggregator, stream = make_aggregator(name), Stream()
    stream.memory = FrameMemory(GlobalSample(3, include_key=False))
    stream.memory.start("video", LENGTH)
    updates = []  # relations of the supports to each other

    def count(module, args, output):
        if len(args[0]) > PROPOSALS:
            updates.append(module)

    for relation in aggregator.relation:
        relation.register_forward_hook(count)
    at_steps = []
    for t in range(LENGTH):
        query, context = stream.step(t)
        updates.clear()
        actual = aggregator(query, context).value
        if t not in [frame.index for frame in context.frames]:
            at_steps.append(len(updates))
        expected = aggregator(*forgotten(query, context)).value
        assert (actual - expected).norm() <= tolerance(1e-12, 1e-11) * expected.norm()
    # The first relation's results are kept at its second step, those of the third one step later.
    assert len(at_steps) == LENGTH - 3 and at_steps[0] > 0 and not any(at_steps[3:])
