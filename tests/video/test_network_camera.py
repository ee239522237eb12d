"""Camera with a stream of the network: pictures over HTTP (motion JPEG), which breaks off, stalls, or is gone."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

import vod2.video.camera
from vod2 import VideoError
from vod2.video import Camera

SECOND = 20  # frames


class Stream(BaseHTTPRequestHandler):
    """Gives `server.frames` pictures to each caller, at 20 a second, then goes, or stalls until the server ends."""

    def do_GET(self):
        server = self.server
        server.calls += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(server.frames):
            image = np.full((48, 64, 3), 10 * (number % 20), np.uint8)
            _, encoded = cv2.imencode(".jpg", image)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(encoded)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + encoded.tobytes() + b"\r\n")
            except OSError:  # the caller has gone
                return
            time.sleep(1 / SECOND)
        if server.stalls:
            server.over.wait(20.0)

    def log_message(self, *words):
        """Say nothing."""


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    server.calls, server.frames, server.stalls, server.over = 0, SECOND, False, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def address(server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/door.mjpg"


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
