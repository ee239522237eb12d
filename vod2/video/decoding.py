"""All frames of a video file that can be read, and an account of those that cannot."""

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, NamedTuple

import av

from vod2.video.seeking import frame_rate, has_times, is_hidden, open_video
from vod2.video.sources import MAX_PIXELS

# A container that goes on failing does not recover.
_PATIENCE = 3
# In a damaged file, a pause of so many seconds and mean steps is a hole, and not the rhythm of a variable rate.
_GAP_SECONDS, _GAP_STEPS = 0.5, 5


class Gap(NamedTuple):
    """Before frame `frame`, as frames come out, `missing` frames are lost."""

    frame: int
    missing: int


State = Literal["ok", "partial", "unreadable"]


class VideoStatus(NamedTuple):
    """How a video could be read.

    Attributes:
        state: "ok", "partial" where frames are missing or damaged, or "unreadable" where there is none.
        frames_read: number of frames that were read; the decoder has patched up some of them if packets are damaged.
        frames_expected: how many there should be, as far as can be known.
        bad_packets: packets that are damaged.
        reason: what is wrong in a sentence, "" if the state is "ok".
    """

    state: State
    frames_read: int
    frames_expected: int | None
    bad_packets: int
    reason: str


class TolerantDecoder:
    """Decodes a video file packet by packet and goes on after damage. It can be iterated once.

    What is noticed: packets that container or decoder call damaged, frames whose packet came to nothing, and a file
    that ends before the time or the number of frames that it promises. MPEG-TS and raw streams promise nothing; in
    Matroska, which has no count, a few lost frames look like a variable rate; and VP8, VP9 and AV1 decode to a wrong
    picture without noticing most errors.

    Attributes:
        gaps: where frames were lost, so far.
        frames_read: frames so far.
        time: seconds from the start of the file to the latest frame, as players show it; never less than that of the
            frame before, also where the file starts over. Where the file has no times, it goes by number and rate.

    Args:
        path: the file.
        rate: frames per second, None for that of `frame_rate`.
        max_pixels: as of `open_video`.

    Raises:
        VideoError: the file is no video.
    """

    def __init__(self, path: str | os.PathLike, rate: Fraction | None = None, max_pixels: int = MAX_PIXELS) -> None:
        self.gaps: list[Gap] = []
        self.frames_read = 0
        self.time = Fraction(0)
        self._path = path
        self._bad: set = set()
        self._missing = 0  # packets that no frame came of
        self._unshown = 0  # packets that are not meant to give a frame
        self._waiting: set[int] = set()  # presentation times of packets whose frame has not come yet
        self._end = self._end_of_all = Fraction(0)  # seconds from the start
        self._latest_end: int | None = None  # of the latest frame, in the stream's unit
        self._container, self._stream = open_video(path, max_pixels)
        self._step = 1 / (rate or frame_rate(path, self._container, self._stream, max_pixels))
        # FFmpeg counts the start of a file in microseconds.
        self._start = Fraction(self._container.start_time or 0, av.time_base)
        self._promised = _promise(self._container, self._stream)
        self._timed = has_times(self._container, self._stream)
        self._failed = 0  # packets since the latest frame

    def __iter__(self) -> Iterator[av.VideoFrame]:
        # Threads that work on several frames at once would report damage late and lose frames with it.
        self._stream.thread_type = "SLICE"
        with self._container:
            for packet in self._packets():
                if packet.stream_index != self._stream.index:
                    continue
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    self._bad.add(self._key(packet.pts))
                    self._failed += 1
                    continue
                for frame in frames:
                    self._account(frame)
                    self._tell_time(frame)
                    self.frames_read += 1
                    yield frame
        self._missing += len(self._waiting) + self._failed * (not self._timed)

    def status(self) -> VideoStatus:
        """What iteration has come to, when it has ended."""
        expected = self.frames_read + self._missing
        count, seconds, of_all = self._promised
        if count is not None:
            expected = max(expected, count - self._unshown)
        elif seconds is not None:
            short = (seconds - (self._end_of_all if of_all else self._end)) / self._step
            # The end of the last frame is only known up to rounding.
            expected += round(short) if short > 1.5 else 0
        bad = len(self._bad)
        if not self.frames_read:
            reason = f"{str(self._path)!r} has no frame that can be decoded" + (": the file is damaged" if bad else "")
            return VideoStatus("unreadable", 0, expected or None, bad, reason)
        wrong = []
        if self.frames_read < expected:
            missing = expected - self.frames_read
            wrong.append(f"{missing} of {expected} frames {'are' if missing > 1 else 'is'} missing")
        if bad:
            wrong.append(f"{bad} packet{'s are' if bad > 1 else ' is'} damaged")
        reason = f"{str(self._path)!r} is damaged or incomplete: {' and '.join(wrong)}" if wrong else ""
        return VideoStatus("partial" if wrong else "ok", self.frames_read, expected, bad, reason)

    def _packets(self) -> Iterator[av.Packet]:
        """All packets of the stream, of all streams where only their common end is known; at last an empty one."""
        # Attached files are streams, too; nothing of them is shown.
        shown = [stream for stream in self._container.streams if stream.type in ("video", "audio")]
        wanted = shown if self._promised.of_all else [self._stream]
        failures = 0
        while failures < _PATIENCE:
            try:
                for packet in self._container.demux(wanted):
                    failures = 0
                    self._register(packet)
                    yield packet
                return
            except av.FFmpegError:
                failures += 1
                self._bad.add(self._key(None))
        # The decoder still holds frames back.
        packet = av.Packet()
        packet.stream = self._stream
        yield packet

    def _register(self, packet: av.Packet) -> None:
        if not packet.size or packet.pts is None:
            return
        start = packet.stream.start_time or 0
        end = (packet.pts - start + (packet.duration or 0)) * packet.time_base
        self._end_of_all = max(self._end_of_all, end)
        if packet.stream_index != self._stream.index:
            return
        self._end = max(self._end, end, (packet.pts - start) * packet.time_base + self._step)
        self._end_of_all = max(self._end_of_all, self._end)
        if packet.is_corrupt:
            self._bad.add(self._key(packet.pts))
        if packet.is_discard or is_hidden(packet, self._stream):
            self._unshown += 1
        elif self._timed:
            self._waiting.add(packet.pts)

    def _account(self, frame: av.VideoFrame) -> None:
        """Look what lies between a frame and the one before it."""
        if frame.is_corrupt:
            self._bad.add(self._key(frame.pts))
        if frame.pts is None or not self._timed:
            lost = self._failed
        else:
            # Packets come in the order of decoding: those of all earlier frames are there already.
            passed = {time for time in self._waiting if time <= frame.pts}
            self._waiting -= passed
            assert frame.time_base is not None  # a decoder sets it
            lost = max(len(passed - {frame.pts}), self._hole(frame.pts, frame.time_base))
            self._latest_end = frame.pts + (frame.duration or round(self._step / frame.time_base))
        if lost:
            self.gaps.append(Gap(self.frames_read, lost))
        self._missing += lost
        self._failed = 0

    def _tell_time(self, frame: av.VideoFrame) -> None:
        number = self.frames_read + sum(gap.missing for gap in self.gaps)
        if frame.pts is None or frame.time_base is None or not self._timed:
            self.time = max(self.time, number * self._step)
            return
        time = frame.pts * frame.time_base - self._start
        if number and time < self.time:  # files that were joined start over
            self._start += time - self.time - self._step
            time = self.time + self._step
        self.time = max(time, Fraction(0))

    def _hole(self, start: int, unit: Fraction) -> int:
        """How many frames would fit between a frame and the one before, if the file is damaged and it is long."""
        if self._latest_end is None or not self._bad:
            return 0
        pause = float((start - self._latest_end) * unit)
        return round(pause / self._step) if pause > _GAP_SECONDS and pause > _GAP_STEPS * self._step else 0

    def _key(self, time: int | None) -> int | tuple[str, int]:
        """What makes a packet known again, so that container and decoder do not count it twice."""
        return ("untimed", len(self._bad)) if time is None else time


class _Promise(NamedTuple):
    """What a file says about its length: the number of frames, or the seconds of the video or of all its streams."""

    count: int | None = None  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    seconds: Fraction | None = None
    of_all: bool = False


def _promise(container: av.container.InputContainer, stream: av.VideoStream) -> _Promise:
    names = set(container.format.name.split(","))
    if "avi" in names and stream.frames:
        return _Promise(count=_frames_in_index(stream) or stream.frames)
    if "mp4" in names and stream.frames:
        return _Promise(count=stream.frames)
    if not names & {"mp4", "matroska", "webm", "flv", "asf"}:  # FFmpeg makes up the length of others from their size
        return _Promise()
    if "asf" in names and not has_times(container, stream):  # where its last frame ends is a guess, too
        return _Promise()
    # These say when the video ends, also where its first frame comes later than 0.
    start = Fraction(container.start_time or 0, av.time_base)
    stream_start = (stream.start_time or 0) * (stream.time_base or 0)
    if stream.duration and stream.time_base:
        seconds = stream.duration * stream.time_base
        return _Promise(seconds=seconds if "mp4" in names else seconds - stream_start)
    if "flv" in names and container.duration:
        return _Promise(seconds=Fraction(container.duration, av.time_base) - start, of_all=True)
    # Matroska's common tag, as "00:00:02.400000000".
    tag = stream.metadata.get("DURATION", "").split(":")
    if len(tag) == 3:
        try:
            hours, minutes, seconds = map(Fraction, tag)
            return _Promise(seconds=3600 * hours + 60 * minutes + seconds - stream_start)
        except ValueError:
            pass
    if not container.duration:
        return _Promise()
    return _Promise(seconds=Fraction(container.duration, av.time_base) - start, of_all=True)


def _frames_in_index(stream: av.VideoStream) -> int | None:
    """How many frames an AVI holds: its header also counts empty chunks, which prolong the frame before."""
    # PyAV 16 has none, nor has a file that was cut off, or only a part of one.
    index = getattr(stream, "index_entries", None)
    if not index:
        return None
    is_whole = index[-1].timestamp + 1 == stream.frames
    return len(index) if is_whole else None
