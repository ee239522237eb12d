"""Camera with a stream of the network: pictures over HTTP (motion JPEG), which breaks off, stalls, or is gone."""

import time

import pytest

import vod2.video.camera
from helpers.network_camera import SECOND, address, streaming
from vod2 import VideoError
from vod2.video import Camera


@pytest.fixture
def server():
    with streaming() as server:
        yield server


def test_a_stream_that_ends_is_over(server):
    with Camera(address(server), patience=2) as camera:
        frames = [frame for frame in camera if frame is not None]
    assert camera.size == (64, 48) and SECOND - 2 <= len(frames) <= SECOND and server.calls == 1


def test_a_stream_that_breaks_off_goes_on(server, monkeypatch):
    monkeypatch.setattr(vod2.video.camera, "_FIRST_PAUSE", 0.05)
    count, gaps = 0, 0
    with Camera(address(server), patience=2, reconnect=20.0) as camera:
        for frame in camera:
            count, gaps = count + (frame is not None), gaps + (frame is None)
            if count > 2 * SECOND:
                break
    assert camera.reconnections >= 2 and gaps >= 2 and server.calls >= 3


def test_several_streams_at_once(server):
    with Camera(address(server), patience=2) as door, Camera(address(server), patience=2) as gate:
        pairs = list(zip(door, gate, strict=False))
    assert len(pairs) >= SECOND - 2


def test_the_newest_frame_is_taken_of_a_stream_that_is_faster_than_its_caller(server):
    server.frames = 3 * SECOND
    with Camera(address(server), patience=2) as camera:
        for frame in camera:
            if frame is not None:
                time.sleep(0.4)
                assert camera.delay < 0.4
            if camera.time > 1.5:
                break
    assert camera.skipped > 0


def test_a_stream_that_stalls_does_not_keep_its_caller_from_leaving(server):
    server.stalls, server.frames = True, 5
    with Camera(address(server), patience=2) as camera:
        frames = iter(camera)
        assert next(frames) is not None
        begin = time.monotonic()
    assert time.monotonic() - begin < 10


def test_an_address_without_a_server_is_named():
    with pytest.raises(VideoError, match="127.0.0.1:9/door"):
        Camera("http://127.0.0.1:9/door.mjpg")
