"""Pixels of image files: Detectron2's decoder, and what it has no rule for."""

import os

import numpy as np
from PIL import Image, ImageOps

from vod2.d2 import detection_utils
from vod2.errors import UserError
from vod2.video import MAX_PIXELS
from vod2.video.sources import require_image_pixels

# Pillow's modes of one channel that have more than 8 bits; "I" and "F" have 32.
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_SIXTEEN_BITS = 0xFFFF
_EXIF_ORIENTATION = 0x0112


def read_image(path: str | os.PathLike, format: str = "BGR") -> np.ndarray:
    """Decode an image as Detectron2 does; 16 bits a channel become the upper 8, as in `vod2.video.VideoReader`.

    Pillow, by which Detectron2 decodes, would cut gray values of 16 bits off at 255: a thermal camera's picture
    becomes white.

    Args:
        path: of the file.
        format: of the channels: "BGR", "RGB" or "L".

    Returns:
        (h, w, 3) uint8, turned as EXIF says; (h, w, 1) for "L".

    Raises:
        FileNotFoundError: there is no such file.
        OSError, ValueError, SyntaxError: it cannot be decoded.
        UserError: its pixels are floats or integers of more than 16 bits, or more than `vod2.video.MAX_PIXELS`; names
            the file.
    """
    require_image_pixels(path, MAX_PIXELS)  # by its header: a small file may say that it is enormous
    deep = _read_deep(path)
    if deep is None:
        return detection_utils.read_image(os.fspath(path), format=format)
    return deep if format == "L" else np.repeat(deep, 3, axis=2)


def _read_deep(path: str | os.PathLike) -> np.ndarray | None:
    """(h, w, 1) uint8 of a gray image of more than 8 bits; None for all others, of which Pillow keeps the upper 8."""
    with Image.open(path) as image:
        if image.mode not in _DEEP_MODES:
            return None
        values = np.asarray(ImageOps.exif_transpose(image))
        # Older versions of Pillow have "I" for PNGs of 16 bits.
        has_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
        if not has_16_bits or values.min(initial=0) < 0 or values.max(initial=0) > _SIXTEEN_BITS:
            raise UserError(
                f"{path}: its pixels are {'floats' if image.mode == 'F' else 'integers of 32 bits'}, expected 8 or 16 "
                "bits a channel: convert the images, with a scale that is the same for all"
            )
        return (values >> 8).astype(np.uint8)[..., None]


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width of an image as its head says, turned as its camera says.

    Raises:
        UserError: it cannot be read; names the file.
    """
    require_image_pixels(path, MAX_PIXELS)
    try:
        with Image.open(path) as image:
            width, height = image.size
            # From 5 on, EXIF's orientations exchange width and height; the readers of pixels turn the image alike.
            is_sideways = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    except Exception as error:  # Pillow's, by the place of the damage
        raise UserError(f"{path}: the image cannot be read ({error}): get the file again") from error
    return (width, height) if is_sideways else (height, width)
