"""What may have happened to a video file: each function is given the path of an intact one and harms it in place."""

from pathlib import Path

import av
import numpy as np


def overwrite(path: Path, position: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[position : position + len(data)] = data
    path.write_bytes(content)


def packets(path: Path) -> list[tuple[int, int]]:
    """(position, bytes) of the packets of the video stream."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def flip_bytes(path: Path, packet: int = 5) -> None:
    """Some bytes in the middle of a packet."""
    position, size = packets(path)[packet]
    start = position + size // 3
    overwrite(path, start, bytes(byte ^ 0xFF for byte in path.read_bytes()[start : start + 12]))


def lose_packet(path: Path, packet: int = 5) -> None:
    """The packet is there, and has no sense."""
    position, size = packets(path)[packet]
    overwrite(path, position, b"\xff" * size)


def lose_all_packets(path: Path) -> None:
    for position, size in packets(path):
        overwrite(path, position, b"\xff" * size)


def cut_off(path: Path, fraction: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])


def lose_index(path: Path) -> None:
    """An MP4 whose recording was not ended."""
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moov") - 4])


def lose_everything(path: Path) -> None:
    path.write_bytes(b"")


def lose_pictures(path: Path) -> None:
    """Only sound is left."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        container.mux(stream.encode(silence(1)))
        container.mux(stream.encode(None))


def lose_duration(path: Path) -> None:
    """A video stream of no frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def silence(seconds: int) -> av.AudioFrame:
    """At 16 kHz."""
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000 * seconds), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 16000
    return frame
