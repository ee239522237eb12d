"""A server of vod2.serve in this process, and a client that can send what no browser would."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from vod2.serve import RESULTS, DetectionServer, Job, JobStore, ServerLimits, Watch, Worker


class Answer(NamedTuple):
    """What a server has sent; names of headers in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


class Client:
    """Sends single requests; cookies are not kept."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self.port = port
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str | None) -> Answer:
        """A request as a program sends it; an argument content_type is the header Content-Type, None leaves it out."""
        sent: dict[str, str | None] = {"Host": f"127.0.0.1:{self.port}", **self.headers}
        if body is not None:
            sent["Content-Length"] = str(len(body))
        sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        lines = [
            f"{method} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in sent.items() if value is not None),
        ]
        return self.raw("\r\n".join([*lines, "", ""]).encode() + (body or b""))

    def raw(self, data: bytes) -> Answer:
        """Send bytes, and read to the end."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_answer(connection)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def upload(self, name: str = "cat.mp4", body: bytes = b"moving pictures") -> Answer:
        return self.ask("PUT", f"/api/jobs?name={name}", body)

    def jobs(self) -> list[dict]:
        return self.ask("GET", "/api/jobs").json()["jobs"]

    def wait(self, job_id: str, *states: str, seconds: float = 60) -> dict:
        """The record of a job once it is in one of the states."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            record = next(job for job in self.jobs() if job["id"] == job_id)
            if record["state"] in states:
                return record
            time.sleep(0.02)
        raise AssertionError(f"still {record}")


def read_answer(connection: socket.socket) -> Answer:
    data = b""
    with contextlib.suppress(ConnectionError):
        while block := connection.recv(65536):
            data += block
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]) if first else 0, {name.lower(): value for name, value in pairs}, body)


def write_results(job: Job, watch: Watch) -> str:
    """In place of a detection: every result holds its own name; there are three frames."""
    for _ in watch.frames(range(3), 3):
        pass
    for kind, result in RESULTS.items():
        (job.results / result.file).write_text(kind)
    return ""


@contextlib.contextmanager
def serving(
    folder: Path,
    detect: Callable[[Job, Watch], str] = write_results,
    limits: ServerLimits | None = None,
    needs_token: bool = False,
    host: str = "127.0.0.1",
    names: tuple[str, ...] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[DetectionServer, Client]]:
    """A server on a free port, and a client with its token."""
    store = JobStore(folder, limits or ServerLimits(), clock)
    with DetectionServer((host, 0), store, needs_token, names) as server, Worker(store, detect):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server, Client(server.port, server.access.token)
        finally:
            server.shutdown()
            thread.join()
