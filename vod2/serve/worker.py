"""The thread that detects in the uploaded videos, one after the other."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from vod2.atomic import full_disk_errno
from vod2.errors import UserError
from vod2.serve.jobs import Job, JobStore

_LOGGER = logging.getLogger("vod2.serve")


class Result(NamedTuple):
    """A file that a job writes.

    Args:
        file: its name in `Job.results`, and for whoever downloads it.
        type: MIME type.
        inline: shown by the browser, and not saved.
    """

    file: str
    type: str
    inline: bool = False


RESULTS = {
    "report": Result("report.html", "text/html; charset=utf-8", inline=True),
    "output": Result("detections.mp4", "video/mp4"),
    "json": Result("detections.json", "application/json"),
    "mot": Result("tracks.txt", "text/plain; charset=utf-8"),
}
"""{name in addresses and of the option of `vod2 detect`: file}."""


class CancelledError(Exception):
    """The job is to end."""


class Watch:
    """What a detection tells of its progress, and asks whether to go on.

    Args:
        job: the one that runs.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def check(self) -> None:
        """Raises CancelledError if the job is to end. To be called often."""
        if self._job.stop.is_set():
            raise CancelledError

    def frames(self, frames: Iterable[Any], total: int | None) -> Iterator[Any]:
        """Finished frames as they are, counted; `total` is how many there will be, None if that is unknown."""
        self._job.total = total
        for frame in frames:
            self.check()
            yield frame
            self._job.frames += 1


Detect = Callable[[Job, Watch], str]
"""Writes `RESULTS` of `Job.video` to `Job.results`; returns what was wrong with the video, "" if nothing.

UserError is for the client: one sentence without a path of the server.
"""


class Worker:
    """A context manager: the thread runs inside of the block, and has ended after it.

    Args:
        store: where the jobs come from; the block closes it at its end.
        detect: see `Detect`.
    """

    def __init__(self, store: JobStore, detect: Detect) -> None:
        self._store, self._detect = store, detect
        self._thread = threading.Thread(target=self._run, name="vod2-serve-worker", daemon=True)

    def __enter__(self) -> "Worker":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._store.close()
        self._thread.join()

    def _run(self) -> None:
        while (job := self._store.take()) is not None:
            self._detect_in(job)

    def _detect_in(self, job: Job) -> None:
        try:
            note = self._detect(job, Watch(job))
        except CancelledError:
            self._store.finish(job, "cancelled")
        except UserError as error:
            self._store.finish(job, "failed", " ".join(str(error).split()))
        except Exception as error:  # the next job may be better
            if full_disk_errno(error) is not None:
                _LOGGER.error("job %s: the disk is full", job.id)
                self._store.finish(job, "failed", "the server's disk is full: try again later")
                return
            _LOGGER.exception("job %s failed", job.id)
            self._store.finish(job, "failed", "an error in the server, which its log tells more of")
        else:
            self._store.finish(job, "done", note)
        _LOGGER.info("job %s: %s after %d frames", job.id, job.state, job.frames)
