"""The picture of a detection and the support boxes that it took from."""

import numpy as np
import pytest

from vod2.visualization import draw_relations
from vod2.visualization.relations import tile


@pytest.mark.parametrize(("count", "rows"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_tiles_stand_four_in_a_row_below_the_frame(count, rows):
    image = np.full((60, 80, 3), 90, np.uint8)
    picture = draw_relations(
        image, [10, 10, 30, 30], [(image, [10, 10, 30, 30], "frame 1: .5")] * count, "key", side=64
    )
    assert picture.shape[1:] == (256, 3)
    assert picture.shape[0] == 16 + 192 + rows * (16 + 64)


def test_a_tile_shows_the_box_in_its_middle_also_at_the_edge_of_the_image():
    image = np.zeros((60, 80, 3), np.uint8)
    image[0:20, 60:80] = (10, 20, 200)
    cut = tile(image, [60, 0, 80, 20], side=80)
    assert cut.shape == (80, 80, 3) and (cut[40, 40] == (10, 20, 200)).all()
    assert (cut[2:10, 2:10] == 0).all(), "outside of the image"


def test_a_box_without_area_has_a_tile():
    assert tile(np.zeros((60, 80, 3), np.uint8), [10, 10, 10, 10], side=32).shape == (32, 32, 3)
