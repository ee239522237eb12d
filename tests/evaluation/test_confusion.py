"""Which class is taken for which: by hand, against loops, and in results.json and the page."""

import json
import math

import numpy as np
import pytest

from helpers.detections import random_problem
from helpers.evaluations import CLASSES, evaluate, make_videos
from reference.linking import iou
from vod2.evaluation import PROTOCOLS, Detections, GroundTruth, confusion_matrix
from vod2.evaluation.collect import read_confusion

FIXED = PROTOCOLS["fixed"]
BOX, FAR = [0.0, 0, 100, 100], [500.0, 500, 600, 600]


def matrix(objects, found, num_classes=2, **options):
    """Objects (box, label, ignored) and detections (box, score, label) of one frame."""
    boxes, labels, ignored = zip(*objects, strict=True) if objects else ((), (), ())
    truth = GroundTruth(np.zeros(len(boxes), int), np.array(boxes).reshape(-1, 4), np.array(labels, int),
                        np.array(ignored, bool))  # fmt: skip
    boxes, scores, labels = zip(*found, strict=True) if found else ((), (), ())
    detections = Detections(np.zeros(len(boxes), int), np.array(boxes).reshape(-1, 4), np.array(scores, float),
                            np.array(labels, int))  # fmt: skip
    return confusion_matrix(detections, truth, num_classes, FIXED, **options).tolist()


def test_right_wrong_missed_and_false_detections_have_their_places():
    assert matrix([(BOX, 0, False)], [(BOX, 0.9, 0)]) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert matrix([(BOX, 0, False)], [(BOX, 0.9, 1)]) == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert matrix([(BOX, 0, False)], [(FAR, 0.9, 1)]) == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_the_own_class_comes_first_and_a_second_detection_has_no_object():
    """The dog is surer, but the cat's own detection finds it; without a dog there, the dog is false."""
    found = [(BOX, 0.9, 1), (BOX, 0.6, 0), (BOX, 0.55, 0)]
    assert matrix([(BOX, 0, False)], found) == [[1, 0, 0], [0, 0, 0], [1, 1, 0]]


def test_weak_detections_do_not_count():
    assert matrix([(BOX, 0, False)], [(BOX, 0.49, 0)]) == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert matrix([(BOX, 0, False)], [(BOX, 0.49, 0)], score_threshold=0.3)[0] == [1, 0, 0]


def test_what_is_matched_to_an_ignored_object_of_any_class_counts_nowhere():
    for label in (0, 1):
        assert not np.any(matrix([(BOX, 0, True)], [(BOX, 0.9, label)]))


def test_nothing_gives_zeros():
    assert not np.any(matrix([], [])) and np.array(matrix([], [])).shape == (3, 3)


def matrix_in_loops(found, truth, num_classes):
    """Greedy in two passes, frame by frame: first within the class, then whatever the class."""
    counts = [[0] * (num_classes + 1) for _ in range(num_classes + 1)]
    sure = sorted((row for row in range(len(found)) if found.scores[row] >= 0.5), key=lambda row: -found.scores[row])
    object_of, taken = {}, set()
    for same_class in (True, False):
        for row in sure:
            best, best_iou = None, 0.5
            for number in range(len(truth)):
                is_same = truth.labels[number] == found.labels[row]
                if row in object_of or number in taken or truth.image[number] != found.image[row]:
                    continue
                overlap = iou(truth.boxes[number], found.boxes[row])
                if (is_same or not same_class) and (overlap > best_iou or (overlap == best_iou and best is None)):
                    best, best_iou = number, overlap
            if best is not None:
                object_of[row] = best
                taken.add(best)
    for row in sure:
        if row not in object_of:
            counts[num_classes][found.labels[row]] += 1
        elif not truth.ignore[object_of[row]]:
            counts[truth.labels[object_of[row]]][found.labels[row]] += 1
    for number in range(len(truth)):
        if number not in taken and not truth.ignore[number]:
            counts[truth.labels[number]][num_classes] += 1
    return counts


@pytest.mark.parametrize("seed", range(20))
def test_random_detections_are_counted_as_in_loops(seed):
    found, truth = random_problem(seed, ignored=0.2 * (seed % 2))
    assert confusion_matrix(found, truth, 3, FIXED).tolist() == matrix_in_loops(found, truth, 3)


def test_results_json_has_the_matrix_of_its_evaluation(tmp_path):
    metrics = evaluate(make_videos(0), tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["confusion"]["classes"] == CLASSES and written["confusion"]["score_threshold"] == 0.5
    assert np.array(written["confusion"]["counts"]).shape == (4, 4) and np.sum(written["confusion"]["counts"]) > 0
    file = tmp_path / "results.json"
    without_nan = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    assert read_confusion(file, {"vid": without_nan}) == {"confusion": written["confusion"]}
    # What another evaluation left, and nothing.
    assert read_confusion(file, {"vid": without_nan | {"AP50": 1.0}}) == {}
    assert read_confusion(tmp_path / "none.json", {}) == {}


def test_errors_of_deteriorated_frames_are_those_of_a_dataset_of_them():
    frames = make_videos(2)
    metrics = evaluate(frames)
    is_bad = [
        any(note.get("deterioration") and not note["iscrowd"] for note in record["annotations"]) for record, _ in frames
    ]
    for name, wanted in (("deteriorated", True), ("clean", False)):
        alone = evaluate([frame for frame, bad in zip(frames, is_bad, strict=True) if bad == wanted])
        for error in ("classification", "localisation", "both", "duplicate", "background", "missed"):
            assert metrics[f"errors-{error}-{name}"] == alone[f"errors-{error}"]
            assert metrics[f"dAP50-{error}-{name}"] == pytest.approx(alone[f"dAP50-{error}"])


def test_errors_are_not_split_where_no_frame_is_deteriorated():
    frames = make_videos(2)
    for record, _ in frames:
        for note in record["annotations"]:
            note.pop("deterioration", None)
    assert not any(name.startswith("errors") and name.endswith("clean") for name in evaluate(frames))
