"""When the frames of a video that is written are shown."""

import math
from fractions import Fraction

# Of the unit of time: fine enough for the times of any file. MPEG-4 keeps it in 16 bits.
_UNITS_PER_SECOND, _MOST_UNITS = 10_000, 65_535
_SHORTEST = Fraction(1, 1000)  # seconds from one frame to the next: Matroska counts no less


class OutputClock:
    """Places frames on the times that a container can store, each after the one before.

    Attributes:
        unit: seconds, a Fraction; what `place` counts in. A frame at the given rate lasts a whole number of units.
        delay: seconds from the time that was wanted for the latest frame to the one that it got, a Fraction from 0.

    Example:
        >>> clock = OutputClock(Fraction(25), is_timed=True)
        >>> [float(clock.place(time) * clock.unit) for time in (0, 0.04, 0.5, 0.5)]
        [0.0, 0.04, 0.5, 0.501]
    """

    def __init__(self, fps: Fraction, is_timed: bool, has_one_rate: bool = False) -> None:
        """
        Args:
            fps: frames per second, above 0.
            is_timed: `place` is given times.
            has_one_rate: the container only stores frames at multiples of 1 / fps.
        """
        self._fps, self._has_one_rate = fps, has_one_rate
        self._step, rate = 1, fps.numerator
        if is_timed and not has_one_rate:
            self._step = max(1, min(math.ceil(_UNITS_PER_SECOND / rate), _MOST_UNITS // rate))
        self.unit = Fraction(1, rate * self._step)
        self._step *= fps.denominator
        self.delay = Fraction(0)
        self._latest: int | None = None  # when the latest frame is shown, in units

    def place(self, time: Fraction | float | None) -> int:
        """When the next frame is shown, in units.

        Args:
            time: seconds; None is 1 / fps after the frame before, 0 for the first.
        """
        if self._latest is None:
            earliest = 0
        elif self._has_one_rate:
            earliest = self._latest + self._step
        else:
            earliest = self._latest + math.ceil(_SHORTEST / self.unit)
        if time is None:
            wanted = 0 if self._latest is None else self._latest + self._step
        elif self._has_one_rate:
            wanted = round(time * self._fps) * self._step
        else:
            wanted = round(time / self.unit)
        self._latest = max(wanted, earliest)
        self.delay = (self._latest - wanted) * self.unit
        return self._latest
