"""Readers of pictures and videos."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from fuzzing.target import Target
from vod2.data.datasets.images import image_size
from vod2.errors import UserError
from vod2.video import video_status


def png(folder: Path) -> Target:
    """Images, whatever their name ends in."""
    file = folder / "0.png"
    seeds = []
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP"):
        content = io.BytesIO()
        Image.new("RGB", (12, 8)).save(content, kind)
        seeds.append(content.getvalue())

    def read() -> None:
        try:
            image_size(file)
        except UserError:
            pass
        video_status(folder)

    return Target(file, tuple(seeds), read)


def video(folder: Path) -> Target:
    """Video files."""
    import av

    def written(kind: str, codec: str) -> bytes:
        content = io.BytesIO()
        with av.open(content, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for value in range(3):
                image = np.full((32, 32, 3), 60 * value, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
            container.mux(stream.encode())
        return content.getvalue()

    file = folder / "clip.mp4"
    seeds = (written("mp4", "mpeg4"), written("avi", "mpeg4"), written("webm", "libvpx"))
    return Target(file, seeds, lambda: video_status(file))
