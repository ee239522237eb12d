"""Precision-recall curves: what they hold, and the file that they are kept in."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from vod2.errors import UserError
from vod2.evaluation import Detections, GroundTruth
from vod2.evaluation.curves import Curve, CurveTable, load_curves, mean_envelope, save_curves
from vod2.evaluation.matching import precision_recall

ROOT = Path(__file__).parents[2]


def curve(precision, positives):
    return Curve(np.linspace(0.9, 0.1, len(precision)), np.array(precision, dtype=float), positives)


NOTHING_FOUND, ABSENT = curve([], 3), curve([], 0)


def test_a_curve_has_one_point_for_each_true_detection():
    boxes = np.tile([0.0, 0.0, 100.0, 100.0], (4, 1))
    truth = GroundTruth(np.arange(4), boxes, np.zeros(4, int), np.zeros(4, bool))
    found = Detections(np.arange(4), boxes + [[0], [500], [0], [0]], np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, int))
    ((result,),) = precision_recall(found, truth, 1)
    assert result.scores.tolist() == [0.9, 0.7, 0.6] and result.positives == 4
    np.testing.assert_allclose(result.precision, [1, 2 / 3, 3 / 4])
    np.testing.assert_allclose(result.recall, [1 / 4, 2 / 4, 3 / 4])
    np.testing.assert_allclose(result.envelope, [1, 3 / 4, 3 / 4])
    assert result.average_precision == pytest.approx((1 + 3 / 4 + 3 / 4) / 4)


def test_without_a_true_detection_ap_is_zero_and_without_ground_truth_nan():
    assert NOTHING_FOUND.average_precision == 0
    assert np.isnan(ABSENT.average_precision) and len(ABSENT.recall) == 0


def test_a_table_survives_its_file(tmp_path):
    table = CurveTable(
        ["all", "slow"],
        ["cat", "größe", "fox"],
        [[curve([1, 0.5], 2), NOTHING_FOUND, ABSENT], [ABSENT, ABSENT, curve([0.25], 4)]],
    )
    save_curves(tmp_path / "new" / "curves.npz", table)
    loaded = load_curves(tmp_path / "new" / "curves.npz")
    assert (loaded.groups, loaded.classes) == (table.groups, table.classes)
    np.testing.assert_array_equal(loaded.average_precision(), table.average_precision())
    np.testing.assert_allclose(loaded.curves[1][2].scores, table.curves[1][2].scores, rtol=1e-6)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["curves.npz"]


def test_a_missing_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(UserError, match="curves.npz does not exist"):
        load_curves(tmp_path / "curves.npz")
    (tmp_path / "curves.npz").write_bytes(b"PK nonsense")
    with pytest.raises(UserError, match="curves.npz is not a file of curves"):
        load_curves(tmp_path / "curves.npz")


def test_the_mean_curve_is_over_classes_that_have_ground_truth():
    recall = np.array([0, 0.25, 0.5, 0.75, 1])
    # Class one: 1 up to recall .5, then .5 up to 1. Class two: .8 up to recall .25, then nothing.
    mean = mean_envelope([curve([1, 0.5], 2), curve([0.8], 4), ABSENT], recall)
    np.testing.assert_allclose(mean, [(1 + 0.8) / 2, (1 + 0.8) / 2, 1 / 2, 0.5 / 2, 0.5 / 2])
    assert mean_envelope([NOTHING_FOUND], recall).tolist() == [0.0] * 5
    assert np.isnan(mean_envelope([ABSENT], recall)).all()


def test_one_command_draws_the_curves_and_the_bars(tmp_path):
    groups = ["all", "slow", "medium", "fast", "clean", "motion_blur"]
    save_curves(tmp_path / "curves.npz", CurveTable(groups, ["cat", "fox"], [[curve([1, 0.5], 2), ABSENT]] * 6))
    command = [sys.executable, ROOT / "tools/plot_results.py", tmp_path, "--output", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pictures = {path.name: cv2.imread(str(path)) for path in (tmp_path / "out").iterdir()}
    assert sorted(pictures) == ["average_precision.png", "precision_recall.png"]
    for picture in pictures.values():
        assert min(picture.shape[:2]) > 400 and picture.std() > 10
    steelblue = (pictures["average_precision.png"] == (180, 130, 70)).all(axis=2)
    assert steelblue.any(axis=0).sum() > 0.5 * steelblue.shape[1]  # AP 75: three quarters of the axis


def test_drawing_a_folder_without_an_evaluation_is_one_sentence(tmp_path):
    command = [sys.executable, ROOT / "tools/plot_results.py", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "curves.npz does not exist" in done.stderr
