"""Groups of frames and of objects: who belongs to them, and their AP against loops."""

import numpy as np
import pytest

from helpers.detections import by_frame, random_problem
from helpers.evaluations import evaluate
from reference.evaluation import average_precision
from vod2.d2 import BoxMode
from vod2.errors import UserError
from vod2.evaluation import PROTOCOLS, build_groups
from vod2.evaluation.evaluated import ground_truth_arrays
from vod2.evaluation.groups import Group, group_curves
from vod2.evaluation.stability import index_tracks

BOX = [10.0, 10.0, 110.0, 110.0]


def note(**more):
    return {"bbox": BOX, "bbox_mode": 0, "category_id": 0, "iscrowd": 0, **more}


def groups_of(records, **options):
    records = [{"image_id": f"f{i}", **record} for i, record in enumerate(records)]
    truth = ground_truth_arrays(records)
    return build_groups(records, truth, index_tracks(records), PROTOCOLS["fixed"], **options)


def blurred(kind="blur", **more):
    return note(deterioration={kind: 0.5}, **more)


def test_a_frame_belongs_to_the_kinds_of_its_objects_and_is_clean_without_any():
    groups = groups_of([{"annotations": [note(), blurred()]}, {"annotations": [note()]}, {}])
    assert list(groups) == ["clean", "deteriorated", "blur"]
    assert groups["clean"].frames.tolist() == [False, True, True]
    assert groups["clean"].objects.tolist() == [False, False, True]
    assert groups["blur"].frames.tolist() == groups["deteriorated"].frames.tolist() == [True, False, False]
    assert groups["blur"].objects.tolist() == [True, True, False]


def test_by_objects_only_the_deteriorated_object_belongs():
    groups = groups_of([{"annotations": [note(), blurred()]}, {"annotations": [note()]}], by="objects")
    assert groups["clean"].objects.tolist() == [True, False, True]
    assert groups["blur"].objects.tolist() == groups["deteriorated"].objects.tolist() == [False, True, False]
    assert all(group.frames is None for group in groups.values())


def test_what_the_whole_frame_has_each_of_its_objects_has_and_a_frame_without_objects_too():
    records = [{"annotations": [note()], "deterioration": {"fog": 1.0}}, {"deterioration": {"fog": 0.2}}, {}]
    assert groups_of(records)["fog"].frames.tolist() == [True, True, False]
    assert groups_of(records, by="objects")["fog"].objects.tolist() == [True]
    groups = groups_of(records, frame_kinds={"f2": ("rain",)})
    assert groups["rain"].frames.tolist() == [False, False, True]
    assert groups["clean"].frames.tolist() == [False, False, False]


def test_crowds_count_in_no_group_and_do_not_make_a_frame_deteriorated():
    groups = groups_of([{"annotations": [blurred(iscrowd=1), note()]}])
    assert list(groups) == ["clean"]
    assert groups["clean"].frames.tolist() == [True] and groups["clean"].objects.tolist() == [False, True]


def test_records_name_groups_of_frames_of_their_own():
    records = [{"annotations": [note()], "groups": ["near", "medium"]}, {"annotations": [note()], "groups": ("near",)}]
    groups = groups_of([*records, {"annotations": [note()]}], class_names=["near"])
    # "medium" is a speed, "near" is a class here.
    assert list(groups) == ["clean", "frames-medium", "frames-near"]
    assert groups["frames-near"].frames.tolist() == [True, True, False]
    by_objects = groups_of([*records, {}], by="objects")["near"]
    assert by_objects.frames is None and by_objects.objects.tolist() == [True, True]


def test_speeds_stay_groups_of_objects():
    video = [{"video_id": "v", "frame_index": i, "annotations": [note(track_id=0)]} for i in range(2)]
    groups = groups_of(video)
    assert list(groups) == ["slow", "medium", "fast", "clean"]
    assert groups["slow"].frames is None and groups["slow"].objects.all()


def test_names_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="'videos'.*'frames', 'objects'"):
        groups_of([], by="videos")
    for groups in ("near", [1], [""]):
        with pytest.raises(ValueError, match="'f0': groups is"):
            groups_of([{"groups": groups}])
    with pytest.raises(UserError, match="'clean' has the name of another group"):
        groups_of([{"annotations": [blurred("clean")]}])


@pytest.mark.parametrize("seed", range(25))
def test_a_group_of_frames_has_the_ap_of_these_frames_alone(seed):
    found, truth = random_problem(seed, ignored=0.1)
    rng = np.random.default_rng(seed)
    groups = {}
    for name in ("a", "b"):
        frames = rng.random(8) < 0.5
        groups[name] = Group(frames[truth.image] & ~truth.ignore, frames)
    groups["objects"] = Group(~truth.ignore)
    curves = group_curves(found, truth, groups, 3, PROTOCOLS["fixed"])
    objects, detections = by_frame(found, truth)
    members = [range(8), *(np.flatnonzero(groups[name].frames).tolist() for name in ("a", "b")), range(8)]
    for row, frames in zip(curves, members, strict=True):
        expected = [average_precision(objects, detections, label, frames) for label in range(3)]
        np.testing.assert_allclose([curve.average_precision for curve in row], expected, atol=1e-12)


def test_under_the_mega_protocol_too_a_group_of_frames_is_a_dataset_of_its_own():
    found, truth = random_problem(0)
    frames = np.arange(8) < 4
    groups = {"first": Group(frames[truth.image], frames)}
    _, row = group_curves(found, truth, groups, 3, PROTOCOLS["mega"])
    sides = []
    for side in (found, truth):
        columns = {name: column[side.image < 4] for name, column in vars(side).items() if column is not None}
        sides.append(type(side)(**columns))
    (alone,) = group_curves(*sides, {}, 3, PROTOCOLS["mega"])
    np.testing.assert_array_equal(
        [curve.average_precision for curve in row], [curve.average_precision for curve in alone]
    )


@pytest.mark.parametrize("says_so, fast, slow", [(False, 1 / 2, 1 / 2), (True, 4 / 7, 3 / 7)])
@pytest.mark.parametrize("protocol", ["fgfa", "mega"])
def test_frames_without_objects_count_as_fast_only_where_the_dataset_says_so(protocol, says_so, fast, slow):
    """Three frames of a slow object and three of a fast one, all found, and one frame without any, whose detection is
    the surest. It counts 3 of 6 in both groups, and 4 of 7 and 3 of 7 if its frame is an entry of motion 0."""
    box = {"bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0, "track_id": 0}
    frames = []
    for video, step in (("slow", 0.0), ("fast", 20.0), ("empty", None)):
        for t in range(3 if step is not None else 1):
            x = 0.0 if step is None else step * t
            notes = [] if step is None else [box | {"bbox": [x, 0.0, x + 50, 50.0]}]
            record = {"image_id": f"{video}/{t}", "video_id": video, "frame_index": t, "annotations": notes}
            score = 0.99 if step is None else 0.9 - 0.01 * t
            frames.append((record, np.array([[x, 0.0, x + 50, 50.0, score, 0.0]])))
    results = evaluate(frames, protocol=protocol, metadata={"counts_empty_frames": says_so})
    assert results["AP50"] == pytest.approx(100 * 6 / 7)
    assert results["AP50-fast"] == pytest.approx(100 * 3 / (3 + fast))  # precision rises up to the third true one
    assert results["AP50-slow"] == pytest.approx(100 * 3 / (3 + slow))
