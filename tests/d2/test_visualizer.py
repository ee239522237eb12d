"""The contract of the visualizer, on whichever backend is active."""

import numpy as np
import pytest
import torch
from PIL import Image

from vod2.d2 import Boxes, BoxMode, ColorMode, Instances, MetadataCatalog, Visualizer

GRAY = np.full((60, 80, 3), 100, dtype=np.uint8)


@pytest.fixture
def metadata():
    yield MetadataCatalog.get("test_visualizer").set(
        thing_classes=["cat", "dog"], thing_colors=[(255, 0, 0), (0, 0, 255)]
    )
    MetadataCatalog.remove("test_visualizer")


def predictions(n=2):
    result = Instances((60, 80))
    result.pred_boxes = Boxes(torch.tensor([[10.0, 10, 70, 50], [20, 20, 40, 40]])[:n])
    result.scores = torch.tensor([0.9, 0.8])[:n]
    result.pred_classes = torch.tensor([0, 1])[:n]
    return result


def changed(image, before=GRAY):
    return np.abs(image.astype(int) - before).max(axis=2) > 20


def test_nothing_to_draw_leaves_the_image(metadata):
    visualizer = Visualizer(GRAY, metadata)
    visualizer.draw_instance_predictions(predictions(0))
    image = visualizer.get_output().get_image()
    assert image.shape == GRAY.shape and image.dtype == np.uint8 and not changed(image).any()


def test_a_box_is_drawn_on_its_edge_in_its_color():
    image = Visualizer(GRAY).draw_box((20, 15, 60, 45), alpha=1, edge_color="r").get_image()
    red, green, blue = image[30, 20].astype(int)
    assert red > green + 50 and red > blue + 50
    assert changed(image)[15, 40] and changed(image)[45, 40] and changed(image)[30, 60]
    assert not changed(image)[22:38, 27:53].any() and not changed(image)[:8].any()


def test_text_is_drawn_at_its_place():
    image = Visualizer(GRAY, font_size_scale=1.0).draw_text("cat", (5, 30), horizontal_alignment="left").get_image()
    assert changed(image)[25:].any() and not changed(image)[:20].any()


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_output_is_scaled_and_coordinates_are_not(scale, metadata):
    visualizer = Visualizer(GRAY, metadata, scale=scale)
    image = visualizer.draw_box((20, 15, 60, 45), alpha=1, edge_color="w").get_image()
    assert image.shape == (60 * scale, 80 * scale, 3)
    assert changed(image, np.uint8(100))[int(30 * scale), int(20 * scale)]


@pytest.mark.parametrize("mode", list(ColorMode))
def test_predictions_are_drawn_in_every_mode(mode, metadata):
    image = np.random.RandomState(0).randint(0, 255, GRAY.shape).astype(np.uint8)
    drawn = Visualizer(image, metadata, instance_mode=mode).draw_instance_predictions(predictions()).get_image()
    assert changed(drawn, image).any()
    corner = drawn[-5:, -5:].astype(int)
    assert (np.ptp(corner, axis=2).max() < 3) == (mode == ColorMode.IMAGE_BW)


def test_the_boxes_of_a_dataset_dict_are_drawn(metadata):
    annotation = {"bbox": [20, 20, 40, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    image = Visualizer(GRAY, metadata).draw_dataset_dict({"annotations": [annotation]}).get_image()
    assert changed(image)[40, 30:50].any()


def test_boxes_may_have_labels_and_colors():
    boxes = np.array([[10.0, 10, 40, 50]])
    image = Visualizer(GRAY).overlay_instances(boxes=boxes, labels=["x"], assigned_colors=[(0.0, 1.0, 0.0)], alpha=1)
    red, green, blue = image.get_image()[35, 40].astype(int)
    assert green > max(red, blue) + 40


def test_the_output_is_saved(tmp_path):
    visualizer = Visualizer(GRAY)
    visualizer.draw_box((20, 15, 60, 45), edge_color="r")
    visualizer.get_output().save(str(tmp_path / "out.png"))
    saved = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"))
    np.testing.assert_allclose(saved.astype(int), visualizer.get_output().get_image(), atol=2)
