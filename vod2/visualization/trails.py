"""Where the tracked objects have been."""

from collections import deque

import cv2
import numpy as np

from vod2.d2 import Instances
from vod2.visualization.draw import class_color


class Trails:
    """Draws the way of each track's centre over the last `length` frames, in the colour of its class.

    A track that has not been seen for that long is forgotten, so that nothing grows with the video.

    Example:
        >>> trails = Trails(length=10)
        >>> trails.draw(np.zeros((48, 64, 3), np.uint8), Instances((48, 64))).shape
        (48, 64, 3)
    """

    def __init__(self, length: int = 30) -> None:
        if length < 1:
            raise ValueError(f"Trails: expected a length of at least 1 frame, got {length}")
        self.length = length
        self._frame = 0
        self._tracks: dict[int, deque[tuple[int, int, int]]] = {}  # track -> (frame, x, y)
        self._colors: dict[int, tuple[int, int, int]] = {}

    def __len__(self) -> int:
        """The number of tracks that are remembered."""
        return len(self._tracks)

    def draw(self, image: np.ndarray, instances: Instances) -> np.ndarray:
        """Take in the next frame and draw the trails that end in it.

        Args:
            image: (H, W, 3) uint8 BGR; it is left as it is.
            instances: pred_boxes (xyxy pixels), pred_classes and track_ids (-1 is no track), on the CPU; without
                track_ids nothing is drawn.

        Returns:
            (H, W, 3) uint8 BGR, a new array.
        """
        canvas = np.ascontiguousarray(image).copy()
        current = self._extend(instances) if instances.has("track_ids") else []
        line = max(1, round(min(canvas.shape[:2]) / 300))
        for track in current:
            points = np.array([point[1:] for point in self._tracks[track]], dtype=np.int32)
            cv2.polylines(canvas, [points], isClosed=False, color=self._colors[track], thickness=line)
        self._forget()
        return canvas

    def _extend(self, instances: Instances) -> list[int]:
        centers = instances.pred_boxes.get_centers().round().int().tolist()
        tracks, labels = instances.track_ids.tolist(), instances.pred_classes.tolist()
        for track, label, (x, y) in zip(tracks, labels, centers, strict=True):
            if track >= 0:
                self._tracks.setdefault(track, deque()).append((self._frame, x, y))
                self._colors[track] = class_color(label)
        # By number, so that of two trails the same one always lies on top.
        return sorted({track for track in tracks if track >= 0})

    def _forget(self) -> None:
        self._frame += 1
        # A list, because tracks are deleted on the way.
        for track, points in list(self._tracks.items()):
            while points and points[0][0] <= self._frame - self.length:
                points.popleft()
            if not points:
                del self._tracks[track], self._colors[track]
