"""The contract of transforms, augmentations and annotation helpers, on whichever backend is active."""

import numpy as np
import pytest
import torch
from PIL import Image

from vod2._d2lite.data.detection_utils import read_image as lite_read_image
from vod2.d2 import Boxes, BoxMode, Instances, detection_utils, get_cfg
from vod2.d2 import transforms as T


def test_a_flip_mirrors_pixels_and_boxes():
    aug_input = T.AugInput(np.arange(10, dtype=np.uint8).reshape(2, 5, 1), boxes=np.array([[1.0, 0.0, 3.0, 2.0]]))
    transform = T.RandomFlip(prob=1.0)(aug_input)
    np.testing.assert_array_equal(aug_input.image[:, :, 0], [[4, 3, 2, 1, 0], [9, 8, 7, 6, 5]])
    np.testing.assert_array_equal(aug_input.boxes, [[2, 0, 4, 2]])
    np.testing.assert_array_equal(transform.inverse().apply_box(aug_input.boxes), [[1, 0, 3, 2]])


def test_a_vertical_flip_mirrors_y():
    aug_input = T.AugInput(np.zeros((10, 5, 3), np.uint8), boxes=np.array([[1.0, 0.0, 3.0, 2.0]]))
    T.RandomFlip(prob=1.0, horizontal=False, vertical=True)(aug_input)
    np.testing.assert_array_equal(aug_input.boxes, [[1, 8, 3, 10]])


def test_a_flip_of_probability_zero_never_happens():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert isinstance(T.RandomFlip(prob=0.0)(T.AugInput(image)), T.NoOpTransform)


@pytest.mark.parametrize("flags", [(True, True), (False, False)])
def test_a_flip_has_exactly_one_direction(flags):
    with pytest.raises(ValueError):
        T.RandomFlip(horizontal=flags[0], vertical=flags[1])


def test_a_resize_scales_boxes_by_the_ratio_of_sizes():
    transform = T.ResizeTransform(10, 20, 30, 10)
    np.testing.assert_allclose(transform.apply_box(np.array([[2.0, 1.0, 20.0, 10.0]])), [[1, 3, 10, 30]])
    np.testing.assert_allclose(transform.inverse().apply_box(np.array([[1.0, 3.0, 10.0, 30.0]])), [[2, 1, 20, 10]])


def test_a_resize_of_no_boxes_gives_no_boxes():
    assert T.ResizeTransform(10, 20, 30, 10).apply_box(np.zeros((0, 4))).shape == (0, 4)


def test_a_uint8_image_is_resized_as_by_pil():
    image = np.random.RandomState(0).randint(0, 256, (9, 13, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((7, 5), Image.BILINEAR))
    np.testing.assert_array_equal(T.ResizeTransform(9, 13, 5, 7).apply_image(image), expected)


def test_a_shrunk_uint8_image_averages_and_a_float_image_interpolates():
    row = np.array([0, 0, 0, 100, 100, 0, 0, 0])
    image = np.tile(row[None, :, None], (8, 1, 3))
    # PIL's triangle has 8 weights 1, 3, 5, 7, 7, 5, 3, 1 over 32 around the middle of each half; what falls off
    # the edge is left out, and the rest renormalised: x = 0 sees the pixels 0..5 with 5, 7, 7, 5, 3, 1 over 28.
    pil = T.ResizeTransform(8, 8, 2, 2).apply_image(image.astype(np.uint8))
    np.testing.assert_array_equal(pil[0, :, 0], [29, 29])  # (5 + 3) * 100 / 28 = 28.57
    # Bilinear interpolation looks at the pixels 1 and 2 only.
    torch_result = T.ResizeTransform(8, 8, 2, 2).apply_image(image.astype(np.float64))
    assert torch_result.dtype == np.float64
    np.testing.assert_array_equal(torch_result[0, :, 0], [0, 0])


def test_labels_are_resized_to_the_nearest():
    labels = np.array([[0, 255], [7, 3]], dtype=np.uint8)
    resized = T.ResizeTransform(2, 2, 4, 4).apply_segmentation(labels)
    np.testing.assert_array_equal(resized, np.kron(labels, np.ones((2, 2), np.uint8)))


@pytest.mark.parametrize(
    "height, width, short, longest, expected",
    [
        (480, 640, 800, 1333, (800, 1067)),  # 1066.67 rounds up
        (640, 480, 800, 1333, (1067, 800)),
        (500, 1000, 600, 1000, (500, 1000)),  # 1200 is too long: the scale becomes 1
        (300, 900, 600, 1000, (333, 1000)),
        (5, 5, 600, 1000, (600, 600)),
        (2, 3, 1, 1000, (1, 2)),  # 1.5 rounds up
    ],
)
def test_the_shortest_edge_gives_way_to_the_longest(height, width, short, longest, expected):
    transform = T.ResizeShortestEdge(short, longest).get_transform(np.zeros((height, width, 3), np.uint8))
    assert (transform.new_h, transform.new_w) == expected


def test_range_draws_all_lengths_between_and_choice_only_the_given_ones():
    image = np.zeros((4, 4, 3), np.uint8)
    np.random.seed(0)
    ranged = T.ResizeShortestEdge([3, 6], sample_style="range")
    chosen = T.ResizeShortestEdge([3, 6], sample_style="choice")
    assert {ranged.get_transform(image).new_h for _ in range(100)} == {3, 4, 5, 6}
    assert {chosen.get_transform(image).new_h for _ in range(100)} == {3, 6}


def test_a_shortest_edge_of_zero_leaves_the_image():
    assert isinstance(T.ResizeShortestEdge(0).get_transform(np.zeros((4, 4, 3), np.uint8)), T.NoOpTransform)


@pytest.mark.parametrize(
    "kind, size, expected",
    [("relative", (0.5, 0.25), {(5, 5)}), ("absolute", (4, 99), {(4, 20)}), ("absolute_range", (9, 10), None)],
)
def test_a_crop_has_the_size_that_its_type_says(kind, size, expected):
    np.random.seed(0)
    sizes = {T.RandomCrop(kind, size).get_crop_size((10, 20)) for _ in range(60)}
    assert sizes == (expected or {(9, 9), (9, 10), (10, 9), (10, 10)})


def test_a_relative_range_crop_lies_between_the_fraction_and_the_whole():
    np.random.seed(0)
    sizes = {T.RandomCrop("relative_range", (0.5, 1.0)).get_crop_size((10, 20)) for _ in range(90)}
    assert sizes == {(height, 20) for height in (5, 6, 7, 8, 9, 10)}


def test_a_crop_moves_boxes_with_the_pixels():
    np.random.seed(0)
    image = np.arange(100, dtype=np.uint8).reshape(10, 10, 1)
    aug_input = T.AugInput(image, boxes=np.array([[5.0, 5.0, 9.0, 9.0]]))
    T.RandomCrop("absolute", (4, 6))(aug_input)
    top, left = divmod(int(aug_input.image[0, 0, 0]), 10)
    assert aug_input.image.shape == (4, 6, 1)
    np.testing.assert_array_equal(aug_input.boxes, [[5 - left, 5 - top, 9 - left, 9 - top]])


@pytest.mark.parametrize(
    "augmentation, expected",
    [
        (T.RandomBrightness(0.5, 0.5), [50, 100, 0]),
        (T.RandomBrightness(3, 3), [255, 255, 0]),  # clipped
        (T.RandomContrast(0.5, 0.5), [100, 150, 50]),  # the mean is 100
        (T.RandomSaturation(0.0, 0.0), [147, 147, 147]),  # 0.299 * 100 + 0.587 * 200 = 147.3
    ],
)
def test_colors_are_blended_with_black_mean_or_gray(augmentation, expected):
    aug_input = T.AugInput(np.array([[[100, 200, 0]]], dtype=np.uint8))
    augmentation(aug_input)
    np.testing.assert_array_equal(aug_input.image[0, 0], expected)


def test_an_augmentation_is_applied_with_its_probability():
    np.random.seed(0)
    flip = T.HFlipTransform(2)
    always, never = T.RandomApply(flip, prob=1.0), T.RandomApply(flip, prob=0.0)
    for augmentation, expected in ((always, [2, 1]), (never, [1, 2])):
        aug_input = T.AugInput(np.array([[[1], [2]]], dtype=np.uint8))
        augmentation(aug_input)
        np.testing.assert_array_equal(aug_input.image[0, :, 0], expected)


def test_each_augmentation_of_a_list_sees_what_the_one_before_left():
    aug_input = T.AugInput(np.zeros((10, 20, 3), np.uint8), boxes=np.array([[0.0, 0.0, 10.0, 10.0]]))
    transforms = T.AugmentationList([T.Resize((20, 40)), T.RandomFlip(1.0), T.CropTransform(20, 0, 20, 20)])(aug_input)
    assert aug_input.image.shape == (20, 20, 3)
    np.testing.assert_array_equal(aug_input.boxes, [[0, 0, 20, 20]])
    np.testing.assert_array_equal(transforms.apply_box(np.array([[0.0, 0.0, 10.0, 10.0]])), [[0, 0, 20, 20]])


def test_an_augmentation_gets_the_inputs_that_its_arguments_name():
    class Aug(T.Augmentation):
        def get_transform(self, image, boxes):
            return T.CropTransform(0, 0, int(boxes[0, 2]), image.shape[0])

    class NeedsText(T.Augmentation):
        def get_transform(self, image, text):
            return T.NoOpTransform()

    aug_input = T.AugInput(np.zeros((4, 9, 3), np.uint8), boxes=np.array([[0.0, 0.0, 5.0, 1.0]]))
    Aug()(aug_input)
    assert aug_input.image.shape == (4, 5, 3)
    with pytest.raises(AttributeError, match="text"):
        NeedsText()(aug_input)


def test_the_only_argument_of_an_augmentation_is_the_image_whatever_its_name():
    class Aug(T.Augmentation):
        def get_transform(self, picture):
            return T.CropTransform(0, 0, 2, picture.shape[0])

    aug_input = T.AugInput(np.zeros((4, 9, 3), np.uint8))
    Aug()(aug_input)
    assert aug_input.image.shape == (4, 2, 3)


def test_the_configuration_names_the_augmentations():
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (3, 5), 50, "range"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.RANDOM_FLIP = 7, "vertical"
    resize, flip = detection_utils.build_augmentation(cfg, is_train=True)
    assert (tuple(resize.short_edge_length), resize.max_size, resize.sample_style) == ((3, 5), 50, "range")
    assert flip.vertical and not flip.horizontal
    (resize,) = detection_utils.build_augmentation(cfg, is_train=False)
    assert set(resize.short_edge_length) == {7}


def annotation(*box, mode=BoxMode.XYWH_ABS):
    return {"bbox": list(box), "bbox_mode": mode, "category_id": 1}


def test_a_transformed_annotation_is_xyxy_and_clipped():
    transforms = T.TransformList([T.HFlipTransform(10), T.ResizeTransform(5, 10, 10, 20)])
    # xyxy (-1, 1, 3, 8); flipped (7, 1, 11, 8); doubled (14, 2, 22, 16); clipped to 20 x 10
    result = detection_utils.transform_instance_annotations(annotation(-1, 1, 4, 7), transforms, (10, 20))
    np.testing.assert_allclose(result["bbox"], [14, 2, 20, 10])
    assert result["bbox_mode"] == BoxMode.XYXY_ABS


def test_annotations_become_instances():
    annotations = [annotation(1, 2, 3, 4), annotation(0, 0, 5, 5, mode=BoxMode.XYXY_ABS)]
    instances = detection_utils.annotations_to_instances(annotations, (6, 7))
    assert instances.image_size == (6, 7)
    np.testing.assert_array_equal(instances.gt_boxes.tensor, [[1, 2, 4, 6], [0, 0, 5, 5]])
    assert instances.gt_classes.tolist() == [1, 1] and instances.gt_classes.dtype == torch.int64


def test_no_annotations_become_empty_instances():
    instances = detection_utils.annotations_to_instances([], (6, 7))
    assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)


def test_boxes_without_area_are_filtered():
    instances = Instances((9, 9))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0, 2, 2], [1, 1, 1, 5], [3, 3, 4, 4]]))
    kept, mask = detection_utils.filter_empty_instances(instances, return_mask=True)
    assert mask.tolist() == [True, False, True] and len(kept) == 2


@pytest.fixture
def rgb(tmp_path):
    """A 5 x 4 image whose red is the row, green the column, and its path."""
    pixels = np.zeros((5, 4, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(5)[:, None], np.arange(4)
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    return pixels, str(tmp_path / "rgb.png")


def test_an_image_is_read_in_the_order_of_channels_asked_for(rgb):
    pixels, path = rgb
    np.testing.assert_array_equal(detection_utils.read_image(path, format="RGB"), pixels)
    np.testing.assert_array_equal(detection_utils.read_image(path, format="BGR"), pixels[:, :, ::-1])
    assert detection_utils.read_image(path, format="L").shape == (5, 4, 1)


@pytest.mark.parametrize("code, turns, mirror", [(1, 0, False), (2, 0, True), (3, 2, False), (6, 3, False)])
def test_an_image_is_turned_as_its_exif_orientation_says(rgb, tmp_path, code, turns, mirror):
    pixels, _ = rgb
    exif = Image.Exif()
    exif[0x0112] = code
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    expected = np.rot90(pixels[:, ::-1] if mirror else pixels, turns)
    np.testing.assert_array_equal(detection_utils.read_image(str(tmp_path / "turned.png"), format="RGB"), expected)


def test_an_unreadable_image_is_an_error_that_names_it(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"this is not an image")
    for name in ("broken.png", "absent.png"):
        with pytest.raises(OSError, match=name):
            detection_utils.read_image(str(tmp_path / name), format="BGR")


def test_a_truncated_image_is_an_error_that_names_it(rgb, tmp_path):
    # The stand-in by its own name: Detectron2 leaves the name out.
    whole = (tmp_path / "rgb.png").read_bytes()
    (tmp_path / "short.png").write_bytes(whole[: len(whole) - 25])
    with pytest.raises(OSError, match="short.png"):
        lite_read_image(str(tmp_path / "short.png"), format="BGR")


def test_an_image_of_another_size_than_announced_is_an_error_that_names_it():
    image = np.zeros((5, 4, 3), np.uint8)
    dataset_dict = {"file_name": "odd.png"}
    detection_utils.check_image_size(dataset_dict, image)
    assert (dataset_dict["height"], dataset_dict["width"]) == (5, 4)
    with pytest.raises(detection_utils.SizeMismatchError, match="odd.png"):
        detection_utils.check_image_size({"file_name": "odd.png", "height": 4, "width": 5}, image)
