"""MEGA against the slow reference, which goes through a video as the authors' code does."""

import numpy as np
import pytest
import torch
from torch import Tensor

import vod2
from helpers.contracts import reordered
from helpers.models import DIM, ROOT, build_detector, make_targets, make_video, tiny_cfg
from helpers.proposals import IMAGE_SIZE, random_context, random_proposals
from helpers.streams import detect_as_stream
from reference.mega import MEGAReference, global_entries, run_clipped, run_repeating, training_clip
from vod2.d2 import EventStorage, get_cfg
from vod2.engine import load_config
from vod2.layers import RelationModules
from vod2.modeling import Aggregated
from vod2.projects.mega import MEGAAggregator
from vod2.structures import Frame, ProposalSet, Role, TemporalContext
from vod2.temporal import (
    FrameMemory,
    LocalMemoryGlobal,
    RollingGlobal,
    ScheduleUnion,
    SlidingWindow,
    build_support_schedule,
    build_training_schedule,
)

HEADS, SMALL, TOPK, DISTILLED, MEMORY = 2, 16, 3, 1, 4
LOCAL, GLOBAL, PAST = Role.LOCAL, Role.GLOBAL, Role.MEMORY
RUN = {"repeat": run_repeating, "clip": run_clipped}


def make_mega(dtype: torch.dtype = torch.float64, **arguments) -> MEGAAggregator:
    """A MEGA head of 16 features whose weights are large enough for every term to matter."""
    torch.manual_seed(0)
    values = {"relations": RelationModules(SMALL, HEADS, geometry_dim=16)}
    mega = MEGAAggregator(
        **(values | {"support_topk": TOPK, "advanced_ratio": 1 / 3, "memory": MEMORY} | arguments)
    ).to(dtype)
    for parameter in mega.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return mega


def make_reference(mega: MEGAAggregator, heads: int = HEADS) -> MEGAReference:
    sizes = {"topk": mega.support_topk, "distilled": mega.distilled_topk, "memory": mega.memory_size}
    return MEGAReference(mega.state_dict(), heads=heads, **sizes)


def pair(proposals: ProposalSet) -> tuple[Tensor, Tensor]:
    return proposals.features.detach().double(), proposals.boxes.double()


def toy_video(counts: list[int], seed: int = 0) -> list[Frame]:
    """A frame for each of `counts`, with so many proposals."""
    rng = torch.Generator().manual_seed(seed)
    return list(random_context(counts, SMALL, rng).frames)


@torch.no_grad()
def stream(mega: MEGAAggregator, video: list[Frame], schedule, name: str = "video"):
    """The result of every frame; the context is that of a `FrameMemory`."""
    memory = FrameMemory(schedule)
    memory.start(name, len(video))
    for t, frame in enumerate(video):
        for index in memory.missing(t):
            memory.put(video[index].with_(video_id=name))
        result = mega(frame.proposals, memory.context(t))
        memory.carry(result.carry)
        yield result


def make_schedule(length: int, edge: str, radius: int = 2, count: int = 3) -> tuple[ScheduleUnion, list[int]]:
    order = np.random.default_rng(length).permutation(length).tolist()
    return ScheduleUnion([SlidingWindow(radius, edge=edge), RollingGlobal(count, orders={"video": order})]), order


def assert_stream_equals_reference(mega, video, edge, radius: int = 2, count: int = 3) -> None:
    schedule, order = make_schedule(len(video), edge, radius, count)
    keys = [pair(frame.proposals) for frame in video]
    expected = RUN[edge](make_reference(mega), keys, dict(enumerate(keys)), global_entries(order, count), radius)
    actual = [result.value for result in stream(mega, video, schedule)]
    for found, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("edge", ["repeat", "clip"])
def test_a_stream_is_what_the_authors_queues_give(edge):
    assert_stream_equals_reference(make_mega(), toy_video([4, 3, 4, 5] * 10), edge)


@pytest.mark.parametrize("edge", ["repeat", "clip"])
@pytest.mark.parametrize(
    "counts",
    [
        pytest.param([4, 1, 0, 2, 0, 0, 3, 4, 1, 2], id="ragged"),
        pytest.param([0] * 5, id="none in any frame"),
        pytest.param([3, 4], id="shorter than the window"),
        pytest.param([3], id="one frame"),
    ],
)
def test_the_number_of_proposals_may_differ_from_frame_to_frame(counts, edge):
    assert_stream_equals_reference(make_mega(), toy_video(counts), edge)


@pytest.mark.parametrize("edge", ["repeat", "clip"])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_the_number_of_stages_is_free(stages, edge):
    assert_stream_equals_reference(make_mega(num_stages=stages), toy_video([3] * 9), edge)


@pytest.mark.parametrize("looks", [1, 3])
def test_the_number_of_looks_at_global_frames_is_free(looks):
    assert_stream_equals_reference(make_mega(num_global=looks), toy_video([3] * 8), "repeat")


@pytest.mark.parametrize("arguments", [{"num_global": 0}, {"memory": 0}, {"num_global": 0, "memory": 0}])
def test_memory_and_global_frames_can_be_left_out(arguments):
    mega = make_mega(**arguments)
    assert_stream_equals_reference(mega, toy_video([3] * 8), "repeat")
    assert any("global_relations" in name for name in mega.state_dict()) is (arguments.get("num_global", 2) > 0)
    schedule, _ = make_schedule(8, "repeat")
    carries = [result.carry for result in stream(mega, toy_video([3] * 8), schedule)]
    assert all(bool(carry) is ("memory" not in arguments) for carry in carries)


def test_a_video_shorter_than_the_global_count_counts_its_frames_twice():
    assert_stream_equals_reference(make_mega(), toy_video([3] * 4), "repeat", count=6)


def test_what_a_frame_remembers_has_left_the_window_before_it():
    """By hand, with a window of the key frame alone: frame t remembers the frames before it, nothing else."""
    mega, video = make_mega(memory=2), toy_video([3] * 5)
    ages = [result.carry["mega.age.0"].tolist() for result in stream(mega, video, SlidingWindow(0))]
    assert ages == [[0] * 3, [1] * 3 + [0] * 3, *[[2] * 3 + [1] * 3 + [0] * 3] * 3]
    boxes = [result.carry["mega.boxes.0"] for result in stream(mega, video, SlidingWindow(0))]
    assert boxes[4].equal(torch.cat([frame.proposals.boxes for frame in video[2:5]]))


def test_a_frame_at_the_edge_is_remembered_once_for_every_copy_that_leaves():
    """Radius 1: [0 0 1] -> 0 leaves, [0 1 2] -> 0 leaves, [1 2 3] -> 1 leaves; clipped: [0 1], [0 1 2], [1 2 3]."""
    pending = {}
    for edge in ("repeat", "clip"):
        results = list(stream(make_mega(), toy_video([3] * 4), SlidingWindow(1, edge=edge)))
        pending[edge] = [result.carry["mega.pending"].tolist() for result in results]
        entries = [int(result.carry["mega.age.1"].max()) for result in results]
        assert entries == ([0, 1, 2, 3] if edge == "repeat" else [0, 0, 1, 2])
    assert pending["repeat"] == [[0, 2], [0, 1], [1, 1], [2, 1]]
    assert pending["clip"] == [[0, 1], [0, 1], [1, 1], [2, 1]]


def test_the_memory_makes_a_difference():
    video, schedule = toy_video([3] * 6), SlidingWindow(1)
    with_memory, without = (list(stream(make_mega(memory=size), video, schedule)) for size in (4, 0))
    same = [torch.allclose(a.value, b.value) for a, b in zip(with_memory, without, strict=True)]
    assert same == [True, True, False, False, False, False]


def numbers(carry: dict[str, Tensor]) -> int:
    return sum(value.numel() for value in carry.values())


def test_what_is_carried_is_bounded():
    """Entries of (D + 4 + 1) numbers a row, `memory` of them and the pending one, and two numbers of that."""
    mega, repeated = make_mega(), toy_video([4, 3, 5])
    video = [repeated[i % 3].with_(index=i) for i in range(1001)]
    schedule, _ = make_schedule(len(video), "repeat")
    sizes = [numbers(result.carry) for result in stream(mega, video, schedule)]
    assert sizes[100] == sizes[1000] == max(sizes) == (MEMORY + 1) * (TOPK + 2 * DISTILLED) * (SMALL + 5) + 2


def test_the_order_of_the_context_matters_neither_for_the_result_nor_for_what_is_carried():
    mega, rng = make_mega(), torch.Generator().manual_seed(1)
    schedule, _ = make_schedule(8, "repeat")
    video = toy_video([3, 4, 3, 5, 4, 3, 4, 4])
    carry = list(stream(mega, video, schedule))[3].carry
    window = schedule.window(4, 8, "video")
    context = TemporalContext(tuple(video[i] for i, _ in window), tuple(role for _, role in window), carry)
    expected = mega(video[4].proposals, context)
    for _ in range(3):
        order = torch.randperm(len(context), generator=rng).tolist()
        actual = mega(video[4].proposals, reordered(context, order))
        torch.testing.assert_close(actual.value, expected.value, rtol=1e-10, atol=1e-10)
        assert actual.carry.keys() == expected.carry.keys()
        for name, value in actual.carry.items():
            torch.testing.assert_close(value, expected.carry[name], rtol=1e-10, atol=1e-10)


def clip_context(roles: list[Role], counts: list[int], rng: torch.Generator, **options) -> TemporalContext:
    frames = random_context(counts, SMALL, rng, **options).frames
    return TemporalContext(frames, tuple(roles))


@pytest.mark.parametrize(
    "roles",
    [
        pytest.param([LOCAL, LOCAL, LOCAL, PAST, PAST, PAST, GLOBAL, GLOBAL], id="all"),
        pytest.param([LOCAL, PAST, PAST], id="no global"),
        pytest.param([LOCAL, LOCAL, GLOBAL], id="no memory"),
        pytest.param([PAST, PAST, GLOBAL], id="no local"),
        pytest.param([GLOBAL, GLOBAL], id="global"),
        pytest.param([PAST], id="memory"),
    ],
)
def test_a_training_clip_makes_its_memory_of_its_memory_frames(roles):
    rng = torch.Generator().manual_seed(2)
    query, context = random_proposals(4, SMALL, rng), clip_context(roles, [4, 3, 1, 5, 0, 3, 4, 2][: len(roles)], rng)
    mega = make_mega()
    parts = [[pair(frame.proposals) for frame in context.select(role).frames] for role in (LOCAL, PAST, GLOBAL)]
    expected = training_clip(make_reference(mega), pair(query), *parts)
    torch.testing.assert_close(mega(query, context).value, expected, rtol=1e-10, atol=1e-10)


def test_memory_frames_get_no_gradient_the_others_do():
    rng = torch.Generator().manual_seed(3)
    query = random_proposals(3, SMALL, rng, requires_grad=True)
    context = clip_context([LOCAL, PAST, GLOBAL], [3, 3, 3], rng, requires_grad=True)
    mega = make_mega()
    mega(query, context).value.square().sum().backward()
    local, past, whole = (frame.proposals.features.grad for frame in context.frames)
    assert past is None and local.ne(0).any() and whole.ne(0).any() and query.features.grad.ne(0).any()
    for name, parameter in mega.named_parameters():
        assert name.endswith("key.bias") or parameter.grad.ne(0).any(), name


def test_the_gradient_agrees_with_finite_differences():
    rng = torch.Generator().manual_seed(4)
    query, context = random_proposals(2, SMALL, rng), clip_context([LOCAL, PAST, GLOBAL], [3, 2, 2], rng)
    mega = make_mega()

    def run(features):
        return mega(ProposalSet.of_frame(query.boxes, features, query.scores, IMAGE_SIZE), context).value

    assert torch.autograd.gradcheck(run, query.features.requires_grad_())


MEGA_KEYS = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MEGAAggregator",
    "MODEL.VIDEO.SUPPORT_TOPK": 3,
    "MODEL.MEGA.MEMORY": 2,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 6,
}


@pytest.mark.parametrize("edge", ["repeat", "clip"])
def test_a_stream_of_the_detector_is_the_reference(edge):
    model, calls = build_detector(MEGA_KEYS, dtype=torch.float64), []
    mega = model.roi_heads.aggregator
    for relation in (*mega.local_relations, *mega.global_relations):
        relation.query.weight.data.mul_(0.01)  # the reference's softmax takes the exponential of every logit
    mega.register_forward_hook(lambda module, inputs, out: calls.append((*inputs, out.value)))
    schedule, order = make_schedule(5, edge, radius=1, count=2)
    list(detect_as_stream(model, make_video(5), schedule))
    keys = [pair(query) for query, _, _ in calls]
    frames = {frame.index: pair(frame.proposals) for _, context, _ in calls for frame in context.frames}
    expected = RUN[edge](make_reference(mega, heads=4), keys, frames, global_entries(order, 2), 1)
    for (_, _, found), wanted in zip(calls, expected, strict=True):
        assert len(found) == 6
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_two_interleaved_streams_do_not_share_a_memory():
    """Video for video what each gives alone, after several frames have been remembered."""
    mega, schedule = make_mega(), SlidingWindow(1, edge="repeat")
    videos = [toy_video([3, 4] * 4, seed) for seed in (5, 6)]
    alone = [[result.value for result in stream(mega, video, schedule)] for video in videos]
    both = zip(*(stream(mega, video, schedule, f"video {n}") for n, video in enumerate(videos)), strict=True)
    for t, results in enumerate(both):
        for n, result in enumerate(results):
            assert result.value.equal(alone[n][t])


def test_a_clip_as_the_schedule_draws_it_trains_every_parameter():
    model, video = build_detector(MEGA_KEYS, dtype=torch.float64).train(), make_video(9)
    supports = LocalMemoryGlobal(radius=2).sample(6, 9, np.random.default_rng(0))
    clip = {"image": video[6], "video_id": "video", "frame_index": 6, "video_length": 9, "instances": make_targets()}
    clip["support"] = [{"image": video[i], "frame_index": i, "role": role} for i, role in supports]
    with EventStorage():
        sum(model([clip]).values()).backward()
    for name, parameter in model.named_parameters():
        assert name.endswith("key.bias") or parameter.grad.ne(0).any(), name


def test_the_result_is_told_apart_from_what_is_carried():
    rng = torch.Generator().manual_seed(7)
    result = make_mega()(random_proposals(3, SMALL, rng, requires_grad=True), random_context([3, 3], SMALL, rng))
    assert isinstance(result, Aggregated) and result.losses == {} and result.relations is None
    assert all(name.startswith("mega.") and not value.requires_grad for name, value in result.carry.items())


@pytest.mark.parametrize("name, count", [("MEGA_R101", 10), ("published/MEGA_R50", 10), ("quick/MEGA", 10)])
def test_the_configurations_look_at_25_local_and_10_global_frames(name, count):
    cfg = load_config(str(ROOT / "configs" / f"{name}.yaml"))
    roles = [role for _, role in build_support_schedule(cfg).window(100, 1000, "video")]
    assert roles == [LOCAL] * 25 + [GLOBAL] * count
    drawn = [role for _, role in build_training_schedule(cfg).sample(100, 1000, np.random.default_rng(0))]
    assert drawn == [LOCAL] * 3 + [PAST] * 3 + [GLOBAL] * 2
    live = build_support_schedule(cfg).with_lookahead(0)
    assert all(index <= 50 for index, _ in live.window(50, None, "video"))


def test_the_configuration_keys_arrive():
    keys = {
        "MODEL.MEGA.NUM_STAGES": 2,
        "MODEL.MEGA.ADVANCED_RATIO": 0.5,
        "MODEL.MEGA.NUM_GLOBAL": 0,
        "MODEL.MEGA.MEMORY": 7,
        "MODEL.VIDEO.SUPPORT_TOPK": 8,
        "MODEL.VIDEO.RELATION.NUM_HEADS": 2,
        "MODEL.VIDEO.RELATION.GEOMETRY_DIM": 24,
        "MODEL.VIDEO.RELATION.GEOMETRY_SCALE": 10.0,
        "MODEL.VIDEO.RELATION.GEOMETRY_WAVELENGTH": 50.0,
    }
    mega = MEGAAggregator(tiny_cfg(keys), DIM)
    assert (len(mega.local_relations), len(mega.transform), len(mega.global_relations)) == (2, 1, 0)
    assert (mega.support_topk, mega.distilled_topk, mega.memory_size) == (8, 4, 7)
    for relation in mega.local_relations:
        assert relation.num_heads == 2 and relation.geometry.projection.weight.shape == (2, 24)
        assert (relation.geometry.scale, relation.geometry.wavelength) == (10.0, 50.0)


def test_the_defaults_are_those_of_the_paper():
    mega = MEGAAggregator(vod2.add_video_config(get_cfg()), 1024)
    assert (mega.support_topk, mega.distilled_topk, mega.memory_size) == (75, 15, 25)
    names = {name.rsplit(".", 1)[0] for name in mega.state_dict()}
    local = {
        f"local_relations.{k}.{part}" for k in range(3) for part in ("query", "key", "value", "geometry.projection")
    }
    whole = {f"global_relations.{k}.{part}" for k in range(2) for part in ("query", "key", "value")}
    assert names == local | whole | {"transform.0", "transform.1"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_stages": 0}, "NUM_STAGES of at least 1, .* got 0"),
        ({"support_topk": -2}, "got 3, -2, 4"),
        ({"memory": -1}, "got 3, 3, -1"),
        ({"advanced_ratio": 0.0}, r"ADVANCED_RATIO in \(0, 1\], got 0"),
    ],
)
def test_values_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_mega(**arguments)
