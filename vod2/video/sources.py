"""What is refused before anything is decoded: addresses, pipes, and pictures that no memory holds."""

import os
import re
import stat
import warnings
from pathlib import Path

from PIL import Image

from vod2.errors import VideoError
from vod2.package_files import command_line

MAX_PIXELS = 2**27
"""The most pixels (width times height) of a frame that is decoded unless another limit is given: 134 million.

A header of a few bytes may claim any size. As BGR such a frame takes 400 MB, three times that while it is converted.
"""

# Windows' "C:\" is no scheme. `Path` makes one slash of the two.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def require_file(path: str | os.PathLike) -> None:
    """Raises VideoError unless `path` is a regular file or a folder; says what to do with an address or a pipe."""
    text = os.fspath(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        if _ADDRESS.match(str(text)):
            raise VideoError(
                f"{str(text)!r} is an address, expected a video file or a folder of images: download it, or read it as "
                f"a stream with vod2.video.Camera ({command_line('detect')} --webcam ADDRESS)"
            ) from error
        raise VideoError(f"there is no video {str(text)!r}: expected a video file or a folder of images") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
        raise VideoError(
            f"{str(text)!r} is {kind}, and a video is read more than once: save it to a file, or read a camera with "
            f"vod2.video.Camera ({command_line('detect')} --webcam)"
        )


def require_pixels(path: str | os.PathLike, width: int, height: int, max_pixels: int) -> None:
    """Raises VideoError if a frame of this size has more than `max_pixels`."""
    if width * height > max_pixels:
        raise VideoError(
            f"{os.fspath(path)!r} has {width}x{height} pixels, more than the limit of {max_pixels}: make it smaller, "
            "or raise max_pixels of VideoReader (vod2.video.MAX_PIXELS)"
        )


def require_image_pixels(path: str | os.PathLike, max_pixels: int) -> None:
    """Raises VideoError if the header of an image file says that it has more than `max_pixels`. Nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is another one
            with Image.open(Path(path)) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise VideoError(
            f"{os.fspath(path)!r} has more pixels than the limit of {max_pixels} (vod2.video.MAX_PIXELS; {error}): "
            "make it smaller"
        ) from error
    except (OSError, ValueError, SyntaxError, TypeError, ArithmeticError):  # Pillow's, by the place of the damage
        return  # what Pillow does not know, OpenCV may, which has a limit of its own
    require_pixels(path, width, height, max_pixels)
