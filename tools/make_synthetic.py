#!/usr/bin/env python3
"""Make a synthetic benchmark: videos of drawn objects in ImageNet VID's layout.

Example:
    python tools/make_synthetic.py --output datasets/synthetic --seed 0 --train-videos 200 --val-videos 40 \
        --frames 60 --size 128x192 --classes 6

The same arguments give the same files; a run that was interrupted goes on where it stopped.
"""

import argparse
import re

from vod2.data.synthetic import SYNTHETIC_CLASSES, SyntheticConfig, write_mp4, write_synthetic
from vod2.engine.cli import run


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH in pixels, such as 128x192")
    return int(match[1]), int(match[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", required=True, help="folder to write to: new, empty, or of the same set")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other videos")
    parser.add_argument("--train-videos", type=int, required=True)
    parser.add_argument("--val-videos", type=int, required=True)
    parser.add_argument("--frames", type=int, required=True, help="frames per video")
    parser.add_argument("--size", type=_size, required=True, metavar="HxW", help="size of a frame, such as 128x192")
    parser.add_argument(
        "--classes", type=int, default=len(SYNTHETIC_CLASSES), help="use the first so many classes; even keeps pairs"
    )
    parser.add_argument("--max-objects", type=int, default=3, help="most objects in a video")
    parser.add_argument("--blur-fraction", type=float, default=0.45, help="fraction of an object's frames with blur")
    parser.add_argument("--speed", type=float, default=1.0, help="factor on how fast the objects move")
    parser.add_argument(
        "--mp4",
        nargs=2,
        action="append",
        default=[],
        metavar=("VIDEO_ID", "PATH"),
        help="also write one video as an mp4, such as val/ILSVRC2015_val_00000000 clip.mp4; may be repeated",
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    args = vars(parser.parse_args(arguments))
    output, videos = args.pop("output"), args.pop("mp4")
    height, width = args.pop("size")
    try:
        config = SyntheticConfig(height=height, width=width, **args)
    except ValueError as error:
        parser.error(str(error))
    write_synthetic(config, output)
    for name, path in videos:
        write_mp4(config, name, path)


if __name__ == "__main__":
    run(main)
