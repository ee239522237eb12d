"""Any frame of a video file by its number, exactly.

Frames are numbered in presentation order, from 0. N: frames of the file, M: its keyframes.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition

from vod2.errors import VideoError
from vod2.video.sources import MAX_PIXELS, require_file, require_pixels

Opened = tuple[av.container.InputContainer, av.VideoStream]

# A higher rate is mostly a unit of time that was taken for a rate: it is counted.
_HIGHEST_RATE = 240
# Containers whose packets do not say, or say wrongly, when their frames are shown, and the codecs concerned. AVI stores
# no times; FFmpeg reconstructs them, but not for codecs with frames that are decoded before those shown earlier.
_UNTIMED = {
    "avi": ("h264", "hevc"),
    "asf": ("h264", "hevc", "mpeg1video", "mpeg2video"),
    "mpeg": ("h261", "h263", "h264", "mpeg1video", "mpeg2video", "mpeg4"),
    "mxf": ("h264",),
    "wtv": ("h261", "h263"),  # FFmpeg calls every packet a keyframe
}
# "Packed": a packet holds two frames, and a later one none. DivX wrote it into the header of the stream.
_PACKED = re.compile(rb"DivX\d+(?:b|Build)\d+p")
# Decoders that work around faults of the encoder, which only the first packet names.
_NEED_FIRST_PACKET = ("h264", "mpeg4")


def open_video(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> Opened:
    """The container of a file and its first video stream; the caller closes the container.

    Args:
        path: a regular file.
        max_pixels: the decoder refuses frames that have more.

    Raises:
        VideoError: the file is no video, or an address or a pipe; it has no video stream, or none that can be decoded;
            or its pictures are too large.
    """
    require_file(path)
    try:
        # An absolute path has no colon before a slash: "12:30:05.mp4" would be an address of the protocol "12". Titles
        # may be in any encoding.
        container = av.open(str(Path(path).absolute()), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # the machine is short of something, and the file may be whole
        raise VideoError(
            f"{str(path)!r} cannot be read as a video ({error.strerror}): it is none, or empty, cut off or damaged"
        ) from error
    # The cover of a song is a stream of one picture.
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        container.close()
        raise VideoError(f"{str(path)!r} has no video stream: expected a video file or a folder of images")
    stream = streams[0]
    if stream.codec_context is None:
        container.close()
        raise VideoError(
            f"{str(path)!r} is encoded with a codec that this FFmpeg cannot decode: convert it, to H.264 for example"
        )
    try:
        require_pixels(path, stream.codec_context.width, stream.codec_context.height, max_pixels)
    except VideoError:
        container.close()
        raise
    # A later frame may be larger than the header says.
    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    return container, stream


def frame_rate(
    path: str | os.PathLike,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    max_pixels: int = MAX_PIXELS,
) -> Fraction:
    """Frames per second: what the file says, or where it says nothing or nonsense, the mean of what it holds.

    Recordings of browsers have no rate, and FFmpeg then gives the 1000 units of a second. 25 where there are no times.

    Raises:
        VideoError: the file cannot be read.
    """
    rate = stream.average_rate
    if rate and rate <= _HIGHEST_RATE:
        return Fraction(rate)
    table = read_table(path, max_pixels)
    if table is not None and len(table.times) > 1 and stream.time_base:
        seconds = int(table.times[-1] - table.times[0]) * stream.time_base
        return (Fraction(len(table.times) - 1) / seconds).limit_denominator(1001)
    if stream.frames and stream.duration and stream.time_base:
        return (stream.frames / (stream.duration * stream.time_base)).limit_denominator(1001)
    guessed = stream.guessed_rate
    return Fraction(guessed) if guessed and guessed <= _HIGHEST_RATE else Fraction(25)


class FrameTable(NamedTuple):
    """What the packets of a file say about its frames.

    Args:
        times: (N,) int64 presentation times in `unit`, ascending.
        keys: (M,) int64 numbers of the keyframes, ascending.
        seek_times: (M,) int64 times that a demuxer finds the keyframes at.
        unit: seconds.
    """

    times: np.ndarray
    keys: np.ndarray
    seek_times: np.ndarray
    unit: Fraction

    def is_regular(self, fps: Fraction) -> bool:
        """Whether frame k is shown k / fps after the first, within a tenth of a frame."""
        expected = np.arange(len(self.times))
        frames = (self.times - self.times[:1]) * float(self.unit * fps)
        return bool(np.all(np.abs(frames - expected) <= 0.1))


def read_table(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> FrameTable | None:
    """Read all packets of a file, without decoding them; None if they do not tell when their frames are shown.

    Raises:
        VideoError: the file cannot be read.
    """
    container, stream = open_video(path, max_pixels)
    with container:
        if not has_times(container, stream):
            return None
        try:
            packets = [
                (packet.pts, packet.dts, packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.size and not packet.is_discard and not is_hidden(packet, stream)
            ]
        except av.FFmpegError as error:
            raise VideoError(f"{str(path)!r} cannot be read as a video ({error.strerror})") from error
    timed = [(pts, dts, is_keyframe) for pts, dts, is_keyframe in packets if pts is not None]
    if len({pts for pts, _, _ in timed}) != len(packets):
        return None
    timed.sort(key=lambda packet: packet[0])  # in the order in which they are shown
    times, keys, seek_times = [], [], []
    for number, (pts, dts, is_keyframe) in enumerate(timed):
        times.append(pts)
        if is_keyframe:
            keys.append(number)
            # Demuxers look for the last keyframe at or before a time, some by decoding time and some by presentation
            # time.
            seek_times.append(pts if dts is None else min(pts, dts))
    unit = stream.time_base or Fraction(1, av.time_base)
    return FrameTable(np.array(times, np.int64), np.array(keys, np.int64), np.array(seek_times, np.int64), unit)


def has_times(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the presentation times of packets can be relied on."""
    codec = stream.codec_context.name
    if codec == "mpeg4" and _is_packed(container, stream):
        return False
    return not any(codec in _UNTIMED.get(name, ()) for name in container.format.name.split(","))


def _is_packed(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether packets hold two frames of MPEG-4: DivX says so in the header, which may be the first packet."""
    if _PACKED.search(stream.codec_context.extradata or b""):
        return True
    # Opened again: `container` stays where it is.
    with av.open(container.name, metadata_errors="replace") as again, contextlib.suppress(av.FFmpegError):
        for packet in again.demux(again.streams[stream.index]):
            return _PACKED.search(bytes(packet)) is not None
    return False


def is_hidden(packet: av.Packet, stream: av.VideoStream) -> bool:
    """Whether the packet is one of VP8 that is only referred to, and never shown."""
    return stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10


def _number(frame: av.VideoFrame, table: FrameTable) -> int | None:
    """The number of a decoded frame, None if no packet announced it."""
    if frame.pts is None:
        return None
    number = int(np.searchsorted(table.times, frame.pts))
    return number if number < len(table.times) and table.times[number] == frame.pts else None


def _decode_first_packet(container: av.container.InputContainer, stream: av.VideoStream) -> None:
    """Seeking throws the frame away; what the decoder has learnt of the encoder stays."""
    with contextlib.suppress(av.FFmpegError):
        for packet in container.demux(stream):
            packet.decode()
            return


class FrameCursor:
    """A decoder somewhere in a video file. It goes forward where it can and seeks a keyframe where that is shorter.

    One thread may use it at a time. In a forked process it opens the file again, since it would share its position in
    the file with its parent.

    Args:
        path: the file.
        table: of `read_table`; with None, a frame is reached by decoding all that come before it.
        max_pixels: as of `open_video`.
    """

    def __init__(self, path: str | os.PathLike, table: FrameTable | None, max_pixels: int = MAX_PIXELS) -> None:
        self._path = path
        self._table = table
        self._max_pixels = max_pixels
        self._process = os.getpid()
        self._container: av.container.InputContainer | None = None
        self._stream: av.VideoStream | None = None  # of the container
        self._frames: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._position: int | None = None  # number of the frame that came last

    def is_regular(self, fps: Fraction) -> bool:
        """`FrameTable.is_regular`; True where the file does not tell when its frames are shown."""
        return self._table is None or self._table.is_regular(fps)

    def close(self) -> None:
        """Let go of the file. The cursor can still be used, and then opens it again."""
        if self._container is not None:
            self._container.close()
        self._process = os.getpid()
        self._container, self._stream, self._position, self._frames = None, None, None, iter(())

    def frame(self, index: int) -> av.VideoFrame | None:
        """Frame `index`, or None if the file ends before it or the decoder leaves it out.

        Raises:
            VideoError: the file cannot be read, or what lies on the way to the frame cannot be decoded.
        """
        if self._process != os.getpid():
            self.close()
        key = self._key_before(index)
        if self._position is None or not key - 1 <= self._position < index:
            self._start(key)
        found = self._forward(index)
        if found is None and key > 0:
            # Some containers seek badly, and some keyframes are only the beginning of a gradual refresh.
            self._start(0)
            found = self._forward(index)
        return found

    def _key_before(self, index: int) -> int:
        """Number of the last keyframe up to `index`, 0 if there is none."""
        if self._table is None:
            return 0
        row = int(np.searchsorted(self._table.keys, index, side="right")) - 1
        return int(self._table.keys[row]) if row >= 0 else 0

    def _start(self, key: int) -> None:
        """Go to a keyframe: in the open file, which takes a fraction of the time, or in one that is opened."""
        is_open = self._container is not None and key > 0
        if not is_open:
            self.close()
            container, stream = open_video(self._path, self._max_pixels)
            # A forked process that closes a decoder with threads would wait for them forever: it does not have them.
            stream.codec_context.thread_count = 1
            self._container, self._stream = container, stream
        assert self._container is not None and self._stream is not None
        self._position = -1
        if key > 0 and self._table is not None:
            time = self._table.seek_times[np.searchsorted(self._table.keys, key)]
            if not is_open and self._stream.codec_context.name in _NEED_FIRST_PACKET:
                _decode_first_packet(self._container, self._stream)
            try:
                self._container.seek(int(time), stream=self._stream)
            except av.FFmpegError:
                self._start(0)
                return
        self._frames = self._decode(self._container, self._stream, self._table, from_start=key == 0)

    # It does not know the cursor: a circle of the two would keep the file open until it is collected.
    @staticmethod
    def _decode(
        container: av.container.InputContainer, stream: av.VideoStream, table: FrameTable | None, from_start: bool
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        count = 0
        decodable = from_start
        for packet in container.demux(stream):
            # Not every container lands on a keyframe, and what precedes one refers to frames that were not decoded.
            decodable = decodable or packet.is_keyframe
            if not decodable:
                continue
            for frame in packet.decode():
                number = count if table is None else _number(frame, table)
                count += 1
                if number is not None:
                    yield number, frame

    def _forward(self, index: int) -> av.VideoFrame | None:
        try:
            for number, frame in self._frames:
                self._position = number
                if number >= index:
                    return frame if number == index else None
        except av.FFmpegError as error:
            self.close()
            raise VideoError(
                f"frame {index} of {str(self._path)!r} cannot be decoded ({error.strerror}): the file may be damaged"
            ) from error
        self.close()
        return None
