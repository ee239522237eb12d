#!/usr/bin/env python3
"""Write damaged copies of videos: bursts of blur, noise, darkness, compression and occlusion, and a record of them.

    python tools/damage_videos.py clip.mp4 damaged
    python tools/damage_videos.py videos damaged --seed 1 --share 0.25 --kinds motion_blur,occlusion

IN is a video file, a folder of images, or a folder of either. OUT gets a copy of each under its own name, and beside
it NAME.damage.json: {"frames": {number: {kind: strength}}, "config": ...}. IN stays as it is. Run it again to go on
after an interruption. Videos are encoded as H.264 of good quality, with the times of their frames, images in the
format that they had.

Bursts depend on the seed and on a video's name, its path below IN without the suffix. A data set whose video ids are
these names gets the same from register_damaged (datasets/README.md).
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from vod2.atomic import write_json
from vod2.bounded import load_json
from vod2.data.damage import DAMAGES, DamageConfig, burst_at, damage_frame
from vod2.engine import cli
from vod2.errors import UserError, VideoError
from vod2.locking import locked_file
from vod2.video import VideoReader, VideoWriter, images_in
from vod2.video.writer import SUFFIXES

_VIDEO_SUFFIXES = (*SUFFIXES, ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
_JPEG_QUALITY = 98  # nearly all that happens to a frame is the damage


class Source(NamedTuple):
    """A video to damage: its name, and its file or folder of images."""

    name: str
    path: Path


def _pair(kind: type) -> Callable[[str], tuple]:
    """Of an option that takes "LEAST,GREATEST"."""

    def parse(text: str) -> tuple:
        try:
            least, greatest = map(kind, text.split(","))
            return least, greatest
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: expected two numbers with a comma between") from error

    return parse


def _parser() -> argparse.ArgumentParser:
    default = DamageConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", metavar="IN", help="a video, a folder of images, or a folder of such")
    parser.add_argument("output", metavar="OUT", help="folder for the copies")
    parser.add_argument("--seed", type=int, default=default.seed, help="another seed gives other bursts (0)")
    parser.add_argument("--share", type=float, default=default.share, help="of the frames that are damaged (1/3)")
    parser.add_argument(
        "--lengths", type=_pair(int), default=default.lengths, metavar="MIN,MAX", help="frames of a burst (4,12)"
    )
    parser.add_argument(
        "--strengths", type=_pair(float), default=default.strengths, metavar="MIN,MAX", help="in (0, 1] (0.4,1)"
    )
    parser.add_argument(
        "--kinds", default=",".join(default.kinds), metavar="KIND,KIND", help=f"some of {', '.join(DAMAGES)} (all)"
    )
    return parser


def find_sources(root: Path) -> list[Source]:
    """The videos in a path, in order of their names.

    Raises:
        UserError: there are none, or two would have the same name.
    """
    if not root.exists():
        raise UserError(f"{root}: there is no such file or folder")
    if root.is_file() or images_in(root):
        return [Source(root.stem if root.is_file() else root.resolve().name, root)]
    sources = [Source(path.relative_to(root).with_suffix("").as_posix(), path) for path in _files_below(root)]
    sources += [Source(path.relative_to(root).as_posix(), path) for path in _folders_of_images(root)]
    if not sources:
        raise UserError(f"{root}: holds no video: expected files such as .mp4, or folders of images")
    # Sorted, two sources of one name stand next to each other.
    sources.sort()
    for first, second in zip(sources, sources[1:], strict=False):
        if first.name == second.name:
            raise UserError(f"{first.path} and {second.path} have one name without their suffix: rename one")
    return sources


def _files_below(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.suffix.lower() in _VIDEO_SUFFIXES and path.is_file())


def _folders_of_images(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_dir() and images_in(path))


def damage_video(source: Source, output: Path, config: DamageConfig) -> bool:
    """Write the damaged copy of a video and its record; False if both are there already.

    Raises:
        VideoError: a frame of it cannot be read.
        UserError: the copy is there without a record, or with another one.
    """
    record = output / f"{source.name}.damage.json"
    target = output / (source.name if source.path.is_dir() else source.name + _suffix(source.path))
    # The record is written last, so where it is, the copy is complete.
    if record.exists():
        _require_same(record, config)
        return False
    if target.exists():
        raise UserError(f"{target} is there without {record.name}: delete it, or give another folder for the copies")
    # Counted first, because the length decides where the bursts are.
    reader = VideoReader(source.path)
    length = reader.frame_count()
    target.parent.mkdir(parents=True, exist_ok=True)
    write = _write_images if source.path.is_dir() else _write_video
    write(source, target, reader, config, length)
    bursts = {frame: burst_at(config, source.name, length, frame) for frame in range(length)}
    frames = {frame: {burst.kind: burst.strength} for frame, burst in bursts.items() if burst is not None}
    write_json(record, {"source": str(source.path), "config": asdict(config), "frames": frames})
    return True


def _suffix(path: Path) -> str:
    """Of the copy of a video file: containers that hold H.264 keep theirs."""
    return path.suffix if path.suffix.lower() in SUFFIXES else ".mp4"


def _require_same(record: Path, config: DamageConfig) -> None:
    try:
        recorded = load_json(record.read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record}: broken ({error}): delete it to have its video written again") from error
    # By way of JSON, which makes lists of the tuples.
    if recorded != json.loads(json.dumps(asdict(config))):
        raise UserError(f"{record}: its video was damaged with {recorded}: give another folder, or delete both")


def _damaged_frames(source: Source, reader: VideoReader, config: DamageConfig, length: int) -> Iterator[np.ndarray]:
    for frame, image in enumerate(reader):
        yield damage_frame(image, config, source.name, length, frame)
    # A frame that is lost would shift the numbers of those after it.
    if reader.status.state != "ok" or reader.status.frames_read != length:
        raise VideoError(f"{reader.status.reason or source.path}: frames are missing, so that none can be numbered")


def _write_video(source: Source, target: Path, reader: VideoReader, config: DamageConfig, length: int) -> None:
    """Of a variable rate each frame has the time that it had. A constant rate needs none, which makes smaller files."""
    is_timed = not reader.has_constant_rate()
    with VideoWriter(target, reader.fps, reader.size) as video:
        for image in _damaged_frames(source, reader, config, length):
            video.write(image, reader.time if is_timed else None)


def _write_images(source: Source, target: Path, reader: VideoReader, config: DamageConfig, length: int) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
    partial.mkdir()
    names = [path.name for path in images_in(source.path)]
    for name, image in zip(names, _damaged_frames(source, reader, config, length), strict=True):
        suffix = Path(name).suffix
        is_jpeg = suffix.lower() in (".jpg", ".jpeg")  # OpenCV warns of parameters that a format does not have
        _, encoded = cv2.imencode(suffix, image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if is_jpeg else [])
        (partial / name).write_bytes(encoded.tobytes())
    # A folder under its final name is complete.
    os.replace(partial, target)


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    kinds = tuple(kind.strip() for kind in args.kinds.split(","))
    config = DamageConfig(args.seed, args.share, args.lengths, kinds, args.strengths)
    sources, output = find_sources(Path(args.input)), Path(args.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: give a folder for the copies")
    if Path(args.input).is_dir() and output.resolve().is_relative_to(Path(args.input).resolve()):
        raise UserError(
            f"{output} lies in {args.input}: give a folder outside, where copies are not taken for originals"
        )
    with locked_file(output / ".writing.lock", "processes", remedy="folder for the copies", passing=True):
        num_written = sum(damage_video(source, output, config) for source in tqdm(sources, unit="video", disable=None))
    print(f"{output}: {num_written} videos written, {len(sources) - num_written} were there already")


if __name__ == "__main__":
    cli.run(main)
