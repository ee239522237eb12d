"""RelationWatch: the weights of one frame of a stream, with the right boxes of the right images."""

import numpy as np
import pytest
import torch

from helpers.models import make_video, tiny_cfg
from vod2 import UserError, VideoPredictor
from vod2.d2 import Boxes, Instances
from vod2.engine.random_weights import draw_weights
from vod2.engine.relations import RelationWatch, detection_at

KEYS = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
    "MODEL.VIDEO.KEEP_RELATIONS": True,
    "VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow",
    "VIDEO.TEST_SCHEDULE.RADIUS": 2,
}


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    made = VideoPredictor(tiny_cfg(KEYS))
    draw_weights(made.model)
    return made


def make_frames(length: int) -> list[np.ndarray]:
    """Images of twice the size that the model sees."""
    return [np.kron(image.permute(1, 2, 0).numpy(), np.ones((2, 2, 1), np.uint8)) for image in make_video(length)]


def watched(predictor: VideoPredictor, frames: list, frame: int) -> tuple[RelationWatch, Instances]:
    watch = RelationWatch(predictor, frame)
    found = {one.index: one.output["instances"] for one in predictor.stream(watch.frames(frames))}
    watch.close()
    return watch, found[frame]


@pytest.mark.parametrize("t", [0, 3, 6])
def test_all_support_boxes_are_those_of_the_window_and_their_weights_sum_to_one(predictor, t):
    frames = make_frames(7)
    watch, instances = watched(predictor, frames, t)
    supports = watch.supports(int(instances.proposal_index[0]), count=1000)
    window = {i for i in range(t - 2, t + 3) if 0 <= i < 7}
    assert {one.index for one in supports} == window and len(supports) == 6 * len(window)
    assert all(one.image is frames[one.index] for one in supports)
    weights = [one.weight for one in supports]
    assert sum(weights) == pytest.approx(1, abs=1e-5) and weights == sorted(weights, reverse=True)


def test_a_sample_of_the_whole_video_is_that_of_the_stream():
    """Which frames it holds follows from the name of the stream."""
    sample = {"VIDEO.TEST_SCHEDULE.NAME": "GlobalSample", "VIDEO.TEST_SCHEDULE.COUNT": 3}
    sample |= {"VIDEO.TEST_SCHEDULE.RADIUS": 18}  # the default: it is not read
    made = VideoPredictor(tiny_cfg(KEYS | sample))
    draw_weights(made.model)
    frames = make_frames(9)
    watch, instances = watched(made, frames, 8)
    supports = watch.supports(int(instances.proposal_index[0]), count=1000)
    window = {support.index for support in made.schedule.window(8, None, "stream")}
    assert {one.index for one in supports} == window != {support.index for support in made.schedule.window(8, None)}
    assert all(one.image is frames[one.index] for one in supports)


def test_boxes_are_proposals_of_their_frame_in_pixels_of_the_image(predictor):
    frames = make_frames(5)
    watch, _ = watched(predictor, frames, 2)
    stream = predictor.open()
    for frame in frames:
        stream.step(frame)
    best = 2 * stream.memory.frame(4).proposals.boxes[:6]
    found = torch.tensor([one.box for one in watch.supports(0, 1000) if one.index == 4])
    assert found.shape == best.shape
    nearest = (found[:, None] - best).abs().amax(dim=2).argmin(dim=1)
    assert sorted(nearest.tolist()) == list(range(6))
    torch.testing.assert_close(found, best[nearest])


def test_of_aggregators_in_a_row_the_last_that_keeps_relations_is_watched():
    both = VideoPredictor(tiny_cfg(KEYS | {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator+MSTAggregator"}))
    draw_weights(both.model)
    watch, instances = watched(both, make_frames(5), 2)
    weights = [one.weight for one in watch.supports(int(instances.proposal_index[0]), count=1000)]
    assert len(weights) == 6 * 5 and sum(weights) == pytest.approx(1, abs=1e-5)


def test_after_a_lost_frame_only_later_ones_are_supports(predictor):
    frames = [*make_frames(3), None, *make_frames(4)]
    watch, instances = watched(predictor, frames, 5)
    supports = watch.supports(int(instances.proposal_index[0]), count=1000)
    assert {one.index for one in supports} == {4, 5, 6, 7}
    assert all(one.image is frames[one.index] for one in supports)


def test_before_the_frame_was_detected_there_is_nothing_to_tell(predictor):
    watch = RelationWatch(predictor, 3)
    with pytest.raises(ValueError, match="frame 3"):
        watch.supports(0)
    watch.close()


def test_models_that_keep_no_relations_are_refused():
    for keys in ({"MODEL.VIDEO.KEEP_RELATIONS": False}, {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": ""}):
        with pytest.raises(UserError, match="keeps no relations.*KEEP_RELATIONS"):
            RelationWatch(VideoPredictor(tiny_cfg(KEYS | keys)), 0)


def test_the_surest_detection_under_a_point_is_chosen():
    boxes = Boxes(torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20], [0, 0, 30, 30]]))
    found = Instances((40, 40), pred_boxes=boxes, scores=torch.tensor([0.5, 0.9, 0.3]))
    assert [detection_at(found, x, y) for x, y in ((2, 2), (7, 7), (25, 25), (35, 35))] == [0, 1, 2, None]
