"""Matching and average precision against tables worked out by hand, slow loops, and pycocotools."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vod2.evaluation import (
    PROTOCOLS,
    Detections,
    GroundTruth,
    average_precision,
    get_protocol,
    match_detections,
    precision_recall,
)

IMAGENET, FIXED = PROTOCOLS["imagenet"], PROTOCOLS["fixed"]


def detections(rows):
    """Rows (image, x1, y1, x2, y2, score, label)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return Detections(table[:, 0].astype(np.int32), table[:, 1:5], table[:, 5], table[:, 6].astype(np.int32))


def ground_truth(rows, ignore=None):
    """Rows (image, x1, y1, x2, y2, label)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    ignore = np.zeros(len(table), dtype=bool) if ignore is None else np.array(ignore, dtype=bool)
    return GroundTruth(table[:, 0].astype(np.int32), table[:, 1:5], table[:, 5].astype(np.int32), ignore)


def evaluate(found, truth, num_classes=1, protocol=FIXED, ignore=None):
    return average_precision(found, truth, match_detections(found, truth, protocol), num_classes, ignore)


def objects_in_a_row(flags):
    """One object in each of len(flags) images, and one detection in each, on it where the flag is 1, far off where 0;
    scores descend."""
    truth = ground_truth([(image, 0, 0, 100, 100, 0) for image in range(len(flags))])
    corner = [0 if flag else 500 for flag in flags]
    found = detections([(i, c, c, c + 100, c + 100, 1 - i / 100, 0) for i, c in enumerate(corner)])
    return found, truth


def test_ap_is_one_where_every_object_is_found_and_zero_where_none_is():
    assert evaluate(*objects_in_a_row([1, 1, 1])) == [1.0]
    assert evaluate(*objects_in_a_row([0, 0, 0])) == [0.0]


def test_ap_of_a_mixed_ranking_is_the_area_computed_by_hand():
    # Precision at the true ones: 1/1, 2/3, 3/4; envelope: 1, 3/4, 3/4; each is worth 1/5 of recall.
    assert evaluate(*objects_in_a_row([1, 0, 1, 1, 0])) == pytest.approx([(1 + 0.75 + 0.75) / 5], abs=1e-12)


def test_the_envelope_lifts_an_early_false_positive():
    # Precision 0, 1/2, 2/3: both steps of recall are worth the best precision still ahead, 2/3.
    assert evaluate(*objects_in_a_row([0, 1, 1])) == pytest.approx([2 * (2 / 3) / 3], abs=1e-12)


def test_equal_scores_rank_in_the_order_given():
    box, far = (0, 0, 100, 100), (500, 500, 600, 600)
    truth = ground_truth([(0, *box, 0)])
    assert evaluate(detections([(0, *box, 0.5, 0), (0, *far, 0.5, 0)]), truth) == [1.0]
    assert evaluate(detections([(0, *far, 0.5, 0), (0, *box, 0.5, 0)]), truth) == [0.5]


def test_of_two_equal_detections_of_one_object_the_first_takes_it():
    box = (0, 0, 100, 100)
    found = detections([(0, *box, 0.5, 0), (0, *box, 0.5, 0)])
    assert match_detections(found, ground_truth([(0, *box, 0)]), FIXED).tolist() == [0, -1]


def test_a_detection_takes_the_free_object_of_the_highest_iou():
    # The surer detection takes object 1; the other prefers object 1 too, and gets object 0, which is free.
    truth = ground_truth([(0, 0, 0, 100, 100, 0), (0, 20, 0, 120, 100, 0)])
    found = detections([(0, 15, 0, 115, 100, 0.6, 0), (0, 20, 0, 120, 100, 0.9, 0)])
    assert match_detections(found, truth, FIXED).tolist() == [0, 1]


def test_images_and_classes_do_not_mix():
    box = (0, 0, 100, 100)
    truth = ground_truth([(0, *box, 1), (1, *box, 0)])
    found = detections([(0, *box, 0.9, 0), (1, *box, 0.8, 1), (1, *box, 0.7, 0)])
    assert match_detections(found, truth, FIXED).tolist() == [-1, -1, 1]


def test_a_class_without_ground_truth_has_no_ap():
    box = (0, 0, 100, 100)
    result = evaluate(detections([(0, *box, 0.9, 0), (0, *box, 0.8, 2)]), ground_truth([(0, *box, 0)]), num_classes=3)
    np.testing.assert_array_equal(result, [1.0, np.nan, np.nan])


@pytest.mark.parametrize("protocol", PROTOCOLS.values())
def test_no_detections_give_zero_and_no_ground_truth_gives_nan(protocol):
    some, none = detections([(0, 0, 0, 10, 10, 0.5, 0)]), detections([])
    assert evaluate(none, ground_truth([(0, 0, 0, 10, 10, 0)]), protocol=protocol) == [0.0]
    assert np.isnan(evaluate(some, ground_truth([]), protocol=protocol)).all()
    assert np.isnan(evaluate(none, ground_truth([]), protocol=protocol)).all()


def test_a_detection_of_an_ignored_object_is_neither_right_nor_wrong():
    near, far = (0, 0, 100, 100), (500, 500, 600, 600)
    found = detections([(0, *far, 0.9, 0), (0, *near, 0.8, 0)])
    rows = [(0, *near, 0), (0, *far, 0)]
    assert evaluate(found, ground_truth(rows, ignore=[False, True])) == [1.0]
    assert evaluate(found, ground_truth(rows[:1])) == [0.5]
    assert np.isnan(evaluate(found, ground_truth(rows, ignore=[True, True]))).all()


def test_several_choices_of_what_to_ignore_give_one_row_each():
    found, truth = objects_in_a_row([0, 1, 1])
    ignore = np.array([[False, False, False], [True, False, False], [False, True, True]])
    expected = [[2 * (2 / 3) / 3], [2 / 3], [0.0]]
    np.testing.assert_allclose(evaluate(found, truth, ignore=ignore), expected, atol=1e-12)


def test_the_imagenet_rule_lowers_the_threshold_of_a_small_object():
    # 10 x 10 pixels as ImageNet counts them: threshold 100 / 400 = .25. A detection of 20 x 20 has IoU .25 exactly,
    # one of 20 x 21 has 100 / 420.
    truth = ground_truth([(0, 0, 0, 9, 9, 0)])
    found = detections([(0, 0, 0, 19, 20, 0.9, 0), (0, 0, 0, 19, 19, 0.8, 0)])
    assert match_detections(found, truth, IMAGENET).tolist() == [-1, 0]
    assert match_detections(found, truth, FIXED).tolist() == [-1, -1]


def test_the_imagenet_rule_asks_a_large_object_for_one_half_with_inclusive_pixels():
    # 50 x 50: threshold min(.5, 2500 / 3600). 25 of 50 inclusive rows is IoU .5 exactly; without +1 it is 24 / 49.
    truth = ground_truth([(0, 0, 0, 49, 49, 0)])
    found = detections([(0, 0, 0, 49, 24, 0.9, 0)])
    assert match_detections(found, truth, IMAGENET).tolist() == [0]
    assert match_detections(found, truth, FIXED).tolist() == [-1]


def test_a_detection_that_prefers_an_unreached_object_still_takes_one_that_it_reaches():
    # IoU 400 / 820 with the large object misses its .5; IoU 100 / 400 with the small one reaches its .25.
    truth = ground_truth([(0, 0, 0, 40, 19, 0), (0, 0, 0, 9, 9, 0)])
    found = detections([(0, 0, 0, 19, 19, 0.9, 0)])
    assert match_detections(found, truth, IMAGENET).tolist() == [1]


def test_unknown_protocols_and_bad_arrays_are_named():
    with pytest.raises(ValueError, match="'coco'.*'imagenet', 'fixed'"):
        get_protocol("coco")
    with pytest.raises(ValueError, match="finite"):
        detections([(0, 0, 0, 10, 10, float("nan"), 0)])
    with pytest.raises(ValueError, match=r"GroundTruth.labels has the shape \(2,\), expected \(1,\)"):
        GroundTruth(np.zeros(1, int), np.zeros((1, 4)), np.zeros(2, int), np.zeros(1, bool))


def random_problem(seed, images=6, num_classes=3):
    """Detections jittered around crowded ground truth, many of equal score, on integer pixels (as COCO needs)."""
    rng = np.random.default_rng(seed)
    count, extra = int(rng.integers(0, 40)), int(rng.integers(0, 60))

    def boxes(n):
        corner = rng.integers(0, 60, (n, 2))
        return np.concatenate([corner, corner + rng.integers(3, 50, (n, 2))], axis=1)

    truth_boxes = boxes(count)
    truth = GroundTruth(
        rng.integers(0, images, count), truth_boxes, rng.integers(0, num_classes, count), rng.random(count) < 0.2
    )
    source = rng.integers(0, count, 2 * count) if count else np.empty(0, int)
    jittered = truth_boxes[source] + rng.integers(-4, 5, (2 * count, 4))
    jittered[:, 2:] = np.maximum(jittered[:, 2:], jittered[:, :2] + 1)
    found = Detections(
        np.concatenate([truth.image[source], rng.integers(0, images, extra)]),
        np.concatenate([jittered, boxes(extra)]).astype(np.float32),
        rng.integers(0, 20, 2 * count + extra).astype(np.float32) / 20,
        np.concatenate([truth.labels[source], rng.integers(0, num_classes, extra)]),
    )
    return found, truth


def slow_iou(a, b, offset):
    def area(box):
        return max(box[2] - box[0] + offset, 0) * max(box[3] - box[1] + offset, 0)

    common = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    return common / (area(a) + area(b) - common) if common else 0.0


def slow_matches(found, truth, imagenet):
    offset = 1 if imagenet else 0
    matches, taken = [-1] * len(found), set()
    for d in sorted(range(len(found)), key=lambda i: -found.scores[i]):
        best = 0.0
        for g in range(len(truth)):
            if found.image[d] != truth.image[g] or found.labels[d] != truth.labels[g] or g in taken:
                continue
            x1, y1, x2, y2 = truth.boxes[g].tolist()
            w, h = x2 - x1 + offset, y2 - y1 + offset
            threshold = min(0.5, w * h / ((w + 10) * (h + 10))) if imagenet else 0.5
            iou = slow_iou(found.boxes[d].tolist(), (x1, y1, x2, y2), offset)
            if iou >= threshold and iou > best:
                best, matches[d] = iou, g
        taken.add(matches[d])
        taken.discard(-1)
    return matches


def slow_ap(found, truth, matches, label):
    """The area of PASCAL's devkit: sentinels, envelope from behind, sum over the steps of recall."""
    positives = sum(1 for g in range(len(truth)) if truth.labels[g] == label and not truth.ignore[g])
    if not positives:
        return float("nan")
    recall, precision, tp, fp = [0.0], [0.0], 0, 0
    for d in sorted(range(len(found)), key=lambda i: -found.scores[i]):
        if found.labels[d] != label or (matches[d] >= 0 and truth.ignore[matches[d]]):
            continue
        tp, fp = (tp + 1, fp) if matches[d] >= 0 else (tp, fp + 1)
        recall.append(tp / positives)
        precision.append(tp / (tp + fp))
    recall.append(1.0)
    precision.append(0.0)
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


@pytest.mark.parametrize("protocol", ["imagenet", "fixed"])
@pytest.mark.parametrize("seed", range(25))
def test_matches_and_ap_equal_those_of_plain_loops(protocol, seed):
    found, truth = random_problem(seed)
    matches = match_detections(found, truth, PROTOCOLS[protocol])
    expected = slow_matches(found, truth, imagenet=protocol == "imagenet")
    assert matches.tolist() == expected
    ap = average_precision(found, truth, matches, 3)
    np.testing.assert_allclose(ap, [slow_ap(found, truth, expected, label) for label in range(3)], atol=1e-12)


@pytest.mark.parametrize("protocol", [IMAGENET, FIXED])
@pytest.mark.parametrize("seed", range(10))
def test_curves_have_the_ap_of_the_matching_in_every_group(protocol, seed):
    found, truth = random_problem(seed)
    ignore = np.random.default_rng(seed).random((4, len(truth))) < 0.3
    curves = precision_recall(found, truth, 3, protocol, ignore)
    expected = average_precision(found, truth, match_detections(found, truth, protocol), 3, ignore)
    np.testing.assert_allclose([[curve.average_precision for curve in row] for row in curves], expected, atol=1e-12)


@pytest.mark.parametrize("protocol", PROTOCOLS.values())
def test_curves_of_nothing_are_empty(protocol):
    some, objects, none = detections([(0, 0, 0, 10, 10, 0.5, 0)]), ground_truth([(0, 0, 0, 10, 10, 0)]), detections([])
    for found, truth, ap in ((none, objects, 0.0), (some, ground_truth([]), np.nan), (none, ground_truth([]), np.nan)):
        ((curve,),) = precision_recall(found, truth, 1, protocol)
        assert len(curve.scores) == 0
        np.testing.assert_equal(curve.average_precision, ap)


def test_working_in_small_pieces_gives_the_same_matches(monkeypatch):
    found, truth = random_problem(3)
    expected = match_detections(found, truth)
    monkeypatch.setattr("vod2.evaluation.matching._PAIRS_AT_ONCE", 5)
    np.testing.assert_array_equal(match_detections(found, truth), expected)


def coco_found(found, truth, num_classes):
    """For each detection whether COCOeval matches it at IoU .5 (all areas, at most 300 an image)."""
    coco = COCO()
    areas = np.prod(truth.boxes[:, 2:] - truth.boxes[:, :2], axis=1)
    coco.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(6)],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": [
            {"id": g + 1, "image_id": int(i), "category_id": int(c), "bbox": box, "area": float(area), "iscrowd": 0}
            for g, (i, c, box, area) in enumerate(zip(truth.image, truth.labels, xywh(truth.boxes), areas, strict=True))
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        results = coco.loadRes(
            [
                {"image_id": int(i), "category_id": int(c), "bbox": box, "score": float(s)}
                for i, c, box, s in zip(found.image, found.labels, xywh(found.boxes), found.scores, strict=True)
            ]
        )
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.params.iouThrs, evaluation.params.maxDets = np.array([0.5]), [300]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    is_found = np.zeros(len(found), dtype=bool)
    for entry in filter(None, evaluation.evalImgs):
        is_found[np.array(entry["dtIds"], dtype=int) - 1] = entry["dtMatches"][0] > 0
    return is_found


def xywh(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()


@pytest.mark.parametrize("seed", range(25))
def test_the_fixed_protocol_finds_what_pycocotools_finds(seed):
    found, truth = random_problem(seed)
    if not len(found) or not len(truth):
        pytest.skip("pycocotools refuses empty results")
    matches = match_detections(found, truth, FIXED)
    np.testing.assert_array_equal(matches >= 0, coco_found(found, truth, 3))
