"""Camera: what it makes of OpenCV's captures."""

import cv2
import numpy as np
import pytest

import vod2.video.camera
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


class Breaking:
    """Captures of one camera, each with a script of its own: x a picture, X a larger one, anything else none."""

    scripts: list[str] = []
    opened = 0

    def __init__(self, source):
        self.left = list(self.scripts[type(self).opened]) if type(self).opened < len(self.scripts) else []
        type(self).opened += 1

    def get(self, key):
        return 1000.0 if key == cv2.CAP_PROP_FPS else 0.0

    def read(self):
        letter = self.left.pop(0) if self.left else "-"
        side = 24 if letter == "x" else 48
        return letter in "xX", np.full((side, 32, 3), 7, np.uint8) if letter in "xX" else None

    def release(self):
        pass


@pytest.fixture
def breaking(monkeypatch):
    made = type("Made", (Breaking,), {})
    monkeypatch.setattr(cv2, "VideoCapture", made)
    monkeypatch.setattr(vod2.video.camera, "_FIRST_PAUSE", 0.01)
    return made


@pytest.mark.parametrize(
    ("scripts", "frames", "reconnections"),
    [
        (["xx", "xx", "x"], "xx-xx-x", 2),
        (["xx", "", "", "x"], "xx-x", 1),
        (["xx-", "xx"], "xx-xx", 1),
    ],
)
def test_a_camera_that_breaks_off_is_opened_again(breaking, scripts, frames, reconnections):
    breaking.scripts = scripts
    with Camera("rtsp://door", patience=3, reconnect=0.3) as camera:
        assert "".join("-" if frame is None else "x" for frame in camera) == frames
        assert camera.reconnections == reconnections and camera.arrived == frames.count("x")
        assert 0 <= camera.delay < 5


def test_without_reconnect_it_is_opened_once(breaking):
    breaking.scripts = ["xx", "xx"]
    with Camera("rtsp://door", patience=3) as camera:
        assert len(list(camera)) == 2 and breaking.opened == 1


def test_pauses_grow_until_it_is_given_up(breaking, monkeypatch):
    breaking.scripts = ["x"]
    pauses = []
    monkeypatch.setattr(Camera, "_pause", lambda self, seconds: pauses.append(seconds) or len(pauses) < 12)
    with Camera("rtsp://door", patience=1, reconnect=1e9) as camera:
        assert len(list(camera)) == 1
    assert pauses == [0.01 * 2**k for k in range(12)]


def test_a_camera_that_is_closed_is_not_waited_for(breaking):
    breaking.scripts = ["x"]
    with Camera("rtsp://door", patience=1, reconnect=1000.0) as camera:
        assert next(iter(camera)) is not None
    camera._thread.join(5.0)
    assert not camera._thread.is_alive()


def test_pictures_of_another_size_are_another_video(breaking):
    breaking.scripts = ["xx", "XX"]
    with (
        pytest.raises(VideoError, match="32 x 48 pixels now, before they had 32 x 24"),
        Camera("rtsp://door", patience=1, reconnect=1.0) as camera,
    ):
        list(camera)
