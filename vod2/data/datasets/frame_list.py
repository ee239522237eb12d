"""The parser of ImageNet VID's lists of frames and videos."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from vod2.data.datasets.common import lines_of
from vod2.data.datasets.faults import MAX_FRAMES, Fault, Place, Report, refuse
from vod2.data.datasets.files import leads_out

_FORMS = "'video 1 frame length', 'video first 0 length' or 'video/frame number', like the other lines"


class ListEntry(NamedTuple):
    """A line of a list.

    Args:
        line: its number, from 1.
        text: as it stands there.
        video: name of the video.
        index: of the frame, from 0; None for all frames of the video.
        length: frames of the video; None where the list does not say.
    """

    line: int
    text: str
    video: str
    index: int | None  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    length: int | None


def parse_frame_list(path: str | os.PathLike, split: str, report: Report = refuse) -> list[ListEntry]:
    """The lines of a list, see `vod2.data.datasets.imagenet_vid.read_frame_list`.

    Args:
        path: the list.
        split: which the names of its videos may leave out.
        report: takes the faults; lines with one are left out.

    Raises:
        Fault: the list cannot be read.
    """
    lines = lines_of(path, "the list of frames", refuse)
    # Files often end in blank lines; a blank line in between is a fault.
    while lines and not lines[-1].strip():
        lines.pop()
    fields_of_lines = {number: _fields_of_line(line, split) for number, line in enumerate(lines, start=1)}
    # A list has one form, that of most lines.
    counts = Counter(len(fields) for fields in fields_of_lines.values() if fields is not None)
    field_count = counts.most_common(1)[0][0] if counts else None
    parsed = {}
    for number, fields in fields_of_lines.items():
        if fields is None or len(fields) != field_count:
            place = Place(path, number)
            report(Fault.at(place, f"{lines[number - 1]!r}", _FORMS, "bad_line", "fix the list"))
        elif max(fields[-1], fields[-2] if len(fields) == 4 else 0) > MAX_FRAMES:
            expected = f"at most {MAX_FRAMES} frames of a video"
            report(Fault.at(Place(path, number), f"{lines[number - 1]!r}", expected, "bad_line", "fix the list"))
        elif leads_out(fields[0]):
            expected = "a video in the dataset's folder"
            report(Fault.at(Place(path, number), f"{lines[number - 1]!r}", expected, "bad_line", "fix the list"))
        else:
            parsed[number] = fields

    lists_videos = field_count == 4 and _lists_whole_videos([fields for fields in parsed.values() if len(fields) == 4])
    entries = []
    for number, (video, *numbers) in parsed.items():
        if len(numbers) == 1:
            (index,), length = numbers, None
        else:
            _, index, length = numbers
            if lists_videos:  # the line stands for all frames of the video
                index = None
        entries.append(ListEntry(number, lines[number - 1], video, index, length))
    return entries


def _fields_of_line(line: str, split: str) -> tuple[str, int, int, int] | tuple[str, int] | None:
    """(video, count, frame, length) or (video, frame) of one line of a list, None if it has no known form."""
    # The longer form first, since its lines end in a number, too.
    for count in (3, 1):
        # From the right, as the names of videos may have spaces.
        words = line.strip().rsplit(maxsplit=count)
        name, numbers = "".join(words[:-count]), words[-count:]
        if not name or not all(map(_is_number, numbers)):
            continue
        name = name if name.startswith(f"{split}/") else f"{split}/{name}"
        if count == 3:
            count_, frame_, length = map(int, numbers)
            return name, count_, frame_, length
        # What stands behind the last slash is the frame; the number after it counts the lines.
        video, _, frame = name.rpartition("/")
        return (video, int(frame)) if _is_number(frame) else None
    return None


def _is_number(word: str) -> bool:
    return re.fullmatch("[0-9]{1,9}", word) is not None


def _lists_whole_videos(rows: Sequence[tuple[str, int, int, int]]) -> bool:
    """Lists of frames have a constant 1 where lists of videos count frames; the count of the first video is 1, too."""
    counts = {count for _, count, _, _ in rows}
    return all(frame == 0 for _, _, frame, _ in rows) and (counts != {1} or len(rows) == 1)
