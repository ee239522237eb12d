"""Drawing boxes and labels on an image, with OpenCV."""

import enum

import cv2
import numpy as np
from PIL import ImageColor

from vod2._d2lite.data.catalog import Metadata
from vod2._d2lite.structures import Boxes, BoxMode
from vod2.image_files import write_image

_LETTERS = dict(b="blue", g="green", r="red", c="cyan", m="magenta", y="yellow", k="black", w="white")
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_PIXELS = 30  # height of a line of OpenCV's font at scale 1


class ColorMode(enum.Enum):
    """IMAGE: a color per instance; SEGMENTATION: a color per class; IMAGE_BW: as IMAGE, on the gray image."""

    IMAGE = 0
    SEGMENTATION = 1
    IMAGE_BW = 2


class VisImage:
    """The canvas: an image (H, W, 3) RGB in [0, 255], enlarged by `scale`."""

    def __init__(self, img, scale=1.0):
        self.scale = scale
        height, width = img.shape[:2]
        size = max(int(width * scale), 1), max(int(height * scale), 1)
        self.img = cv2.resize(np.ascontiguousarray(img, dtype=np.uint8), size, interpolation=cv2.INTER_LINEAR)

    def get_image(self):
        """(H * scale, W * scale, 3) uint8 RGB."""
        return self.img.copy()

    def save(self, filepath):
        """Writes the image; the extension names the format. Raises OSError where it cannot be written."""
        write_image(filepath, self.img[:, :, ::-1])


class Visualizer:
    """Draws on one image. Every draw_* and overlay_* method returns the `VisImage`.

    Args:
        img_rgb: (H, W, 3) RGB in [0, 255].
        metadata: of the dataset; its `thing_classes` name the classes, its `thing_colors` (RGB in [0, 255]) color them.
        scale: enlarges the output; coordinates stay those of `img_rgb`.
        instance_mode: see `ColorMode`.
        font_size_scale: enlarges the labels.

    Example:
        >>> import numpy as np
        >>> canvas = Visualizer(np.zeros((8, 8, 3), dtype=np.uint8)).draw_box([1, 1, 6, 6], edge_color="w")
        >>> canvas.get_image().shape
        (8, 8, 3)
    """

    def __init__(self, img_rgb, metadata=None, scale=1.0, instance_mode=ColorMode.IMAGE, font_size_scale=1.0):
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = Metadata() if metadata is None else metadata
        self.output = VisImage(self.img, scale=scale)
        self._instance_mode = instance_mode
        # Readable on small images, not dominant on large ones.
        self._font_size = max(np.sqrt(self.img.shape[0] * self.img.shape[1]) / 40, 10 / scale) * font_size_scale

    def draw_instance_predictions(self, predictions):
        """Draws `Instances` on the CPU with pred_boxes and any of scores and pred_classes."""
        scores = predictions.scores.tolist() if predictions.has("scores") else None
        classes = predictions.pred_classes.tolist() if predictions.has("pred_classes") else None
        labels = None if classes is None else self._names(classes)
        if scores is not None:
            names = [""] * len(scores) if labels is None else labels
            labels = [f"{name} {score:.0%}".strip() for name, score in zip(names, scores, strict=True)]
        # Before the boxes, which stay colored
        if self._instance_mode == ColorMode.IMAGE_BW:
            gray = cv2.cvtColor(self.img, cv2.COLOR_RGB2GRAY)
            self.output = VisImage(np.repeat(gray[:, :, None], 3, axis=2), self.output.scale)
        return self.overlay_instances(
            boxes=predictions.pred_boxes, labels=labels, assigned_colors=self._class_colors(classes)
        )

    def draw_dataset_dict(self, dic):
        """Draws the boxes and class names of a dataset dict's annotations."""
        annotations = dic.get("annotations") or []
        boxes = [BoxMode.convert(ann["bbox"], ann["bbox_mode"], BoxMode.XYXY_ABS) for ann in annotations]
        classes = [ann["category_id"] for ann in annotations]
        crowd = ["|crowd" if ann.get("iscrowd", 0) else "" for ann in annotations]
        labels = [name + mark for name, mark in zip(self._names(classes), crowd, strict=True)]
        return self.overlay_instances(
            boxes=np.reshape(boxes, (-1, 4)), labels=labels, assigned_colors=self._class_colors(classes)
        )

    def overlay_instances(self, *, boxes=None, labels=None, assigned_colors=None, alpha=0.5):
        """Draws N boxes with their labels, large ones first.

        Args:
            boxes: `Boxes` or an (N, 4) array, XYXY_ABS.
            labels: N strings, or None.
            assigned_colors: N colors, see `draw_box`; distinct ones where None.
            alpha: opacity of the boxes.

        Raises:
            ValueError: there are not as many labels or colors as boxes.
        """
        boxes = np.zeros((0, 4)) if boxes is None else boxes
        boxes = boxes.tensor.detach().cpu().numpy() if isinstance(boxes, Boxes) else np.asarray(boxes).reshape(-1, 4)
        if assigned_colors is None:
            assigned_colors = [_distinct_color(i) for i in range(len(boxes))]
        for name, values in (("labels", labels), ("assigned_colors", assigned_colors)):
            if values is not None and len(values) != len(boxes):
                raise ValueError(f"expected as many {name} as boxes, got {len(values)} for {len(boxes)} boxes")
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        # Large ones first: they would cover the labels of small ones inside them
        for i in np.argsort(-areas, kind="stable"):
            self.draw_box(boxes[i], alpha=alpha, edge_color=assigned_colors[i])
            if labels is not None:
                color = np.asarray(_rgb(assigned_colors[i])) / 255 * 0.6 + 0.4  # lighter, to be read
                self.draw_text(labels[i], boxes[i][:2], color=tuple(color), horizontal_alignment="left")
        return self.output

    def draw_box(self, box_coord, alpha=0.5, edge_color="g"):
        """Draws the outline of one box.

        Args:
            box_coord: (x0, y0, x1, y1).
            alpha: opacity in [0, 1].
            edge_color: RGB in [0, 1], a name ("red", "r") or "#rrggbb".
        """
        x0, y0, x1, y1 = (round(float(v) * self.output.scale) for v in box_coord)
        drawn = self.output.img.copy()
        cv2.rectangle(
            drawn, (x0, y0), (x1, y1), _rgb(edge_color), max(round(self._font_size * self.output.scale / 7), 1)
        )
        self.output.img = cv2.addWeighted(drawn, alpha, self.output.img, 1 - alpha, 0)
        return self.output

    def draw_text(self, text, position, *, font_size=None, color="g", horizontal_alignment="center"):
        """Writes text on a dark ground, its top at `position`, kept inside of the image.

        Args:
            position: (x, y); what x means says `horizontal_alignment`: "left", "center" or "right".
            font_size: height in pixels of the original image.
            color: see `draw_box`.
        """
        scale = (font_size or self._font_size) * self.output.scale / _FONT_PIXELS
        (width, height), below = cv2.getTextSize(text, _FONT, scale, 1)
        shift = {"left": 0, "center": width / 2, "right": width}[horizontal_alignment]
        x, y = float(position[0]) * self.output.scale - shift, float(position[1]) * self.output.scale
        canvas = self.output.img
        x = int(min(max(x, 0), max(canvas.shape[1] - width, 0)))
        # `below`: letters such as g extend below the baseline
        y = int(min(max(y, 0), max(canvas.shape[0] - height - below, 0)))
        patch = canvas[y : y + height + below, x : x + width]
        # Darkens the canvas, of which `patch` is a view
        np.floor_divide(patch, 4, out=patch)
        cv2.putText(canvas, text, (x, y + height), _FONT, scale, _rgb(color), 1, cv2.LINE_AA)
        return self.output

    def get_output(self):
        """The `VisImage` with all that was drawn."""
        return self.output

    def _names(self, classes):
        names = self.metadata.get("thing_classes")
        return [names[c] if names else str(c) for c in classes]

    def _class_colors(self, classes):
        if classes is None or self._instance_mode != ColorMode.SEGMENTATION:
            return None
        thing_colors = self.metadata.get("thing_colors")
        if not thing_colors:
            return [_distinct_color(c) for c in classes]
        return [tuple(np.divide(thing_colors[c], 255)) for c in classes]


def _distinct_color(index):
    """RGB in [0, 1]; golden-ratio steps around the hue circle keep neighbours apart."""
    pixel = np.array([[[index * 0.618033988749895 % 1 * 179, 200, 255]]]).astype(np.uint8)
    return tuple(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0] / 255)


def _rgb(color):
    """A color as a tuple of ints in [0, 255], see `Visualizer.draw_box`."""
    if isinstance(color, str):
        return ImageColor.getrgb(_LETTERS.get(color, color))[:3]
    return tuple(round(float(v) * 255) for v in color[:3])
