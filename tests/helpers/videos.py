"""Videos whose every frame tells its number, as files and as folders."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

SIZE = (32, 48)  # height, width
STEP = 12  # gray levels from one frame to the next


def numbered_frame(index: int) -> np.ndarray:
    """A frame of one gray value, by which `number_of` knows it again; up to 20 frames."""
    return np.full((*SIZE, 3), 10 + STEP * index, np.uint8)


def number_of(image) -> int:
    """The number of a frame of `numbered_frame` that was compressed; (H, W, 3) or (3, H, W), array or tensor."""
    return round((float(np.median(np.asarray(image))) - 10) / STEP)


def moving_frames(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Frames that all differ, with something that moves, so that every one needs those before it."""
    height, width = size
    texture = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    frames = []
    for index in range(count):
        frame = texture + np.arange(width)[None, :, None]
        left = (3 * index) % (width - 12)
        frame[8:30, left : left + 12] = (40 + 5 * index) % 256
        frames.append(frame.astype(np.uint8))
    return frames


def write_video(
    path: str | Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    gop: int = 12,
    b_frames: int = 2,
    times: Sequence[int] | None = None,
) -> Path:
    """Encode BGR frames, shown at `times` twenty-fifths of a second (0, 1, 2 ... by default)."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "15"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        stream.bit_rate = 800_000
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="bgr24")
            picture.pts, picture.time_base = index if times is None else times[index], Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return Path(path)


def write_numbered_video(path: str | Path, count: int, **options) -> Path:
    """A video file of `numbered_frame`s; folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, [numbered_frame(index) for index in range(count)], **options)


def write_numbered_images(folder: str | Path, names: Sequence[str]) -> None:
    """`numbered_frame`s as images of these names; folders are made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        # cv2 cannot write names that are not ASCII everywhere.
        Path(folder, name).write_bytes(cv2.imencode(Path(name).suffix, numbered_frame(index))[1].tobytes())


def write_browser_recording(path: str | Path, milliseconds: Sequence[int]) -> list[float]:
    """A webm of moving frames at these times, without a rate, as browsers record; returns the times in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, time in zip(moving_frames(len(milliseconds)), milliseconds, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="bgr24")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    content = Path(path).read_bytes()
    element = b"\x23\xe3\x83"  # Matroska's DefaultDuration, which browsers leave out: now a Void of the same length
    at = content.index(element)
    size = content[at + 3] & 0x7F
    void = bytes([0xEC, 0x80 | (size + 2)])  # a byte of the old name and its length are part of what is void
    Path(path).write_bytes(content[:at] + void + content[at + 2 :])
    return [time / 1000 for time in milliseconds]


def write_packed_avi(path: str | Path, frames: Sequence[np.ndarray]) -> Path:
    """MPEG-4 in AVI as DivX packs it: a B-frame lies in the packet of the frame before, and a later packet is empty."""
    height, width = frames[0].shape[:2]
    start, nothing_coded = b"\x00\x00\x01\xb6", b"\x00\x00\x01\xb6" + bytes([0b01010000, 0b01001111])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 8, 1
        stream.bit_rate = 800_000
        packets = []
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="bgr24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            packets += stream.encode(picture)
        packets += stream.encode(None)
        packed: list[tuple[bytes, bool]] = []
        for packet in packets:
            content = bytes(packet)
            position = content.index(start)
            if not packed:
                content = content[:position] + b"\x00\x00\x01\xb2DivX503b1393p" + content[position:]
            is_b_frame = bytes(packet)[position + 4] >> 6 == 2
            if is_b_frame:
                packed[-1] = (packed[-1][0] + content, packed[-1][1])
                packed.append((nothing_coded, False))
            else:
                packed.append((content, packet.is_keyframe))
        for index, (content, is_key) in enumerate(packed):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 25)
            packet.is_keyframe = is_key
            container.mux(packet)
    return Path(path)
