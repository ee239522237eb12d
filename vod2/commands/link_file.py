"""`vod2 link` without a dataset: the detections of one video, whatever program made them."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from vod2.d2 import Instances
from vod2.detections import linked_track_stability, read_detections
from vod2.detections.files import FIRST_FRAME, SUFFIXES
from vod2.detections.linking import link
from vod2.engine.class_names import read_names
from vod2.engine.output_files import refuse_inputs
from vod2.errors import UserError
from vod2.evaluation.detection_files import FORMATS, VideoFacts
from vod2.modeling import BLR, BoxLinker
from vod2.video import VideoReader

_FPS = 25.0  # where neither the video nor the file says it
_UNITS = {
    "flicker": "changes between shown and not shown, per 100 frames of a track",
    "delay": "frames until a track is first shown",
    "gap": "longest run of frames in which a track is not shown again",
    "coverage": "percent of its frames in which a track is shown",
    "shown": "percent of the tracks that are shown at all",
}


def link_file(args: argparse.Namespace, linker: BoxLinker) -> None:
    """Link the detections of `args.results` and write them to `args.output`."""
    if args.output is None:
        raise UserError("nothing to write: give --output FILE, or --dataset NAME to evaluate")
    if isinstance(linker, BLR):
        raise UserError("--linker BLR links by relations, which only an evaluation of RDN writes: give its --dataset")
    if args.fill_gaps < 0:
        raise UserError(f"--fill-gaps is {args.fill_gaps}: expected a number of frames, at least 0")
    if args.fps is not None and not (args.fps > 0 and math.isfinite(args.fps)):
        raise UserError(f"--fps is {args.fps}: expected a number above 0")
    refuse_inputs("--output", [args.output], [args.results, args.video, args.class_names])
    if args.output.is_dir():
        raise UserError(f"--output {args.output} is a folder: expected the name of a file")
    # All of this before the work: a wrong suffix or a missing file of names is no news for afterwards.
    video = VideoReader(args.video) if args.video else None
    names = read_names(args.class_names) if args.class_names else None
    length = video.frame_count() if video else None
    size = (video.size[1], video.size[0]) if video else None
    found = read_detections(args.results, length, size, args.first_frame)
    kind = _format(args.format, args.output, found.kind)
    if video is not None:
        _warn(args, video, found.frames)
    if not found.frames:
        raise UserError(f"{args.results} has no detections, and no --video says how many frames there are")

    linked = link(found.frames, linker, fill_gaps=args.fill_gaps)
    height, width = found.frames[0].image_size
    facts = VideoFacts(
        str(args.video or found.facts.video or args.results),
        video.fps if video else args.fps or found.facts.fps or _FPS,
        (width, height),
        names if names is not None else found.facts.class_names,
    )
    # In the same format a frame keeps its number; each format has one of its own for the first.
    offset = found.first - FIRST_FRAME[found.kind] if kind == found.kind else 0
    with FORMATS[kind](args.output, facts) as file:
        for index, frame in enumerate(linked):
            time = found.facts.times.get(index + found.first, index / float(facts.fps))
            file.write(index + offset, frame, time)
    filled = sum(int(frame.filled.sum()) for frame in linked if frame.has("filled"))
    tracks = {track for frame in linked for track in frame.track_ids.tolist()}
    boxes = sum(map(len, found.frames))
    left = sum(map(len, linked)) - filled
    print(f"{len(linked)} frames: {boxes} boxes, of which {left} are left, {filled} filled; {len(tracks)} tracks")
    for name, (before, after) in linked_track_stability(linked).items():
        print(f"{name:10}{before:7.2f} -> {after:7.2f}  ({_UNITS[name]})")
    print(f"Wrote {args.output}")


def _warn(args: argparse.Namespace, video: VideoReader, frames: Sequence[Instances]) -> None:
    """Say what about the video makes the result doubtful."""
    if not video.has_constant_rate():
        print(
            f"{args.video} has no constant rate: `time` is the frame's number over the mean rate, where {args.results} "
            "does not say it",
            file=sys.stderr,
        )
    width, height = video.size
    boxes = torch.cat([frame.pred_boxes.tensor for frame in frames]) if frames else torch.zeros(0, 4)
    # Some detectors do not clip their boxes: where the centre is tells more than where the corners are.
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    outside = int(((centres < 0) | (centres > centres.new_tensor([width, height]))).any(dim=1).sum())
    if outside:
        print(
            f"{outside} of {len(boxes)} boxes of {args.results} have their centre outside of the {width} x {height} "
            f"pixels of {args.video}: is it the right video, in its original size?",
            file=sys.stderr,
        )


def _format(asked: str | None, output: Path, of_input: str) -> str:
    """The name in FORMATS of what is written.

    Raises:
        UserError: the suffix is that of no format.
    """
    if asked:
        return asked
    suffix = output.suffix.lower()
    if suffix == ".xml":
        return "cvat"
    if suffix not in SUFFIXES:
        raise UserError(
            f"--output {output}: expected {', '.join(SUFFIXES)} or .xml (cvat), or --format {'|'.join(FORMATS)}"
        )
    kinds = SUFFIXES[suffix].split(" or ")
    return of_input if of_input in kinds else kinds[0]
