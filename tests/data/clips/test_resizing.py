"""Sizes of frames: INPUT.RESIZE_TRUNCATES."""

import numpy as np
import pytest

from helpers.models import tiny_cfg
from vod2.d2 import transforms
from vod2.data import TruncatedResize
from vod2.data.clips.resizing import build_augmentation, build_test_resize

SIZES = {"INPUT.MIN_SIZE_TEST": 600, "INPUT.MAX_SIZE_TEST": 1000, "INPUT.MIN_SIZE_TRAIN": (480, 600)}


@pytest.mark.parametrize(
    "height, width, expected",
    [
        (720, 1280, (562, 999)),  # 1000 * 720 / 1280 = 562.5, to the even number; 562 * 16 / 9 = 999.1
        (1280, 720, (999, 562)),
        (480, 640, (600, 800)),
        (375, 499, (600, 798)),  # 798.4
        (333, 500, (600, 900)),  # 900.9: rounding would give 901
        (600, 900, (600, 900)),
    ],
)
def test_the_shorter_side_is_rounded_and_the_longer_one_cut(height, width, expected):
    assert TruncatedResize.size_of(height, width, 600, 1000) == expected
    image = np.zeros((height, width, 3), np.uint8)
    resize = build_test_resize(tiny_cfg(SIZES | {"INPUT.RESIZE_TRUNCATES": True}))
    assert resize.get_transform(image).apply_image(image).shape[:2] == expected


def test_without_the_key_sizes_are_those_of_detectron2():
    image = np.zeros((333, 500, 3), np.uint8)
    resize = build_test_resize(tiny_cfg(SIZES))
    assert not isinstance(resize, TruncatedResize)
    assert resize.get_transform(image).apply_image(image).shape[:2] == (600, 901)


@pytest.mark.parametrize("style, expected", [("choice", {480, 600}), ("range", set(range(480, 601)))])
def test_in_training_the_shorter_side_is_drawn_and_flips_remain(style, expected):
    keys = {"INPUT.RESIZE_TRUNCATES": True, "INPUT.MIN_SIZE_TRAIN_SAMPLING": style, "INPUT.MAX_SIZE_TRAIN": 1000}
    keys["INPUT.RANDOM_FLIP"] = "horizontal"
    resize, flip = build_augmentation(tiny_cfg(SIZES | keys), is_train=True)
    assert isinstance(flip, transforms.RandomFlip)
    np.random.seed(0)
    image = np.zeros((64, 64, 3), np.uint8)
    drawn = {resize.get_transform(image).apply_image(image).shape[0] for _ in range(60)}
    assert drawn <= expected and len(drawn) > 1


def test_a_size_of_0_leaves_the_frame_alone():
    image = np.zeros((33, 50, 3), np.uint8)
    resize = build_test_resize(tiny_cfg({"INPUT.RESIZE_TRUNCATES": True, "INPUT.MIN_SIZE_TEST": 0}))
    assert resize.get_transform(image).apply_image(image) is image


@pytest.mark.parametrize("truncates", [False, True])
@pytest.mark.parametrize("height, width, expected", [(1, 3000, (1, 1000)), (3000, 1, (1000, 1))])
def test_a_narrow_strip_keeps_one_pixel(height, width, expected, truncates):
    image = np.zeros((height, width, 3), np.uint8)
    resize = build_test_resize(tiny_cfg(SIZES | {"INPUT.RESIZE_TRUNCATES": truncates}))
    assert resize.get_transform(image).apply_image(image).shape[:2] == expected
