"""Writing an image so that a full disk is an error.

OpenCV's own writer returns False then, whatever the reason, and may leave a part of the file.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from vod2.atomic import replacing


def encode_image(image: np.ndarray, suffix: str, parameters: Sequence[int] = ()) -> bytes:
    """The content of a file.

    Args:
        image: (H, W, 3) uint8 BGR or (H, W) uint8.
        suffix: of the format, such as ".png".
        parameters: as `cv2.imwrite` takes them.

    Raises:
        ValueError: OpenCV cannot write such an image, or does not know the format.
    """
    try:
        done, encoded = cv2.imencode(suffix, image, list(parameters))
    except cv2.error as error:
        raise ValueError(f"an image of {image.shape} {image.dtype} cannot be written as {suffix!r}: {error}") from error
    if not done:
        raise ValueError(f"an image of {image.shape} {image.dtype} cannot be written as {suffix!r}")
    return encoded.tobytes()


def write_image(path: str | os.PathLike, image: np.ndarray, parameters: Sequence[int] = ()) -> None:
    """Write an image, atomically; the suffix names the format.

    Args:
        image, parameters: see `encode_image`.

    Raises:
        ValueError: see `encode_image`.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "black.png"
        >>> write_image(path, np.zeros((4, 6, 3), np.uint8))
        >>> cv2.imread(str(path)).shape
        (4, 6, 3)
    """
    encoded = encode_image(image, Path(path).suffix, parameters)
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)
