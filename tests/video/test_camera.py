"""Camera: what it makes of OpenCV's captures."""

import cv2
import numpy as np
import pytest

from vod2 import VideoError
from vod2.video import Camera


class Capture:
    """Gives a gray frame for every letter x of `script`, and nothing for other letters or after it."""

    script, fps = "", 1000.0
    released = 0

    def __init__(self, source):
        self.left = list(self.script)

    def get(self, key):
        return self.fps if key == cv2.CAP_PROP_FPS else 0.0

    def read(self):
        ok = bool(self.left) and self.left.pop(0) == "x"
        return ok, np.full((24, 32, 3), 7, np.uint8) if ok else None

    def release(self):
        type(self).released += 1


@pytest.fixture
def capture(monkeypatch):
    made = type("Made", (Capture,), {})
    monkeypatch.setattr(cv2, "VideoCapture", made)
    return made


@pytest.mark.parametrize(
    ("script", "frames"), [("x", "x"), ("xxx", "xxx"), ("xx-x", "xx-x"), ("x---x-x", "x-x-x"), ("x-----x", "x")]
)
def test_frames_come_as_they_are_read_with_one_mark_for_each_loss(capture, script, frames):
    """Five failures in a row are the end."""
    capture.script = script
    with Camera(0, patience=5) as camera:
        assert camera.size == (32, 24) and camera.fps == 1000 and camera.frame_count_hint is None
        assert "".join("-" if frame is None else "x" for frame in camera) == frames
    assert capture.released == 1


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), 90000.0])
def test_a_camera_that_does_not_know_its_rate_has_25(capture, fps):
    capture.script, capture.fps = "x", fps
    assert Camera("rtsp://door").fps == 25


def test_a_camera_without_a_picture_is_an_error_that_names_it(capture):
    with pytest.raises(VideoError, match="'rtsp://door' gives no picture"):
        Camera("rtsp://door")
    assert capture.released == 1
