"""The HTTP server: addresses, what is checked before anything is done, and the answers.

| request | answer |
|---|---|
| GET / | the page; with ?token=TOKEN the session, too |
| GET /api/jobs | {"server": {..}, "jobs": [..]} of the session |
| PUT /api/jobs?name=NAME | the body is a video: the job as JSON |
| POST /api/jobs/ID/cancel | stops it |
| DELETE /api/jobs/ID | deletes it with its files |
| GET /jobs/ID/RESULT | a file, by its name in `RESULTS` |

Programs send the token as `Authorization: Bearer TOKEN`; all that do share one session.
"""

import io
import json
import logging
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from vod2.atomic import full_disk_errno
from vod2.serve.access import Access
from vod2.serve.connection import Deadline, TimedReader, drain, send
from vod2.serve.jobs import Job, JobStore, RefusedError
from vod2.serve.page import LINK_POLICY, OTHER_POLICY, REPORT_POLICY, page, page_policy
from vod2.serve.worker import RESULTS
from vod2.version import __version__

_LOGGER = logging.getLogger("vod2.serve")

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Connection": "close",
}
_HEADER_SECONDS = 10.0  # in which a client must have sent the request without its body
_BLOCK = 256 * 1024
_ID = "([0-9a-f]{32})"
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_PROGRAMS = "programs"  # the session of all that send the token


class DetectionServer(ThreadingHTTPServer):
    """Serves the page and a store of jobs, each connection in a thread of its own.

    Args:
        address: (host, port) to bind to; port 0 is a free one.
        store: the jobs; `serve_forever` deletes those that are too old.
        needs_token, names: as of `Access`.
        facts: what the page tells of the server: "title", "seconds" and "frames" of a video.

    Attributes:
        access: with the token.
        end_code: of the program, once `serve_forever` is to end by SystemExit; None before.

    Raises:
        OSError: the address cannot be bound to.
    """

    daemon_threads = True  # the end of the program does not wait for clients
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        store: JobStore,
        needs_token: bool = True,
        names: tuple[str, ...] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        # The first address of a name, as clients try it.
        family, *_, resolved = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__((str(resolved[0]), int(resolved[1])), _Handler)
        self.store = store
        self.access = Access(address[0], needs_token, names, self.port)
        limits = store.limits
        self.facts = {"bytes": limits.upload_bytes, "keepMinutes": limits.keep_seconds / 60} | dict(facts or {})
        self.page = page()
        self.page_policy = page_policy(self.page)
        self._places = threading.BoundedSemaphore(store.limits.connections)
        self.end_code: int | None = None

    @property
    def port(self) -> int:
        """The port that the server listens at."""
        return int(self.socket.getsockname()[1])

    def server_bind(self) -> None:
        # HTTPServer would look up the name of the host, which may take long and is not needed.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            request.settimeout(0.5)
            try:
                request.sendall(_BUSY)
            except OSError:
                pass
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def service_actions(self) -> None:
        """Called by `serve_forever` at least twice a second."""
        if self.end_code is not None:
            sys.exit(self.end_code)
        self.store.sweep()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away, or is too slow, is no error of the server.
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            _LOGGER.exception("a request failed")


class _Handler(BaseHTTPRequestHandler):
    server: DetectionServer
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # of what is no HTTP: an answer of HTTP/0.9 would have no headers

    def setup(self) -> None:
        self.connection = self.request
        self._deadline = Deadline(_HEADER_SECONDS)
        self.rfile = io.BufferedReader(TimedReader(self.connection, self._deadline))
        self.wfile = io.BytesIO()  # head of an answer, which `_answer` sends

    def finish(self) -> None:
        self.rfile.close()

    def handle(self) -> None:
        # One request for each connection: what follows a body that was refused is not taken for a request.
        self.handle_one_request()

    def version_string(self) -> str:
        return f"vod2/{__version__}"

    def handle_expect_100(self) -> bool:
        return True  # the body is asked for when the request has been accepted

    def do_GET(self) -> None:
        self._serve(changes=False)

    def do_PUT(self) -> None:
        self._serve(changes=True)

    do_POST = do_DELETE = do_PUT

    def _serve(self, changes: bool) -> None:
        try:
            host = self._header("Host")
            self.server.access.require_host(host)
            if changes:
                self.server.access.require_origin(self._header("Origin"), self._header("Sec-Fetch-Site"), host or "")
            if self._header("Transfer-Encoding") is not None:
                raise RefusedError(411, "chunked bodies are not taken: send a Content-Length")
            self._route()
        except RefusedError as error:
            self._refuse(error.status, str(error))

    def _route(self) -> None:
        path, _, query = self.path.partition("?")
        values = (
            parse_qs(query, keep_blank_values=True, max_num_fields=8, errors="replace") if len(query) < 4096 else {}
        )
        if self.command == "GET" and path == "/":
            self._send_page(values.get("token", [None])[0])
            return
        owner = self._session()
        if self.command == "GET" and path == "/api/jobs":
            self._send_json(200, {"server": self.server.facts, "jobs": self.server.store.records(owner)})
        elif self.command == "PUT" and path == "/api/jobs":
            job = self._take_upload(owner, values.get("name", [""])[0])
            self._send_json(201, job.record())
        elif self.command == "POST" and (match := re.fullmatch(f"/api/jobs/{_ID}/cancel", path)):
            job = self.server.store.find(owner, match[1])
            self.server.store.cancel(job)
            self._send_json(200, job.record())
        elif self.command == "DELETE" and (match := re.fullmatch(f"/api/jobs/{_ID}", path)):
            self.server.store.delete(self.server.store.find(owner, match[1]))
            self._send_json(200, {})
        elif self.command == "GET" and (match := re.fullmatch(f"/jobs/{_ID}/({'|'.join(RESULTS)})", path)):
            self._send_result(self.server.store.find(owner, match[1]), match[2])
        else:
            raise RefusedError(404, "there is no such page")

    def _session(self) -> str:
        """Who asks.

        Raises:
            RefusedError: nobody who may.
        """
        access = self.server.access
        session = access.session_of(self._header("Cookie"))
        if session is not None:
            return session
        scheme, _, token = (self._header("Authorization") or "").partition(" ")
        if access.accepts(token if scheme.lower() == "bearer" else None):
            return _PROGRAMS
        raise RefusedError(401, "open the address with the token that the server has printed")

    def _send_page(self, token: str | None) -> None:
        access, headers = self.server.access, {"Content-Security-Policy": self.server.page_policy}
        if access.session_of(self._header("Cookie")) is None:
            if not access.accepts(token):
                raise RefusedError(401, "open the address with the token that the server has printed")
            if self._header("Sec-Fetch-Site") in ("cross-site", "same-site"):
                # A link of another site: the browser keeps our cookie back, and a new one would replace it.
                address = f"/?token={access.token}" if access.token else "/"
                again = f'<!DOCTYPE html><title>vod2</title><meta http-equiv="refresh" content="0;url={address}">'
                self._answer(200, again.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": LINK_POLICY})
                return
            headers["Set-Cookie"] = access.set_cookie(access.new_session())
        self._answer(200, self.server.page, "text/html; charset=utf-8", headers)

    def _take_upload(self, owner: str, name: str) -> Job:
        """Write the body to a file of a new job."""
        length = self._header("Content-Length") or ""
        if not re.fullmatch("[0-9]{1,15}", length):
            raise RefusedError(411, "the length of the video is missing: send a Content-Length")
        if int(length) == 0:
            raise RefusedError(400, "the file is empty: choose a video")
        job = self.server.store.begin(owner, name, int(length))
        try:
            if (self._header("Expect") or "").lower() == "100-continue":
                self._deadline.set(_HEADER_SECONDS)
                send(self.connection, b"HTTP/1.1 100 Continue\r\n\r\n", self._deadline)
            self._deadline.begin()
            with open(job.video, "xb") as file:
                self._copy_body(file, int(length), job)
        except BaseException as error:
            self.server.store.delete(job)
            if full_disk_errno(error) is not None:
                raise RefusedError(507, "the server's disk is full: try again later") from error
            raise
        self.server.store.submit(job)
        return job

    def _copy_body(self, file: BinaryIO, length: int, job: Job) -> None:
        while length:
            block = self.rfile.read1(min(length, _BLOCK))
            if not block:
                raise RefusedError(400, "the upload broke off: try again")
            if job.stop.is_set():
                raise RefusedError(409, "the upload was cancelled")
            length -= len(block)
            file.write(block)
            self._deadline.moved(len(block))

    def _send_result(self, job: Job, kind: str) -> None:
        result = RESULTS[kind]
        headers = {"Content-Security-Policy": REPORT_POLICY if result.inline else OTHER_POLICY}
        if not result.inline:
            headers["Content-Disposition"] = f'attachment; filename="{result.file}"'
        try:
            file = open(job.results / result.file, "rb")
        except FileNotFoundError:
            raise RefusedError(404, "there is no such result: the video is not done, or it was deleted") from None
        with file:
            if job.state != "done":
                raise RefusedError(404, "there is no such result yet")
            self._answer(200, file, result.type, headers)

    def _send_json(self, status: int, value: Any) -> None:
        self._answer(status, json.dumps(value).encode(), "application/json")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Called for what is no HTTP, with a message that repeats it: that is not sent."""
        self._refuse(code, HTTPStatus(code).phrase)

    def _refuse(self, status: int, text: str) -> None:
        self._answer(status, f"{text}\n".encode(errors="replace"), "text/plain; charset=utf-8")
        drain(self.connection)

    def _answer(self, status: int, body: bytes | BinaryIO, kind: str, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer; `body` may be an open file."""
        length = len(body) if isinstance(body, bytes) else body.seek(0, io.SEEK_END)
        self.send_response(status)
        own = {"Content-Type": kind, "Content-Length": str(length), "Content-Security-Policy": OTHER_POLICY}
        for name, value in (_HEADERS | own | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self._deadline.begin()
        send(self.connection, self.wfile.getvalue(), self._deadline)  # type: ignore[attr-defined]
        if isinstance(body, bytes):
            send(self.connection, body, self._deadline)
            return
        body.seek(0)
        while block := body.read(_BLOCK):
            send(self.connection, block, self._deadline)

    def _header(self, name: str) -> str | None:
        """A header that may be there once.

        Raises:
            RefusedError: it is there twice, so that others may have understood the request differently.
        """
        values = self.headers.get_all(name) or []
        if len(values) > 1:
            raise RefusedError(400, f"the header {name} is there {len(values)} times")
        return values[0] if values else None

    def log_message(self, format: str, *args: Any) -> None:
        # Without the query, in which the token is, and in one line.
        _LOGGER.debug("%s %s", self.command, ascii(urlsplit(getattr(self, "path", "")).path)[:200])
