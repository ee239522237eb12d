"""MAMBA against the slow reference of its equations, its bank in streams, and its configurations."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.device import device
from helpers.models import DIM, ROOT, build_detector, make_video, tiny_cfg
from helpers.proposals import random_context, random_proposals
from helpers.streams import step_clip
from reference.mamba import Bank, mamba_head
from reference.selsa import semantic_aggregation
from vod2 import UserError
from vod2.d2 import build_model
from vod2.engine import load_config
from vod2.keys import unread_keys
from vod2.projects.mamba import BankRules, FeatureBank, MAMBAAggregator, MAMBAPixels
from vod2.projects.mamba.bank import choose
from vod2.structures import Clip, Frame, ProposalSet, Role, TemporalContext
from vod2.temporal import FrameMemory, GlobalSample, ScheduleUnion, SlidingWindow, SupportSchedule

SMALL, HEADS, TOPK = 16, 4, 5
INSTANCE = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MAMBAAggregator",
    "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
    "MODEL.MAMBA.NUM_HEADS": 4,
}
PIXEL = {
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "MAMBAPixels",
    "MODEL.MAMBA.PIXEL.STAGE": "res4",
    "MODEL.MAMBA.PIXEL.NUM_HEADS": 4,
}
LAYERS = pytest.mark.parametrize("layers", [1, 2, 3])


def make_mamba(**arguments) -> MAMBAAggregator:
    """Of 16 features, with weights large enough for every term to matter."""
    torch.manual_seed(0)
    mamba = MAMBAAggregator(**({"dim": SMALL, "num_heads": HEADS, "support_topk": TOPK} | arguments))
    for parameter in mamba.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return mamba.double().to(device()).eval()


def steps(schedule: SupportSchedule, length: int = 6) -> list[tuple[int, ProposalSet, TemporalContext]]:
    """t, proposals and context of each frame of a video of random proposals."""
    rng = torch.Generator().manual_seed(1)
    frames = [Frame("v", t, (64, 96), proposals=random_proposals(4 + t % 3, SMALL, rng)) for t in range(length)]
    found = []
    for t in range(length):
        window = schedule.window(t, length, "v")
        context = TemporalContext(tuple(frames[i] for i, _ in window), tuple(role for _, role in window))
        found.append((t, frames[t].proposals, context))
    return found


def streamed(mamba: MAMBAAggregator, schedule: SupportSchedule) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """The value of each frame, and what is carried after it."""
    results, carry = [], {}
    for t, query, context in steps(schedule):
        clip = Clip(Frame("v", t, (64, 96), proposals=query), TemporalContext(context.frames, context.roles, carry))
        (result,) = mamba.forward_clips([clip])
        results.append((result.value, result.carry))
        carry = result.carry
    return results


class TestInstanceLevel:
    @LAYERS
    @pytest.mark.parametrize(
        "counts", [[6, 2, 0, 5], [1], [0, 0], []], ids=["ragged", "one", "none in any", "no frames"]
    )
    def test_the_head_is_the_equations_and_so_is_its_gradient(self, layers, counts):
        rng = torch.Generator().manual_seed(1)
        query = random_proposals(3, SMALL, rng, requires_grad=True)
        context = random_context(counts, SMALL, rng, requires_grad=True)
        mamba = make_mamba(num_layers=layers)
        expected = mamba_head(dict(mamba.named_parameters()), query, context, heads=HEADS, topk=TOPK)
        actual = mamba(query, context).value
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
        leaves = [query.features, *mamba.transform.parameters()]
        if sum(counts):
            leaves += mamba.relation.parameters()
            leaves += [frame.proposals.features for frame in context.frames if len(frame.proposals)]
        grads = [torch.autograd.grad(value.square().sum(), leaves) for value in (actual, expected)]
        for found, wanted in zip(*grads, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)

    @LAYERS
    @pytest.mark.parametrize(
        "schedule",
        [
            SlidingWindow(0),
            SlidingWindow(2, lookahead=0),
            SlidingWindow(1, edge="repeat"),
            ScheduleUnion([SlidingWindow(0), GlobalSample(3, include_key=False)]),
        ],
        ids=["key frame alone", "causal", "repeat", "global"],
    )
    def test_a_stream_reads_what_key_frames_of_the_past_have_written(self, schedule, layers):
        mamba, bank = make_mamba(num_layers=layers, rules=BankRules(size=1000, keys=1000)), Bank()
        state = dict(mamba.named_parameters())
        for (t, query, context), (value, _) in zip(steps(schedule), streamed(mamba, schedule), strict=True):
            window = [index for index, role in schedule.window(t, 6, "v") if role is Role.LOCAL]
            expected = mamba_head(state, query, context, heads=HEADS, topk=TOPK, bank=bank, window=window, t=t)
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)

    def test_a_full_bank_holds_the_newest_frame_and_some_of_the_older_ones(self):
        carried = [carry for _, carry in streamed(make_mamba(rules=BankRules(size=12, keys=3)), SlidingWindow(0))]
        assert [len(carry["mamba.instance.features"]) for carry in carried] == [4, 9, 12, 12, 12, 12]
        frames = carried[-1]["mamba.instance.frame"]
        assert (frames == 5).sum() == TOPK and len(frames.unique()) > 2
        assert all(not value.requires_grad for value in carried[-1].values())
        assert carried[-1]["mamba.instance.features"].shape == (12, 2, SMALL)

    def test_a_stream_can_be_repeated(self):
        runs = [streamed(make_mamba(rules=BankRules(size=12, keys=3)), SlidingWindow(0)) for _ in range(2)]
        assert all(first.equal(second) for (first, _), (second, _) in zip(*runs, strict=True))

    def test_without_a_local_window_nothing_is_written(self):
        assert all(carry == {} for _, carry in streamed(make_mamba(), GlobalSample(3)))

    def test_in_training_nothing_is_carried(self):
        assert all(carry == {} for _, carry in streamed(make_mamba().train(), SlidingWindow(0)))

    def test_the_configuration_keys_arrive(self):
        keys = {"NUM_LAYERS": 3, "NUM_HEADS": 8, "MEMORY": 7, "KEYS": 5, "SAMPLING": "score"}
        mamba = MAMBAAggregator(tiny_cfg(INSTANCE | {f"MODEL.MAMBA.{key}": value for key, value in keys.items()}), DIM)
        assert len(mamba.relation) == 3 and mamba.relation[0].num_heads == 8 and mamba.relation[0].output is not None
        assert mamba.rules == BankRules(7, 5, "score") and mamba.support_topk == 6


class TestPixelLevel:
    def test_a_stream_is_the_equations(self):
        """Three frames whose window is the key frame alone: cells of it, and enhanced ones of those before."""
        torch.manual_seed(0)
        level = MAMBAPixels(stage="res5", channels=8, stride=16, num_heads=2, rules=BankRules(1000, 1000)).double()
        torch.nn.init.normal_(level.relation.output.weight)
        level.to(device()).eval()
        relation, bank, carry = dict(level.relation.named_parameters()), [], {}
        for t in range(3):
            values = torch.randn(1, 8, 2, 3, generator=torch.Generator().manual_seed(t), dtype=torch.float64).to(
                device()
            )
            frame = Frame("v", t, (32, 48), {"res5": values})
            result = level(frame, TemporalContext((frame,), (Role.LOCAL,), carry))
            cells = list(values[0].flatten(1).T)
            taken = semantic_aggregation(relation, cells, [*cells, *bank], heads=2)
            enhanced = [one + more for one, more in zip(cells, taken, strict=True)]
            expected = torch.stack(enhanced, dim=1).reshape(1, 8, 2, 3)
            torch.testing.assert_close(result.value["res5"], expected, rtol=1e-10, atol=1e-10)
            bank, carry = bank + enhanced, result.carry

    def test_some_cells_are_read_and_written_and_none_of_the_padding(self):
        level = MAMBAPixels(stage="res5", channels=8, stride=16, num_heads=2, cells=4).eval().to(device())
        values = F.pad(torch.rand(1, 8, 2, 3), (0, 2, 0, 2), value=9.0).to(device())
        frame = Frame("v", 0, (32, 48), {"res5": values})
        result = level(frame, TemporalContext((frame,), (Role.LOCAL,)))
        assert result.carry["mamba.pixel.features"].shape == (4, 8) and result.carry["mamba.pixel.scores"].max() < 9

    def test_both_levels_run_in_a_stream_with_banks_of_a_constant_size(self):
        keys = {"MODEL.MAMBA.MEMORY": 20, "MODEL.MAMBA.KEYS": 5, "MODEL.MAMBA.PIXEL.MEMORY": 30}
        keys |= {"MODEL.MAMBA.PIXEL.CELLS": 10, "MODEL.MAMBA.PIXEL.KEYS": 8, "MODEL.MAMBA.PIXEL.SAMPLING": "frequency"}
        model, video = build_detector(INSTANCE | PIXEL | keys), make_video(7)
        memory = FrameMemory(SlidingWindow(0))
        memory.start("video", None)
        for t in range(len(video)):
            # Enhanced features are enhanced again: of drawn weights they grow, until nothing looks like an object.
            found = model.step(step_clip(video, t, memory), memory)["instances"]
            assert found.scores.isfinite().all() and (len(found) > 0 or t > 2)
            carry = memory.context(t).carry
            assert len(memory) == 1 and len(carry["mamba.instance.frame"]) == min(6 * (t + 1), 20)
            assert len(carry["mamba.pixel.frame"]) == min(10 * (t + 1), 30)


class TestBank:
    SCORES = torch.tensor([0.1, 3.0, -1.0, 2.0, 0.5])

    def test_a_few_rows_are_all_of_them(self):
        for sampling in ("random", "score", "frequency"):
            assert choose(self.SCORES, 5, sampling, seed=0).tolist() == [0, 1, 2, 3, 4]
            assert choose(self.SCORES[:0], 5, sampling, seed=0).tolist() == []
            assert choose(self.SCORES, 0, sampling, seed=0).tolist() == []

    def test_the_rules_choose_as_they_say(self):
        assert choose(self.SCORES, 2, "score", seed=0).tolist() == [1, 3]
        firsts = [choose(self.SCORES, 1, "frequency", seed=seed).item() for seed in range(2000)]
        shares = torch.bincount(torch.tensor(firsts), minlength=5) / 2000
        torch.testing.assert_close(shares, self.SCORES.softmax(dim=0), rtol=0, atol=0.04)
        firsts = [choose(self.SCORES, 1, "random", seed=seed).item() for seed in range(2000)]
        shares = torch.bincount(torch.tensor(firsts), minlength=5) / 2000
        torch.testing.assert_close(shares, torch.full((5,), 0.2), rtol=0, atol=0.04)

    def test_a_frame_that_is_larger_than_the_bank_is_cut(self):
        new = FeatureBank.of_frame(torch.rand(5, 2), self.SCORES, frame=1, copies=1)
        old = FeatureBank.of_frame(torch.rand(3, 2), self.SCORES[:3], frame=0, copies=1)
        assert BankRules(size=4).written(old, new, t=1).frame.tolist() == [1, 1, 1, 1]
        assert BankRules(size=6).written(old, new, t=1).frame.tolist() == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BankRules(size=-1), "MEMORY and KEYS of at least 0, got -1, 2000"),
        (lambda: BankRules(keys=-1), "MEMORY and KEYS of at least 0, got 20000, -1"),
        (lambda: BankRules(sampling="best"), "SAMPLING is 'best', expected one of random, score, frequency"),
        (lambda: make_mamba(num_layers=0), "NUM_LAYERS of at least 1 and SUPPORT_TOPK of at least 0, got 0, 5"),
        (lambda: make_mamba(num_heads=3), "3 heads do not divide 16"),
        (lambda: MAMBAPixels(stage="res5", channels=8, stride=16, num_heads=2, cells=0), "CELLS of at least 1, got 0"),
    ],
)
def test_values_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "keys, message",
    [
        (INSTANCE | {"MODEL.MAMBA.SAMPLING": "best"}, "MAMBAAggregator: SAMPLING is 'best'"),
        (
            INSTANCE | {"MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead"},
            "set MODEL.ROI_BOX_HEAD.NAME to 'LinearBoxHead'",
        ),
        (PIXEL | {"MODEL.MAMBA.PIXEL.NUM_HEADS": 5}, "MAMBAPixels: .*5 heads do not divide 16"),
        (PIXEL | {"MODEL.MAMBA.PIXEL.STAGE": "res5"}, "MODEL.MAMBA.PIXEL.STAGE is 'res5', but MODEL.RPN.IN_FEATURES"),
    ],
)
def test_what_cannot_be_built_is_refused(keys, message):
    with pytest.raises(UserError, match=message):
        build_model(tiny_cfg(keys))


@pytest.mark.parametrize("name, level", [("MAMBA_R101", ""), ("MAMBA_Full_R101", "MAMBAPixels")])
def test_the_published_configurations_are_the_released_ones(name, level):
    cfg = load_config(str(ROOT / "configs" / f"{name}.yaml"), ["MODEL.DEVICE", "meta"])
    assert unread_keys(cfg) == []
    assert cfg.MODEL.VIDEO.PIXEL_AGGREGATOR.NAME == level and cfg.MODEL.VIDEO.SUPPORT_TOPK == 75
    with torch.device("meta"):
        model = build_model(cfg)
    weights = {key for key in model.state_dict() if "relation.0" in key and key.endswith("weight")}
    assert len(weights) == 4 and all(key.startswith("roi_heads.aggregator.") for key in weights)
    if level:
        assert model.pixel_aggregator.stage == "res5" and model.pixel_aggregator.relation.query.weight.shape[0] == 2048


def test_the_quick_configuration_begins_with_the_weights_of_the_quick_single_frame():
    states = []
    for name in ("FasterRCNN", "MAMBA"):
        model = build_model(load_config(str(ROOT / "configs" / "quick" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"]))
        states.append({key: value.shape for key, value in model.state_dict().items()})
    assert not states[0].items() - states[1].items()
    added = {key for key, _ in states[1].items() - states[0].items()}
    assert all(key.startswith(("roi_heads.aggregator.", "pixel_aggregator.")) for key in added)
