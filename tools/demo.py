#!/usr/bin/env python3
r"""Detect objects in videos or in the pictures of a camera: draws them, and writes them as text if asked.

    python tools/demo.py --config-file configs/RDN_R101.yaml --video-input in.mp4 --output out.mp4 \
        --opts MODEL.WEIGHTS rdn.pth
    python tools/demo.py --config-file configs/RDN_R101.yaml --webcam 0 --lookahead 0 --jsonl found.jsonl \
        --opts MODEL.WEIGHTS rdn.pth
    python tools/demo.py --config-file configs/RDN_R101.yaml --video-input day/*.mp4 --output drawn/{name}.mp4 \
        --mot drawn/{name}.txt --compare configs/FasterRCNN_R101.yaml single.pth --opts MODEL.WEIGHTS rdn.pth

Ctrl-C ends it with what was finished so far: the texts are complete, and the video lies beside its name as
out.partial.mp4. That of a camera, which has no other end, has its proper name.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from vod2.checkpoint import require_weights
from vod2.d2 import CfgNode, Instances, MetadataCatalog
from vod2.data.camera import Camera
from vod2.data.reader import VideoReader
from vod2.engine import VideoPredictor, cli, load_config
from vod2.engine.outputs import FORMATS, DetectionFile, VideoFacts
from vod2.engine.streams import DetectedFrame
from vod2.errors import UserError
from vod2.visualization import Trails, VideoWriter, draw_instances, side_by_side, side_by_side_size


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the YAML file of the model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video-input", nargs="+", metavar="PATH", help="video files, or folders of images")
    source.add_argument(
        "--webcam", metavar="N|URL", help="a camera: its number from 0, or an address such as rtsp://.."
    )
    name = "{name} in it stands for the name of the input, which several inputs need"
    parser.add_argument("--output", metavar="FILE", help=f"the video to write, such as out.mp4; {name}")
    parser.add_argument("--json", metavar="FILE", help="the detections as JSON, at the end")
    parser.add_argument("--jsonl", metavar="FILE", help="as JSON lines, each as soon as its frame is finished")
    parser.add_argument("--mot", metavar="FILE", help="as MOTChallenge text")
    parser.add_argument("--coco", metavar="FILE", help="as COCO results")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, metavar="S", help="least score (default .5)")
    parser.add_argument(
        "--lookahead", type=int, metavar="N", help="frames to wait for: 0 is live (default: the model's)"
    )
    parser.add_argument("--trail", type=int, default=30, metavar="N", help="frames of a track's trail (default 30)")
    parser.add_argument("--compare", nargs=2, metavar=("CONFIG", "WEIGHTS"), help="draw another detector on the left")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    args = parser.parse_args(words)
    if not any(getattr(args, kind) for kind in ("output", *FORMATS)):
        parser.error(f"nothing to write: give at least one of --output, {', '.join(f'--{kind}' for kind in FORMATS)}")
    if args.compare and not args.output:
        parser.error("--compare draws: it needs --output")
    return args


class Detector(NamedTuple):
    """A model, and what its drawings are called."""

    cfg: CfgNode
    title: str

    @property
    def class_names(self) -> list[str]:
        """Of the first test dataset, empty where it has none."""
        return list(self._metadata("thing_classes", []))

    @property
    def category_ids(self) -> dict[int, int]:
        """{label: id in the dataset's annotation file}."""
        return {label: known for known, label in self._metadata("thing_dataset_id_to_contiguous_id", {}).items()}

    def _metadata(self, key: str, default: object) -> object:
        return (
            getattr(MetadataCatalog.get(self.cfg.DATASETS.TEST[0]), key, default) if self.cfg.DATASETS.TEST else default
        )


class Job(NamedTuple):
    """One video and what becomes of it; all files are checked, none is opened before the models are built."""

    source: VideoReader | Camera
    files: list[DetectionFile]
    writer: VideoWriter | None


def detectors_of(args: argparse.Namespace) -> list[Detector]:
    """The detector, and the one to compare it with."""
    found = [Detector(load_config(args.config_file, args.opts), Path(args.config_file).stem)]
    if args.compare:
        config, weights = args.compare
        found.append(Detector(load_config(config, ["MODEL.WEIGHTS", weights]), Path(config).stem))
    if len({one.title for one in found}) < len(found):  # the same model with other weights
        found = [one._replace(title=f"{one.title} {one.cfg.MODEL.WEIGHTS}") for one in found]
    for one in found:
        require_weights(one.cfg.MODEL.WEIGHTS)
    return found


def jobs_of(args: argparse.Namespace, detectors: Sequence[Detector]) -> list[Job]:
    """Open every input; raises UserError where one cannot be read, or two would be written to one file."""
    inputs = args.video_input or [args.webcam]
    names = ["camera" if args.webcam else Path(path).resolve().stem for path in inputs]
    if len(set(names)) < len(names):
        raise UserError(f"two inputs of --video-input have the same name ({', '.join(sorted(names))}): run them apart")
    patterns = {kind: getattr(args, kind) for kind in ("output", *FORMATS) if getattr(args, kind)}
    for kind, pattern in patterns.items():
        if len(inputs) > 1 and "{name}" not in pattern:
            raise UserError(f"--{kind} {pattern} is one file for {len(inputs)} inputs: put {{name}} into it")
    jobs = []
    for path, name in zip(inputs, names, strict=True):
        paths = {kind: pattern.replace("{name}", name) for kind, pattern in patterns.items()}
        source = _camera(path) if args.webcam else VideoReader(path)
        facts = VideoFacts(path, source.fps, source.size, detectors[0].class_names, detectors[0].category_ids)
        files = [kind(paths[key], facts) for key, kind in FORMATS.items() if key in paths]
        writer = None
        if "output" in paths:
            size = side_by_side_size(source.size, len(detectors)) if len(detectors) > 1 else source.size
            writer = VideoWriter(paths["output"], source.fps, size)
        jobs.append(Job(source, files, writer))
    return jobs


def _camera(source: str) -> Camera:
    return Camera(int(source) if source.isdigit() else source)


def run(
    job: Job, args: argparse.Namespace, detectors: Sequence[Detector], predictors: Sequence[VideoPredictor]
) -> None:
    """Detect in one video and write its files."""
    trails = [Trails(args.trail) for _ in detectors]
    interrupted = False
    with ExitStack() as stack:
        for file in (*job.files, *([job.writer] if job.writer else [])):
            stack.enter_context(file)
        try:
            for found in detected(job, predictors):
                kept = [at_least(one.output["instances"].to("cpu"), args.confidence_threshold) for one in found]
                for file in job.files:
                    file.write(found[0].index, kept[0])
                if job.writer:
                    job.writer.write(drawn(found[0].image, kept, detectors, trails))
        except KeyboardInterrupt:
            if not isinstance(job.source, Camera):
                raise
            interrupted = True  # a camera has no other end: what there is, is the whole
    if interrupted:
        raise KeyboardInterrupt


def detected(job: Job, predictors: Sequence[VideoPredictor]) -> Iterator[tuple[DetectedFrame, ...]]:
    """The frames of a video, each as all predictors have finished it; one that looks ahead holds up the others."""
    copies = itertools.tee(job.source, len(predictors))
    streams = [predictor.stream(frames) for predictor, frames in zip(predictors, copies, strict=True)]
    return tqdm(zip(*streams, strict=True), total=job.source.frame_count_hint, unit="frame")


def at_least(instances: Instances, threshold: float) -> Instances:
    return instances[instances.scores >= threshold]


def drawn(
    image: np.ndarray, found: Sequence[Instances], detectors: Sequence[Detector], trails: Sequence[Trails]
) -> np.ndarray:
    """The picture of a frame: that of the detector, or those of both with the other on the left."""
    pictures = [
        draw_instances(trail.draw(image, instances), instances, detector.class_names, threshold=0)
        for instances, detector, trail in zip(found, detectors, trails, strict=True)
    ]
    if len(pictures) == 1:
        return pictures[0]
    return side_by_side(pictures[::-1], [detector.title for detector in detectors][::-1])


def main() -> None:
    args = parse_args()
    detectors = detectors_of(args)
    jobs = jobs_of(args, detectors)
    predictors = [VideoPredictor(one.cfg, lookahead=args.lookahead) for one in detectors[:1]]
    predictors += [VideoPredictor(one.cfg) for one in detectors[1:]]
    for job in jobs:
        run(job, args, detectors, predictors)


if __name__ == "__main__":
    cli.run(main)
