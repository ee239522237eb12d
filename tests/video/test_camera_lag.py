"""Camera beside a caller who is slower than it."""

import threading
import time

import cv2
import numpy as np
import pytest

from vod2.video import Camera


class LiveCapture:
    """cv2.VideoCapture of a camera of 100 frames a second, which keeps those that nobody has read, as drivers do.

    A frame's value is its number.
    """

    count, length, fps = 0.0, 60, 100.0

    def __init__(self, source):
        self.start, self.number = time.monotonic(), 0

    def get(self, key):
        return {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: self.count}.get(key, 0.0)

    def read(self):
        if self.number >= self.length:
            return False, None
        time.sleep(max(0.0, self.start + self.number / self.fps - time.monotonic()))
        self.number += 1
        return True, np.full((24, 32, 3), self.number - 1, np.uint8)

    def release(self):
        pass


@pytest.fixture
def capture(monkeypatch):
    made = type("Made", (LiveCapture,), {})
    monkeypatch.setattr(cv2, "VideoCapture", made)
    return made


def test_a_slow_caller_gets_the_newest_frame_and_a_mark_for_each_that_he_missed(capture, caplog):
    ages, numbers, index = [], [], -1
    with Camera(0, patience=2) as camera:
        for frame in camera:
            index += 1
            if frame is None:
                continue
            number = int(frame[0, 0, 0])
            assert number == index  # marks count: numbers are those of the camera
            numbers.append(number)
            ages.append(time.monotonic() - camera._capture.start - number / 100)
            assert camera.time == pytest.approx(number / 100, abs=0.15)
            time.sleep(0.1)
        skipped = camera.skipped
    assert len(numbers) < 20 and skipped == numbers[-1] + 1 - len(numbers)
    # Without the thread the last frame that it gets would be seconds old.
    assert max(ages) < 0.4
    assert caplog.text.count("is faster than its frames are taken") == 1


def test_a_quick_caller_misses_nothing(capture, caplog):
    with Camera(0, patience=2) as camera:
        assert [int(frame[0, 0, 0]) for frame in camera] == list(range(60))
    assert camera.skipped == 0 and not caplog.text


def test_a_file_that_opencv_plays_waits_for_its_caller(capture):
    capture.count, capture.fps = 60.0, 1000.0
    found = []
    with Camera("http://host/film.mp4", patience=2) as camera:
        for frame in camera:
            found.append(int(frame[0, 0, 0]))
            time.sleep(0.005)
    assert found == list(range(60)) and camera.skipped == 0


def test_an_error_of_the_reading_thread_is_raised_where_the_frames_are_taken(capture, monkeypatch):
    read = capture.read

    def failing(self):
        if self.number == 3:
            raise RuntimeError("unplugged")
        return read(self)

    monkeypatch.setattr(capture, "read", failing)
    found = []
    with pytest.raises(RuntimeError, match="unplugged"), Camera(0) as camera:
        for frame in camera:
            found.append(int(frame[0, 0, 0]))
    assert found == [0, 1, 2]


def test_leaving_the_block_ends_the_thread(capture):
    before = set(threading.enumerate())
    with Camera(0) as camera:
        next(iter(camera))
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before
    assert list(camera) == []
