"""Speed: of whole detectors, of their training steps, and of single parts beside the plain way of doing the same.

vod2 benchmark detectors --config-file configs/FasterRCNN_R101.yaml configs/RDN_R101.yaml --size 600x1000
vod2 benchmark detectors --all --size 320x512 --json speed.json
vod2 benchmark training --config-file configs/RDN_R101.yaml --size 320x512
vod2 benchmark parts --list
vod2 benchmark parts geometry_bias --threads 1

What is compared runs by turns in one process, so that ratios can be trusted on a machine that does other work, too.
"""

import argparse
from types import ModuleType
from typing import Any

import torch

from vod2.benchmark import detectors, parts, training
from vod2.commands.parsing import command_parser


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


def add_command(commands: Any, name: str, module: ModuleType) -> argparse.ArgumentParser:
    """A command that a module runs, and describes."""
    about = module.__doc__ or ""
    parser = commands.add_parser(
        name,
        help=about.partition(":")[0],
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=module.run)
    return parser


def add_whole(commands: Any, name: str, module: ModuleType) -> None:
    """One of the two commands that measure whole models."""
    parser = add_command(commands, name, module)
    parser.add_argument("--config-file", nargs="+", metavar="FILE", help="configurations; the first is the reference")
    parser.add_argument("--size", type=size_of, default=(600, 1000), metavar="HxW", help="of a frame (600x1000)")
    parser.add_argument("--device", default="cpu", type=torch.device, help="cpu or cuda (cpu)")
    parser.add_argument("--threads", default=2, type=positive, help="CPU threads of PyTorch (2)")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to a file")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    if name == "detectors":
        parser.add_argument("--all", action="store_true", help="the configuration of every method with ResNet-101")
        what = "each frame is encoded once, as in an evaluation that keeps a video's frames (TEST.FRAME_STORE_MB)"
        parser.add_argument("--evaluation", action="store_true", help=what)
        parser.add_argument("--frames", default=20, type=positive, metavar="N", help="timed frames of each (20)")
        parser.add_argument("--video", metavar="FILE", help="also time the decoding and resizing of its frames")
    else:
        parser.add_argument("--batch", default=1, type=positive, metavar="N", help="clips in a step (1)")
        parser.add_argument("--steps", default=10, type=positive, metavar="N", help="timed steps of each (10)")


def add_parts(commands: Any) -> None:
    parser = add_command(commands, "parts", parts)
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to run (default: all)")
    parser.add_argument("--list", action="store_true", help="only list the names")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--threads", default=1, type=positive, help="CPU threads of PyTorch (1)")
    parser.add_argument("--repeats", default=7, type=positive, help="timed runs, of which the median counts (7)")


def main(words: list[str] | None = None) -> None:
    parser = command_parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_whole(commands, "detectors", detectors)
    add_whole(commands, "training", training)
    add_parts(commands)
    args = parser.parse_args(words)
    args.run(args)
