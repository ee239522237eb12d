"""What AP is lost to: each kind of error by hand, and random problems against loops."""

import numpy as np
import pytest

from helpers.detections import by_frame, random_problem
from reference.evaluation import split_errors as split_in_loops
from vod2.evaluation import (
    ERROR_TYPES,
    PROTOCOLS,
    Detections,
    GroundTruth,
    classify_errors,
    match_detections,
    split_errors,
)

FIXED = PROTOCOLS["fixed"]
BOX, NEAR, FAR = (0, 0, 100, 100), (0, 0, 100, 30), (500, 500, 600, 600)  # IoU of NEAR with BOX is .3


def problem(objects, found):
    """Objects (image, box, label) and detections (image, box, score, label)."""
    truth = GroundTruth(
        np.array([row[0] for row in objects], dtype=int),
        np.array([row[1] for row in objects], dtype=float).reshape(-1, 4),
        np.array([row[2] for row in objects], dtype=int),
        np.zeros(len(objects), dtype=bool),
    )
    detections = Detections(
        np.array([row[0] for row in found], dtype=int),
        np.array([row[1] for row in found], dtype=float).reshape(-1, 4),
        np.array([row[2] for row in found], dtype=float),
        np.array([row[3] for row in found], dtype=int),
    )
    return detections, truth


def names(detections, truth, protocol=FIXED):
    errors = classify_errors(detections, truth, match_detections(detections, truth, protocol), protocol)
    return [ERROR_TYPES[kind] if kind >= 0 else None for kind in errors.kind], errors


def test_each_kind_of_error_has_its_name():
    found = [(0, BOX, 0.9, 0), (0, BOX, 0.8, 0), (0, BOX, 0.7, 1), (0, NEAR, 0.6, 0), (0, NEAR, 0.5, 1)]
    found += [(0, FAR, 0.4, 0), (1, BOX, 0.3, 0)]
    kinds, errors = names(*problem([(0, BOX, 0), (2, BOX, 1)], found))
    expected = [None, "duplicate", "classification", "localisation", "both", "background", "background"]
    assert kinds == expected
    assert errors.target.tolist() == [-1, -1, 0, 0, -1, -1, -1]
    assert errors.missed.tolist() == [False, True]


def test_an_object_that_an_error_is_about_is_not_missed():
    _, errors = names(*problem([(0, BOX, 0), (1, BOX, 0)], [(0, NEAR, 0.9, 0), (1, BOX, 0.8, 1)]))
    assert not errors.missed.any()


def test_gains_are_those_computed_by_hand():
    # Of class 0: false (background) at .9, true at .8, false (bad box, of a free object) at .7; three objects.
    objects = [(0, BOX, 0), (1, BOX, 0), (2, BOX, 0)]
    result = split_errors(*problem(objects, [(0, FAR, 0.9, 0), (0, BOX, 0.8, 0), (1, NEAR, 0.7, 0)]), 1, FIXED)
    assert result.count == dict(zip(ERROR_TYPES, [0, 1, 0, 0, 1, 1], strict=True))
    before = 1 / 2 / 3
    assert result.gain == pytest.approx(
        {
            "classification": 0,
            "localisation": (2 / 3 + 2 / 3) / 3 - before,
            "both": 0,
            "duplicate": 0,
            "background": 1 / 3 - before,
            "missed": 1 / 2 / 2 - before,
        }
    )


def test_an_oracle_that_would_find_an_object_twice_drops_the_less_sure_detection():
    # Two bad boxes of one free object: the surer becomes true, the other goes; one of an object that is found goes.
    objects = [(0, BOX, 0), (1, BOX, 0)]
    rows = [(0, NEAR, 0.5, 0), (0, NEAR, 0.9, 0), (1, BOX, 0.8, 0), (1, NEAR, 0.95, 0)]
    result = split_errors(*problem(objects, rows), 1, FIXED)
    assert result.gain["localisation"] == pytest.approx(1 - 1 / 3 / 2) and result.count["localisation"] == 3


def test_a_corrected_class_moves_the_detection_to_the_class_of_its_object():
    # Class 1 has an AP of one half because of the box that belongs to class 0, which has 0.
    result = split_errors(*problem([(0, BOX, 0), (1, BOX, 1)], [(0, BOX, 0.9, 1), (1, BOX, 0.8, 1)]), 2, FIXED)
    assert result.gain["classification"] == pytest.approx(1 - (0 + 1 / 2) / 2)


def test_a_class_of_which_everything_is_missed_gains_everything():
    result = split_errors(*problem([(0, BOX, 0), (1, BOX, 1)], [(0, BOX, 0.9, 0)]), 2, FIXED)
    assert result.gain["missed"] == pytest.approx(1 / 2) and result.count["missed"] == 1
    nothing = split_errors(*problem([(0, BOX, 0)], []), 1, FIXED)
    assert nothing.gain["missed"] == 1 and sum(nothing.count.values()) == 1


def test_without_ground_truth_there_are_counts_and_no_gains():
    result = split_errors(*problem([], [(0, BOX, 0.9, 0)]), 1, FIXED)
    assert result.count["background"] == 1 and all(np.isnan(gain) for gain in result.gain.values())


def test_ignored_objects_explain_nothing_and_are_not_missed():
    detections, truth = problem([(0, BOX, 0), (0, FAR, 1)], [(0, BOX, 0.9, 0), (0, FAR, 0.8, 0)])
    truth = GroundTruth(truth.image, truth.boxes, truth.labels, np.array([True, True]))
    kinds, errors = names(detections, truth)
    assert kinds == [None, "background"] and not errors.missed.any()


def test_an_object_is_reached_where_the_protocol_says_so():
    # IoU .25 of an object of 10 x 10 inclusive pixels: found under "imagenet", a bad box under "fixed".
    detections, truth = problem([(0, (0, 0, 9, 9), 0)], [(0, (0, 0, 19, 19), 0.9, 0), (0, (0, 0, 19, 19), 0.8, 1)])
    assert names(detections, truth, PROTOCOLS["imagenet"])[0] == [None, "classification"]
    assert names(detections, truth, FIXED)[0] == ["localisation", "both"]


@pytest.mark.parametrize("seed", range(40))
def test_gains_and_counts_equal_those_of_loops(seed):
    found, truth = random_problem(seed)
    result = split_errors(found, truth, 3, FIXED)
    expected = split_in_loops(*by_frame(found, truth), 3)
    for name, (gain, count) in expected.items():
        assert (name, result.count[name]) == (name, count)
        assert result.gain[name] == pytest.approx(gain, abs=1e-12), name


def test_working_in_small_pieces_gives_the_same_errors(monkeypatch):
    found, truth = random_problem(7)
    expected = split_errors(found, truth, 3, FIXED)
    monkeypatch.setattr("vod2.evaluation.matching._PAIRS_AT_ONCE", 3)
    monkeypatch.setattr("vod2.evaluation.error_split._DETECTIONS_AT_ONCE", 5)
    assert split_errors(found, truth, 3, FIXED) == expected
