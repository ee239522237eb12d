"""What every registered linker promises."""

import numpy as np
import pytest
import torch

from helpers.device import device
from helpers.linking import detections, random_video
from helpers.models import tiny_cfg
from vod2.d2 import Instances
from vod2.errors import UserError
from vod2.modeling import BOX_LINKER_REGISTRY, build_box_linker

RELATED = 5  # K of the relations that every detection brings
HERE = (0.0, 0.0, 10.0, 10.0)


@pytest.fixture(params=sorted(name for name, _ in BOX_LINKER_REGISTRY))
def linker(request):
    return build_box_linker(tiny_cfg({"MODEL.VIDEO.LINKER.NAME": request.param}))


def make_frames(video, dtype=torch.float64) -> list[Instances]:
    frames = [detections(frame, dtype=dtype) for frame in video]
    rng = torch.Generator().manual_seed(0)
    for frame in frames:
        frame.proposal_index = torch.arange(len(frame))
        frame.next_relation = torch.rand(len(frame), RELATED, generator=rng, dtype=dtype)
    return [frame.to(device()) for frame in frames]


def video(seed=0, frames=6, labels=3, least=0):
    return random_video(np.random.default_rng(seed), frames=frames, most=8, labels=labels, least=least)


@pytest.mark.parametrize("seed", range(5))
def test_every_box_that_stays_keeps_its_fields_and_gets_a_track_of_one_class(linker, seed):
    frames = make_frames(video(seed))
    linked = linker.link(frames)
    assert len(linked) == len(frames)
    labels: dict[int, set[int]] = {}
    for before, after in zip(frames, linked, strict=True):
        assert after.image_size == before.image_size
        assert set(after.get_fields()) == set(before.get_fields()) | {"track_ids"}
        for name in ("pred_classes", "proposal_index", "next_relation"):
            assert after.get(name).equal(before.get(name)[after.row])
        assert after.pred_boxes.tensor.equal(before.pred_boxes.tensor[after.row])
        assert after.scores.dtype == before.scores.dtype
        assert after.scores.tolist() == sorted(after.scores.tolist(), reverse=True)
        assert after.track_ids.dtype == torch.int64
        assert len(set(after.track_ids.tolist())) == len(after), "a track has one box in a frame"
        for track, label in zip(after.track_ids.tolist(), after.pred_classes.tolist(), strict=True):
            labels.setdefault(track, set()).add(label)
    assert all(len(one) == 1 for one in labels.values())
    assert list(labels) == list(range(len(labels))), "tracks count from 0 as they appear"


def test_a_track_has_no_gap(linker):
    seen: dict[int, list[int]] = {}
    for t, frame in enumerate(linker.link(make_frames(video(1, frames=8)))):
        for track in frame.track_ids.tolist():
            seen.setdefault(track, []).append(t)
    assert all(frames == list(range(frames[0], frames[-1] + 1)) for frames in seen.values())


def test_classes_do_not_touch_each_other(linker):
    frames = make_frames(video(2))
    together = linker.link(frames)
    for label in range(3):
        alone = linker.link([frame[frame.pred_classes == label] for frame in frames])
        for one, both in zip(alone, together, strict=True):
            both = both[both.pred_classes == label]
            assert one.row.tolist() == both.row.tolist() and one.scores.equal(both.scores)


def test_the_input_is_left_as_it_was(linker):
    frames = make_frames(video(3))
    before = [{name: getattr(value, "tensor", value).clone() for name, value in f.get_fields().items()} for f in frames]
    linker.link(frames)
    for frame, fields in zip(frames, before, strict=True):
        assert set(frame.get_fields()) == set(fields)
        for name, value in frame.get_fields().items():
            assert getattr(value, "tensor", value).equal(fields[name])


@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0], [1], [0, 2, 0], [3, 0, 3]])
def test_missing_boxes_and_frames_work(linker, counts):
    frames = make_frames([[(HERE, 0.5, k) for k in range(count)] for count in counts])
    linked = linker.link(frames)
    assert [len(frame) for frame in linked] == counts
    assert all(frame.track_ids.shape == frame.scores.shape for frame in linked)


def test_duplicate_boxes_and_scores_of_zero_work(linker):
    linked = linker.link(make_frames([[(HERE, 0.5, 0)] * 3, [(HERE, 0.0, 0)] * 2, [(HERE, 0.5, 0)] * 3]))
    assert all(frame.scores.isfinite().all() and len(frame) >= 1 for frame in linked)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_precisions_work(linker, dtype):
    for frame in linker.link(make_frames(video(4), dtype)):
        assert frame.scores.dtype == dtype and frame.scores.isfinite().all()


def test_no_name_is_no_linker_and_a_wrong_one_is_named():
    assert build_box_linker(tiny_cfg()) is None
    with pytest.raises(
        UserError, match="MODEL.VIDEO.LINKER.NAME is 'SeqNsm': expected one of BLR, GreedyLinking, SeqNMS"
    ):
        build_box_linker(tiny_cfg({"MODEL.VIDEO.LINKER.NAME": "SeqNsm"}))


def test_a_setting_that_makes_no_sense_is_the_users_mistake():
    keys = {"MODEL.VIDEO.LINKER.NAME": "SeqNMS", "MODEL.VIDEO.LINKER.LINK_IOU": 2.0}
    with pytest.raises(UserError, match="LINK_IOU"):
        build_box_linker(tiny_cfg(keys))
