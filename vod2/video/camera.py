"""Frames from a camera, or from an address that OpenCV plays."""

import time
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType

import cv2
import numpy as np

from vod2.errors import VideoError

_UNKNOWN_FPS = 25.0


class Camera:
    """(H, W, 3) uint8 BGR frames as they arrive, and None where some were lost; a context manager.

    Attributes:
        fps: frames per second that the camera promises, 25 where it says nothing.
        size: (width, height) in pixels.
        frame_count_hint: None: nobody knows when it ends.

    Example:
        >>> with Camera(0) as camera:  # doctest: +SKIP
        ...     for frame in camera: ...
    """

    frame_count_hint = None

    def __init__(self, source: int | str, patience: int = 25) -> None:
        """Open the camera and take a frame.

        Args:
            source: number of a camera from 0, or an address such as rtsp://...
            patience: after this many failures to read in a row, one frame's time apart, the stream is over.

        Raises:
            VideoError: there is no such camera, or it gives no frame.
        """
        self.source, self.patience = source, patience
        self._capture = cv2.VideoCapture(source)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = Fraction(fps if 0 < fps <= 1000 else _UNKNOWN_FPS).limit_denominator(1001)
        is_read, first = self._capture.read()
        if not is_read:
            self._capture.release()
            raise VideoError(
                f"camera {source!r} gives no picture: expected the number of a camera from 0, or its address"
            )
        self._first: np.ndarray | None = first
        self.size = (first.shape[1], first.shape[0])

    def __enter__(self) -> "Camera":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[np.ndarray | None]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        failures = 0
        while failures < self.patience:
            is_read, frame = self._capture.read()
            if not is_read:
                failures += 1
                time.sleep(float(1 / self.fps))
                continue
            if failures:
                yield None
            failures = 0
            yield frame
