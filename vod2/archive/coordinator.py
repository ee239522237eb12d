"""Who does what next, and what is kept of it. The coordinator alone writes the manifest."""

import os
import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from vod2.archive.detector import Layout
from vod2.archive.inputs import Signature
from vod2.archive.manifest import Manifest, Video
from vod2.archive.segments import Cutting
from vod2.archive.tasks import (
    Broken,
    Damaged,
    Done,
    Ended,
    Failed,
    JoinTask,
    Long,
    PartDone,
    SegmentTask,
    Task,
    VideoTask,
    Workers,
)

# So many videos for each worker are read from the manifest at a time; no more are ever held.
_QUEUE_PER_WORKER = 4


@dataclass
class Progress:
    """What has happened since the run began, for a bar; `frames` of the videos that are done."""

    done: int = 0
    failed: int = 0
    frames: int = 0


@dataclass
class _Cut:
    """A video that was cut: what it is joined of, and how many parts are missing."""

    join: JoinTask
    missing: int


class Coordinator:
    """Gives the videos of a manifest to workers until none is pending.

    Args:
        manifest: of the archive.
        workers: do the tasks.
        layout: of the files.
        cutting: how long videos are cut, None for never.
        retries: how often a video is tried again whose failure may pass.
        changed: called after each video that has ended, with the progress and a sentence if it has failed, or "".
    """

    def __init__(
        self,
        manifest: Manifest,
        workers: Workers,
        layout: Layout,
        cutting: Cutting | None = None,
        retries: int = 2,
        changed: Callable[[Progress, str], None] = lambda progress, failure: None,
    ) -> None:
        self.progress = Progress()
        self._manifest, self._workers, self._layout = manifest, workers, layout
        self._cutting, self._retries, self._changed = cutting, retries, changed
        self._stopping = False
        self._queue: deque[Video] = deque()
        self._latest: Video | None = None  # that was read from the manifest
        self._next: deque[Task] = deque()  # of videos that have begun: before all others, so that few are open
        self._flying = 0
        self._seconds: dict[str, float] = {}  # of the videos that have begun
        self._cut: dict[str, _Cut] = {}

    def stop(self) -> None:
        """Begin nothing more; `run` returns when what runs has ended."""
        self._stopping = True

    def run(self) -> None:
        """Until no video is pending, or as `stop` says.

        Raises:
            UserError: no worker can begin.
        """
        while True:
            while self._workers.free and not self._stopping and (task := self._take()) is not None:
                self._begin(task)
            if not self._flying and (self._stopping or not self._has_more()):
                return
            for ended in self._workers.wait(seconds=0.5):
                self._flying -= 1
                self._end(ended)

    def _has_more(self) -> bool:
        return bool(self._next or self._queue or self._fetch())

    def _take(self) -> Task | None:
        if self._next:
            return self._next.popleft()
        if self._queue or self._fetch():
            video = self._queue.popleft()
            return VideoTask(video.id, video.path)
        return None

    def _fetch(self) -> bool:
        self._queue.extend(self._manifest.pending(self._latest, _QUEUE_PER_WORKER * self._workers.count))
        if self._queue:
            self._latest = self._queue[-1]
        return bool(self._queue)

    def _begin(self, task: Task) -> None:
        worker = self._workers.submit(task)
        self._flying += 1
        if isinstance(task, VideoTask):
            self._manifest.start(task.video, worker)
            self._seconds.setdefault(task.video, 0.0)

    def _end(self, ended: Ended) -> None:
        task, reply, worker = ended
        video = task.video
        if video not in self._seconds:
            return  # it has been given up while another of its segments was running
        self._seconds[video] += reply.seconds
        if isinstance(reply, Done):
            self._finish(video, reply, worker)
        elif isinstance(reply, Long):
            self._divide(video, task.path, reply.frames, reply.signature)
        elif isinstance(reply, PartDone):
            self._part_done(video)
        elif isinstance(reply, Damaged):
            self._take_as_a_whole(video, task.path)
        elif isinstance(reply, Failed):
            self._try_again(task, reply.reason, worker)
        elif isinstance(reply, Broken):
            self._give_up(video, task.path, reply.reason, worker)

    def _divide(self, video: str, path: str, frames: int, signature: Signature) -> None:
        assert self._cutting is not None  # else nothing is too long
        segments = tuple(self._cutting.segments(frames))
        self._cut[video] = _Cut(JoinTask(video, path, signature, segments), len(segments))
        self._next.extend(SegmentTask(video, path, signature, segment) for segment in segments)

    def _part_done(self, video: str) -> None:
        cut = self._cut.get(video)
        if cut is None:  # a late part of a video that is damaged
            return
        cut.missing -= 1
        if not cut.missing:
            self._next.append(cut.join)

    def _take_as_a_whole(self, video: str, path: str) -> None:
        if self._cut.pop(video, None) is not None:  # else another segment has said so before
            self._next = deque(task for task in self._next if task.video != video)
            self._next.append(VideoTask(video, path, whole=True))

    def _try_again(self, task: Task, reason: str, worker: str) -> None:
        if isinstance(task, SegmentTask) and task.video not in self._cut:
            return
        failures = self._manifest.again(task.video, reason)
        if failures > self._retries:
            times = "once" if failures == 1 else f"{failures} times"
            self._give_up(task.video, task.path, f"failed {times}, at last: {reason}", worker)
        elif isinstance(task, SegmentTask):
            self._next.append(task)
        else:
            # Also where joining has failed: the parts that are there are not made again.
            self._cut.pop(task.video, None)
            self._next.append(VideoTask(task.video, task.path, whole=isinstance(task, VideoTask) and task.whole))

    def _finish(self, video: str, done: Done, worker: str) -> None:
        result = os.path.relpath(self._layout.result(video), self._layout.output)
        self._manifest.finish(video, done, result, self._seconds[video], worker)
        self.progress.done += 1
        self.progress.frames += done.frames
        self._forget(video)
        self._changed(self.progress, "")

    def _give_up(self, video: str, path: str, reason: str, worker: str) -> None:
        self._manifest.fail(video, reason, worker)
        self.progress.failed += 1
        self._forget(video)
        self._changed(self.progress, reason if path in reason else f"{path}: {reason}")

    def _forget(self, video: str) -> None:
        del self._seconds[video]
        self._cut.pop(video, None)
        self._next = deque(task for task in self._next if task.video != video)
        shutil.rmtree(self._layout.parts(video), ignore_errors=True)
