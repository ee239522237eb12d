"""Drawing detections into an image."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from vod2.d2 import Instances

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Height of a capital letter at font scale 1, in pixels.
_FONT_HEIGHT = 22


def class_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a class, "class 3" where there is none for label 3."""
    return class_names[label] if 0 <= label < len(class_names) else f"class {label}"


def class_color(label: int) -> tuple[int, int, int]:
    """The BGR colour of a class: always the same, and far from those of its neighbours.

    Example:
        >>> class_color(0) == class_color(0) != class_color(1)
        True
    """
    # Steps of the golden ratio never come close to an earlier hue; brightness alternates as a second cue.
    red, green, blue = colorsys.hsv_to_rgb((0.33 + label * 0.6180339887) % 1, 0.75, (1.0, 0.8)[label % 2])
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_instances(
    image: np.ndarray, instances: Instances, class_names: Sequence[str] = (), threshold: float = 0.5
) -> np.ndarray:
    """Draw boxes with labels such as "fox .87", or "fox .87 #3" of track 3; lines and letters grow with the image.

    Args:
        image: (H, W, 3) uint8 BGR; it is left as it is.
        instances: pred_boxes (xyxy pixels of `image`), scores, pred_classes, and track_ids if they are known (-1 is no
            track), on the CPU.
        class_names: names by label.
        threshold: detections of a lower score are not drawn.

    Returns:
        (H, W, 3) uint8 BGR, a new array.
    """
    canvas = np.ascontiguousarray(image).copy()
    boxes, scores, labels = (
        instances.pred_boxes.tensor.numpy(),
        instances.scores.numpy(),
        instances.pred_classes.numpy(),
    )
    tracks = instances.track_ids.tolist() if instances.has("track_ids") else [-1] * len(instances)
    for i in np.argsort(scores, kind="stable"):  # the surest comes last and lies on top
        if scores[i] >= threshold:
            score = f"{scores[i]:.2f}".lstrip("0")
            text = f"{class_name(labels[i], class_names)} {score}"
            if tracks[i] >= 0:
                text += f" #{tracks[i]}"
            draw_box(canvas, boxes[i], text, class_color(labels[i]))
    return canvas


def draw_box(canvas: np.ndarray, box: np.ndarray, text: str, color: tuple[int, int, int], dashed: bool = False) -> None:
    """Draw a box (4,) xyxy pixels with its label into `canvas` (H, W, 3) uint8 BGR."""
    height, width = canvas.shape[:2]
    short_side = min(height, width)
    line = max(1, round(short_side / 300))
    x1, y1, x2, y2 = np.clip(np.round(box), 0, [width - 1, height - 1, width - 1, height - 1]).astype(int).tolist()
    if dashed:
        _dashed_rectangle(canvas, (x1, y1, x2, y2), color, line)
    else:
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color, line)

    scale = (7 + short_side / 90) / _FONT_HEIGHT
    weight = max(1, round(1.6 * scale))
    (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, weight)
    pad = line + 1
    tag_width, tag_height = text_width + 2 * pad, text_height + below + pad
    left = max(0, min(x1 - line // 2, width - tag_width))
    top = y1 - tag_height if y1 >= tag_height else y1  # above the box, or inside it at the top of the image
    cv2.rectangle(canvas, (left, top), (left + tag_width, top + tag_height), color, cv2.FILLED)
    # The luma of BGR (ITU-R BT.601): letters are black on bright colours.
    bright = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2] > 140
    origin = (left + pad, top + text_height + pad // 2)
    cv2.putText(canvas, text, origin, _FONT, scale, (0, 0, 0) if bright else (255, 255, 255), weight, cv2.LINE_AA)


def _dashed_rectangle(
    canvas: np.ndarray, corners: tuple[int, int, int, int], color: tuple[int, int, int], line: int
) -> None:
    x1, y1, x2, y2 = corners
    dash = 4 * line + 1
    for start in range(x1, x2 + 1, 2 * dash):
        end = min(start + dash, x2)
        cv2.line(canvas, (start, y1), (end, y1), color, line)
        cv2.line(canvas, (start, y2), (end, y2), color, line)
    for start in range(y1, y2 + 1, 2 * dash):
        end = min(start + dash, y2)
        cv2.line(canvas, (x1, start), (x1, end), color, line)
        cv2.line(canvas, (x2, start), (x2, end), color, line)
