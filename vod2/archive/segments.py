"""Cutting long videos so that every frame keeps its window, and joining the results of the segments.

A frame t looks at frames [t - before, t + after]. Segment k reads frames [begin, end); those of them whose window lies
inside, [first, last), are in its part file. Neighbouring parts share some frames, by which their tracks are joined.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch

from vod2.archive.results import FrameRecord, read_records
from vod2.archive.tasks import Segment
from vod2.d2 import Boxes, pairwise_iou
from vod2.errors import UserError
from vod2.modeling import PixelAggregator, VideoDetector
from vod2.modeling.linking import continue_tracks
from vod2.temporal import Keyframes, NoWindow, ScheduleUnion, SlidingWindow, SupportSchedule

# Boxes of one class with this IoU, detected in one frame of two segments, are the same one up to rounding.
_SAME_BOX = 0.9


class Reach(NamedTuple):
    """Frames before and after t that the detections of t depend on."""

    before: int
    after: int


def reach_of(schedule: SupportSchedule, model: VideoDetector | None = None) -> Reach | None:
    """How far detections look; None where a frame looks at a sample of the whole video, or of all frames until now.

    Args:
        schedule: of a stream.
        model: one whose supports take from other frames when they enter the memory looks further back.

    Example:
        >>> reach_of(SlidingWindow(18)), reach_of(SlidingWindow(18, 0)), reach_of(Keyframes(10))
        (Reach(before=18, after=18), Reach(before=18, after=0), Reach(before=9, after=0))
    """
    reach = _reach_of_window(schedule)
    if reach is None or model is None or not _supports_look_back(model):
        return reach
    # The oldest support entered the memory with the window of the frame that was detected just before it came:
    # after + 1 frames earlier, and `before` frames back from there.
    return Reach(2 * reach.before + reach.after + 1, reach.after)


def _reach_of_window(schedule: SupportSchedule) -> Reach | None:
    if isinstance(schedule, NoWindow):
        return Reach(0, 0)
    if isinstance(schedule, SlidingWindow):
        return Reach(schedule.radius, schedule.lookahead)
    if isinstance(schedule, Keyframes):
        return Reach(schedule.interval - 1, 0)
    if isinstance(schedule, ScheduleUnion):
        parts = [_reach_of_window(part) for part in schedule.schedules]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return Reach(max(part.before for part in known), max(part.after for part in known))
    return None


def _supports_look_back(model: VideoDetector) -> bool:
    aggregator = model.pixel_aggregator
    if aggregator is None or aggregator.per_key_frame:
        return False
    return type(aggregator).support_features is not PixelAggregator.support_features


class Cutting(NamedTuple):
    """How videos are cut.

    Args:
        frames: most frames of a segment.
        overlap: least frames that two neighbouring segments share.
        reach: of a frame.
        period: segments begin at a multiple of it, where the schedule counts frames.
    """

    frames: int
    overlap: int
    reach: Reach
    period: int = 1

    @property
    def step(self) -> int:
        """Frames from the beginning of a segment to that of the next."""
        return (self.frames - self.overlap) // self.period * self.period

    def check(self, linked: bool) -> None:
        """Raises UserError if some frame would lose a part of its window, or tracks could not be joined.

        Args:
            linked: whether boxes get tracks: segments must then share a frame with its full window in both.
        """
        before, after = self.reach
        least = before + after + int(linked)
        if self.overlap < least:
            why = f"a frame looks at {before} frames before it and {after} after it"
            why += ", and tracks are joined over a frame that both segments have" if linked else ""
            raise UserError(f"--overlap is {self.overlap}, expected at least {least}: {why}")
        if self.step < 1:
            raise UserError(
                f"--segment-frames is {self.frames}, expected at least {self.overlap + self.period}: the overlap of "
                f"{self.overlap} frames and {self.period} more"
            )

    def segments(self, length: int) -> list[Segment]:
        """Of a video of `length` frames; one for a video that is no longer than a segment.

        Example:
            >>> [tuple(one) for one in Cutting(10, 4, Reach(2, 2)).segments(18)]
            [(0, 10, 0, 8), (6, 16, 8, 14), (12, 18, 14, 18)]
        """
        segments = []
        begin = 0
        while True:
            end = min(begin + self.frames, length)
            first = begin + self.reach.before if begin else 0
            last = end - self.reach.after if end < length else length
            segments.append(Segment(begin, end, first, last))
            if end == length:
                return segments
            begin += self.step


def join(parts: Sequence[Path], segments: Sequence[Segment]) -> Iterator[FrameRecord]:
    """The records of a video, each frame once, with tracks that go on from part to part; holds the shared frames.

    A frame that two parts have comes from the first in the first half of what they share, and else from the second:
    tracks are less sure near their ends. Tracks are continued as in `OnlineLinker`.

    Raises:
        ValueError: a part does not have the frames of its segment.
    """
    fresh = count()
    tail: list[FrameRecord] = []  # of the part before, what the next one has, too; with tracks of the video
    for number, (path, segment) in enumerate(zip(parts, segments, strict=True)):
        following = segments[number + 1].first if number + 1 < len(segments) else segment.last
        # What two parts share is [first of the later one, last of the earlier one).
        emit_from = _middle(segment.first, segment.first + len(tail))
        emit_to = _middle(following, segment.last)
        kept: list[FrameRecord] = []
        for record in _renamed(_complete(path, segment), tail, fresh):
            if emit_from <= record.frame_index < emit_to:
                yield record
            if record.frame_index >= following:
                kept.append(record)
        tail = kept


def _middle(first: int, last: int) -> int:
    return (first + last + 1) // 2


def _complete(path: Path, segment: Segment) -> Iterator[FrameRecord]:
    expected = segment.first
    for record in read_records(path):
        if record.frame_index != expected:
            raise ValueError(f"{path} has frame {record.frame_index} where frame {expected} was expected")
        expected += 1
        yield record
    if expected != segment.last:
        raise ValueError(f"{path} ends before frame {expected}, expected {segment.last - segment.first} frames")


def _renamed(
    records: Iterator[FrameRecord], tail: Sequence[FrameRecord], fresh: Iterator[int]
) -> Iterator[FrameRecord]:
    """The records of a part with the tracks of the video; `tail` are those of its first frames in the part before."""
    head = [next(records) for _ in tail]
    if not head or head[0].track_ids is None:
        names: dict[int, int] = {}
    else:
        known = [_same_boxes(now, before) for now, before in zip(head, tail, strict=True)]
        names = continue_tracks(known, [dict(enumerate(record.track_ids or [])) for record in head], fresh)
    for record in _chain(head, records):
        if record.track_ids is not None:
            for track in record.track_ids:
                if track not in names:
                    names[track] = next(fresh)
            record.track_ids = [names[track] for track in record.track_ids]
        yield record


def _chain(head: Sequence[FrameRecord], rest: Iterator[FrameRecord]) -> Iterator[FrameRecord]:
    yield from head
    yield from rest


def _same_boxes(now: FrameRecord, before: FrameRecord) -> dict[int, int]:
    """{row of `now`: track in `before`} of the boxes that both records of a frame have, the most alike first."""
    assert before.track_ids is not None
    if not now.boxes or not before.boxes:
        return {}
    iou = pairwise_iou(Boxes(torch.tensor(now.boxes)), Boxes(torch.tensor(before.boxes)))
    iou[torch.tensor(now.labels)[:, None] != torch.tensor(before.labels)[None]] = 0
    found: dict[int, int] = {}
    used: set[int] = set()
    rows, columns = (iou >= _SAME_BOX).nonzero(as_tuple=True)
    for pair in iou[rows, columns].argsort(descending=True, stable=True).tolist():
        row, column = int(rows[pair]), int(columns[pair])
        if row not in found and column not in used:
            found[row] = before.track_ids[column]
            used.add(column)
    return found
