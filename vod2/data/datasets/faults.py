"""What a parser finds wrong with a file.

A format is parsed once. Its parser hands every fault to a `Report` and goes on with what is left: a dataset gives it
`refuse`, which stops at the first; a check collects them all.
"""

import math
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from vod2.bounded import shown
from vod2.errors import UserError

MAX_FRAMES = 2**22
"""The most frames of a video, 38 hours of 30 a second: a number in a file may be any, and each frame takes memory."""
MAX_SIDE = 2**31 - 1
"""The most pixels that an image may have from side to side."""

_LARGEST = 2**53  # up to here, a float and an int64 hold every whole number


class Place(NamedTuple):
    """Where something stands.

    Args:
        file: path of the file.
        line: of a text file, from 1; None where it has none.
        entry: in a file without lines, such as "images[3]"; "" for none.

    Example:
        >>> str(Place("gt.txt", 5)), str(Place("set.json", entry="images[3]"))
        ('gt.txt, line 5', 'set.json: images[3]')
    """

    file: str | os.PathLike
    line: int | None = None
    entry: str = ""

    def __str__(self) -> str:
        line = "" if self.line is None else f", line {self.line}"
        return f"{self.file}{line}" + (f": {self.entry}" if self.entry else "")


class Fault(UserError):
    """Something that the format of a file does not have; made by `Fault.at`. Its message is for who loads the file.

    A fault can be made of its message alone, as PyTorch does with an error of a worker process.

    Attributes:
        place: where it stands.
        value: what stands there.
        expected: what should.
        kind: of finding, see `vod2.data.checks.findings.KINDS`.
        frame: name of the video and number from 0 of the frame that it concerns; None for no single one, or where the
            parser does not know.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.place, self.value, self.expected, self.kind = Place(""), message, "", "broken_annotation"
        self.frame: tuple[str, int] | None = None

    @classmethod
    def at(
        cls,
        place: Place,
        value: str,
        expected: str,
        kind: str = "broken_annotation",
        remedy: str = "fix the file",
        frame: tuple[str, int] | None = None,
    ) -> "Fault":
        """A fault; the arguments are its attributes, and what to do.

        Example:
            >>> print(Fault.at(Place("gt.txt", 5), "left is 'x'", "a number"))
            gt.txt, line 5: left is 'x', expected a number: fix the file
        """
        fault = cls(f"{place}: {value}, expected {expected}: {remedy}")
        fault.place, fault.value, fault.expected, fault.kind, fault.frame = place, value, expected, kind, frame
        return fault


Report = Callable[[Fault], None]
"""Takes the faults of a parser."""


def refuse(fault: Fault) -> None:
    """The `Report` of datasets: raises the fault."""
    raise fault


def number(value: object, place: Place, name: str, kind: str = "broken_annotation") -> float:
    """`value` (a number or its text) as a finite float, or a `Fault` that says what `name` is."""
    result = _float(value)
    if math.isfinite(result):
        return result
    bound = "" if math.isnan(result) else f" of at most {sys.float_info.max:.1e}"
    raise Fault.at(place, f"{name} is {shown(value)}", f"a number{bound}", kind)


def _float(value: object) -> float:
    """NaN for what is no number, infinity for what is too large to be a float."""
    # To Python true is an int, but in JSON it is no number.
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan
    except OverflowError:  # an int of more digits than a float can have
        return math.inf


def whole(
    value: object,
    place: Place,
    name: str,
    least: int = -_LARGEST,
    most: int = _LARGEST,
    kind: str = "broken_annotation",
) -> int:
    """`value` (a number or its text, also "7.0") as an int in [least, most], or a `Fault` that says what `name` is."""
    result = _float(value)
    if math.isnan(result):
        raise Fault.at(place, f"{name} is {shown(value)}", "a number", kind)
    if not result.is_integer() or not least <= result <= most:
        # The largest numbers stand for no bound: nobody needs to read them, unless it is what is exceeded.
        bounds = []
        if abs(least) < _LARGEST or result < least:
            bounds.append(f"at least {least}")
        if abs(most) < _LARGEST or result > most:
            bounds.append(f"at most {most}")
        of = f" of {' and '.join(bounds)}" if bounds else ""
        raise Fault.at(place, f"{name} is {shown(value)}", f"a whole number{of}", kind)
    return int(result)


def track_number(value: object, place: Place, name: str, kind: str = "broken_annotation") -> int | None:
    """`value` as `whole` reads it; None where it is negative, by which formats say that there is no track."""
    track = whole(value, place, name, kind=kind)
    return None if track < 0 else track
