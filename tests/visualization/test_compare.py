"""Pictures side by side under a bar."""

import numpy as np
import pytest

from vod2.visualization import side_by_side, side_by_side_size


@pytest.mark.parametrize(("height", "width"), [(48, 64), (720, 1280), (97, 31)])
def test_pictures_stand_under_their_titles_and_are_not_touched(height, width):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2)]
    both = side_by_side(images, ["single frame", "a title that is much longer than the picture is wide"])
    assert both.shape[1::-1] == side_by_side_size((width, height), 2)
    bar = both.shape[0] - height
    assert (both[bar:, :width] == images[0]).all() and (both[bar:, width:] == images[1]).all()
    for column in (both[:bar, :width], both[:bar, width:]):
        assert column.max() > 100, "the title is written"


def test_an_empty_title_leaves_the_bar_empty():
    image = np.zeros((48, 64, 3), np.uint8)
    assert len(np.unique(side_by_side([image], [""])[:16])) == 1
