"""Several cameras at the same time, with one detector."""

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from tabulate import tabulate
from tqdm import tqdm

from vod2.errors import UserError
from vod2.video import Camera

Watched = Callable[[Iterable[Any], int | None], Iterable[Any]]
"""Gets the finished frames and how many there will be, if that is known; returns the frames as they are."""

_LOOK = 0.2  # seconds between two looks: Ctrl-C comes between them


class CameraJob(Protocol):
    """What is done with one camera; `name` is what messages call it."""

    source: Camera
    name: str


def camera_names(sources: Sequence[str]) -> list[str]:
    """What stands for {name} in the files of cameras: "camera" for one; of several, its number or its place.

    Example:
        >>> camera_names(["rtsp://door/1"]), camera_names(["0", "rtsp://door/1"])
        (['camera'], ['camera0', 'camera_2'])
    """
    if len(sources) == 1:
        return ["camera"]
    names = []
    for place, source in enumerate(sources, start=1):
        # An address is no name of a file, and may hold a password.
        names.append(f"camera{source}" if source.isdigit() else f"camera_{place}")
    return names


def run_together(jobs: Sequence[Any], work: Callable[[Any, Watched], None]) -> None:
    """Run each job in a thread of its own until all cameras have ended; Ctrl-C ends all, with what there is.

    A camera that fails leaves the others alone.

    Args:
        jobs: as `CameraJob`.
        work: runs a job to the end of its camera.

    Raises:
        UserError: some have failed; told when all have ended. Their own messages come at once.
        KeyboardInterrupt: after Ctrl-C, when all files are whole.
    """
    errors: dict[str, BaseException] = {}
    # Not `Thread.join`: one that Ctrl-C has interrupted takes a thread that still runs to have ended.
    ends = [threading.Event() for _ in jobs]

    def guarded(job: CameraJob, place: int) -> None:
        try:
            work(job, partial(_progress_bar, job.name, place))
        except BaseException as error:
            errors[job.name] = error
            tqdm.write(f"{job.name} has failed: {error}", file=sys.stderr)
        finally:
            job.source.close()
            ends[place].set()

    started: list[threading.Event] = []
    interrupted = False
    try:
        for place, job in enumerate(jobs):
            threading.Thread(target=guarded, args=(job, place)).start()
            started.append(ends[place])
        _wait(started)
    except KeyboardInterrupt:
        interrupted = True
        for job in jobs:
            job.source.close()
        _wait(started)
    print(statistics(jobs), file=sys.stderr)
    bugs = [error for error in errors.values() if not isinstance(error, UserError)]
    if bugs:
        raise bugs[0]
    if errors:
        raise UserError(f"{len(errors)} of {len(jobs)} cameras failed: {'; '.join(map(str, errors.values()))}")
    if interrupted:
        raise KeyboardInterrupt


def _wait(ends: Sequence[threading.Event]) -> None:
    for end in ends:
        while not end.wait(_LOOK):
            pass


def _progress_bar(name: str, place: int, frames: Iterable[Any], total: int | None) -> Iterable[Any]:
    return tqdm(frames, total=total, unit="frame", desc=name, position=place)


def statistics(jobs: Sequence[CameraJob]) -> str:
    """A table: of each camera the frames that came, those left out, the longest wait, and how often it was reopened."""
    rows = []
    for job in jobs:
        camera = job.source
        rows.append([job.name, camera.arrived, camera.skipped, f"{camera.longest_delay:.2f} s", camera.reconnections])
    return tabulate(rows, ["camera", "frames", "left out", "longest wait", "opened again"], disable_numparse=[0])
