"""What the coordinator asks of a worker, and what a worker answers: plain values that travel between machines."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from vod2.archive.inputs import Signature


class Segment(NamedTuple):
    """A part of a long video. Frames [begin, end) are read, frames [first, last) have their full window in them."""

    begin: int
    end: int
    first: int
    last: int


class VideoTask(NamedTuple):
    """Detect in a whole video, unless it is longer than a segment.

    Args:
        video: its id.
        path: of the video.
        whole: it is not to be cut, however long it is.
    """

    video: str
    path: str
    whole: bool = False


class SegmentTask(NamedTuple):
    """Detect in a segment of a video, which had the `signature` when it was cut."""

    video: str
    path: str
    signature: Signature
    segment: Segment


class JoinTask(NamedTuple):
    """Make the result of a video of those of its segments, in their order."""

    video: str
    path: str
    signature: Signature
    segments: tuple[Segment, ...]


Task: TypeAlias = VideoTask | SegmentTask | JoinTask


class Done(NamedTuple):
    """The result of the video is in its file.

    Args:
        frames: in the file.
        sha256: of the file.
        signature: of the video that was read.
        note: what was wrong with the video though it could be read, in a sentence; "" if nothing.
        seconds: that it took.
    """

    frames: int
    sha256: str
    signature: Signature
    note: str = ""
    seconds: float = 0.0


class Long(NamedTuple):
    """The video has `frames` frames, more than a segment: it is to be cut. Nothing has been detected."""

    frames: int
    signature: Signature
    seconds: float = 0.0


class PartDone(NamedTuple):
    """The part file of a segment is there."""

    seconds: float = 0.0


class Damaged(NamedTuple):
    """A frame of a segment cannot be read: frames are only numbered by decoding the video from its beginning."""

    seconds: float = 0.0


class Broken(NamedTuple):
    """The video is broken: to try again would change nothing."""

    reason: str
    seconds: float = 0.0


class Failed(NamedTuple):
    """It went wrong for a reason that may pass, such as a worker that died or memory that ran out."""

    reason: str
    seconds: float = 0.0


Reply: TypeAlias = Done | Long | PartDone | Damaged | Broken | Failed


class Runner(Protocol):
    """What a worker holds: a model, and how tasks are done with it."""

    def run(self, task: Task) -> Reply:
        """Do it. Errors are replies."""


MakeRunner: TypeAlias = Callable[[str], Runner]
"""Called once in each worker with its device, such as "cuda:1"; a UserError of it ends the whole run."""


class Ended(NamedTuple):
    """A task that a worker has finished, or that it died of; `worker` is host:process."""

    task: Task
    reply: Reply
    worker: str


class Workers(Protocol):
    """Processes with one runner each, here or on a cluster.

    Attributes:
        count: how many.
    """

    count: int

    @property
    def free(self) -> int:
        """How many have a runner and nothing to do."""

    def submit(self, task: Task) -> str:
        """Give a task to a free worker; returns the worker's name, host:process."""

    def wait(self, seconds: float) -> list[Ended]:
        """Wait at most so long for anything to happen; what has ended. Workers that died are replaced.

        Raises:
            UserError: no worker can make a runner.
        """

    def close(self) -> None:
        """End all workers at once, whatever they do."""
