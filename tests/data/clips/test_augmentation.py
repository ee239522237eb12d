"""The SSD augmentation: its transforms by hand, and boxes that stay on rendered rectangles in every frame of a clip."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vod2.config import add_video_config
from vod2.d2 import Boxes, BoxMode, get_cfg, pairwise_iou, transforms
from vod2.data import VideoDatasetMapper, VideoIndex
from vod2.data.clips.augmentation import (
    CentreCropTransform,
    ExpandTransform,
    MinIoUCrop,
    PhotometricDistortion,
    PhotometricTransform,
    RandomExpand,
    build_video_augmentation,
    kept_by_centre,
)
from vod2.data.clips.video_mapper import to_instances
from vod2.errors import UserError

HEIGHT, WIDTH = 60, 80


def config(*keys):
    cfg = add_video_config(get_cfg())
    cfg.INPUT.VIDEO_AUGMENTATION = "SSD"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (50, 64, 100), 200
    cfg.merge_from_list(list(keys))
    return cfg


def noise(dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(dtype)


def annotation(box, track=0):
    return {"bbox": [*map(float, box)], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "track_id": track}


# Photometric


def test_brightness_and_contrast_are_a_sum_and_a_product_and_saturate():
    image = np.array([[[0, 100, 250]]], np.uint8)
    assert PhotometricTransform("BGR", brightness=20).apply_image(image).tolist() == [[[20, 120, 255]]]
    assert PhotometricTransform("BGR", contrast=0.5).apply_image(image).tolist() == [[[0, 50, 125]]]
    assert PhotometricTransform("BGR", brightness=-10, contrast=1.5).apply_image(image).tolist() == [[[0, 135, 255]]]


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_saturation_and_hue_are_those_of_the_colour_whatever_the_order_of_channels(image_format):
    image = noise()
    result = PhotometricTransform(image_format, saturation=1.3, hue=-15).apply_image(image)
    step = -1 if image_format == "BGR" else 1
    for before, after in zip(image.reshape(-1, 3), result.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(before[::step] / 255))
        expected = colorsys.hsv_to_rgb((h - 15 / 360) % 1, min(1.3 * s, 1), v)
        assert np.abs(after[::step] - 255 * np.array(expected)).max() <= 0.51


def test_the_contrast_may_come_after_the_colours():
    image = np.array([[[0, 100, 200]]], np.uint8)
    first, last = (PhotometricTransform("BGR", contrast=1.5, hue=12, contrast_last=x) for x in (False, True))
    # Saturated at 255, the red has lost its distance to the green before the hue turns.
    assert first.apply_image(image).tolist() == [[[0, 201, 255]]]
    assert last.apply_image(image).tolist() == [[[0, 210, 255]]]


def test_channels_are_shuffled_last():
    transform = PhotometricTransform("BGR", channels=[2, 0, 1])
    assert transform.apply_image(np.array([[[1, 2, 3]]], np.uint8)).tolist() == [[[3, 1, 2]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_nothing_drawn_changes_nothing_and_types_stay(dtype):
    image = noise(dtype)
    result = PhotometricTransform("BGR").apply_image(image)
    assert result.dtype == dtype and np.array_equal(result, image) and np.array_equal(image, noise(dtype))
    changed = PhotometricTransform("BGR", 5, 1.2, 1.4, 9, [1, 2, 0]).apply_image(image)
    assert changed.dtype == dtype and changed.min() >= 0 and changed.max() <= 255
    coords, labels = np.array([[1.5, 2.0]]), np.array([[3, 4]])
    assert PhotometricTransform("BGR", 5).apply_coords(coords.copy()).tolist() == coords.tolist()
    assert PhotometricTransform("BGR", 5).apply_segmentation(labels) is labels


def test_each_colour_change_comes_half_of_the_time_and_within_its_range():
    np.random.seed(0)
    drawn = [PhotometricDistortion("BGR").get_transform(noise()) for _ in range(1000)]
    values = {
        name: np.array([getattr(t, name) for t in drawn]) for name in ("brightness", "contrast", "saturation", "hue")
    }
    for name, none, least, greatest in [
        ("brightness", 0, -32, 32),
        ("contrast", 1, 0.5, 1.5),
        ("saturation", 1, 0.5, 1.5),
        ("hue", 0, -18, 18),
    ]:
        changed = values[name][values[name] != none]
        assert 430 < len(changed) < 570
        span = greatest - least
        assert least <= changed.min() < least + 0.02 * span and greatest - 0.02 * span < changed.max() <= greatest
    assert 430 < sum(t.channels is not None for t in drawn) < 570
    assert {tuple(t.channels) for t in drawn if t.channels} == {
        (0, 1, 2),
        (0, 2, 1),
        (1, 0, 2),
        (1, 2, 0),
        (2, 0, 1),
        (2, 1, 0),
    }


def test_colours_of_another_image_format_are_refused():
    with pytest.raises(UserError, match=r"INPUT\.FORMAT.*'L'"):
        PhotometricTransform("L")


# Expand


def test_expanding_lays_the_image_and_its_coordinates_on_the_canvas():
    transform = ExpandTransform(3, 1, 12, 9, 8, 6, [10.4, 20.6, 30.0])
    canvas = transform.apply_image(noise())
    assert canvas.shape == (9, 12, 3) and canvas.dtype == np.uint8
    assert np.array_equal(canvas[1:7, 3:11], noise()) and canvas[0, 0].tolist() == [10, 21, 30]
    assert transform.apply_box(np.array([[0.5, 1.0, 2.0, 3.0]])).tolist() == [[3.5, 2.0, 5.0, 4.0]]
    assert np.array_equal(transform.inverse().apply_image(canvas), noise())
    labels = transform.apply_segmentation(np.ones((6, 8), np.uint8))
    assert labels[0, 0] == 255 and labels.sum() == 48 + (9 * 12 - 48) * 255
    assert transform.apply_image(noise(np.float64))[0, 0].tolist() == [10.4, 20.6, 30.0]


def test_expanding_comes_half_of_the_time_with_ratios_up_to_two():
    np.random.seed(0)
    image = np.zeros((100, 200, 3), np.uint8)
    drawn = [RandomExpand([0, 0, 0]).get_transform(image) for _ in range(1000)]
    expanded = [t for t in drawn if isinstance(t, ExpandTransform)]
    assert 430 < len(expanded) < 570
    assert all(100 <= t.height <= 200 and abs(t.width - 2 * t.height) <= 2 for t in expanded)
    assert all(0 <= t.left <= t.width - 200 and 0 <= t.top <= t.height - 100 for t in expanded)
    assert min(t.height for t in expanded) < 105 and max(t.height for t in expanded) > 195


# Crop


@pytest.mark.parametrize("min_iou", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_crop_keeps_the_drawn_overlap_with_every_box(min_iou):
    np.random.seed(0)
    image = np.zeros((100, 120, 3), np.uint8)
    boxes = np.array([[5.0, 5.0, 110.0, 95.0], [6.0, 4.0, 112.0, 97.0]])
    drawn = [MinIoUCrop([min_iou], tries=2000).get_transform(image, boxes) for _ in range(60)]
    crops = [t for t in drawn if isinstance(t, CentreCropTransform)]
    windows = np.array([[t.x0, t.y0, t.x0 + t.w, t.y0 + t.h] for t in crops])
    ious = pairwise_iou(Boxes(windows), Boxes(boxes)).numpy().min(axis=1)
    assert len(drawn) > len(crops) > 20
    # About half of the crops are free ones, which need no overlap.
    assert (ious >= min_iou - 1e-6).sum() > len(crops) / 4
    assert (windows >= 0).all() and (windows <= [120, 100, 120, 100]).all()
    assert all(t.w >= 35 and t.h >= 29 and t.w <= 2 * t.h and t.h <= 2 * t.w for t in crops)
    assert all(t.keeps(boxes).any() for t in crops)


def test_all_thresholds_that_can_be_met_are_met():
    np.random.seed(0)
    image, boxes = np.zeros((100, 100, 3), np.uint8), np.array([[0.0, 0.0, 100.0, 100.0]])
    drawn = [MinIoUCrop([0.95]).get_transform(image, boxes) for _ in range(300)]
    areas = [t.w * t.h / 1e4 if isinstance(t, CentreCropTransform) else None for t in drawn]
    # None, at least .95 (which few draws meet, so that another threshold often follows), free
    assert areas.count(None) > 80
    assert sum(area is not None and area < 0.5 for area in areas) > 30


@pytest.mark.parametrize("boxes", [None, np.zeros((0, 4)), np.array([[3.0, 3.0, 3.0, 9.0]])])
def test_a_frame_without_boxes_is_cropped_anywhere(boxes):
    np.random.seed(0)
    drawn = [MinIoUCrop().get_transform(np.zeros((30, 40, 3), np.uint8), boxes) for _ in range(20)]
    assert any(isinstance(t, CentreCropTransform) for t in drawn)


def test_a_crop_takes_the_objects_whose_centre_is_inside():
    crop = CentreCropTransform(10, 10, 20, 20)
    boxes = np.array([[0, 0, 21, 21], [0, 0, 20, 21], [28, 28, 31, 31], [28, 28, 33, 31], [12, 12, 14, 14]], float)
    assert crop.keeps(boxes).tolist() == [True, False, True, False, True]
    assert crop.keeps(np.zeros((0, 4))).tolist() == []


def test_centres_are_followed_through_the_transforms_before_the_crop():
    shift = ExpandTransform(10, 0, 50, 30, 40, 30, [0, 0, 0])
    drawn = transforms.TransformList([shift, CentreCropTransform(10, 0, 20, 30), transforms.HFlipTransform(20)])
    assert kept_by_centre(drawn, np.array([[0.0, 0, 10, 10], [16, 0, 26, 10]])).tolist() == [True, False]
    plain = transforms.TransformList([transforms.CropTransform(0, 0, 5, 5)])
    assert kept_by_centre(plain, np.array([[4.0, 4, 20, 20]])).tolist() == [True]


def test_objects_outside_of_the_crop_vanish_with_their_tracks():
    drawn = transforms.TransformList([CentreCropTransform(10, 10, 20, 20)])
    objects = [annotation([0, 0, 21, 21], 4), annotation([0, 0, 20, 21], 5), annotation([12, 12, 14, 14], 6)]
    instances = to_instances(objects, drawn, (20, 20))
    assert instances.gt_track_ids.tolist() == [4, 6]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 11, 11], [2, 2, 4, 4]]
    assert len(to_instances([], drawn, (20, 20))) == 0


# Clips


@st.composite
def moving_rectangles(draw):
    """(frames, objects, 4) whole pixels inside of the frame."""
    frames, objects = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    box = st.tuples(st.integers(0, WIDTH - 8), st.integers(0, HEIGHT - 8), st.integers(8, 40), st.integers(8, 40))
    corners = draw(st.lists(st.lists(box, min_size=objects, max_size=objects), min_size=frames, max_size=frames))
    return [[(x, y, min(x + w, WIDTH), min(y + h, HEIGHT)) for x, y, w, h in frame] for frame in corners]


def rendered(box):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image


def seen(box, drawn):
    """Where the rectangle is after the transforms `drawn`, the first of which are the colours."""
    dark, bright = (drawn.transforms[0].apply_image(np.full((1, 1, 3), v, np.uint8)).astype(int) for v in (0, 255))
    brightness = drawn.apply_image(rendered(box)).astype(int)
    rows, columns = np.nonzero((brightness > (dark + bright) / 2).all(axis=2))  # resizing has blurred the edges
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@settings(max_examples=150, deadline=None)
@given(moving_rectangles(), st.integers(0, 2**32 - 1))
def test_boxes_stay_on_their_rectangles_in_the_key_frame_and_in_the_supports(clip, seed):
    cfg = config("MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0], "INPUT.FORMAT", "BGR")
    augmentations = build_video_augmentation(cfg) + [
        transforms.ResizeShortestEdge((50, 64, 100), 200, "choice"),
        transforms.RandomFlip(),
    ]
    np.random.seed(seed)
    key = np.maximum.reduce([rendered(box) for box in clip[0]])
    given_input = transforms.AugInput(key, boxes=np.array(clip[0], float))
    drawn = transforms.AugmentationList(augmentations)(given_input)
    size = given_input.image.shape[:2]
    for position, boxes in enumerate(clip):
        instances = to_instances([annotation(box, track) for track, box in enumerate(boxes)], drawn, size)
        if position == 0:
            assert len(instances) > 0, "the crop has left nothing of the key frame"
        for box, track in zip(instances.gt_boxes.tensor.numpy(), instances.gt_track_ids.tolist(), strict=True):
            assert np.abs(box - seen(boxes[track], drawn)).max() <= 1.5


@pytest.fixture
def video(tmp_path):
    """Dicts of 4 frames, all with the same picture, with an object in the middle and one in a corner."""
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    records = []
    for index in range(4):
        file = tmp_path / f"{index}.png"
        Image.fromarray(picture).save(file)
        records.append(
            {
                "file_name": str(file),
                "image_id": f"v/{index}",
                "height": HEIGHT,
                "width": WIDTH,
                "video_id": "v",
                "frame_index": index,
                "video_length": 4,
                "annotations": [annotation((20, 15, 60, 45), 7), annotation((0, 0, 12, 10), 8)],
            }
        )
    return records


def mapper(cfg, dicts):
    cfg.VIDEO.TRAIN_SCHEDULE.NAME, cfg.VIDEO.TRAIN_SCHEDULE.COUNT = "RandomVideo", 3
    cfg.VIDEO.TRAIN_SCHEDULE.INCLUDE_KEY = False
    return VideoDatasetMapper(cfg, is_train=True, index=VideoIndex(dicts))


def test_the_augmentation_is_drawn_once_for_a_clip_and_anew_for_the_next(video):
    clips = mapper(config(), video)
    np.random.seed(0)
    drawn = [clips(video[0]) for _ in range(20)]
    for clip in drawn:
        for support in clip["support"]:
            assert support["image"].equal(clip["image"])
            assert support["instances"].gt_boxes.tensor.equal(clip["instances"].gt_boxes.tensor)
            assert support["instances"].gt_track_ids.equal(clip["instances"].gt_track_ids)
    assert len({(clip["image"].shape, clip["image"].sum().item()) for clip in drawn}) == 20
    assert {len(clip["instances"]) for clip in drawn} == {1, 2}


def test_the_crop_is_chosen_by_the_key_frame_and_not_by_the_supports(video):
    for record in video[1:]:
        record["annotations"] = [annotation((0, 0, 12, 10), 8)]
    video[0]["annotations"] = [annotation((70, 50, 80, 60), 7)]
    clips = mapper(config(), video)
    np.random.seed(0)
    drawn = [clips(video[0]) for _ in range(40)]
    assert all(clip["instances"].gt_track_ids.tolist() == [7] for clip in drawn)
    assert {len(clip["support"][0]["instances"]) for clip in drawn} == {0, 1}


def test_inference_is_not_augmented(video):
    cfg = config("INPUT.MIN_SIZE_TEST", HEIGHT)
    clip = VideoDatasetMapper(cfg, is_train=False, index=VideoIndex(video))({**video[0], "previous_index": None})
    assert np.array_equal(
        clip["image"].numpy().transpose(1, 2, 0)[:, :, ::-1], np.asarray(Image.open(video[0]["file_name"]))
    )


def test_the_numbers_of_the_augmentation_are_keys():
    cfg = config("INPUT.SSD.PHOTOMETRIC_PROB", 0.0, "INPUT.SSD.EXPAND_PROB", 1.0, "INPUT.SSD.EXPAND", (2.0, 2.0))
    cfg.INPUT.SSD.CROP_MIN_IOU = (0.5,)
    photometric, expand, crop = build_video_augmentation(cfg)
    assert np.array_equal(photometric.get_transform(noise()).apply_image(noise()), noise())
    canvas = expand.get_transform(noise())
    assert (canvas.height, canvas.width) == (12, 16) and list(canvas.fill) == list(cfg.MODEL.PIXEL_MEAN)
    assert tuple(crop.min_ious) == (0.5,)


def test_no_augmentation_is_the_default_and_unknown_ones_are_named():
    assert build_video_augmentation(add_video_config(get_cfg())) == []
    with pytest.raises(UserError, match=r"INPUT\.VIDEO_AUGMENTATION is 'Best', expected 'SSD'"):
        build_video_augmentation(config("INPUT.VIDEO_AUGMENTATION", "Best"))
    with pytest.raises(UserError, match=r"INPUT\.SSD\.EXPAND is \(0\.5, 2\.0\)"):
        build_video_augmentation(config("INPUT.SSD.EXPAND", (0.5, 2.0)))
