"""The "mega" protocol: against numbers of the public code, and against loops that follow its conventions as written.

The public numbers are read from the folder ../shared/parity beside the repository, or from VOD2_PARITY_DIR.
"""

import numpy as np
import pytest
from helpers.parity import parity_file

from vod2.evaluation import PROTOCOLS, Detections, GroundTruth
from vod2.evaluation.matching import precision_recall
from vod2.evaluation.motion import speed_groups

RANGES = {"all": (0, 1), "fast": (0, 0.7), "medium": (0.7, 0.9), "slow": (0.9, 1)}


def evaluate(truth_table, found_table, num_labels):
    """{group: AP (num_labels,)} from rows (frame, video, x1, y1, x2, y2, label, motion IoU or score)."""
    images, image = np.unique(np.concatenate([truth_table[:, :2], found_table[:, :2]]), axis=0, return_inverse=True)
    image = image.reshape(-1)
    motion = truth_table[:, 7]
    truth = GroundTruth(
        image[: len(truth_table)], truth_table[:, 2:6], truth_table[:, 6].astype(int), np.zeros(len(motion), bool)
    )
    found = Detections(image[len(truth_table) :], found_table[:, 2:6], found_table[:, 7], found_table[:, 6].astype(int))
    groups = speed_groups(motion, overlap=PROTOCOLS["mega"].speeds_overlap)
    ignore = np.stack([truth.ignore, *(~member for member in groups.values())])
    curves = precision_recall(found, truth, num_labels, PROTOCOLS["mega"], ignore)
    return {
        name: np.array([curve.average_precision for curve in row])
        for name, row in zip(["all", *groups], curves, strict=True)
    }


def test_ap_of_every_group_and_class_is_that_of_the_public_code():
    arrays = np.load(parity_file("eval.npz"))
    results = evaluate(arrays["ground_truth"], arrays["detections"], len(arrays["ap_all"]))
    for group, ap in results.items():
        np.testing.assert_allclose(ap, arrays[f"ap_{group}"], rtol=0, atol=1e-9, err_msg=group)


def iou(a, b):
    def size(low, high):
        return max(high - low + 2, 0)

    both = size(max(a[0], b[0]), min(a[2], b[2])) * size(max(a[1], b[1]), min(a[3], b[3]))
    return both / (size(a[0], a[2]) * size(a[1], a[3]) + size(b[0], b[2]) * size(b[1], b[3]) - both)


def false_weight(detection, objects, ignored):
    """What a detection without a match counts, given all objects of its class in its frame."""
    best = {kind: -1.0 for kind in (True, False)}
    for thing, kind in zip(objects, ignored, strict=True):
        best[kind] = max(best[kind], iou(detection[2:6], thing[2:6]))
    if best[False] != best[True]:
        return float(best[False] > best[True])
    return sum(ignored) / len(ignored)


def outcomes(truth_table, found_table, label, ignored_rows, share):
    """For each detection of a class (score, true, false weight); dropped ones are left out."""
    rows = []
    for frame in sorted({tuple(row[:2]) for row in found_table.tolist()}):
        at = [g for g, row in enumerate(truth_table) if tuple(row[:2]) == frame and row[6] == label]
        ignored, taken = [bool(ignored_rows[g]) for g in at], set()
        here = [row for row in found_table if tuple(row[:2]) == frame and row[6] == label]
        for detection in sorted(here, key=lambda row: -row[7]):
            best, match = 0.5, None
            for i, g in enumerate(at):
                overlap = iou(detection[2:6], truth_table[g][2:6])
                if i not in taken and (overlap > best or (overlap == best and match is None)):
                    best, match = overlap, i
            if match is not None:
                taken.add(match)
                if not ignored[match]:
                    rows.append((detection[7], 1, 0.0))
            elif at:
                rows.append((detection[7], 0, false_weight(detection, truth_table[at], ignored)))
            else:
                rows.append((detection[7], 0, share))
    return rows


def slow_ap(truth_table, found_table, label, ignored_rows):
    positives = sum(row[6] == label and not ignored for row, ignored in zip(truth_table, ignored_rows, strict=True))
    if not positives:
        return float("nan")
    share = 1 - sum(ignored_rows) / len(ignored_rows)
    recall, precision, tp, fp = [0.0], [0.0], 0, 0.0
    for _, true, false in sorted(outcomes(truth_table, found_table, label, ignored_rows, share), key=lambda r: -r[0]):
        tp, fp = tp + true, fp + false
        recall.append(tp / positives)
        precision.append(tp / (tp + fp) if tp + fp else 0.0)
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def random_tables(seed):
    """Few frames and classes, motion IoUs on the limits and unknown, duplicated and equally scored detections, frames
    and classes without ground truth, boxes that touch nothing."""
    rng = np.random.default_rng(seed)
    count, extra = int(rng.integers(1, 14)), int(rng.integers(0, 20))

    def table(n, last):
        corner = rng.integers(0, 60, (n, 2))
        boxes = np.concatenate([corner, corner + rng.integers(1, 40, (n, 2))], axis=1)
        video = rng.integers(0, 2, (n, 1))
        return np.concatenate(
            [rng.integers(0, 3, (n, 1)), video, boxes, rng.integers(1, 4, (n, 1)), last[:, None]], axis=1
        ).astype(float)

    truth = table(count, rng.choice([0.3, 0.7, 0.8, 0.9, 0.95, np.nan], count))
    near = truth[rng.integers(0, count, 2 * count)].copy()
    near[:, 2:6] += rng.integers(-4, 5, (2 * count, 4))
    near[:, 4:6] = np.maximum(near[:, 4:6], near[:, 2:4] + 1)
    near[:, 7] = rng.integers(0, 10, 2 * count) / 10
    far = table(extra, rng.random(extra))
    found = np.concatenate([near, near[: count // 2], far])
    # Equal scores rank in the order given; the loops go frame by frame, so this order is by frame too.
    return truth, found[np.lexsort((found[:, 1], found[:, 0]))]


@pytest.mark.parametrize("seed", range(40))
def test_ap_equals_that_of_loops_written_from_the_conventions(seed):
    truth, found = random_tables(seed)
    results = evaluate(truth, found, 4)
    for group, (low, high) in RANGES.items():
        ignored = [group != "all" and not low <= row[7] <= high for row in truth]
        expected = [slow_ap(truth, found, label, ignored) for label in range(4)]
        np.testing.assert_allclose(results[group], expected, rtol=0, atol=1e-12, err_msg=group)


def test_working_in_small_pieces_gives_the_same_ap(monkeypatch):
    truth, found = random_tables(5)
    expected = evaluate(truth, found, 4)
    monkeypatch.setattr("vod2.evaluation.matching._PAIRS_AT_ONCE", 3)
    for group, ap in evaluate(truth, found, 4).items():
        np.testing.assert_array_equal(ap, expected[group])


def test_a_false_detection_as_near_to_ignored_as_to_counted_objects_weighs_the_ignored_share():
    # One object of three is slow; both detections overlap nothing. By score: false (weight 2/3), true.
    box = [0, 0, 20, 20]
    truth = np.array([[0, 0, *box, 1, 0.95], [0, 0, 40, 0, 60, 20, 1, 0.8], [0, 0, 80, 0, 100, 20, 1, 0.5]])
    found = np.array([[0, 0, 200, 200, 220, 220, 1, 0.9], [0, 0, *box, 1, 0.8]])
    results = evaluate(truth, found, 2)
    assert results["slow"][1] == pytest.approx(1 / (1 + 2 / 3), abs=1e-12)
    assert results["all"][1] == pytest.approx(1 / 2 / 3, abs=1e-12)


def test_a_false_detection_where_its_class_is_absent_weighs_the_share_of_all_objects_that_count():
    box = [0, 0, 20, 20]
    truth = np.array([[0, 0, *box, 1, 0.95], [1, 0, *box, 2, 0.8], [1, 0, 40, 0, 60, 20, 2, 0.5], [2, 0, *box, 2, 0.5]])
    found = np.array([[1, 0, *box, 1, 0.9], [0, 0, *box, 1, 0.8]])
    results = evaluate(truth, found, 3)
    assert results["slow"][1] == pytest.approx(1 / (1 + 1 / 4), abs=1e-12)
    assert results["all"][1] == pytest.approx(1 / 2, abs=1e-12)


def test_a_false_detection_among_ignored_objects_alone_is_dropped_however_far():
    box = [0, 0, 20, 20]
    truth = np.array([[0, 0, *box, 1, 0.95], [1, 0, *box, 1, 0.5]])
    found = np.array([[1, 0, 200, 200, 220, 220, 1, 0.9], [0, 0, *box, 1, 0.8]])
    results = evaluate(truth, found, 2)
    assert results["slow"][1] == 1 and results["all"][1] == pytest.approx(1 / 4)


def test_the_pixel_is_added_twice():
    # Of 11 pixels (9 + 2) and 22: exactly one half.
    truth = np.array([[0, 0, 0, 0, 20, 20, 1, 0.8]])
    for width, expected in ((9, 1.0), (8.9, 0.0)):
        assert evaluate(truth, np.array([[0, 0, 0, 0, width, 20, 1, 0.5]]), 2)["all"][1] == expected
