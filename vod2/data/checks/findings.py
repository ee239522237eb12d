"""What a check of a dataset speaks of: what a dataset holds as it is written, and what is wrong with it."""

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from vod2.atomic import write_json
from vod2.data.datasets.faults import Fault
from vod2.errors import UserError

ERROR, WARNING = "error", "warning"

KINDS: dict[str, str] = {
    "bad_line": "a line of a list or of annotations that has no known form",
    "duplicate_line": "an entry that is listed twice",
    "missing_video": "a listed video that has no folder or file",
    "missing_frame": "a frame of a video that has no file",
    "video_length": "a video with more or fewer frames than its list or annotations say",
    "unreadable_image": "an image that is truncated, empty or no image",
    "unreadable_video": "a video file that cannot be decoded to its end",
    "size_mismatch": "an image of another size than its annotation says",
    "mixed_sizes": "an image of another size than most of its video",
    "missing_annotation": "a listed frame without an annotation file",
    "broken_annotation": "an annotation that is empty, damaged or lacks a value",
    "unknown_class": "an object of a class that the dataset does not have",
    "box_inverted": "a box whose right or lower edge comes before the other",
    "box_degenerate": "a box without area, or with a corner that is no number",
    "box_outside": "a box that leaves its image; by up to one pixel it is a warning",
    "duplicate_track": "a track id that two objects of one frame have",
    "track_class": "an object of another class than most of its track",
    "empty_video": "a video without any object",
}
"""Every kind of finding, and what it means."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        severity: "error" (training stops at it, loses the object, or learns something wrong) or "warning" (it is fixed
            or merely suspicious).
        kind: in `KINDS`.
        file: the file that is at fault.
        value: what was found.
        expected: what should be there.
        line: of a text file, from 1; None where it has none.
        frame: number in its video, from 0; None where it concerns no single frame.
        entries: what `CheckFormat.write_list` has to leave out for it.
    """

    severity: str
    kind: str
    file: str
    value: str
    expected: str
    line: int | None = None
    frame: int | None = None
    entries: tuple[Hashable, ...] = ()


@dataclass
class CheckedObject:
    """An object as it is written: its class, its box (xyxy in pixels) and its track, None where it has none."""

    name: Hashable
    box: tuple[float, float, float, float]
    track: Hashable = None


@dataclass
class CheckedFrame:
    """A frame to check.

    Args:
        index: its number in the video, from 0.
        image: path of its image; of the video file, if the video is one.
        annotation: path of the file that annotates it, for messages.
        objects: as written.
        size: (height, width) in pixels as annotated; None where the annotation does not say.
        entry: stands for it in the list of the dataset; None for a frame that is not listed, but may be a support.
        line: of the annotation file; None where one line is not one frame.
    """

    index: int
    image: str
    annotation: str = ""
    objects: list[CheckedObject] = field(default_factory=list)
    size: tuple[int, int] | None = None
    entry: Hashable = None
    line: int | None = None

    def finding(self, severity: str, kind: str, file: str, value: object, expected: object) -> Finding:
        """A finding of this frame."""
        entries = () if self.entry is None else (self.entry,)
        return Finding(severity, kind, file, str(value), str(expected), self.line, self.index, entries)


@dataclass
class CheckedVideo:
    """A video to check: its frames in order, and what was found while its annotations were read.

    `file` is the video file that the frames are in, None for images.
    """

    name: str
    frames: list[CheckedFrame] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    file: str | None = None


def finding_of(fault: Fault, frame: CheckedFrame | None = None) -> Finding:
    """What a parser has found, as an error of the check.

    Args:
        fault: of the parser.
        frame: the frame that it concerns; None for none, or the one that the fault names.
    """
    # What a parser refuses stops the loader, so every fault is an error.
    file, line = str(fault.place.file), fault.place.line
    value = f"{fault.place.entry}: {fault.value}" if fault.place.entry else fault.value
    if frame is not None:
        entries = () if frame.entry is None else (frame.entry,)
        return Finding(ERROR, fault.kind, file, value, fault.expected, line, frame.index, entries)
    if fault.frame is None:
        return Finding(ERROR, fault.kind, file, value, fault.expected, line)
    # Only the parser of JSON files names frames, and these are the entries of its list (see `CocoVideo`).
    name, index = fault.frame
    return Finding(ERROR, fault.kind, file, value, fault.expected, line, index, (f"{name}/{index:06d}",))


def keep_listed_frames(video: CheckedVideo, ids: frozenset[Hashable] | None) -> CheckedVideo:
    """Take the frames out of a video whose entries are not among `ids`."""
    if ids is not None:
        # Findings of no frame stay: they are of the video or of its annotations.
        left_out = {frame.index for frame in video.frames if frame.entry not in ids}
        video.frames = [frame for frame in video.frames if frame.index not in left_out]
        video.findings = [finding for finding in video.findings if finding.frame not in left_out]
    return video


class CheckFormat(ABC):
    """A layout of datasets, as the walk sees it. Constructors raise a UserError if nothing is there to be checked."""

    name: ClassVar[str]
    options: ClassVar[frozenset[str]] = frozenset()  # keywords of the constructor beside `path`
    source: str = ""  # what is checked, for messages
    boxes_may_leave: ClassVar[bool] = False  # boxes of objects that are partly out of sight are no errors
    classes: Sequence[Any] | None = None  # names that objects may have; None for any

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        """Whether a folder or file looks like this layout."""
        return False

    @abstractmethod
    def videos(self) -> Iterator[CheckedVideo]:
        """Every video. Whatever is wrong with one becomes a finding of it; nothing is raised.

        A video without frames may carry findings that belong to none, such as those of a list.
        """

    def require_list(self) -> None:
        """Raise a UserError if what is checked has no single list that `write_list` could write."""
        return None

    @abstractmethod
    def write_list(self, path: str | os.PathLike, bad: Collection[Hashable]) -> int:
        """Write the list of entries that are not `bad`, atomically, each once; returns how many there are.

        Raises:
            UserError: nothing is left, or the format has no list.
        """


@dataclass
class Example:
    """A frame for the contact sheet, with what was found in it."""

    frame: CheckedFrame
    findings: list[Finding]
    is_video_file: bool = False


@dataclass
class CheckResult:
    """What a walk found, and how much it saw."""

    findings: list[Finding] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    videos: int = 0
    frames: int = 0
    images_read: int = 0
    objects: int = 0

    @property
    def bad_entries(self) -> set[Hashable]:
        """The entries that have an error."""
        # A warning is no reason to leave a frame out.
        return {entry for finding in self.findings if finding.severity == ERROR for entry in finding.entries}

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)


def write_ids(path: str | os.PathLike, ids: list[Hashable], bad: Collection[Hashable], source: str) -> int:
    """Write the `ids` that are not `bad` as a JSON list, each once; returns how many.

    Raises:
        UserError: none is left.
    """
    # A walk may pass an entry twice where a list names it twice.
    good = list(dict.fromkeys(entry for entry in ids if entry not in bad))
    if not good:
        raise UserError(f"{path} is not written: no entry of {source} is without an error")
    write_json(Path(path), good)
    return len(good)
