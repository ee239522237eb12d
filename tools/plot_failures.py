#!/usr/bin/env python3
"""The frames where a method fails most against another one, side by side.

    python tools/plot_failures.py output/RDN output/FasterRCNN --output failures.png

A and B are folders of evaluations of one dataset, OUTPUT_DIR/inference/<dataset> (or OUTPUT_DIR, where it holds one
dataset). Drawn are the frames with most objects that A finds and B does not, less those that B finds and A does not;
detections count from a score of --score on, by the protocol of the evaluation. A row is a frame, A on the left, B on
the right: a detection that finds an object has a plain label such as "fox .87", one that finds nothing "fox .87 false",
and the dashed boxes are objects that are missed. The images are read from the registered dataset that was evaluated.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from vod2.engine import cli
from vod2.engine.output_files import refuse_inputs
from vod2.engine.registration import add_register_option
from vod2.errors import UserError
from vod2.evaluation.failures import Judged, false_detections, judge, worst_frames
from vod2.evaluation.judged_frames import draw_judged, read_images
from vod2.evaluation.runs import Run, find_results, name_of_results, read_run, refuse_differences
from vod2.image_files import write_image
from vod2.visualization import side_by_side


def table(frames: Sequence[int], run: Run, judged: Sequence[Judged], names: Sequence[str]) -> str:
    """Of each frame: its objects, those that each method finds, and the false detections of each."""
    counted = ~run.data.truth.ignore
    false = [false_detections(of_method, len(run.data.image_ids)) for of_method in judged]  # (F,) of each method
    headers = ["frame", "objects"]
    headers += [f"{name}: found" for name in names]
    headers += [f"{name}: false" for name in names]
    lines = []
    for frame in frames:
        objects = counted & (run.data.truth.image == frame)
        line = [run.data.image_ids[frame], int(objects.sum())]
        line += [int((of_method.found & objects).sum()) for of_method in judged]
        line += [int(of_method[frame]) for of_method in false]
        lines.append(line)
    return tabulate(lines, headers, disable_numparse=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_register_option(parser)
    parser.add_argument("first", metavar="A", type=Path, help="results of the method that finds the objects")
    parser.add_argument("second", metavar="B", type=Path, help="results of the method that loses them")
    parser.add_argument("--names", nargs=2, metavar=("A", "B"), help="what the two are called in the picture")
    parser.add_argument("--count", type=int, default=6, metavar="N", help="frames (6)")
    parser.add_argument("--per-video", type=int, default=1, metavar="N", help="frames of a video, at most (1)")
    parser.add_argument("--score", type=float, default=0.5, metavar="S", help="least score of a detection (0.5)")
    parser.add_argument("--dataset", metavar="NAME", help="take the images from this registered dataset")
    parser.add_argument("--output", type=Path, default=Path("failures.png"), metavar="FILE", help="the picture")
    return parser


def main() -> None:
    parser = _parser()
    args = parser.parse_args()
    for name in ("count", "per_video"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: expected at least 1")
    if not 0 <= args.score <= 1:
        parser.error(f"--score {args.score}: expected a number from 0 to 1")
    if args.output.suffix.lower() != ".png":
        parser.error(f"--output {args.output}: expected a name that ends in .png")
    folders = [find_results(folder) for folder in (args.first, args.second)]
    read = itertools.chain.from_iterable(folder.glob("*.npz") for folder in folders)
    refuse_inputs("--output", [args.output], read)
    runs = [read_run(folder) for folder in folders]
    # Losses can only be told where both were held against the same objects.
    refuse_differences(runs)
    names = args.names or [name_of_results(folder) for folder in folders]
    judged = [judge(run, args.score) for run in runs]
    frames = worst_frames(*judged, runs[0], args.count, args.per_video).tolist()
    if not frames:
        raise UserError(f"in no frame does {names[0]} find more objects than {names[1]} at a score of {args.score:g}")
    images = read_images(args.dataset or runs[0].data.name, runs[0], frames)
    pictures = []
    for frame, image in zip(frames, images, strict=True):
        panels = [draw_judged(image, of_method, frame, run) for of_method, run in zip(judged, runs, strict=True)]
        pictures.append(side_by_side(panels, [f"{name}: {runs[0].data.image_ids[frame]}" for name in names]))
    print(table(frames, runs[0], judged, names))
    write_image(args.output, np.concatenate(pictures))
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    cli.run(main)
