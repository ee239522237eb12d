"""The uploaded videos, from upload to deletion: who owns which, which is next, and what must go.

All names of files are chosen here. What a client calls a video is only kept to be shown.
"""

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

_LOGGER = logging.getLogger("vod2.serve")

State = Literal["uploading", "waiting", "running", "done", "failed", "cancelled"]
UNFINISHED: tuple[State, ...] = ("uploading", "waiting", "running")

_STORED = 8  # finished jobs that are kept for each place in the queue
_SPARE_BYTES = 2**28  # that an upload leaves on the disk, for the results
_NAME_LENGTH = 120


class ServerLimits(NamedTuple):
    """What a server takes in.

    Args:
        upload_bytes: of one video.
        queue: videos that are uploaded, wait or run at once.
        keep_seconds: from the end of a job to the deletion of its files.
        connections: that are served at once.
    """

    upload_bytes: int = 200 * 2**20
    queue: int = 8
    keep_seconds: float = 3600.0
    connections: int = 32


class RefusedError(Exception):
    """A request that is refused; `status` is the HTTP status, the text is for whoever sent it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Job:
    """One video.

    Attributes:
        id: 32 random hexadecimal digits, also the name of its folder.
        owner: the session that uploaded it.
        name: what the client calls it, for people only: never part of a path.
        folder: of its files.
        state: see `State`.
        frames: finished ones; `total`: as far as is known.
        message: why it failed, or what was wrong with the video.
        ended: time.monotonic() at its end, None before.
        stop: set when it is to end.
    """

    id: str
    owner: str
    name: str
    folder: Path
    state: State = "uploading"
    frames: int = 0
    total: int | None = None
    message: str = ""
    ended: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def video(self) -> Path:
        """The uploaded file."""
        return self.folder / "video"

    @property
    def results(self) -> Path:
        """The folder of what is written about it."""
        return self.folder / "results"

    def record(self) -> dict:
        """What its owner is told."""
        keys = ("id", "name", "state", "frames", "total", "message")
        return {key: getattr(self, key) for key in keys}


class JobStore:
    """All jobs of a server, in the order in which they came. Every method may be called from any thread.

    Args:
        folder: an empty one, which belongs to this store alone.
        limits: see there.
        clock: seconds, for tests.

    Example:
        >>> import tempfile
        >>> store = JobStore(Path(tempfile.mkdtemp()), ServerLimits(queue=1))
        >>> job = store.begin("me", "../cat.mp4", 10)
        >>> job.folder.parent == store.folder, [found["name"] for found in store.records("me")], store.records("you")
        (True, ['../cat.mp4'], [])
    """

    def __init__(self, folder: Path, limits: ServerLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.limits = folder, limits
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._closed = False

    def begin(self, owner: str, name: str, size: int) -> Job:
        """A job whose video of `size` bytes is about to come; `submit` or `delete` must follow.

        Raises:
            RefusedError: there is no place for it.
        """
        limits = self.limits
        if size > limits.upload_bytes:
            raise RefusedError(413, f"a video may have at most {limits.upload_bytes / 2**20:g} MiB")
        with self._changed:
            if self._closed:
                raise RefusedError(503, "the server is shutting down")
            if sum(job.state in UNFINISHED for job in self._jobs.values()) >= limits.queue:
                raise RefusedError(503, f"the queue is full with {limits.queue} videos: try again later")
            if len(self._jobs) >= (1 + _STORED) * limits.queue:
                raise RefusedError(503, "too many results are kept: delete some, or wait until they are deleted")
            if shutil.disk_usage(self.folder).free < size + _SPARE_BYTES:
                raise RefusedError(507, "the server's disk is full: try again later")
            job_id = secrets.token_hex(16)
            job = Job(job_id, owner, displayed_name(name), self.folder / job_id)
            job.results.mkdir(parents=True)
            self._jobs[job_id] = job
        return job

    def submit(self, job: Job) -> None:
        """Its video is there."""
        with self._changed:
            if job.state == "uploading":  # not cancelled in the meantime
                job.state = "waiting"
            self._changed.notify_all()

    def take(self) -> Job | None:
        """The next job to run, waiting for one; None when the store is closed."""
        with self._changed:
            while not self._closed:
                for job in self._jobs.values():
                    if job.state == "waiting":
                        job.state = "running"
                        return job
                self._changed.wait()
        return None

    def finish(self, job: Job, state: State, message: str = "") -> None:
        """Note how a running job has ended. Its video is deleted, and all it wrote unless it is done."""
        with self._changed:
            job.state, job.message, job.ended = state, message, self._clock()
            job.video.unlink(missing_ok=True)
            if state != "done":
                _remove(job.results)
            if job.id not in self._jobs:  # deleted while it ran
                _remove(job.folder)

    def find(self, owner: str, job_id: str) -> Job:
        """A job of this owner.

        Raises:
            RefusedError: there is none of this id, or it is somebody else's.
        """
        with self._changed:
            job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            raise RefusedError(404, "there is no such video: it may have been deleted")
        return job

    def records(self, owner: str) -> list[dict]:
        """What an owner is told of his jobs; `ahead` is the number of videos that come before one that waits."""
        with self._changed:
            records, ahead = [], 0
            for job in self._jobs.values():
                if job.owner == owner:
                    records.append(job.record() | {"ahead": ahead if job.state == "waiting" else 0})
                ahead += job.state in ("running", "waiting")
        return records

    def cancel(self, job: Job) -> None:
        """End a job as soon as may be; one that has ended stays as it is."""
        with self._changed:
            job.stop.set()
            if job.state in ("uploading", "waiting"):
                self.finish(job, "cancelled")

    def delete(self, job: Job) -> None:
        """Forget a job. Its files are deleted now, or if it runs, when it has stopped."""
        with self._changed:
            self.cancel(job)
            self._jobs.pop(job.id, None)
            if job.state != "running":
                _remove(job.folder)

    def sweep(self) -> None:
        """Delete the jobs that ended too long ago."""
        with self._changed:
            now = self._clock()
            for job in list(self._jobs.values()):
                if job.ended is not None and now - job.ended >= self.limits.keep_seconds:
                    self.delete(job)

    def close(self) -> None:
        """Stop what runs, take nothing in, and wake whoever waits in `take`. The folder stays to its maker."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                job.stop.set()
            self._changed.notify_all()


def displayed_name(name: str) -> str:
    """A client's name of a file as it is shown: one line, not too long, without control characters.

    Example:
        >>> displayed_name("a\\x1b[2Jb\\n" + "c" * 3), displayed_name(" ")
        ('a[2Jbccc', 'video')
    """
    printable = "".join(letter for letter in name if letter.isprintable()).strip()
    return printable[:_NAME_LENGTH] or "video"


def _remove(folder: Path) -> None:
    """Delete a folder; what cannot be deleted is told, since its owner relies on it."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        _LOGGER.warning("%s could not be deleted: %s", folder, error.strerror)
