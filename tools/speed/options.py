"""Options of the commands that measure whole models."""

import argparse
from types import ModuleType
from typing import Any

import torch


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of "600x1000"."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH in pixels, such as 600x1000")
    height, width = map(int, sides)
    return height, width


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1")
    return int(text)


def add_whole(commands: Any, name: str, module: ModuleType) -> None:
    """One of the two commands that measure whole models."""
    parser = commands.add_parser(
        name,
        help=module.__doc__.partition(":")[0],
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=module.run)
    parser.add_argument("--config-file", nargs="+", metavar="FILE", help="configurations; the first is the reference")
    parser.add_argument("--size", type=size_of, default=(600, 1000), metavar="HxW", help="of a frame (600x1000)")
    parser.add_argument("--device", default="cpu", type=torch.device, help="cpu or cuda (cpu)")
    parser.add_argument("--threads", default=2, type=positive, help="CPU threads of PyTorch (2)")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to a file")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    if name == "detectors":
        parser.add_argument("--all", action="store_true", help="the configuration of every method with ResNet-101")
        parser.add_argument("--frames", default=20, type=positive, metavar="N", help="timed frames of each (20)")
        parser.add_argument("--video", metavar="FILE", help="also time the decoding and resizing of its frames")
    else:
        parser.add_argument("--batch", default=1, type=positive, metavar="N", help="clips in a step (1)")
        parser.add_argument("--steps", default=10, type=positive, metavar="N", help="timed steps of each (10)")
