#!/usr/bin/env python3
"""What an archive will take: hours, idle workers at the end, storage, writes of the manifest, money; by simulation.

    python tools/plan_archive.py --videos 10000000 --workers 1000 --frames-per-second 60 --price 2

Lengths of videos are drawn from a log-normal distribution, and given to the workers as tools/detect_archive.py does:
the largest first, or, for comparison, as they come. Measure --frames-per-second with a few hundred of your own videos.
"""

import argparse
import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Assumptions(NamedTuple):
    """Of the archive and of the workers.

    Args:
        videos: how many.
        minutes: mean length of a video.
        spread: standard deviation of the logarithm of the length; the longest of many is far beyond the mean.
        longest: hours; longer ones are cut down to it.
        rate: frames a second of the videos.
        workers: how many.
        speed: frames a second that a worker detects in, decoding included.
        segment: frames of a segment, 0 for none.
        overlap: frames that two segments share.
        per_video: seconds that a video costs beside its frames: opening it, reading its packets, its result file.
        start: seconds until a worker has loaded its model.
        deaths: of a worker in an hour.
        bytes_per_frame: of results.
        price: of a worker for an hour.
    """

    videos: int
    minutes: float
    spread: float
    longest: float
    rate: float
    workers: int
    speed: float
    segment: int
    overlap: int
    per_video: float
    start: float
    deaths: float
    bytes_per_frame: float
    price: float


class Plan(NamedTuple):
    """What comes of it; `hours` until the last worker has ended, `busy` the share of the workers' time that is work."""

    tasks: int
    frames: float
    hours: float
    hours_unsorted: float
    busy: float
    redone: float
    writes_per_second: float
    terabytes: float
    cost: float


def plan(given: Assumptions, seed: int = 0) -> Plan:
    """Simulate the archive once."""
    rng = np.random.default_rng(seed)
    # The mean of a log-normal distribution is exp(mu + sigma^2 / 2).
    mu = np.log(given.minutes * 60) - given.spread**2 / 2
    seconds = np.minimum(rng.lognormal(mu, given.spread, given.videos), given.longest * 3600)
    frames = np.maximum(seconds * given.rate, 1)
    tasks = task_seconds(frames, given)
    hours = makespan(np.sort(tasks)[::-1], given.workers, given.start) / 3600
    unsorted = makespan(rng.permutation(tasks), given.workers, given.start) / 3600
    work = tasks.sum() / 3600
    # A death loses half of the task that it hits, and hits long ones more often, and the start of the next worker.
    lost = (tasks**2).sum() / tasks.sum() / 2 + given.start
    redone = given.deaths * lost / 3600
    hours, unsorted = hours * (1 + redone), unsorted * (1 + redone)
    return Plan(
        tasks=len(tasks),
        frames=frames.sum(),
        hours=hours,
        hours_unsorted=unsorted,
        busy=work / (hours * given.workers),
        redone=redone,
        writes_per_second=2 * given.videos / (hours * 3600),
        terabytes=frames.sum() * given.bytes_per_frame / 1e12,
        cost=hours * given.workers * given.price,
    )


def task_seconds(frames: np.ndarray, given: Assumptions) -> np.ndarray:
    """Seconds of every task: of a video, or of each segment of a long one, whose overlap is detected twice.

    Args:
        frames: (V,) of each video.
        given: speed, segment, overlap, per_video.
    """
    if not given.segment:
        return frames / given.speed + given.per_video
    is_long = frames > given.segment
    short = frames[~is_long] / given.speed + given.per_video
    step = given.segment - given.overlap
    counts = np.ceil((frames[is_long] - given.overlap) / step).astype(np.int64)
    # Each segment of a video gets its equal share of it, and the overlap.
    shares = (frames[is_long] - given.overlap) / counts + given.overlap
    return np.concatenate([short, np.repeat(shares, counts) / given.speed + given.per_video])


def makespan(tasks: np.ndarray, workers: int, start: float = 0.0) -> float:
    """Seconds until all tasks are done if each worker takes the next one as soon as it is free.

    Example:
        >>> makespan(np.array([1.0, 1.0, 2.0]), 2), makespan(np.array([2.0, 1.0, 1.0]), 2)
        (3.0, 2.0)
    """
    free = [start] * workers  # when each worker is free again: a heap
    for seconds in tasks.tolist():
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind, default, text in (
        ("videos", int, 10_000_000, "how many videos"),
        ("minutes", float, 1.0, "mean length of a video"),
        ("spread", float, 1.5, "standard deviation of the logarithm of the length"),
        ("longest", float, 24.0, "hours of the longest video"),
        ("rate", float, 25.0, "frames a second of the videos"),
        ("workers", int, 1000, "how many workers"),
        ("frames-per-second", float, 60.0, "that a worker detects in, decoding included"),
        ("segment-frames", int, 0, "as of tools/detect_archive.py"),
        ("overlap", int, 36, "as of tools/detect_archive.py"),
        ("per-video", float, 0.5, "seconds of a task beside its frames"),
        ("start", float, 60.0, "seconds until a worker has loaded its model"),
        ("deaths", float, 0.02, "of a worker in an hour, such as those of spot instances"),
        ("bytes-per-frame", float, 600.0, "of results: about 150 and 120 a detection, as JSON lines"),
        ("price", float, 2.0, "of a worker for an hour"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=f"{text} (default {default})")
    return parser.parse_args(words)


def main() -> None:
    args = parse_args()
    names = {"speed": "frames_per_second", "segment": "segment_frames"}  # where an option has a longer name
    given = Assumptions(**{name: getattr(args, names.get(name, name)) for name in Assumptions._fields})
    found = plan(given)
    print(f"{given.videos:,} videos, {found.frames:.3g} frames, {found.tasks:,} tasks on {given.workers:,} workers")
    print(f"hours: {found.hours:.1f} with the largest first, {found.hours_unsorted:.1f} as they come")
    print(f"busy: {found.busy:.1%} of the workers' time; {found.redone:.2%} of it is done twice because workers die")
    print(f"manifest: {found.writes_per_second:.0f} writes a second")
    print(f"results: {found.terabytes:.2f} TB in {given.videos:,} files")
    print(f"cost: {found.cost:,.0f} = {found.hours:.1f} hours x {given.workers:,} workers x {given.price:g}")


if __name__ == "__main__":
    main()
