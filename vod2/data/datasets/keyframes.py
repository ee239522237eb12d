"""Tracks that annotation tools keep as keyframes, and their boxes in all frames.

A box is xyxy in any unit; a rotated one is turned by degrees, clockwise in an image, about its centre or corner.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vod2.data.datasets.faults import Place
from vod2.data.datasets.labelled import Box


class Keyframe(NamedTuple):
    """A box of a track in one frame.

    Args:
        place: where it stands.
        frame: its number, from 0.
        box: xyxy, before it is turned.
        rotation: degrees.
        shown: the object is in this frame.
        goes_on: it is in the frames after this one, until the next keyframe.
        occluded: 0 or 1, also in the frames after this one.
    """

    place: Place
    frame: int
    box: Box
    rotation: float = 0.0
    shown: bool = True
    goes_on: bool = True
    occluded: int = 0


class TrackBox(NamedTuple):
    """A box of a track: `made` is "" for one that the file has, "interpolated" or "held" for others."""

    key: Keyframe
    made: str


def fill_track(keys: Sequence[Keyframe], frames: Sequence[int]) -> Iterator[TrackBox]:
    """All boxes of a track in which it is shown.

    Between two keyframes a box moves linearly, and so does its rotation. After the last one it stays where it is, until
    the end of the video: so CVAT and Label Studio show a track that nobody has ended.

    Args:
        keys: in the order of their frames, each frame once.
        frames: numbers of all frames that were annotated, ascending; all `keys` are among them. A track takes time
            for its own boxes, not for all frames.

    Example:
        >>> first, last = Keyframe(Place("a"), 0, (0, 0, 4, 4)), Keyframe(Place("a"), 2, (2, 0, 6, 4), goes_on=False)
        >>> [(found.key.frame, found.key.box, found.made) for found in fill_track([first, last], range(9))][1]
        (1, (1.0, 0.0, 5.0, 4.0), 'interpolated')
    """
    for position, key in enumerate(keys):
        if key.shown:
            yield TrackBox(key, "")
        if not key.goes_on:
            continue
        after = keys[position + 1] if position + 1 < len(keys) else None
        end = len(frames) if after is None else bisect_left(frames, after.frame)
        for number in frames[bisect_left(frames, key.frame) + 1 : end]:
            if after is None:
                yield TrackBox(key._replace(frame=number, shown=True), "held")
            else:
                share = (number - key.frame) / (after.frame - key.frame)
                yield TrackBox(_between(key, after, number, share), "interpolated")


def _between(key: Keyframe, after: Keyframe, frame: int, share: float) -> Keyframe:
    x1, y1, x2, y2 = (a + (b - a) * share for a, b in zip(key.box, after.box, strict=True))
    rotation = key.rotation + (after.rotation - key.rotation) * share
    return key._replace(frame=frame, box=(x1, y1, x2, y2), rotation=rotation, shown=True)


def around(box: Box, rotation: float, about_centre: bool) -> Box:
    """The smallest upright box around one that is turned.

    Args:
        box: xyxy in pixels.
        rotation: degrees, clockwise in an image.
        about_centre: it is turned about its centre, as in CVAT; else about its corner x1, y1, as in Label Studio.

    Example:
        >>> [round(side, 6) for side in around((0, 0, 4, 2), 90, about_centre=False)]
        [-2.0, 0.0, 0.0, 4.0]
    """
    x1, y1, x2, y2 = box
    x, y = ((x1 + x2) / 2, (y1 + y2) / 2) if about_centre else (x1, y1)
    sine, cosine = math.sin(math.radians(rotation)), math.cos(math.radians(rotation))
    corners = [(a - x, b - y) for a in (x1, x2) for b in (y1, y2)]
    across = [x + a * cosine - b * sine for a, b in corners]
    down = [y + a * sine + b * cosine for a, b in corners]
    return min(across), min(down), max(across), max(down)
