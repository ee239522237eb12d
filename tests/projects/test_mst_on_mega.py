"""Table V of MST: its alignment, frame level and instance level around MEGA, by configuration alone.

N: proposals of the key frame, D: embedding.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from helpers.contracts import check_interleaved_videos, check_stream_equals_clips_until_a_frame_leaves
from helpers.models import (
    IMAGE_SIZE,
    ROOT,
    assert_same_detections,
    build_detector,
    make_targets,
    make_video,
    tiny_cfg,
)
from helpers.proposals import random_context, random_proposals
from helpers.streams import detect_as_stream, step_clip, window_clip
from reference.mega import MEGAReference
from reference.mst import mst_head
from vod2.d2 import CfgNode, EventStorage
from vod2.engine import load_config
from vod2.modeling.roi_heads import build_proposal_aggregator
from vod2.structures import TRACK_IDS, ProposalSet, Role, TemporalContext
from vod2.temporal import FrameMemory, LocalMemoryGlobal, RollingGlobal, ScheduleUnion, SlidingWindow

HEADS, SMALL = 4, 16
SEQUENCE = "MEGAAggregator+MSTAggregator"
AGGREGATOR, FRAMES = "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME", "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME"
INSTANCE = {AGGREGATOR: SEQUENCE, "MODEL.MST.NUM_PROPOSAL": 0}
ALIGNER = {"MODEL.ALIGNER.NAME": "DAlign"}
TABLE_V = {
    "h": {},
    "i": {FRAMES: "MSTFrames", "MODEL.MST.FRAME": False} | ALIGNER,
    "j": {FRAMES: "MSTFrames"},
    "k": INSTANCE,
    "l": {FRAMES: "MSTFrames"} | ALIGNER | INSTANCE,
}
"""What each row adds to MEGA."""
SMALLER = {
    "MODEL.ALIGNER.WIDTH": 4,
    "MODEL.MST.KEY_STRIDE": 2,
    "MODEL.MST.TOPK": 3,
    "MODEL.MST.RATIO": 0.3,
    "MODEL.MEGA.MEMORY": 2,
    "MODEL.VIDEO.SUPPORT_TOPK": 3,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 6,
}
SCHEDULE = ScheduleUnion([SlidingWindow(1, edge="repeat"), RollingGlobal(2)])


def row(name: str, **keys) -> dict:
    """A row of the table on the tiny detector, which has no MEGA of its own."""
    return {AGGREGATOR: "MEGAAggregator"} | TABLE_V[name] | SMALLER | keys


def leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


class TestConfigurations:
    @pytest.mark.parametrize("name", TABLE_V)
    def test_a_row_is_mega_and_what_its_marks_say(self, name):
        mega = dict(leaves(load_config(str(ROOT / "configs/MEGA_R101.yaml"))))
        found = dict(leaves(load_config(f"{ROOT}/configs/ablations/mst.yaml:MEGA_{name}")))
        assert found.pop("OUTPUT_DIR") == f"output/ablations/MST_MEGA_{name}"
        assert dict(item for item in found.items() if mega[item[0]] != item[1]) == TABLE_V[name]

    def test_the_instance_level_comes_last_and_brings_no_proposal_level(self):
        cfg = load_config(f"{ROOT}/configs/ablations/mst.yaml:MEGA_l")
        mega, mst = build_proposal_aggregator(cfg, 64).parts
        assert (len(mega.local_relations), len(mst.relations), mst.topk, mst.ratio) == (3, 0, 20, 0.2)
        assert mst.instance is not None and mega.support_topk == mst.support_topk == 75


def make_sequence():
    keys = INSTANCE | SMALLER | {"MODEL.VIDEO.RELATION.NUM_HEADS": HEADS}
    sequence = build_proposal_aggregator(tiny_cfg(keys), SMALL)
    torch.manual_seed(0)
    for parameter in sequence.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return sequence.double()


def equation_12(mst, query: ProposalSet, features: torch.Tensor, context: TemporalContext) -> torch.Tensor:
    """The instance level by the reference, on the features (N, D) that level 2 had made before."""
    enhanced = ProposalSet.of_frame(query.boxes, features, query.scores, IMAGE_SIZE)
    supports = [frame.proposals for frame in context.frames]
    numbers = {"topk": mst.topk, "ratio": mst.ratio, "scale": 100.0, "wavelength": 1000.0}
    numbers |= {"best": mst.support_topk, "pool": 1000}
    return mst_head(mst.state_dict(), enhanced, supports, heads=HEADS, **numbers)


class TestInstanceLevelAfterMEGA:
    def test_it_is_equation_twelve_on_what_mega_makes_of_the_proposals(self):
        rng = torch.Generator().manual_seed(1)
        query, context = random_proposals(5, SMALL, rng), random_context([4, 3, 5, 4], SMALL, rng)
        context = TemporalContext(context.frames, (Role.LOCAL, Role.LOCAL, Role.GLOBAL, Role.GLOBAL))
        sequence = make_sequence()
        mega, mst = sequence.parts
        reference = MEGAReference(mega.state_dict(), heads=HEADS, topk=3, distilled=mega.distilled_topk, memory=2)
        pairs = [(frame.proposals.features, frame.proposals.boxes) for frame in context.frames]
        (features, _), _ = reference.detect((query.features, query.boxes), pairs[:2], pairs[2:])
        found = sequence(query, context)
        torch.testing.assert_close(found.value, equation_12(mst, query, features, context), rtol=1e-9, atol=1e-9)
        alone = mega(query, context)
        assert found.value.ne(alone.value).any(dim=1).tolist() == [True] * 3 + [False] * 2  # K = 3 candidates
        assert found.carry.keys() == alone.carry.keys()

    def test_in_a_stream_it_looks_at_the_frames_of_the_window_and_mega_at_its_memory_too(self):
        model, calls = build_detector(row("k"), dtype=torch.float64), []
        mega, mst = model.roi_heads.aggregator.parts
        mst.instance.query.weight.data.mul_(0.01)  # the reference takes the exponential of every logit
        between = []
        mega.register_forward_hook(lambda module, inputs, out: between.append((inputs[0], out.value)))
        mst.register_forward_hook(lambda module, inputs, out: calls.append((*inputs, out.value)))
        list(detect_as_stream(model, make_video(6), SCHEDULE))
        assert len(calls) == 6 and "mega.features.0" in calls[-1][1].carry
        for (query, enhanced), (given, context, found) in zip(between, calls, strict=True):
            assert given.features.equal(enhanced) and given.boxes.equal(query.boxes)
            assert len(context) == 3 + 2
            torch.testing.assert_close(found, equation_12(mst, query, enhanced, context), rtol=1e-9, atol=1e-9)

    def test_the_gradient_agrees_with_finite_differences(self):
        rng = torch.Generator().manual_seed(3)
        query, context = random_proposals(2, SMALL, rng), random_context([3, 2], SMALL, rng)
        sequence = make_sequence()

        def run(features):
            return sequence(ProposalSet.of_frame(query.boxes, features, query.scores, IMAGE_SIZE), context).value

        assert torch.autograd.gradcheck(run, (query.features.requires_grad_(),))


def tracked_clip() -> dict:
    """Frame 6 of 9 as a training clip of MEGA, with the same two objects in all frames."""
    video, targets = make_video(9), make_targets()
    targets.gt_track_ids = torch.tensor([5, 8])
    drawn = LocalMemoryGlobal(radius=2).sample(6, 9, np.random.default_rng(0))
    support = [{"image": video[i], "frame_index": i, "role": role, "instances": targets} for i, role in drawn]
    clip = {"image": video[6], "video_id": "video", "frame_index": 6, "video_length": 9, "support": support}
    return clip | {"instances": targets}


class TestTraining:
    @pytest.mark.parametrize("name", ["i", "j", "k", "l"])
    def test_every_parameter_of_a_row_has_a_gradient(self, name):
        # An object needs two supports that show it: the weight of a single one is 1 whatever the query.
        keys = {"MODEL.VIDEO.SUPPORT_TOPK": 20, "MODEL.MST.ID_IOU": 0.2}
        model = build_detector(row(name, **keys), dtype=torch.float64).train()
        torch.manual_seed(0)
        with EventStorage():
            sum(model([tracked_clip()]).values()).backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
            assert parameter_name.endswith("key.bias") or parameter.grad.ne(0).any(), parameter_name

    def test_the_instance_level_knows_the_objects_in_frames_of_every_role(self):
        model, given = build_detector(row("l")).train(), []
        mst = model.roi_heads.aggregator.parts[1]
        mst.register_forward_hook(lambda module, inputs, out: given.append((*inputs, out.value)))
        torch.manual_seed(0)
        with EventStorage():
            model([tracked_clip()])
        ((query, context, value),) = given
        assert {5, 8, -1} >= set(query.fields[TRACK_IDS].tolist()) > {-1}
        assert {role.name for role in context.roles} == {"LOCAL", "MEMORY", "GLOBAL"}
        assert all(TRACK_IDS in frame.proposals.fields for frame in context.frames)
        assert value[query.fields[TRACK_IDS] == -1].equal(
            query.features[query.fields[TRACK_IDS] == -1]
        )  # the background is copied


class TestStreams:
    def test_all_levels_give_what_a_clip_gives_until_a_frame_has_left(self):
        model = build_detector(row("l", **{"MODEL.MST.QUERY": "reference"}), dtype=torch.float64)
        check_stream_equals_clips_until_a_frame_leaves(model, SCHEDULE, 1e-10)

    @pytest.mark.parametrize("name", ["i", "l"])
    def test_with_supports_enhanced_a_stream_is_a_clip_that_holds_the_whole_video(self, name):
        """A clip with (i) aligns to the nearest frame before, as the stream does."""
        model, video, schedule = build_detector(row(name), dtype=torch.float64), make_video(4), SlidingWindow(9)
        for t, streamed in enumerate(detect_as_stream(model, video, schedule)):
            assert_same_detections(streamed, model([window_clip(video, t, schedule)])[0]["instances"], 1e-10)

    def test_two_interleaved_videos_do_not_touch_each_other(self):
        check_interleaved_videos(build_detector(row("l")), SCHEDULE)

    def test_a_long_stream_stays_bounded_and_finite(self):
        model, video, memory = build_detector(row("l")), make_video(25), FrameMemory(SCHEDULE)
        memory.start("video", 25)
        for t in range(25):
            found = model.step(step_clip(video, t, memory), memory)["instances"]
            assert len(found) > 0 and found.scores.isfinite().all() and found.pred_boxes.tensor.isfinite().all()
            context = memory.context(t)
            assert len(memory) <= 3 + 2
            assert len(context.carry["mega.features.0"]) <= 3 * 3  # of 2 frames and the pending one
