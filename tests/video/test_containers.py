"""Every codec in every container that PyAV writes: numbered reads are the frames of plain decoding, and nothing is
called damaged."""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest

from helpers.videos import moving_frames
from vod2.errors import VideoError
from vod2.video import VideoReader

COUNT = 31
# The encoder's options that make it quick.
CODECS = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
} | dict.fromkeys(
    ("mpeg1video", "mpeg2video", "mpeg4", "h261", "h263", "h263p", "flv", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2")
    + ("mjpeg", "ffv1", "ffvhuff", "huffvyuv", "utvideo", "asv1", "snow", "rv10", "rv20", "svq1", "prores_ks", "png"),
    {},
)
SIZES = {"h261": (144, 176), "h263": (144, 176), "libsvtav1": (64, 64)}  # which cannot have all sizes
CALLED_DAMAGED_BY_FFMPEG = {("wmv2", ".wtv")}  # a frame that is intact, for the container does not tell keyframes
SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".3gp", ".f4v", ".mkv", ".webm", ".avi", ".asf", ".wmv", ".flv", ".mpg", ".vob", ".ts"),
    *(".m2ts", ".ogv", ".nut", ".mxf", ".wtv", ".ivf", ".h264", ".hevc", ".m1v", ".m2v", ".rm"),
)


class Case(NamedTuple):
    """How a video is encoded; `times` are in twenty-fifths of a second."""

    gop: int = 8
    b_frames: int = 0
    times: tuple[int, ...] = tuple(range(COUNT))
    options: tuple[tuple[str, str], ...] = ()


LATE = tuple(range(50, 50 + COUNT))
VARYING = tuple(np.cumsum([1, 1, 3, 1, 2, 9, 1, 1, 1, 4] * 4)[:COUNT].tolist())
OPEN_GOP = (("flags", "-cgop"), ("x264-params", "open-gop=1:keyint=8:scenecut=0"))
CASES = {
    "plain": Case(),
    "keyframes only": Case(gop=1),
    "B-frames": Case(b_frames=2),
    "one GOP": Case(gop=300, b_frames=3),
    "starts late": Case(times=LATE),
    "starts late, B-frames": Case(times=LATE, b_frames=2),
    "variable rate": Case(times=VARYING),
    "variable rate, B-frames": Case(times=VARYING, b_frames=2),
    "open GOP": Case(b_frames=2, options=OPEN_GOP),
}


def write(path: Path, codec: str, case: Case) -> bool:
    """Whether FFmpeg can encode and store that."""
    formats = [form.name for form in av.Codec(codec, "w").video_formats or []]
    size = SIZES.get(codec, (48, 64))
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, options=CODECS[codec] | dict(case.options))
            stream.height, stream.width = size
            # JPEG's own range of values comes first, which it needs
            is_plain = "yuv420p" in formats and codec != "mjpeg"
            stream.pix_fmt = "yuv420p" if is_plain or not formats else formats[0]
            stream.codec_context.gop_size, stream.codec_context.max_b_frames = case.gop, case.b_frames
            stream.bit_rate = 1_500_000
            for frame, time in zip(moving_frames(COUNT, size), case.times, strict=True):
                picture = av.VideoFrame.from_ndarray(frame, format="bgr24")
                picture.pts, picture.time_base = time, Fraction(1, 25)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except (av.FFmpegError, ValueError, OverflowError):
        return False
    return True


def decode(path: Path) -> list[np.ndarray]:
    """All frames by plain decoding, [] where FFmpeg cannot read what it has written."""
    try:
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError, AttributeError):  # no video, or no decoder
        return []


def fault_of(path: Path) -> str:
    """What is read wrong in an intact video, "" if nothing; every frame is read by number in random order."""
    expected = decode(path)
    try:
        reader = VideoReader(path)
    except VideoError as error:
        return str(error) if expected else ""
    images = list(reader)
    same = len(images) == len(expected) and all(map(np.array_equal, images, expected))
    if not same or reader.frame_count() != len(expected):
        return f"{len(images)} frames come, {reader.frame_count()} are counted, {len(expected)} decoded"
    if reader.status.state != "ok" or reader.gaps:
        return f"{reader.status.reason}, gaps {reader.gaps}"
    for index in np.random.default_rng(0).permutation(len(expected)).tolist():
        if index % 2:  # a new decoder, or one that goes on
            reader.close()
        if not np.array_equal(reader.read([index])[index], expected[index]):
            return f"frame {index} is another one"
    return ""


@pytest.mark.parametrize(
    ("codec", "suffix", "name"),
    [
        ("libx264", ".mp4", "open GOP"),
        ("libx264", ".mkv", "starts late, B-frames"),
        ("libx264", ".avi", "variable rate, B-frames"),
        ("libx264", ".asf", "variable rate, B-frames"),
        ("libx264", ".flv", "starts late, B-frames"),
        ("libx264", ".mxf", "B-frames"),
        ("mpeg4", ".avi", "variable rate"),
        ("mpeg4", ".asf", "starts late"),
        ("mpeg1video", ".asf", "plain"),
        ("mpeg1video", ".asf", "variable rate, B-frames"),
        ("mpeg1video", ".avi", "starts late"),
        ("mpeg1video", ".mpg", "open GOP"),
        ("h263", ".wtv", "plain"),
        ("h263", ".avi", "variable rate"),
        ("h263", ".mpg", "plain"),
        ("libvpx", ".webm", "starts late"),
    ],
)
def test_numbered_reads_are_those_of_plain_decoding(tmp_path, codec, suffix, name):
    path = tmp_path / f"v{suffix}"
    assert write(path, codec, CASES[name])
    assert fault_of(path) == ""


@pytest.mark.slow
@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec in av.codecs_available])
def test_every_container_of_a_codec_is_read_right(tmp_path, codec):
    faults, count = [], 0
    for suffix in SUFFIXES:
        for name, case in CASES.items():
            path = tmp_path / f"v{suffix}"
            if (codec, suffix) not in CALLED_DAMAGED_BY_FFMPEG and write(path, codec, case):
                count += 1
                if fault := fault_of(path):
                    faults.append(f"{suffix}, {name}: {fault}")
            path.unlink(missing_ok=True)
    assert count >= 3
    assert faults == []
