"""Any frame of a video file by its number, exactly.

Frames are numbered in presentation order, from 0. N: frames of the file, M: its keyframes.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition

from vod2.errors import VideoError

Opened = tuple[av.container.InputContainer, av.VideoStream]


def open_video(path: str | os.PathLike) -> Opened:
    """The container of a file and its first video stream; the caller closes the container.

    Raises:
        VideoError: the file is no video, or has no video stream.
    """
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise VideoError(
            f"{str(path)!r} cannot be read as a video ({error.strerror}): it is none, or empty, cut off or damaged"
        ) from error
    # The cover of a song is a stream of one picture.
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        container.close()
        raise VideoError(f"{str(path)!r} has no video stream: expected a video file or a folder of images")
    return container, streams[0]


class FrameTable(NamedTuple):
    """What the packets of a file say about its frames.

    Args:
        times: (N,) int64 presentation times in the stream's unit, ascending.
        keys: (M,) int64 numbers of the keyframes, ascending.
        seek_times: (M,) int64 times that a demuxer finds the keyframes at.
    """

    times: np.ndarray
    keys: np.ndarray
    seek_times: np.ndarray


def read_table(path: str | os.PathLike) -> FrameTable | None:
    """Read all packets of a file, without decoding them; None if they do not tell when their frames are shown.

    Raises:
        VideoError: the file cannot be read.
    """
    container, stream = open_video(path)
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
    return FrameTable(np.array(times, np.int64), np.array(keys, np.int64), np.array(seek_times, np.int64))


def has_times(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the presentation times of packets can be relied on."""
    # AVI stores none; FFmpeg reconstructs them for codecs other than these.
    return not ("avi" in container.format.name and stream.codec_context.name in ("h264", "hevc"))


def is_hidden(packet: av.Packet, stream: av.VideoStream) -> bool:
    """Whether the packet is one of VP8 that is only referred to, and never shown."""
    return stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10


def _number(frame: av.VideoFrame, table: FrameTable) -> int | None:
    """The number of a decoded frame, None if no packet announced it."""
    if frame.pts is None:
        return None
    number = int(np.searchsorted(table.times, frame.pts))
    return number if number < len(table.times) and table.times[number] == frame.pts else None


class FrameCursor:
    """A decoder somewhere in a video file. It goes forward where it can and seeks a keyframe where that is shorter.

    One thread may use it at a time. In a forked process it opens the file again, since it would share its position in
    the file with its parent.

    Args:
        path: the file.
        table: of `read_table`; with None, a frame is reached by decoding all that come before it.
    """

    def __init__(self, path: str | os.PathLike, table: FrameTable | None) -> None:
        self._path = path
        self._table = table
        self._process = os.getpid()
        self._container: av.container.InputContainer | None = None
        self._frames: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._position: int | None = None  # number of the frame that came last

    def close(self) -> None:
        """Let go of the file. The cursor can still be used, and then opens it again."""
        if self._container is not None:
            self._container.close()
        self._process = os.getpid()
        self._container, self._position, self._frames = None, None, iter(())

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
        self.close()
        container, stream = open_video(self._path)
        # A forked process that closes a decoder with threads would wait for them forever: it does not have them.
        stream.codec_context.thread_count = 1
        self._container, self._position = container, -1
        if key > 0 and self._table is not None:
            time = self._table.seek_times[np.searchsorted(self._table.keys, key)]
            try:
                container.seek(int(time), stream=stream)
            except av.FFmpegError:
                self._start(0)
                return
        self._frames = self._decode(container, stream, self._table, from_start=key == 0)

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
