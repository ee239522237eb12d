"""The graphs of exported parts, run by PyTorch: the same as the detector, whatever is padding."""

import pytest
import torch

from helpers.exports import KEYFRAME_KEYS, RDN_KEYS, SELSA_KEYS
from helpers.models import IMAGE_SIZE, build_detector, make_video
from reference.rfcn import position_sensitive_pool
from vod2 import UserError
from vod2.export import make_parts
from vod2.layers import first_rows
from vod2.modeling import propose_frames
from vod2.modeling.roi_heads.rfcn import position_sensitive_align
from vod2.ops import is_portable, portable
from vod2.structures import Frame, ProposalSet, Role, TemporalContext
from vod2.temporal import FrameMemory, GlobalSample, Keyframes, NoWindow, ScheduleUnion, SlidingWindow, SupportSchedule

TWO_LEVELS = {
    "MODEL.NARROW_RESNET.CHANNELS": [8, 16, 16, 24],
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res3", "res4"],
}


def parts_of(keys: dict, schedule: SupportSchedule | None = None) -> tuple:
    model = build_detector(keys | {"MODEL.DEVICE": "cpu"})
    return model, {part.name: part for part in make_parts(model, schedule or NoWindow(), IMAGE_SIZE)}


@pytest.mark.parametrize(
    ("mask", "count", "rows", "fillers"),
    [([0, 1, 0, 1], 1, [1], 0), ([0, 1, 0, 1], 3, [1, 3], 1), ([0, 0], 2, [], 2), ([1, 1], 2, [0, 1], 0)],
)
def test_the_first_rows_of_a_mask(mask, count, rows, fillers):
    found, is_filler = first_rows(torch.tensor(mask, dtype=torch.bool), count)
    assert found[~is_filler].tolist() == rows
    assert is_filler.tolist() == [False] * len(rows) + [True] * fillers


def test_portable_ends_with_its_block_also_by_an_exception():
    with pytest.raises(RuntimeError), portable():
        assert is_portable()
        raise RuntimeError
    assert not is_portable()


@pytest.mark.parametrize("threshold", [0.7, 0.1])
def test_padded_proposals_are_those_of_the_rpn_and_padding(threshold):
    model = build_detector({"MODEL.RPN.NMS_THRESH": threshold})
    with torch.no_grad():
        frames = model.encode([{"image": image} for image in make_video(3)])
        expected = [frame.proposals for frame in propose_frames(model.proposal_generator, model.roi_heads, frames)[0]]
        with portable():
            padded = [frame.proposals for frame in propose_frames(model.proposal_generator, model.roi_heads, frames)[0]]
    assert (min(map(len, expected)) < 16) == (threshold == 0.1)
    for proposals, fixed in zip(expected, padded, strict=True):
        count = len(proposals)
        assert len(fixed) == 16 and (fixed.scores[count:] == -torch.inf).all() and not fixed.boxes[count:].any()
        assert torch.equal(fixed.boxes[:count], proposals.boxes)
        assert torch.equal(fixed.scores[:count], proposals.scores)
        assert torch.allclose(fixed.features[:count], proposals.features, atol=1e-4)


def test_levels_of_a_pyramid_do_not_suppress_each_other_in_the_portable_form():
    rpn = build_detector().proposal_generator
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 20.0, 20.0], [1.0, 1.0, 20.0, 20.0]])
    scores, levels = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0, 1, 0])
    expected = rpn._select(boxes, scores, levels, IMAGE_SIZE)
    with portable():
        found = rpn._select(boxes, scores, levels, IMAGE_SIZE)
    assert expected.objectness_logits.tolist() == [3.0, 2.0]
    assert found.objectness_logits.tolist() == [3.0, 2.0, -torch.inf]


def test_boxes_that_are_not_finite_or_empty_are_padding():
    rpn = build_detector().proposal_generator
    boxes = torch.tensor([[0.0, 0.0, torch.nan, 9.0], [5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 8.0, 8.0]])
    with portable():
        found = rpn._select(boxes, torch.tensor([3.0, 2.0, 1.0]), torch.zeros(3, dtype=torch.int64), IMAGE_SIZE)
    assert found.objectness_logits.tolist() == [1.0, -torch.inf, -torch.inf]
    assert found.proposal_boxes.tensor.tolist() == [[0.0, 0.0, 8.0, 8.0], [0.0] * 4, [0.0] * 4]


@pytest.mark.parametrize("samples", [0, 2])
def test_bins_as_rois_pool_as_position_sensitive_pooling_does(samples):
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5 * 9, 4, 6, generator=rng, dtype=torch.float64)
    boxes = torch.tensor(
        [[16.0, 8.0, 80.0, 60.0], [3.3, 2.1, 9.7, 30.9], [-40.0, -40.0, 20.0, 25.0], [9.0, 9.0, 9.0, 9.0]]
    )
    arguments = maps, [boxes.double(), boxes.double()[:1]], 3, 1 / 16, samples
    expected = position_sensitive_align(*arguments)
    with portable():
        found = position_sensitive_align(*arguments)
    assert torch.allclose(found, expected, atol=1e-9)
    if samples:
        reference = position_sensitive_pool(maps[0], boxes[0].tolist(), 3, 1 / 16, samples)
        assert torch.allclose(found[0], reference, atol=1e-9)


def proposals(count: int, seed: int) -> ProposalSet:
    rng = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=rng) * 40
    boxes = torch.cat([corners, corners + 4 + torch.rand(count, 2, generator=rng) * 40], dim=1)
    scores = torch.randn(count, generator=rng).sort(descending=True).values
    return ProposalSet.of_frame(boxes, torch.randn(count, 64, generator=rng), scores, IMAGE_SIZE)


@pytest.mark.parametrize(
    "keys",
    [
        RDN_KEYS,
        RDN_KEYS | {"MODEL.RDN.ADVANCED_POOL": "frame", "MODEL.RDN.ADVANCED_FC": True},
        RDN_KEYS | {"MODEL.RDN.ADVANCED": False, "MODEL.RDN.NUM_BASIC": 2},
        RDN_KEYS | {"MODEL.RDN.ADVANCED_RATIO": 0.5, "MODEL.RDN.NUM_BASIC": 0},
        SELSA_KEYS,
        SELSA_KEYS | {"MODEL.SELSA.UPDATE_SUPPORTS": True, "MODEL.SELSA.NUM_HEADS": 4},
        SELSA_KEYS | {"MODEL.SELSA.OUTPUT_PROJECTION": True, "MODEL.SELSA.NUM_LAYERS": 3},
    ],
)
@pytest.mark.parametrize("counts", [(6, 6, 6), (6, 2), ()])
def test_what_is_padding_changes_nothing(keys, counts):
    """Windows of up to three supports of up to six proposals, fewer of which are there."""
    model, parts = parts_of(keys, SlidingWindow(1))
    query, supports = proposals(16, seed=1), [proposals(count, seed=2 + count) for count in counts]
    frames = tuple(Frame("", row, IMAGE_SIZE, proposals=support) for row, support in enumerate(supports))
    aggregator = model.roi_heads.aggregator
    inputs = dict(parts["aggregate"].inputs)
    inputs |= {"key_boxes": query.boxes, "key_features": query.features, "key_objectness": query.scores}
    # What stands in the rows of padding must not matter.
    fixed = {name: torch.full_like(inputs[name], 7.0) for name in inputs if name.startswith("support_")}
    fixed["support_valid"] = torch.zeros(3, 6, dtype=torch.bool)
    for row, support in enumerate(supports):
        rows = slice(0, len(support))
        fixed["support_boxes"][row, rows], fixed["support_features"][row, rows] = support.boxes, support.features
        fixed["support_objectness"][row, rows], fixed["support_valid"][row, rows] = support.scores, True
    with torch.no_grad():
        value = aggregator(query, TemporalContext(frames, (Role.LOCAL,) * len(frames))).value
        boxes, scores = parts["aggregate"].module.predicted(value, query.boxes, IMAGE_SIZE)
        with portable():
            found_boxes, found_scores = parts["aggregate"].module(*(inputs | fixed).values())
    assert torch.allclose(found_boxes, boxes, atol=1e-3) and torch.allclose(found_scores, scores, atol=1e-5)


@pytest.mark.parametrize("aligner", ["LearnedSampling", "MatchTrans", "NonLocal"])
def test_the_parts_of_a_keyframe_method_give_what_its_stream_gives(aligner):
    model, parts = parts_of(KEYFRAME_KEYS | {"MODEL.ALIGNER.NAME": aligner})
    memory = FrameMemory(Keyframes(3))
    memory.start("video", None)
    carried = torch.zeros_like(parts["keyframe"].inputs["memory"])
    for index, image in enumerate(make_video(7)):
        with torch.no_grad():
            model.remember([{"image": image, "frame_index": index}], [memory])
            expected = model.detect_from(memory, {"frame_index": index})["instances"]
            with portable():
                if index % 3:
                    boxes, scores, valid = parts["between"].module(image[None], carried)
                else:
                    first = torch.tensor(index == 0)
                    boxes, scores, valid, carried = parts["keyframe"].module(image[None], carried, first)
        found = model.roi_heads.box_predictor._select_detections(boxes[valid].flatten(1), scores[valid], IMAGE_SIZE)
        assert len(found) == len(expected) > 0
        assert torch.allclose(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-2)
        assert torch.allclose(found.scores, expected.scores, atol=1e-4)


def test_keyframes_alone_need_no_part_between():
    keys = KEYFRAME_KEYS | {"VIDEO.TEST_SCHEDULE.INTERVAL": 1, "MODEL.LSTS.UPDATE": "none"}
    assert list(parts_of(keys)[1]) == ["keyframe"]


@pytest.mark.parametrize(
    ("keys", "schedule", "said"),
    [
        ({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MEGAAggregator"}, SlidingWindow(1), "MEGAAggregator as it is"),
        (
            {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator+MEGAAggregator"},
            SlidingWindow(1),
            "AggregatorSequence as it is",
        ),
        ({"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "FGFAAggregator"}, SlidingWindow(1), "expected no aggregator, one of"),
        (KEYFRAME_KEYS | {"MODEL.ALIGNER.NAME": "DAlign"}, Keyframes(3), "LSTSAggregator as it is configured"),
        (KEYFRAME_KEYS | {"MODEL.ALIGNER.NAME": "FlowNetS"}, Keyframes(3), "LSTSAggregator as it is configured"),
        (RDN_KEYS | {"MODEL.VIDEO.KEEP_RELATIONS": True}, SlidingWindow(1), "KEEP_RELATIONS"),
        (RDN_KEYS, NoWindow(), "names no supports"),
        (TWO_LEVELS, NoWindow(), "name one level"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_sentence(keys, schedule, said):
    model = build_detector(keys)
    with pytest.raises(UserError, match=said) as error:
        make_parts(model, schedule, IMAGE_SIZE)
    assert "\n" not in str(error.value)


class _Endless(SupportSchedule):
    reads = {}

    def _window(self, t, length, video):
        return []


def test_a_schedule_without_a_largest_window_is_refused():
    with pytest.raises(UserError, match="_Endless of VIDEO.TEST_SCHEDULE names any number of supports"):
        make_parts(build_detector(RDN_KEYS), _Endless(), IMAGE_SIZE)


@pytest.mark.parametrize(
    "schedule",
    [
        NoWindow(),
        SlidingWindow(2),
        SlidingWindow(3, lookahead=1, edge="repeat"),
        GlobalSample(3, lookahead=0),
        Keyframes(4),
        ScheduleUnion([SlidingWindow(1), GlobalSample(2)]),
    ],
)
def test_no_window_is_larger_than_the_largest_one(schedule):
    length = 30
    sizes = {len(schedule.window(t, length, "video")) for t in range(length)}
    assert max(sizes) == schedule.largest_window


def test_a_union_with_an_unknown_part_is_unknown():
    assert ScheduleUnion([SlidingWindow(1), _Endless()]).largest_window is None
