"""A video in memory that browsers play and can stop at any frame."""

import io
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import av
import numpy as np

from vod2.errors import VideoError

# Encoder, container, type, options. No B-frames in H.264: containers shift the times of such streams.
_FORMATS = (
    ("libx264", "mp4", "video/mp4", {"crf": "22", "bf": "0", "preset": "medium"}),
    ("libvpx-vp9", "webm", "video/webm", {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "6"}),
    ("libvpx", "webm", "video/webm", {"crf": "12", "b": "2M", "deadline": "realtime", "cpu-used": "6"}),
)
# Nothing on a page is shown larger.
_LONGEST_SIDE = 1280


class EmbeddedVideo(NamedTuple):
    """An encoded file, its MIME type, and of the frames that went in: how many, and (width, height) in pixels."""

    data: bytes
    type: str
    count: int
    size: tuple[int, int]


def embed_video(frames: Iterable[np.ndarray], fps: Fraction | float) -> EmbeddedVideo:
    """Encode (H, W, 3) uint8 BGR frames as H.264, or else VP9 or VP8, of a constant rate; 1280 pixels at most.

    Frame i is shown from i / fps on.

    Raises:
        VideoError: there is no frame, or FFmpeg was built without an encoder for browsers.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise VideoError("a report needs at least one frame of the video, and got none")
    encoder, container_format, mime, options = _choose()
    rate = Fraction(fps).limit_denominator(1001)
    height, width = first.shape[:2]
    scale = min(1, _LONGEST_SIDE / max(width, height))
    file = io.BytesIO()
    with av.open(file, "w", format=container_format) as container:
        stream = container.add_stream(encoder, rate=rate, options=options)
        stream.width, stream.height = (max(2, 2 * round(side * scale / 2)) for side in (width, height))
        stream.pix_fmt = "yuv420p"
        # The colours of the conversion below; players would guess others for large pictures.
        stream.codec_context.colorspace, stream.codec_context.color_range = 6, 1
        # To stop at a frame, a player decodes from the keyframe before.
        stream.codec_context.gop_size = max(1, round(rate))
        count = 0
        for frame in chain([first], frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")
            picture = picture.reformat(stream.width, stream.height, "yuv420p", dst_colorspace=5)
            picture.pts, picture.time_base = count, 1 / rate
            container.mux(stream.encode(picture))
            count += 1
        container.mux(stream.encode(None))
    return EmbeddedVideo(file.getvalue(), mime, count, (width, height))


def _choose() -> tuple[str, str, str, dict[str, str]]:
    for choice in _FORMATS:
        if choice[0] in av.codecs_available:
            return choice
    names = ", ".join(choice[0] for choice in _FORMATS)
    raise VideoError(f"this FFmpeg has no encoder for browsers: expected one of {names}; install PyAV from its wheel")
