"""Targets of FCOS beside loops that follow the paper sentence by sentence."""

import math

import pytest
import torch

from vod2.modeling.one_stage import FCOSAssigner, centerness_of, locations_of
from vod2.modeling.one_stage.targets import boxes_at, distances_to

SIZES, STRIDES, BOUNDS = [(8, 12), (4, 6), (2, 3)], [8, 16, 32], [16.0, 28.0]


def locations():
    return locations_of(SIZES, STRIDES, torch.float64, torch.device("cpu"))


def random_boxes(count: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=rng, dtype=torch.float64) * torch.tensor([70.0, 40.0])
    return torch.cat([corners, corners + 4 + 50 * torch.rand(count, 2, generator=rng, dtype=torch.float64)], dim=1)


def slow_assignment(boxes: list[list[float]], radius: float) -> dict[int, int]:
    """{location: its object}, locations in the order of levels, rows and columns."""
    found, number = {}, 0
    limits = [0.0, *BOUNDS, math.inf]
    for level, ((height, width), stride) in enumerate(zip(SIZES, STRIDES, strict=True)):
        for row in range(height):
            for column in range(width):
                x, y = stride / 2 + column * stride, stride / 2 + row * stride
                least = math.inf
                for index, (x0, y0, x1, y1) in enumerate(boxes):
                    sides = (x - x0, y - y0, x1 - x, y1 - y)
                    if min(sides) <= 0:  # outside of the box
                        continue
                    if radius and max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)) >= radius * stride:
                        continue
                    if max(sides) > limits[level + 1] or max(sides) < limits[level]:
                        continue
                    area = (x1 - x0) * (y1 - y0)
                    if area < least:
                        least, found[number] = area, index
                number += 1
    return found


def test_locations_are_the_centres_of_the_cells():
    points, level, stride = locations()
    assert points.shape == (8 * 12 + 4 * 6 + 2 * 3, 2)
    assert points[:2].tolist() == [[4.0, 4.0], [12.0, 4.0]] and points[12].tolist() == [4.0, 12.0]
    assert points[-1].tolist() == [80.0, 48.0]
    assert level.bincount().tolist() == [96, 24, 6] and stride.unique_consecutive().tolist() == [8, 16, 32]


@pytest.mark.parametrize("radius", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_assignment_is_that_of_loops(radius, count):
    boxes = random_boxes(count, seed=count)
    rows, objects = FCOSAssigner(BOUNDS, radius)(locations(), boxes)
    expected = slow_assignment(boxes.tolist(), radius)
    assert len(expected) > 0
    assert dict(zip(rows.tolist(), objects.tolist(), strict=True)) == expected


def test_of_two_objects_a_location_shows_the_smaller():
    boxes = torch.tensor([[0.0, 0.0, 30.0, 30.0], [8.0, 8.0, 22.0, 22.0]], dtype=torch.float64)
    rows, objects = FCOSAssigner([40.0, 60.0], 0)(locations(), boxes)
    points = locations().points[rows]
    inner = ((points > 8) & (points < 22)).all(dim=1)
    assert objects.tolist() == inner.long().tolist() and inner.any() and not inner.all()


def test_a_frame_without_objects_has_no_location_that_shows_one():
    rows, objects = FCOSAssigner(BOUNDS, 1.5)(locations(), torch.zeros(0, 4))
    assert rows.shape == objects.shape == (0,) and rows.dtype == torch.int64


def test_distances_and_boxes_are_inverse():
    points, boxes = locations().points[:5], random_boxes(5, 0)
    distances = distances_to(points, boxes)
    x, y = points[2].tolist()
    x0, y0, x1, y1 = boxes[2].tolist()
    torch.testing.assert_close(distances[2].tolist(), [x - x0, y - y0, x1 - x, y1 - y])
    torch.testing.assert_close(boxes_at(points, distances), boxes)


def test_centerness_is_equation_3():
    for left, top, right, bottom in ((1.0, 2.0, 3.0, 4.0), (5.0, 5.0, 5.0, 5.0), (0.25, 8.0, 4.0, 2.0)):
        expected = math.sqrt(min(left, right) / max(left, right) * (min(top, bottom) / max(top, bottom)))
        found = centerness_of(torch.tensor([[left, top, right, bottom]], dtype=torch.float64))
        assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sizes", "radius", "words"),
    [
        ([28.0, 16.0], 1.5, "ascend"),
        ([0.0, 16.0], 1.5, "positive"),
        ([16.0], -1.0, "CENTER_RADIUS"),
        ([16.0], math.nan, "CENTER_RADIUS"),
    ],
)
def test_values_out_of_range_are_refused(sizes, radius, words):
    with pytest.raises(ValueError, match=words):
        FCOSAssigner(sizes, radius)
