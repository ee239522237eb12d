"""Frames from a camera, or from an address that OpenCV plays."""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import NamedTuple

import cv2
import numpy as np

from vod2.errors import VideoError

logger = logging.getLogger(__name__)

_UNKNOWN_FPS = 25.0
# Frames that may wait, so that a moment in which the caller is slow costs none: a tenth of a second at 30 a second.
_WAITING = 4
_SECONDS_TO_STOP = 2.0
# Between attempts to open an address again: the first pause, which doubles, and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


def without_password(source: int | str) -> int | str:
    """The number or address of a camera, without the user's name and password in it, nor a query, which may have them.

    Example:
        >>> without_password("rtsp://me:secret@door:554/1"), without_password(0)
        ('rtsp://door:554/1', 0)
        >>> without_password("http://door/video.cgi?user=me&pwd=secret")
        'http://door/video.cgi?...'
    """
    if isinstance(source, int) or "://" not in source:
        return source
    scheme, rest = source.split("://", 1)
    # A password may hold any character, an @ or a slash too: what follows the last @ is surely none of it.
    rest = rest.rsplit("@", 1)[-1]
    return f"{scheme}://{re.sub(r'[?].*', '?...', rest, flags=re.DOTALL)}"


class _Arrival(NamedTuple):
    """A frame, how many were lost before it, and when it came (seconds of `time.monotonic`)."""

    frame: np.ndarray
    missing: int
    time: float


class Camera:
    """(H, W, 3) uint8 BGR frames as they arrive, and None for each that was lost; a context manager.

    A thread reads the camera, so that a caller who is slower than it does not fall behind more and more: where more
    than 4 frames wait, he gets the newest, and those before it count as lost. Failures to read in a row count as one
    lost frame. A file that OpenCV plays (an address whose frames can be counted) waits for the caller: all its frames
    come. A stream that breaks off is opened again where `reconnect` says so; what was missed counts as one lost frame.

    Attributes:
        name: what messages call it: the number, or the address without the name and password of a user.
        fps: frames per second that the camera promises, 25 where it says nothing.
        size: (width, height) in pixels.
        frame_count_hint: None: nobody knows when it ends.
        skipped: frames so far that came while the caller was busy, and that he did not get.
        arrived: frames so far that the camera gave.
        reconnections: how often it was opened again.
        delay, longest_delay: seconds that the frame that came last had waited for the caller, and that any had.
        time: seconds from the first frame's arrival to that of the frame that came last, a float.

    Example:
        >>> with Camera(0) as camera:  # doctest: +SKIP
        ...     for frame in camera: ...
    """

    frame_count_hint = None

    def __init__(self, source: int | str, patience: int = 25, reconnect: float = 0.0) -> None:
        """Open the camera and take a frame.

        Args:
            source: number of a camera from 0, or an address such as rtsp://...
            patience: after this many failures to read in a row, one frame's time apart, the stream is over.
            reconnect: seconds for which it is then tried to open it again, after 1, 2, 4 and up to 30 seconds; 0 for
                no attempt. A picture begins this time anew.

        Raises:
            VideoError: there is no such camera, or it gives no frame.
        """
        self.source, self.patience, self.reconnect = source, patience, reconnect
        self.name = without_password(source)
        self._capture = cv2.VideoCapture(source)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = Fraction(fps if 0 < fps <= 1000 else _UNKNOWN_FPS).limit_denominator(1001)
        is_read, first = self._capture.read()
        if not is_read:
            self._capture.release()
            raise VideoError(
                f"camera {self.name!r} gives no picture: expected the number of a camera from 0, or its address"
            )
        self.size = (first.shape[1], first.shape[0])
        self.skipped, self.reconnections, self.arrived = 0, 0, 1
        self.time = self.delay = self.longest_delay = 0.0
        self._began = time.monotonic()
        self._is_file = self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
        self._arrivals: deque[_Arrival] = deque([_Arrival(first, 0, self._began)])
        self._changed = threading.Condition()  # guards what the thread writes: arrivals, the end, its error
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Camera":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream: who iterates gets no further frame. Any thread may call it, and call it again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is None:
            self._capture.release()
        elif self._thread is not threading.current_thread():
            # It lets go of the camera itself: OpenCV must not do so while it reads, which may take long.
            self._thread.join(_SECONDS_TO_STOP)

    def __iter__(self) -> Iterator[np.ndarray | None]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name=f"camera {self.name}", daemon=True)
            self._thread.start()
        while (arrival := self._next()) is not None:
            yield from [None] * arrival.missing
            self.time, self.delay = arrival.time - self._began, time.monotonic() - arrival.time
            self.longest_delay = max(self.longest_delay, self.delay)
            yield arrival.frame

    def _next(self) -> _Arrival | None:
        """The frame that the caller gets next, None at the end; waits for it."""
        with self._changed:
            while not self._arrivals and not self._ended and not self._closed:
                self._changed.wait(0.5)
            if self._closed:
                return None
            if not self._arrivals:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                return None
            if self._is_file or len(self._arrivals) <= _WAITING:
                arrival = self._arrivals.popleft()
                self._changed.notify_all()  # a file that was held up goes on
                return arrival
            waiting = list(self._arrivals)
            self._arrivals.clear()
        skipped = len(waiting) - 1
        if not self.skipped:
            logger.warning(
                "Camera %r is faster than its frames are taken: from now on the newest is taken, and the frames before "
                "it count as lost. Lower the rate of the camera, or take a quicker model",
                self.name,
            )
        self.skipped += skipped
        return waiting[-1]._replace(missing=skipped + sum(arrival.missing for arrival in waiting))

    def _read(self) -> None:
        """What the thread does: it reads until the camera ends or is closed."""
        try:
            failures = 0
            while not self._closed:
                is_read, frame = self._capture.read()
                if is_read:
                    self._require_size(frame)
                    self._put(_Arrival(frame, int(failures > 0), time.monotonic()))
                    failures = 0
                    continue
                failures += 1
                if failures < self.patience:
                    time.sleep(float(1 / self.fps))
                elif self._open_again():
                    failures = 0
                else:
                    return
        except BaseException as error:
            self._error = error  # raised where the frames are taken
        finally:
            self._capture.release()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _open_again(self) -> bool:
        """Open the stream again, with growing pauses; whether it gave a picture in time."""
        if self._is_file or self.reconnect <= 0:
            return False
        pause, give_up = _FIRST_PAUSE, time.monotonic() + self.reconnect
        logger.warning("camera %r gives no picture: it is opened again for %g s", self.name, self.reconnect)
        while time.monotonic() + pause <= give_up and self._pause(pause):
            self._capture.release()
            self._capture = cv2.VideoCapture(self.source)
            is_read, frame = self._capture.read()
            if is_read:
                self.reconnections += 1
                logger.warning("camera %r gives pictures again", self.name)
                self._require_size(frame)
                self._put(_Arrival(frame, 1, time.monotonic()))
                return True
            pause = min(2 * pause, _LONGEST_PAUSE)
        return False

    def _pause(self, seconds: float) -> bool:
        """Wait; False where the camera has been closed meanwhile."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._closed, seconds)

    def _require_size(self, frame: np.ndarray) -> None:
        """Raises VideoError where a picture has another size than those before: they are frames of one video."""
        size = (frame.shape[1], frame.shape[0])
        if size != self.size:
            width, height = self.size
            raise VideoError(
                f"camera {self.name!r} gives pictures of {size[0]} x {size[1]} pixels now, before they had "
                f"{width} x {height}: begin another stream"
            )

    def _put(self, arrival: _Arrival) -> None:
        with self._changed:
            while self._is_file and len(self._arrivals) >= _WAITING and not self._closed:
                self._changed.wait(0.5)
            self._arrivals.append(arrival)
            self.arrived += 1
            self._changed.notify_all()
