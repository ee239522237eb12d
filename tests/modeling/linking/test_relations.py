"""Relations from the aggregator to the linker."""

import pytest
import torch

from helpers.models import build_detector, make_video
from helpers.streams import detect_as_stream, step_clip
from vod2.d2 import detector_postprocess
from vod2.modeling import BLR, TubeletLinking
from vod2.modeling.aggregation import next_relations
from vod2.structures import Frame, ProposalSet, Role, TemporalContext
from vod2.temporal import FrameMemory, SlidingWindow

RDN = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"}
KEEP = RDN | {"MODEL.VIDEO.KEEP_RELATIONS": True}
K = 6  # MODEL.VIDEO.SUPPORT_TOPK of the tiny detector


def context_of(counts: dict[int, int] | list[tuple[int, int]]) -> TemporalContext:
    """Frames (index, number of proposals)."""
    frames = []
    for index, count in counts:
        proposals = ProposalSet.of_frame(torch.zeros(count, 4), torch.zeros(count, 2), torch.zeros(count), (8, 8))
        frames.append(Frame("video", index, (8, 8), proposals=proposals))
    return TemporalContext(tuple(frames), (Role.LOCAL,) * len(frames))


def test_the_columns_of_the_next_frame_are_found_in_the_context():
    """By hand, K = 2: the context's pool is rows 0, 1 of frame 3, row 0 of frame 5, rows 0, 1 of frame 4."""
    relations = torch.arange(10.0).reshape(2, 5)
    table = next_relations(relations, context_of([(3, 7), (5, 1), (4, 2)]), t=4, topk=2)
    assert table.tolist() == [[2.0, 0.0], [7.0, 0.0]]
    table = next_relations(relations, context_of([(3, 7), (5, 1), (4, 2)]), t=3, topk=2)
    assert table.tolist() == [[3.0, 4.0], [8.0, 9.0]]


def test_a_frame_that_stands_twice_in_the_context_has_the_sum_of_its_weights():
    relations = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    table = next_relations(relations, context_of([(1, 2), (1, 2)]), t=0, topk=3)
    torch.testing.assert_close(table, torch.tensor([[0.4, 0.6, 0.0]]))


@pytest.mark.parametrize("context", [context_of([(0, 2)]), context_of([]), context_of([(1, 0)])])
def test_relations_to_a_frame_that_is_not_there_are_zero(context):
    width = sum(len(frame.proposals) for frame in context.frames)
    assert next_relations(torch.ones(3, width), context, t=0, topk=2).tolist() == [[0.0, 0.0]] * 3


def test_detections_of_a_stream_bring_the_mean_weights_of_the_last_basic_relation():
    model, video = build_detector(KEEP, dtype=torch.float64), make_video(4)
    memory = FrameMemory(SlidingWindow(1))
    memory.start("video", len(video))
    for t in range(len(video)):
        found = model.step(step_clip(video, t, memory), memory)["instances"]
        key, context = memory.frame(t).proposals, memory.context(t)
        support, rdn = context.proposals(K), model.roi_heads.aggregator
        first = key.features + rdn.basic[0](key.features, support.features, key.boxes, support.boxes)
        hidden = torch.relu(rdn.transform[0](first))
        weights = rdn.basic[1].weights(hidden, support.features, key.boxes, support.boxes).mean(dim=0)
        rows = [frame.index for frame in context.frames]
        if t + 1 in rows:
            start = sum(min(K, len(frame.proposals)) for frame in context.frames[: rows.index(t + 1)])
            expected = weights[found.proposal_index, start : start + K]
            assert expected.gt(0).any()
        else:
            expected = torch.zeros(len(found), K, dtype=torch.float64)
        assert len(found) > 0
        torch.testing.assert_close(found.next_relation, expected, rtol=1e-9, atol=1e-12)


def test_relations_change_nothing_else():
    kept, plain = build_detector(KEEP), build_detector(RDN)
    video, schedule = make_video(3), SlidingWindow(1)
    for one, other in zip(
        detect_as_stream(kept, video, schedule), detect_as_stream(plain, video, schedule), strict=True
    ):
        assert not other.has("next_relation")
        assert one.pred_boxes.tensor.equal(other.pred_boxes.tensor) and one.scores.equal(other.scores)


@pytest.mark.parametrize("num_basic", [0, 1, 3])
def test_without_a_basic_stage_there_are_no_relations(num_basic):
    model = build_detector(KEEP | {"MODEL.RDN.NUM_BASIC": num_basic})
    for found in detect_as_stream(model, make_video(2), SlidingWindow(1)):
        assert found.has("next_relation") == (num_basic > 0)


def test_a_causal_stream_does_not_see_the_next_frame():
    for found in detect_as_stream(build_detector(KEEP), make_video(3), SlidingWindow(1, lookahead=0)):
        assert found.next_relation.shape == (len(found), K) and not found.next_relation.any()


def test_relations_stay_with_their_boxes_when_boxes_are_scaled_and_empty_ones_dropped():
    (found,) = detect_as_stream(build_detector(KEEP), make_video(1), SlidingWindow(1))
    found.next_relation = torch.arange(len(found))[:, None].expand(-1, K).clone()
    found.pred_boxes.tensor[1] = torch.tensor([5.0, 5.0, 5.0, 9.0])
    kept = [row for row in range(len(found)) if row != 1]
    scaled = detector_postprocess(found, 128, 192)
    assert scaled.next_relation[:, 0].tolist() == kept
    assert scaled.proposal_index.equal(found.proposal_index[kept])


def test_blr_links_the_detections_of_a_stream():
    video = list(detect_as_stream(build_detector(KEEP), make_video(5), SlidingWindow(1)))
    linked, plain = BLR().link(video), TubeletLinking().link(video)
    assert [len(frame) for frame in linked] == [len(frame) for frame in video] == [len(frame) for frame in plain]
