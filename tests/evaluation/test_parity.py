"""Protocols "mega" and "fgfa": against loops that follow their conventions as written, "mega" also against numbers of
the public code.

The public numbers are read from the folder ../shared/parity beside the repository, or from VOD2_PARITY_DIR.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from helpers.parity import parity_file
from vod2.evaluation import PROTOCOLS, Detections, GroundTruth
from vod2.evaluation.groups import Group, entries_of_empty_frames, group_curves
from vod2.evaluation.motion import speed_groups

RANGES = {"all": (0, 1), "fast": (0, 0.7), "medium": (0.7, 0.9), "slow": (0.9, 1)}


class Convention(NamedTuple):
    """How the loops match and weigh: pixels added to a side, IoU from which a box (width, height with those pixels) is
    found, and whether an unmatched detection is compared with objects of any class."""

    pixels: int
    threshold: Callable[[float, float], float]
    any_class: bool


CONVENTIONS = {
    "mega": Convention(2, lambda width, height: 0.5, any_class=False),
    "fgfa": Convention(
        1, lambda width, height: min(0.5, width * height / (width + 10) / (height + 10)), any_class=True
    ),
}


def evaluate(truth_table, found_table, num_labels, protocol="mega", empty_frames=0):
    """{group: AP (num_labels,)} from rows (frame, video, x1, y1, x2, y2, label, motion IoU or score)."""
    images, image = np.unique(np.concatenate([truth_table[:, :2], found_table[:, :2]]), axis=0, return_inverse=True)
    image = image.reshape(-1)
    motion = truth_table[:, 7]
    truth = GroundTruth(
        image[: len(truth_table)], truth_table[:, 2:6], truth_table[:, 6].astype(int), np.zeros(len(motion), bool)
    )
    found = Detections(image[len(truth_table) :], found_table[:, 2:6], found_table[:, 7], found_table[:, 6].astype(int))
    groups = speed_groups(motion, overlap=PROTOCOLS[protocol].speeds_overlap)
    groups = {name: Group(objects) for name, objects in groups.items()}
    curves = group_curves(found, truth, groups, num_labels, PROTOCOLS[protocol], empty_frames)
    return {
        name: np.array([curve.average_precision for curve in row])
        for name, row in zip(["all", *groups], curves, strict=True)
    }


def test_ap_of_every_group_and_class_is_that_of_the_public_code():
    arrays = np.load(parity_file("eval.npz"))
    results = evaluate(arrays["ground_truth"], arrays["detections"], len(arrays["ap_all"]))
    for group, ap in results.items():
        np.testing.assert_allclose(ap, arrays[f"ap_{group}"], rtol=0, atol=1e-9, err_msg=group)


def iou(a, b, pixels):
    def size(low, high):
        return max(high - low + pixels, 0)

    both = size(max(a[0], b[0]), min(a[2], b[2])) * size(max(a[1], b[1]), min(a[3], b[3]))
    return both / (size(a[0], a[2]) * size(a[1], a[3]) + size(b[0], b[2]) * size(b[1], b[3]) - both)


def false_weight(detection, objects, ignored, pixels):
    """What a detection without a match counts, given the objects in its frame that it is compared with."""
    best = {kind: -1.0 for kind in (True, False)}
    for thing, kind in zip(objects, ignored, strict=True):
        best[kind] = max(best[kind], iou(detection[2:6], thing[2:6], pixels))
    if best[False] != best[True]:
        return float(best[False] > best[True])
    return sum(ignored) / len(ignored)


def outcomes(truth_table, found_table, label, ignored_rows, share, convention):
    """For each detection of a class (score, true, false weight); dropped ones are left out."""
    pixels, threshold, any_class = convention
    rows = []
    for frame in sorted({tuple(row[:2]) for row in found_table.tolist()}):
        everything = [g for g, row in enumerate(truth_table) if tuple(row[:2]) == frame]
        of_class = [g for g in everything if truth_table[g][6] == label]
        near, taken = everything if any_class else of_class, set()
        here = [row for row in found_table if tuple(row[:2]) == frame and row[6] == label]
        for detection in sorted(here, key=lambda row: -row[7]):
            best, match = 0.0, None
            for g in of_class:
                x1, y1, x2, y2 = truth_table[g][2:6]
                overlap = iou(detection[2:6], truth_table[g][2:6], pixels)
                if g not in taken and overlap >= threshold(x2 - x1 + pixels, y2 - y1 + pixels) and overlap > best:
                    best, match = overlap, g
            if match is not None:
                taken.add(match)
                if not ignored_rows[match]:
                    rows.append((detection[7], 1, 0.0))
            elif near:
                ignored = [bool(ignored_rows[g]) for g in near]
                rows.append((detection[7], 0, false_weight(detection, truth_table[near], ignored, pixels)))
            else:
                rows.append((detection[7], 0, share))
    return rows


def slow_ap(truth_table, found_table, label, ignored_rows, convention, entries=(0, 0)):
    """`entries`: of frames without objects, how many count, and how many there are."""
    positives = sum(row[6] == label and not ignored for row, ignored in zip(truth_table, ignored_rows, strict=True))
    if not positives:
        return float("nan")
    share = (len(ignored_rows) - sum(ignored_rows) + entries[0]) / (len(ignored_rows) + entries[1])
    recall, precision, tp, fp = [0.0], [0.0], 0, 0.0
    ranked = outcomes(truth_table, found_table, label, ignored_rows, share, convention)
    for _, true, false in sorted(ranked, key=lambda r: -r[0]):
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


@pytest.mark.parametrize("protocol", CONVENTIONS)
@pytest.mark.parametrize("seed", range(40))
def test_ap_equals_that_of_loops_written_from_the_conventions(seed, protocol):
    truth, found = random_tables(seed)
    results = evaluate(truth, found, 4, protocol)
    for group, (low, high) in RANGES.items():
        ignored = [group != "all" and not low <= row[7] <= high for row in truth]
        expected = [slow_ap(truth, found, label, ignored, CONVENTIONS[protocol]) for label in range(4)]
        np.testing.assert_allclose(results[group], expected, rtol=0, atol=1e-12, err_msg=group)


@pytest.mark.parametrize("protocol", CONVENTIONS)
@pytest.mark.parametrize("seed", range(8))
def test_frames_without_objects_are_entries_of_motion_zero_where_the_published_table_has_them(seed, protocol):
    truth, found = random_tables(seed)
    results, without = (evaluate(truth, found, 4, protocol, empty_frames) for empty_frames in (5, 0))
    for group, (low, high) in RANGES.items():
        ignored = [group != "all" and not low <= row[7] <= high for row in truth]
        entries = (5 if low <= 0 <= high else 0, 5)
        expected = [slow_ap(truth, found, label, ignored, CONVENTIONS[protocol], entries) for label in range(4)]
        np.testing.assert_allclose(results[group], expected, rtol=0, atol=1e-12, err_msg=group)
    np.testing.assert_array_equal(results["all"], without["all"])


def test_the_shares_of_imagenet_vid_are_those_of_the_published_table():
    """273,505 objects, 71,547 of them fast and 103,742 slow, and 4,046 frames without any."""
    fast, slow = entries_of_empty_frames(["fast", "slow"]) * 4046
    assert (71547 + fast) / (273505 + 4046) == pytest.approx(0.27236, abs=1e-5)
    assert (103742 + slow) / (273505 + 4046) == pytest.approx(0.37378, abs=1e-5)


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
