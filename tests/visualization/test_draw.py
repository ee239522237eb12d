"""Where draw_instances puts ink, and where it does not."""

import numpy as np
import pytest
import torch

from vod2.d2 import Boxes, Instances
from vod2.visualization import class_color, class_name, draw_instances


def instances(rows, size=(128, 192)):
    """Rows (x1, y1, x2, y2, score, label)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Instances(size, pred_boxes=Boxes(table[:, :4]), scores=table[:, 4], pred_classes=table[:, 5].to(torch.int64))


def blank(size=(128, 192)):
    return np.full((*size, 3), 30, np.uint8)


def test_the_border_has_the_colour_of_the_class_and_the_inside_is_left_alone():
    image = blank()
    drawn = draw_instances(image, instances([(40, 50, 100, 110, 0.9, 1)]), ["cat", "dog"])
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    for y, x in ((110, 70), (80, 40), (80, 100)):
        np.testing.assert_allclose(drawn[y, x], class_color(1), atol=2)
    assert (drawn[55:105, 45:95] == 30).all()
    assert (image == 30).all()


def test_detections_below_the_threshold_and_empty_ones_change_nothing():
    image = blank()
    assert (draw_instances(image, instances([(40, 50, 100, 110, 0.49, 0)])) == image).all()
    assert (draw_instances(image, instances([])) == image).all()
    assert (draw_instances(image, instances([(40, 50, 100, 110, 0.49, 0)]), threshold=0.4) != image).any()


def test_the_surer_of_two_boxes_lies_on_top_whatever_their_order():
    rows = [(40, 50, 100, 110, 0.9, 0), (40, 50, 100, 110, 0.6, 1)]
    for order in (rows, rows[::-1]):
        drawn = draw_instances(blank(), instances(order))
        np.testing.assert_allclose(drawn[110, 70], class_color(0), atol=2)


@pytest.mark.parametrize("size", [(128, 192), (1080, 1920)])
def test_labels_of_boxes_at_every_edge_stay_inside_the_image(size):
    height, width = size
    corners = [(0, 0), (width - 20, 0), (0, height - 20), (width - 20, height - 20)]
    for x, y in corners:
        drawn = draw_instances(blank(size), instances([(x - 9, y - 9, x + 29, y + 29, 1.0, 0)], size), ["long name"])
        # The plate behind the label is filled: far more ink than the outline of a small box.
        ink = (np.abs(drawn.astype(int) - class_color(0)).max(axis=2) <= 2).sum()
        assert ink > 300


def test_lines_are_thicker_in_a_larger_image():
    def thickness(size):
        box = (size[1] // 4, size[0] // 2, size[1] // 2, size[0] - size[0] // 8)
        drawn = draw_instances(blank(size), instances([(*box, 0.9, 0)], size))
        column = drawn[size[0] * 3 // 4 :, (box[0] + box[2]) // 2]
        return (column != 30).any(axis=1).sum()

    assert 1 <= thickness((128, 192)) <= 3
    assert thickness((1080, 1920)) >= 4


def test_colours_are_stable_and_differ_between_thirty_classes():
    assert class_color(7) == class_color(7)
    assert len({class_color(label) for label in range(30)}) == 30


def test_a_track_is_named_beside_its_class_and_minus_one_is_none():
    box = [(40, 50, 100, 110, 0.9, 0)]
    plain, none, tracked = instances(box), instances(box), instances(box)
    none.track_ids, tracked.track_ids = torch.tensor([-1]), torch.tensor([12])
    assert (draw_instances(blank(), none) == draw_instances(blank(), plain)).all()
    assert (draw_instances(blank(), tracked) != draw_instances(blank(), plain)).any()


def test_a_class_without_a_name_is_called_by_its_number():
    assert [class_name(0, ["cat"]), class_name(3, ["cat"]), class_name(0, [])] == ["cat", "class 3", "class 0"]
