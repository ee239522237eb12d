"""A camera of the network: pictures over HTTP (motion JPEG), which breaks off or stalls."""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

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


@contextlib.contextmanager
def streaming() -> Iterator[ThreadingHTTPServer]:
    """A server whose `frames`, `stalls` and `calls` a test sets and reads."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    server.calls, server.frames, server.stalls, server.over = 0, SECOND, False, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


def address(server: ThreadingHTTPServer, user: str = "") -> str:
    return f"http://{user}127.0.0.1:{server.server_address[1]}/door.mjpg"
