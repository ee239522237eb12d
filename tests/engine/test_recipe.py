"""Image size and anchors that fit somebody's boxes."""

import itertools

import numpy as np
import pytest

from vod2.d2 import BoxMode
from vod2.engine import load_config
from vod2.engine.recipe import fit_to_boxes
from vod2.errors import UserError


def frame(height: int, width: int, *boxes: tuple[float, float]) -> dict:
    """A frame with boxes of these widths and heights."""
    annotations = [{"bbox": [5, 5, w, h], "bbox_mode": BoxMode.XYWH_ABS} for w, h in boxes]
    return {"height": height, "width": width, "annotations": annotations}


def test_small_objects_get_large_images_up_to_the_frames_own_size():
    fitted = fit_to_boxes([frame(400, 800, (10, 10))])
    assert (fitted.min_size, fitted.max_size, fitted.stride) == (400, 800, 8)
    assert fitted.anchor_sizes == [10]
    fitted = fit_to_boxes([frame(1000, 1000, (40, 40))])
    assert fitted.min_size == 400, "16 pixels of 40"
    assert fit_to_boxes([frame(4000, 4000, (40, 40))]).min_size == 512
    large = fit_to_boxes([frame(1000, 1000, (500, 500))])
    assert (large.min_size, large.stride) == (192, 16)


def test_anchors_cover_the_sizes_and_shapes():
    rng = np.random.default_rng(0)
    boxes = [(size, size * ratio) for size in rng.uniform(20, 200, 50) for ratio in (0.4, 1.0, 2.5)]
    fitted = fit_to_boxes([frame(480, 640, *boxes)])
    sides = np.sqrt([w * h for w, h in boxes]) * fitted.min_size / 480
    # Every object between the outer twentieths is within a factor of the nearest anchor.
    low, high = np.quantile(sides, [0.05, 0.95])
    for side in sides[(sides >= low) & (sides <= high)]:
        nearest = min(abs(np.log(side / size)) for size in fitted.anchor_sizes)
        assert nearest < np.log(1.75)
    assert fitted.anchor_sizes == sorted(set(fitted.anchor_sizes)) and 2 <= len(fitted.anchor_sizes) <= 5
    assert fitted.aspect_ratios == pytest.approx([0.4, 1.0, 2.5])


def test_frames_of_two_sizes_are_measured_by_their_own():
    fitted = fit_to_boxes([frame(100, 200, (20, 20)), frame(1000, 1500, (200, 200))])
    assert len(fitted.anchor_sizes) == 1 and fitted.max_size == 2 * fitted.min_size


def test_the_options_are_keys_of_a_configuration():
    fitted = fit_to_boxes([frame(480, 640, (30, 60), (60, 30))])
    cfg = load_config("data/RDN.yaml", [*itertools.chain.from_iterable(fitted.items()), "MODEL.DEVICE", "cpu"])
    assert cfg.INPUT.MIN_SIZE_TRAIN == (fitted.min_size,) and cfg.INPUT.MAX_SIZE_TEST == fitted.max_size
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [fitted.anchor_sizes]
    assert cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS == [fitted.aspect_ratios] == [[0.5, 2.0]]
    assert cfg.MODEL.NARROW_RESNET.STRIDES == ([1, 2, 1, 1] if fitted.stride == 8 else [1, 2, 2, 1])


def test_data_without_objects_are_refused():
    with pytest.raises(UserError, match="none of the 1 frames to train on has an object"):
        fit_to_boxes([frame(100, 100)])
