#!/usr/bin/env python3
"""Part of a video as an animated WebP, which browsers show as they show a picture: that of the README.

python tools/animate_video.py output/demo/video.mp4 docs/demo.webp --frames 0:64 --scale 2
"""

import argparse
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from vod2.atomic import replacing
from vod2.engine import cli
from vod2.engine.output_files import refuse_inputs
from vod2.errors import UserError
from vod2.video import VideoReader


def frame_range(text: str) -> tuple[int, int | None]:
    """ "8:24" -> (8, 24); "8:" goes to the end."""
    found = re.fullmatch(r"(\d+):(\d*)", text)
    if found is None or (found[2] and int(found[2]) <= int(found[1])):
        raise argparse.ArgumentTypeError(f"expected FIRST:END, such as 8:24 or 8:, got {text!r}")
    return int(found[1]), int(found[2]) if found[2] else None


def read_frames(path: Path, first: int, end: int | None, scale: float) -> tuple[list[np.ndarray], float]:
    """The frames first <= t < end, (H, W, 3) BGR, enlarged; and frames per second.

    Raises:
        UserError: the video ends before `first`, or cannot be read.
    """
    reader = VideoReader(path)
    frames = []
    for frame in itertools.islice(reader, first, end):
        frames.append(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))
    if not frames:
        raise UserError(f"{path}: has {reader.frame_count()} frames, expected more than {first}")
    return frames, float(reader.fps)


def write_animation(path: Path, frames: Sequence[np.ndarray], fps: float, quality: int) -> None:
    """Write frames, (H, W, 3) uint8 BGR, that repeat without end."""
    animation = cv2.Animation()
    animation.frames = list(frames)
    animation.durations = [round(1000 / fps)] * len(frames)  # milliseconds
    with replacing(path) as temporary:
        if not cv2.imwriteanimation(str(temporary), animation, [cv2.IMWRITE_WEBP_QUALITY, quality]):
            raise UserError(f"{path}: cannot be written as an animated WebP")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, metavar="IN", help="a video, or a folder of images")
    parser.add_argument("output", type=Path, metavar="OUT", help="the picture, .webp")
    parser.add_argument("--frames", type=frame_range, default=(0, None), metavar="FIRST:END", help="which (all)")
    parser.add_argument("--scale", type=float, default=1.0, help="of width and height (1)")
    parser.add_argument("--quality", type=int, default=80, help="1 to 100 (80)")
    args = parser.parse_args(words)
    if args.output.suffix.lower() != ".webp":
        parser.error(f"{args.output}: expected a name that ends in .webp")
    if not 0 < args.scale <= 16 or not 1 <= args.quality <= 100:
        parser.error(f"expected a scale in (0, 16] and a quality of 1 to 100, got {args.scale} and {args.quality}")
    refuse_inputs("OUT", [args.output], [args.video])
    frames, fps = read_frames(args.video, *args.frames, args.scale)
    write_animation(args.output, frames, fps, args.quality)
    print(f"{args.output}: {len(frames)} frames, {args.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    cli.run(main)
