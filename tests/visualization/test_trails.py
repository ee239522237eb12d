"""Trails: the way of each track, and nothing that grows."""

import numpy as np
import pytest
import torch

from vod2.d2 import Boxes, Instances
from vod2.visualization import Trails, class_color

BLANK = np.full((60, 120, 3), 30, np.uint8)


def tracked(*rows: tuple[int, int, int]) -> Instances:
    """Boxes of 8x8 pixels from (track, centre x, centre y); all of class 1."""
    boxes = torch.tensor([[x - 4.0, y - 4.0, x + 4.0, y + 4.0] for _, x, y in rows]).reshape(-1, 4)
    found = Instances((60, 120), pred_boxes=Boxes(boxes), pred_classes=torch.ones(len(rows), dtype=torch.int64))
    found.track_ids = torch.tensor([track for track, _, _ in rows], dtype=torch.int64)
    return found


def inked(image: np.ndarray) -> np.ndarray:
    return (image != 30).any(axis=2)


def test_a_trail_joins_the_centres_of_a_track_in_the_colour_of_its_class():
    trails = Trails()
    trails.draw(BLANK, tracked((3, 20, 30)))
    drawn = trails.draw(BLANK, tracked((3, 60, 30)))
    assert (drawn[30, 20:61] == class_color(1)).all()
    assert not inked(drawn)[:28].any() and not inked(drawn)[:, 63:].any() and (BLANK == 30).all()


def test_two_tracks_are_not_joined_and_what_is_no_track_has_no_trail():
    trails = Trails()
    trails.draw(BLANK, tracked((3, 20, 10), (-1, 20, 30)))
    drawn = trails.draw(BLANK, tracked((4, 20, 50), (-1, 90, 30)))
    assert not inked(drawn)[12:48].any()


def test_a_trail_is_as_long_as_it_may_be():
    trails = Trails(length=3)
    for x in range(10, 100, 10):
        drawn = trails.draw(BLANK, tracked((3, x, 30)))
    assert inked(drawn)[30].nonzero()[0].min() >= 69 and inked(drawn)[30, 70:91].all()


def test_tracks_that_are_gone_are_forgotten():
    trails = Trails(length=5)
    for index in range(100):
        trails.draw(BLANK, tracked((index, 20, 30)))
        assert len(trails) <= 5
    for _ in range(5):
        trails.draw(BLANK, tracked())
    assert len(trails) == 0


def test_without_tracks_the_image_stays_as_it_is():
    found = Instances((60, 120), pred_boxes=Boxes(torch.zeros(1, 4)), pred_classes=torch.zeros(1, dtype=torch.int64))
    assert (Trails().draw(BLANK, found) == 30).all()


def test_a_trail_without_length_is_refused():
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        Trails(0)
