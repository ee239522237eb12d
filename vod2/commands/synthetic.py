"""Make a synthetic set in ImageNet's layout: a size of the benchmark VOD-Synth 1, or a quick set of easy videos.

Examples:
    vod2 synthetic --benchmark vod-synth-1 --size tiny --output datasets/vod_synth_1_tiny
    vod2 synthetic --benchmark vod-synth-1 --size full --output datasets/vod_synth_1_full --dry-run
    vod2 synthetic --output datasets/synthetic --seed 0 --train-videos 200 --val-videos 40 \
        --frames 60 --size 128x192 --classes 6

The same arguments give the same files, whatever the number of workers; a run that was interrupted goes on where it
stopped.
"""

import argparse
import os
import re

from vod2.commands.parsing import command_parser
from vod2.data.synthetic import SYNTHETIC_CLASSES, SyntheticConfig, write_mp4, write_synthetic
from vod2.data.synthetic.vod_synth import BENCHMARK, SIZES, VodSynth, estimate, write_vod_synth
from vod2.errors import UserError

QUICK_ONLY = ("seed", "train_videos", "val_videos", "frames", "classes", "max_objects", "blur_fraction", "speed")
NEEDED = ("train_videos", "val_videos", "frames", "size")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("--output", required=True, help="folder to write to: new, empty, or of the same set")
    parser.add_argument("--benchmark", choices=[BENCHMARK], help="the benchmark of docs/vod_synth.md; needs --size")
    parser.add_argument("--size", help=f"of the benchmark: {', '.join(SIZES)}; of a quick set: HxW, such as 128x192")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    parser.add_argument(
        "--dry-run", action="store_true", help="of the benchmark: print what would be written, and stop"
    )
    parser.add_argument(
        "--mp4",
        nargs=2,
        action="append",
        default=[],
        metavar=("VIDEO_ID", "PATH"),
        help="also write one video as an mp4, such as val/ILSVRC2015_val_00000000 clip.mp4; may be repeated",
    )
    # SUPPRESS: an option that was not given is no attribute, so that the defaults are SyntheticConfig's.
    quick = parser.add_argument_group("quick set only", argument_default=argparse.SUPPRESS)
    quick.add_argument("--seed", type=int, help="another seed gives other videos (0)")
    quick.add_argument("--train-videos", type=int, help="needed")
    quick.add_argument("--val-videos", type=int, help="needed")
    quick.add_argument("--frames", type=int, help="frames per video; needed")
    quick.add_argument(
        "--classes", type=int, help=f"use the first so many classes; even keeps pairs ({len(SYNTHETIC_CLASSES)})"
    )
    quick.add_argument("--max-objects", type=int, help="most objects in a video (3)")
    quick.add_argument("--blur-fraction", type=float, help="fraction of an object's frames with blur (0.45)")
    quick.add_argument("--speed", type=float, help="factor on how fast the objects move (1)")
    return parser


def _quick_set(parser: argparse.ArgumentParser, args: argparse.Namespace) -> SyntheticConfig:
    missing = [f"--{name.replace('_', '-')}" for name in NEEDED if getattr(args, name, None) is None]
    if missing:
        parser.error(f"expected {', '.join(missing)}, or --benchmark {BENCHMARK} and its --size")
    match = re.fullmatch(r"(\d+)x(\d+)", args.size)
    if match is None:
        parser.error(f"--size {args.size!r}: expected HEIGHTxWIDTH in pixels, such as 128x192")
    if args.dry_run:
        parser.error("--dry-run: expected --benchmark beside it")
    values = {name: getattr(args, name) for name in QUICK_ONLY if hasattr(args, name)}
    try:
        return SyntheticConfig(**{"seed": 0} | values, height=int(match[1]), width=int(match[2]))
    except ValueError as error:
        parser.error(str(error))


def _benchmark(parser: argparse.ArgumentParser, args: argparse.Namespace) -> VodSynth:
    quick_options = [f"--{name.replace('_', '-')}" for name in QUICK_ONLY if hasattr(args, name)]
    if quick_options:
        parser.error(f"{', '.join(quick_options)}: the benchmark is fixed, expected only --size {'|'.join(SIZES)}")
    if args.size not in SIZES:
        parser.error(f"--size {args.size!r}: expected one of {', '.join(SIZES)}")
    return SIZES[args.size]


def _describe(source: VodSynth, workers: int) -> str:
    cost = estimate(source)
    return (
        f"{source.train_videos:,} training videos of {source.train_frames:,} frames, {source.val_videos:,} validation "
        f"videos of {source.val_frames:,}, {source.stills:,} stills, {source.height} x {source.width} pixels: "
        f"{cost.frames:,} images, about {cost.bytes / 1e9:.1f} GB and {cost.seconds / workers / 3600:.1f} hours "
        f"with {workers} workers"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: expected at least 1")
    source: SyntheticConfig | VodSynth
    if args.benchmark is None:
        source = _quick_set(parser, args)
        write_synthetic(source, args.output, args.workers)
    else:
        source = _benchmark(parser, args)
        if args.dry_run:
            # The full size has over 1.3 million images: time and space want to be planned.
            print(_describe(source, args.workers))
            return
        write_vod_synth(source, args.output, args.workers)
    for name, path in args.mp4:
        write_mp4(source, name, path)
