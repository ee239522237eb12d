"""Detections of other libraries, and what is none."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vod2.d2 import Boxes, Instances
from vod2.detections import as_instances, as_video
from vod2.errors import UserError

BOXES, SCORES, LABELS = [[1.0, 2.0, 30.0, 40.5], [5.0, 6.0, 7.0, 8.0]], [0.75, 0.5], [3, 0]


def instances():
    found = Instances((48, 64), pred_boxes=Boxes(torch.tensor(BOXES)))
    found.scores, found.pred_classes = torch.tensor(SCORES), torch.tensor(LABELS)
    return found


def supervision(**changes):
    """What `supervision.Detections` has."""
    columns = {
        "xyxy": np.array(BOXES),
        "confidence": np.array(SCORES),
        "class_id": np.array(LABELS),
        "tracker_id": None,
    }
    return SimpleNamespace(**(columns | changes))


def ultralytics(**changes):
    """What a `Results` of ultralytics has: labels are floats there."""
    boxes = SimpleNamespace(
        xyxy=torch.tensor(BOXES), conf=torch.tensor(SCORES), cls=torch.tensor(LABELS).float(), id=None
    )
    return SimpleNamespace(boxes=boxes, orig_shape=(48, 64), **changes)


FORMS = {
    "instances": instances(),
    "output of a model": {"instances": instances()},
    "torchvision": {"boxes": torch.tensor(BOXES), "scores": torch.tensor(SCORES), "labels": torch.tensor(LABELS)},
    "tuple of lists": (BOXES, SCORES, LABELS),
    "half precision": (torch.tensor(BOXES).half(), torch.tensor(SCORES).bfloat16(), torch.tensor(LABELS)),
    "table": np.column_stack([BOXES, SCORES, LABELS]),
    "table as lists": np.column_stack([BOXES, SCORES, LABELS]).tolist(),
    "supervision": supervision(),
    "ultralytics": ultralytics(),
}


@pytest.mark.parametrize("detections", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same(detections):
    found = as_instances(detections)
    assert found.pred_boxes.tensor.tolist() == BOXES
    assert found.scores.tolist() == SCORES
    assert found.pred_classes.dtype == torch.int64 and found.pred_classes.tolist() == LABELS
    assert not found.has("track_ids")


@pytest.mark.parametrize("nothing", [([], [], []), [], np.zeros((0, 6)), {"boxes": [], "scores": [], "labels": []}])
def test_a_frame_without_detections_is_empty(nothing):
    found = as_instances(nothing)
    assert len(found) == 0 and found.pred_boxes.tensor.shape == (0, 4)


def test_the_size_is_what_is_said_or_what_the_detections_say_or_what_holds_the_boxes():
    assert as_instances(supervision(), (100, 200)).image_size == (100, 200)
    assert as_instances(ultralytics()).image_size == (48, 64)
    assert as_instances(supervision()).image_size == (41, 30)


def test_a_size_that_is_given_holds_for_instances_too():
    found = as_instances(instances(), (480, 640))
    assert found.image_size == (480, 640) and found.scores.tolist() == SCORES


def test_boxes_that_are_no_boxes_of_detectron2_are_told():
    found = Instances(
        (4, 4), pred_boxes=torch.tensor(BOXES), scores=torch.tensor(SCORES), pred_classes=torch.tensor(LABELS)
    )
    with pytest.raises(UserError, match="pred_boxes is a Tensor, expected Detectron2's Boxes"):
        as_instances(found)


def test_tracks_and_further_fields_are_kept():
    assert as_instances(supervision(tracker_id=np.array([7, 9]))).track_ids.tolist() == [7, 9]
    found = instances()
    found.mask_quality = torch.ones(2)
    assert as_instances(found).has("mask_quality")


WRONG = {
    "no scores": (supervision(confidence=None), "no confidence"),
    "no labels": ({"boxes": BOXES, "scores": SCORES}, "'labels'"),
    "lengths": ((BOXES, SCORES, [1]), r"labels of shape \(1,\), expected \(2,\)"),
    "transposed": ((np.array(BOXES).T, SCORES * 2, LABELS * 2), r"boxes of shape \(4, 2\), expected \(n, 4\)"),
    "three numbers": (([[1, 2, 3]], [0.5], [0]), r"boxes of shape \(1, 3\)"),
    "one score": ((BOXES, 0.5, LABELS), r"scores of shape \(\)"),
    "a column of scores": ((BOXES, np.array(SCORES)[:, None], LABELS), r"scores of shape \(2, 1\)"),
    "tracks": ({"boxes": BOXES, "scores": SCORES, "labels": LABELS, "track_ids": [1]}, "track_ids of shape"),
    "a scalar": (np.array(3.0), r"an array of shape \(\)"),
    "a huge label": ((BOXES, SCORES, [1e300, 0]), "1e\\+300 is no label"),
    "NaN as label": ((BOXES, SCORES, [np.nan, 0]), "nan is no label"),
    "five columns": (np.zeros((2, 5)), r"\(2, 5\)"),
    "text": ("boxes", "cannot be read as numbers"),
    "number": (7, "expected Instances"),
    "half a label": ((BOXES, SCORES, [1.5, 0]), "1.5 is no label"),
    "negative label": ((BOXES, SCORES, [-1, 0]), "label -1 is negative"),
    "not finite": (([[0, 0, np.nan, 1]], [0.5], [0]), "not finite"),
    "score": (([[0, 0, 1, 1]], [np.inf], [0]), "not finite"),
    "x y width height": (([[30, 30, 10, 10]], [0.5], [0]), "not x y width height"),
    "no detections": (Instances((4, 4)), "pred_boxes"),
}


@pytest.mark.parametrize(("detections", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_detection_is_refused_with_the_frame(detections, message):
    with pytest.raises(UserError, match=message) as error:
        as_video([([], [], []), detections])
    assert "frame 1" in str(error.value)
