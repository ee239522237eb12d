"""The picture of what a detection took from other frames."""

from collections.abc import Sequence

import cv2
import numpy as np

from vod2.visualization.compare import side_by_side

_MARK, _CONTEXT = (80, 220, 80), 1.6
_COLUMNS = 4


def draw_relations(
    image: np.ndarray,
    box: Sequence[float],
    supports: Sequence[tuple[np.ndarray, Sequence[float], str]],
    title: str = "",
    side: int = 160,
) -> np.ndarray:
    """A detection, and below it the support boxes as square tiles, four in a row.

    Args:
        image: (H, W, 3) uint8 BGR of the key frame.
        box: the detection, xyxy pixels.
        supports: (image (H, W, 3) of the frame, box xyxy pixels, title) of each, in the order of the tiles.
        title: stands over the detection.
        side: pixels of a tile.

    Returns:
        (height, 4 * side, 3) uint8 BGR.

    Example:
        >>> image = np.zeros((48, 64, 3), np.uint8)
        >>> draw_relations(image, [8, 8, 24, 24], [(image, [8, 8, 24, 24], "frame 3: .20")], side=80).shape[1]
        320
    """
    width = _COLUMNS * side
    key = cv2.resize(_mark_box(image, box), (width, max(1, round(image.shape[0] * width / image.shape[1]))))
    rows = [side_by_side([key], [title])]
    tiles = [(tile(frame, frame_box, side), name) for frame, frame_box, name in supports]
    for start in range(0, len(tiles), _COLUMNS):
        row = tiles[start : start + _COLUMNS]
        row += [(np.zeros((side, side, 3), np.uint8), "")] * (_COLUMNS - len(row))
        rows.append(side_by_side([picture for picture, _ in row], [name for _, name in row]))
    return np.concatenate(rows)


def tile(image: np.ndarray, box: Sequence[float], side: int) -> np.ndarray:
    """The surroundings of a box, with the box marked: (side, side, 3); what lies outside of the image is black."""
    x1, y1, x2, y2 = box
    # The surroundings of a box of a few pixels would show nothing else: at least 8 pixels.
    reach = max(_CONTEXT * max(x2 - x1, y2 - y1), 8.0)
    scale = side / reach
    shift = np.array(
        [[scale, 0, side / 2 - scale * (x1 + x2) / 2], [0, scale, side / 2 - scale * (y1 + y2) / 2]], np.float64
    )
    cut = cv2.warpAffine(image, shift, (side, side), flags=cv2.INTER_LINEAR)
    corners = np.array([[x1, y1, 1], [x2, y2, 1]], np.float64) @ shift.T
    return _mark_box(cut, corners.ravel().tolist())


def _mark_box(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    canvas = np.ascontiguousarray(image).copy()
    x1, y1, x2, y2 = (round(value) for value in box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), _MARK, max(1, round(min(canvas.shape[:2]) / 150)))
    return canvas
