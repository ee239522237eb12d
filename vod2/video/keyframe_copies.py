"""Copies of videos that are quick to read in any order: every frame is a keyframe, and has the same pixels."""

import itertools
import logging
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from tqdm import tqdm

from vod2.atomic import move_into_place, temporary_path
from vod2.errors import VideoError
from vod2.video.decoding import TolerantDecoder

_LOGGER = logging.getLogger(__name__)

_PROBED = 250  # packets that are looked at for keyframes
_ENOUGH = 0.5  # share of keyframes with which a copy is not worth it
_COST = 8.0  # frames that could be decoded in the time in which one is copied and compared
_RATE = 25  # of the copies: frames are read by number
_FREE = 2 * 2**30  # bytes that stay free on the disk
_COLOURS = ("color_range", "colorspace", "color_primaries", "color_trc")
_MOST_THREADS = 8  # each holds the frames that its encoder waits for


def is_slow_to_seek(path: str | os.PathLike) -> bool:
    """Whether a video file has few keyframes, so that a frame in its middle costs the decoding of many before it.

    False for a file that cannot be opened: its reader says what is wrong with it.
    """
    return _probe(path).interval * _ENOUGH > 1


class _Probe(NamedTuple):
    """About how many frames a file has, and how many from one keyframe to the next; zeros if it cannot be opened."""

    frames: int = 0
    interval: float = 0.0


def _probe(path: str | os.PathLike) -> _Probe:
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in itertools.islice(container.demux(stream), _PROBED) if packet.size]
            by_time = (container.duration or 0) * (stream.average_rate or _RATE) / av.time_base
    except (av.FFmpegError, OSError, IndexError):
        return _Probe()
    if len(packets) < 2:  # nothing to seek
        return _Probe(len(packets))
    return _Probe(stream.frames or round(by_time), len(packets) / max(sum(packet.is_keyframe for packet in packets), 1))


def write_keyframe_copy(
    source: str | os.PathLike, target: str | os.PathLike, may_go_on: Callable[[], bool] = lambda: True
) -> bool:
    """Write `target`, all of whose frames are keyframes with the pixels of those of `source`, lossless, without sound.

    It takes about fifty times the space, and a tenth of the time to read a frame in its middle. It is read
    again, and compared, before `target` appears.

    Args:
        source: a video file.
        target: .mp4.
        may_go_on: asked at each frame; where it says False, the copy is given up.

    Returns:
        Whether it was written: not if it was given up, if the video is damaged, has another pixel format than 8-bit
        4:2:0, is rotated or has sides of an odd length, if FFmpeg has no H.264 encoder, or if any pixel would differ.
    """
    temporary = temporary_path(target)
    try:
        pictures = _encode(source, temporary, may_go_on)
        if pictures is None or not _shows(temporary, pictures, may_go_on):
            return False
        move_into_place(temporary, Path(target))
        return True
    except (av.FFmpegError, VideoError, ValueError):
        return False
    finally:
        temporary.unlink(missing_ok=True)


def _encode(source: str | os.PathLike, target: Path, may_go_on: Callable[[], bool]) -> list[tuple] | None:
    """Write the copy; returns what `_digest` makes of each frame of the source, None if it is not to be copied."""
    decoder = TolerantDecoder(source)
    pictures = []
    with av.open(str(target), "w", format="mp4") as written:
        stream: av.VideoStream | None = None
        for index, frame in enumerate(decoder):
            if not may_go_on():
                return None
            if stream is None:
                if frame.format.name not in ("yuv420p", "yuvj420p") or frame.width % 2 or frame.height % 2:
                    return None
                stream = _add_stream(written, frame)
            pictures.append(_digest(frame))
            frame.pts, frame.time_base = index, Fraction(1, _RATE)
            frame.pict_type = 0  # the encoder's choice, not that of the file
            written.mux(stream.encode(frame))
        if stream is None:
            return None
        written.mux(stream.encode(None))
    return pictures if decoder.status().state == "ok" else None


def _add_stream(container: av.container.OutputContainer, frame: av.VideoFrame) -> av.VideoStream:
    """A lossless stream of keyframes for frames such as this one."""
    options = {"qp": "0", "preset": "ultrafast", "g": "1"}
    stream = container.add_stream("libx264", rate=_RATE, options=options)
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
    # What colours the numbers mean.
    for name in _COLOURS:
        setattr(stream.codec_context, name, getattr(frame, name))
    return stream


def _digest(frame: av.VideoFrame) -> tuple:
    """Equal for two frames that become the same image: the same numbers, which mean the same colours."""
    meaning = [frame.format.name, frame.width, frame.height, frame.rotation]
    meaning += [int(getattr(frame, name)) for name in _COLOURS]
    checksums = []
    for plane in frame.planes:
        # A line may be followed by bytes that are no pixels.
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        checksums.append(zlib.crc32(np.ascontiguousarray(lines).data))
    return *meaning, *checksums


def _shows(copy: Path, pictures: list[tuple], may_go_on: Callable[[], bool]) -> bool:
    """Whether a copy has exactly these frames, told by `_digest`."""
    decoder = TolerantDecoder(copy)
    for frame, expected in itertools.zip_longest(decoder, pictures):
        if frame is None or _digest(frame) != expected or not may_go_on():
            return False
    return decoder.status().state == "ok"


def quick_to_read(
    paths: Iterable[str | os.PathLike],
    folder: str | os.PathLike,
    unchanged: Collection[str | os.PathLike] = (),
    reads: int | None = None,
) -> bool:
    """Fill a folder with keyframe copies of video files, <name>.mp4 by the name of each without its suffix.

    A file that needs none, or of which there can be none, gets a link; so do all others once the disk has less than
    2 GiB left. What is there already is kept, unless the original is newer.

    Args:
        paths: the files.
        unchanged: those that get a link in any case, since they are read from begin to end.
        reads: about how many frames of all files will be read, in any order: a file gets a link, too, where copying it
            takes longer than that. None for any number.

    Returns:
        Whether there is a copy; if not, the folder is not made.

    Raises:
        VideoError: two files have the same name.
    """
    files = list(dict.fromkeys(Path(path).resolve() for path in paths))
    if len({file.stem for file in files}) < len(files):
        raise VideoError(f"two of {len(files)} video files have the same name: rename one")
    kept = {Path(path).resolve() for path in unchanged}
    probes = {file: _probe(file) for file in files if file not in kept}
    slow = {file for file, probe in probes.items() if probe.interval * _ENOUGH > 1}
    if reads is not None:
        read_of_each = reads / max(sum(probe.frames for probe in probes.values()), 1)  # times that a frame is read
        # On average a read decodes half of the frames from one keyframe to the next.
        slow = {file for file in slow if read_of_each * probes[file].interval / 2 > _COST}
    if not slow:
        return False
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    stopped = threading.Event()

    def may_go_on() -> bool:
        # Also of the disk: several copies grow at the same time.
        return not stopped.is_set() and shutil.disk_usage(folder).free > _FREE

    def prepare(file: Path) -> bool:
        """Make the copy or the link of a file; returns whether a copy was wanted and could not be made."""
        target = folder / f"{file.stem}.mp4"
        if target.is_file() and not target.is_symlink() and target.stat().st_mtime >= file.stat().st_mtime:
            return False
        if file in slow and may_go_on() and write_keyframe_copy(file, target, may_go_on):
            return False
        target.unlink(missing_ok=True)
        target.symlink_to(file)
        return file in slow

    # Threads: FFmpeg works without the interpreter's lock.
    pool = ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, _MOST_THREADS))
    try:
        results = pool.map(prepare, files)
        refused = sum(tqdm(results, total=len(files), desc="copies with keyframes only", unit="video"))
    finally:
        # After Ctrl-C, those that have not begun never do, and the others end at their next frame.
        stopped.set()
        pool.shutdown(cancel_futures=True)
    if refused:
        _LOGGER.warning("%d of %d videos are read as they are, without a copy: they take longer", refused, len(slow))
    return refused < len(slow)
