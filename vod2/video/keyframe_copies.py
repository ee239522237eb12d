"""Copies of videos that are quick to read in any order: every frame is a keyframe, and has the same pixels."""

import itertools
import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from vod2.atomic import move_into_place, temporary_path
from vod2.errors import VideoError
from vod2.video.reader import VideoReader

_LOGGER = logging.getLogger(__name__)

_PROBED = 250  # packets that are looked at for keyframes
_ENOUGH = 0.5  # share of keyframes with which a copy is not worth it
_RATE = 25  # of the copies: frames are read by number
_FREE = 2 * 2**30  # bytes that stay free on the disk
_MOST_THREADS = 8  # each holds the frames that its encoder waits for


def is_slow_to_seek(path: str | os.PathLike) -> bool:
    """Whether a video file has few keyframes, so that a frame in its middle costs the decoding of many before it.

    False for a file that cannot be opened: its reader says what is wrong with it.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in itertools.islice(container.demux(stream), _PROBED) if packet.size]
    except (av.FFmpegError, OSError, IndexError):
        return False
    return len(packets) > 1 and sum(packet.is_keyframe for packet in packets) < _ENOUGH * len(packets)


def write_keyframe_copy(
    source: str | os.PathLike, target: str | os.PathLike, may_go_on: Callable[[], bool] = lambda: True
) -> bool:
    """Write `target`, all of whose frames are keyframes with the pixels of those of `source`, lossless, without sound.

    It takes about fifty times the space, and a tenth of the time to read a frame in its middle. Both are read and
    compared before `target` appears.

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
        if not _encode(source, temporary, may_go_on) or not _are_equal(source, temporary, may_go_on):
            return False
        move_into_place(temporary, Path(target))
        return True
    except (av.FFmpegError, VideoError, ValueError):
        return False
    finally:
        temporary.unlink(missing_ok=True)


def _encode(source: str | os.PathLike, target: Path, may_go_on: Callable[[], bool]) -> bool:
    with av.open(str(source)) as read, av.open(str(target), "w", format="mp4") as written:
        given = read.streams.video[0]
        context = given.codec_context
        if context.pix_fmt not in ("yuv420p", "yuvj420p") or context.width % 2 or context.height % 2:
            return False
        options = {"qp": "0", "preset": "ultrafast", "g": "1"}
        stream = written.add_stream("libx264", rate=_RATE, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = context.width, context.height, context.pix_fmt
        # What colours the numbers mean.
        for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(stream.codec_context, name, getattr(context, name))
        for index, frame in enumerate(read.decode(given)):
            if not may_go_on():
                return False
            frame.pts, frame.time_base = index, Fraction(1, _RATE)
            frame.pict_type = 0  # the encoder's choice, not that of the file
            written.mux(stream.encode(frame))
        written.mux(stream.encode(None))
    return True


def _are_equal(source: str | os.PathLike, copy: Path, may_go_on: Callable[[], bool]) -> bool:
    readers = [VideoReader(source), VideoReader(copy)]
    for original, copied in itertools.zip_longest(*readers):
        if original is None or copied is None or not np.array_equal(original, copied) or not may_go_on():
            return False
    return all(reader.status is not None and reader.status.state == "ok" for reader in readers)


def quick_to_read(
    paths: Iterable[str | os.PathLike],
    folder: str | os.PathLike,
    unchanged: Collection[str | os.PathLike] = (),
) -> bool:
    """Fill a folder with keyframe copies of video files, <name>.mp4 by the name of each without its suffix.

    A file that needs none, or of which there can be none, gets a link; so do all others once the disk has less than
    2 GiB left. What is there already is kept, unless the original is newer.

    Args:
        paths: the files.
        unchanged: those that get a link in any case, since they are read from begin to end.

    Returns:
        Whether there is a copy; if not, the folder is not made.

    Raises:
        VideoError: two files have the same name.
    """
    files = list(dict.fromkeys(Path(path).resolve() for path in paths))
    if len({file.stem for file in files}) < len(files):
        raise VideoError(f"two of {len(files)} video files have the same name: rename one")
    kept = {Path(path).resolve() for path in unchanged}
    slow = {file for file in files if file not in kept and is_slow_to_seek(file)}
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
