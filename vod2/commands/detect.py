r"""Detect objects in videos or in the pictures of a camera: draws them, and writes them as text if asked.

    vod2 detect --config-file configs/RDN_R101.yaml --video-input in.mp4 --output out.mp4 \
        --opts MODEL.WEIGHTS rdn.pth
    vod2 detect --config-file configs/RDN_R101.yaml --webcam 0 --lookahead 0 --jsonl found.jsonl \
        --opts MODEL.WEIGHTS rdn.pth
    vod2 detect --config-file configs/RDN_R101.yaml --webcam 0 rtsp://door/1 --lookahead 0 --jsonl {name}.jsonl \
        --opts MODEL.WEIGHTS rdn.pth
    vod2 detect --config-file configs/RDN_R101.yaml --video-input day/*.mp4 --output drawn/{name}.mp4 \
        --mot drawn/{name}.txt --compare configs/FasterRCNN_R101.yaml single.pth --opts MODEL.WEIGHTS rdn.pth

Ctrl-C ends it with what was finished so far: the texts are complete, and the video lies beside its name as
out.partial.mp4. That of a camera, which has no other end, has its proper name.

Frames keep their times: the drawn video lasts as long as its input, and JSON and COCO results have `time`, seconds from
the start. MOT text has no column for times.
"""

import argparse
import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from vod2.checkpoint import require_weights
from vod2.commands.cameras import camera_names, run_together
from vod2.commands.parsing import command_parser
from vod2.d2 import CfgNode, Instances, MetadataCatalog
from vod2.engine import VideoPredictor, load_config
from vod2.engine.class_names import class_names_of
from vod2.engine.output_files import refuse_inputs
from vod2.engine.registration import add_register_option
from vod2.engine.relations import RelationWatch, detection_at
from vod2.engine.rows import config_name
from vod2.engine.streams import DetectedFrame, link_stream
from vod2.errors import UserError
from vod2.evaluation.detection_files import FORMATS, DetectionFile, VideoFacts
from vod2.image_files import write_image
from vod2.modeling import OnlineLinker, SeqNMS, build_box_linker
from vod2.package_files import find_config
from vod2.video import Camera, VideoReader, VideoWriter, read_ahead, without_path
from vod2.visualization import (
    ReportWriter,
    Trails,
    class_name,
    draw_instances,
    draw_relations,
    side_by_side,
    side_by_side_size,
)

OUTPUTS = ("output", "report", *FORMATS)


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add_detector_options(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video-input", nargs="+", metavar="PATH", help="video files, or folders of images")
    source.add_argument(
        "--webcam",
        nargs="+",
        metavar="N|URL",
        help="cameras, all at the same time: the number of each from 0, or an address such as rtsp://..",
    )
    name = "{name} in it stands for the name of the input, which several inputs need"
    parser.add_argument("--output", metavar="FILE", help=f"the video to write, such as out.mp4; {name}")
    parser.add_argument("--json", metavar="FILE", help="the detections as JSON, at the end")
    parser.add_argument("--jsonl", metavar="FILE", help="as JSON lines, each as soon as its frame is finished")
    parser.add_argument("--mot", metavar="FILE", help="as MOTChallenge text")
    parser.add_argument("--coco", metavar="FILE", help="as COCO results")
    parser.add_argument(
        "--cvat", metavar="FILE", help='as XML that CVAT imports ("CVAT for video 1.1"), to be corrected'
    )
    parser.add_argument("--label-studio", metavar="FILE", help="as JSON that Label Studio imports, to be corrected")
    parser.add_argument("--report", metavar="FILE", help="a page with the video and scores over time, such as out.html")
    parser.add_argument(
        "--reconnect",
        type=float,
        default=0.0,
        metavar="S",
        help="open a --webcam that breaks off again, for S seconds (default 0: it has ended)",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        action="append",
        default=[],
        metavar=("CONFIG", "WEIGHTS"),
        help="draw another detector on the left; give it again for further ones, which stand in their order",
    )
    parser.add_argument(
        "--show-relations",
        type=_frame_and_point,
        metavar="FRAME:X,Y",
        help="also draw, for the detection there, the support boxes that it took most from: out.relations.png",
    )
    args = parser.parse_args(words)
    if not any(getattr(args, kind) for kind in OUTPUTS):
        parser.error(f"nothing to write: give at least one of {', '.join(map(_option, OUTPUTS))}")
    if args.compare and not (args.output or args.report):
        parser.error("--compare draws: it needs --output or --report")
    if args.report and len(args.compare) > 1:
        parser.error(f"--report shows one other detector: --compare is given {len(args.compare)} times")
    if args.show_relations and not args.output:
        parser.error("--show-relations draws: it needs --output")
    if args.reconnect and not args.webcam:
        parser.error("--reconnect is for a camera: give it with --webcam")
    if not args.reconnect >= 0:
        parser.error(f"--reconnect {args.reconnect}: expected a number of seconds, at least 0")
    require_link(parser, args)
    if args.show_relations and len(args.video_input or []) != 1:
        parser.error("--show-relations is for a frame of one video: give it with one --video-input")
    return args


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """The model, and what becomes of its detections; --opts takes all words that follow it."""
    add_register_option(parser)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the YAML file of the model")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, metavar="S", help="least score (default .5)")
    parser.add_argument(
        "--lookahead", type=int, metavar="N", help="frames to wait for: 0 is live (default: the model's)"
    )
    parser.add_argument(
        "--link",
        type=int,
        metavar="W",
        help="link what is kept to tracks, W frames at a time, by MODEL.VIDEO.LINKER (SeqNMS if that names none)",
    )
    parser.add_argument("--trail", type=int, default=30, metavar="N", help="frames of a track's trail (default 30)")
    parser.add_argument(
        "--class-names",
        metavar="FILE",
        help="names of the classes: a line each, a JSON list or a data.yaml (default: those of the weights' training, "
        "or of the first test dataset)",
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")


def require_link(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program if --link is no window."""
    if args.link is not None and args.link < 2:
        parser.error(f"--link {args.link}: expected at least 2 frames")


def _frame_and_point(text: str) -> tuple[int, float, float]:
    match = re.fullmatch(r"([0-9]+):([0-9.]+),([0-9.]+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected FRAME:X,Y, a frame from 0 and a pixel, such as 120:64,48")
    return int(match[1]), float(match[2]), float(match[3])


class Detector(NamedTuple):
    """A model, and what its drawings are called."""

    cfg: CfgNode
    title: str
    class_names: list[str]

    @property
    def category_ids(self) -> dict[int, int]:
        """{label: id in the dataset's annotation file}."""
        label_of_id = self._metadata("thing_dataset_id_to_contiguous_id", {})
        return {label: category_id for category_id, label in label_of_id.items()}

    def linker(self, window: int) -> OnlineLinker:
        """What gives the boxes of one stream their tracks."""
        return OnlineLinker(build_box_linker(self.cfg) or SeqNMS(), window)

    def _metadata(self, key: str, default: Any) -> Any:
        if not self.cfg.DATASETS.TEST:
            return default
        return getattr(MetadataCatalog.get(self.cfg.DATASETS.TEST[0]), key, default)


class Job(NamedTuple):
    """One video and what becomes of it; all files are checked, none is opened before the models are built."""

    source: VideoReader | Camera
    files: list[DetectionFile]
    writer: VideoWriter | None
    report: ReportWriter | None
    name: str = ""  # of the video in messages, where that is not its path

    @property
    def complaint(self) -> str:
        """What was wrong with the source, by the name that the video has for its owner."""
        text = complaint(self.source)
        return without_path(text, self.source.path, self.name) if isinstance(self.source, VideoReader) else text


def detectors_of(args: argparse.Namespace) -> list[Detector]:
    """The detector, and those to compare it with."""
    cfg = load_config(args.config_file, args.opts)
    detectors = [Detector(cfg, config_name(args.config_file), class_names_of(cfg, args.class_names))]
    if args.show_relations:
        # Only where it is asked for: the weights of all relations take memory.
        detectors[0].cfg.MODEL.VIDEO.KEEP_RELATIONS = True
    for config, weights in args.compare:
        cfg = load_config(config, ["MODEL.WEIGHTS", weights])
        detectors.append(Detector(cfg, config_name(config), class_names_of(cfg, args.class_names)))

    titles = Counter(detector.title for detector in detectors)
    for row, detector in enumerate(detectors):
        weights = detector.cfg.MODEL.WEIGHTS
        require_weights(weights)
        if titles[detector.title] > 1:  # the same model with other weights
            detectors[row] = detector._replace(title=f"{detector.title} {weights}")
    return detectors


def jobs_of(args: argparse.Namespace, detectors: Sequence[Detector]) -> list[Job]:
    """Open every input; raises UserError where one cannot be read, or two would be written to one file."""
    inputs = args.video_input or args.webcam
    names = camera_names(inputs) if args.webcam else [Path(path).resolve().stem for path in inputs]
    if len(set(names)) < len(names):
        option = "--webcam" if args.webcam else "--video-input"
        raise UserError(f"two inputs of {option} have the same name ({', '.join(sorted(names))}): run them apart")
    patterns = {kind: getattr(args, kind) for kind in OUTPUTS if getattr(args, kind)}  # of the files that are asked for
    for kind, pattern in patterns.items():
        if len(inputs) > 1 and "{name}" not in pattern:
            raise UserError(f"{_option(kind)} {pattern} is one file for {len(inputs)} inputs: put {{name}} into it")
    files_read = [find_config(args.config_file)]
    for config, weights in args.compare:
        files_read += [find_config(config), weights]
    files_read += [detector.cfg.MODEL.WEIGHTS for detector in detectors]
    files_read += args.video_input or []
    jobs = []
    for path, name in zip(inputs, names, strict=True):
        paths = {kind: pattern.replace("{name}", name) for kind, pattern in patterns.items()}
        refuse_paths(paths, files_read)
        source = _camera(path, args.reconnect) if args.webcam else VideoReader(path)
        # The password of a camera is for nobody who gets a result.
        shown = str(source.name) if isinstance(source, Camera) else path
        jobs.append(job_of(source, shown, paths, args.confidence_threshold, detectors))
    return jobs


def job_of(
    source: VideoReader | Camera,
    name: str,
    paths: Mapping[str, str | Path],
    threshold: float,
    detectors: Sequence[Detector],
) -> Job:
    """What becomes of one video.

    Args:
        source: opened.
        name: its path, its address, or what its owner calls it.
        paths: {one of `OUTPUTS`: the file to write}.
        threshold: least score that is kept, in [0, 1].
        detectors: as of `detectors_of`.
    """
    facts = VideoFacts(name, source.fps, source.size, detectors[0].class_names, detectors[0].category_ids)
    files = [file_kind(paths[kind], facts) for kind, file_kind in FORMATS.items() if kind in paths]
    writer = None
    if "output" in paths:
        size = source.size
        if len(detectors) > 1:
            size = side_by_side_size(source.size, len(detectors))
        writer = VideoWriter(paths["output"], source.fps, size)
    report = None
    if "report" in paths:
        classes = detectors[0].class_names
        report = ReportWriter(paths["report"], source.fps, classes, threshold, title=Path(name).name)
    return Job(source, files, writer, report, name)


def refuse_paths(paths: Mapping[str, str], files_read: Sequence[str]) -> None:
    """Raises UserError if a file to write, by its option, is one that is read, be it by way of a link."""
    for kind, path in paths.items():
        written = [Path(path)]
        if kind == "output":
            # What an interruption leaves, and the picture of --show-relations.
            written += [written[0].with_suffix(f".partial{written[0].suffix}"), _relations_path(written[0])]
        refuse_inputs(f"{_option(kind)} {path}", written, files_read)


def _option(kind: str) -> str:
    """The option that asks for a file of `OUTPUTS`."""
    return f"--{kind.replace('_', '-')}"


def _relations_path(output: Path) -> Path:
    """The picture of --show-relations."""
    return output.with_suffix(".relations.png")


class FrameTimes:
    """The times of the frames that are on their way through the detectors.

    Args:
        source: its `time` is that of the frame that it gave last, in seconds.
    """

    def __init__(self, source: VideoReader | Camera) -> None:
        self._source = source
        self._times: dict[int, Fraction | float] = {}

    def watch(self, frames: Iterable[np.ndarray | None]) -> Iterator[np.ndarray | None]:
        """The frames of the source as they are, None for those that are lost."""
        for index, frame in enumerate(frames):
            if frame is not None:
                self._times[index] = self._source.time
            yield frame

    def take(self, index: int) -> Fraction | float:
        """The time of a frame, once."""
        return self._times.pop(index)


def _camera(source: str, reconnect: float) -> Camera:
    # OpenCV takes the number of a camera as an int, and an address as text.
    return Camera(int(source) if source.isdigit() else source, reconnect=reconnect)


def progress_bar(frames: Iterable[Any], total: int | None) -> Iterable[Any]:
    """The finished frames as they are, counted on stderr."""
    return tqdm(frames, total=total, unit="frame")


def run(
    job: Job,
    args: argparse.Namespace,
    detectors: Sequence[Detector],
    predictors: Sequence[VideoPredictor],
    watched: Callable[[Iterable[Any], int | None], Iterable[Any]] = progress_bar,
) -> None:
    """Detect in one video and write its files.

    Args:
        job: the video.
        args: with confidence_threshold, link, trail and show_relations, and output if that is given.
        detectors, predictors: in the same order.
        watched: gets the finished frames and how many there will be, if that is known; returns the frames as they are.
    """
    trails = [Trails(args.trail) for _ in detectors]
    # The relations are those of the detector, not of what it is compared with.
    watch = RelationWatch(predictors[0], args.show_relations[0]) if args.show_relations else None
    times = FrameTimes(job.source)
    interrupted = False
    expected_index = 0  # number of the frame that comes next, unless there is a gap
    with ExitStack() as stack:
        _open_all(job, stack)
        try:
            finished = detect_frames(job, times, args, detectors, predictors, watch, stack)
            for frames in watched(finished, job.source.frame_count_hint):
                index, image = frames[0].index, frames[0].image  # the same for all detectors
                time = times.take(index)
                instances_of_all = [frame.output["instances"].to("cpu") for frame in frames]
                kept = [filter_by_score(instances, args.confidence_threshold) for instances in instances_of_all]
                for file in job.files:
                    file.write(index, kept[0], time)
                if watch and watch.is_done and index == watch.frame:
                    show_relations(watch, image, kept[0], args, detectors[0].class_names)
                if job.writer:
                    job.writer.write(draw_frame(image, kept, detectors, trails), time)
                if job.report:
                    baseline = instances_of_all[1] if len(instances_of_all) > 1 else None
                    job.report.write(image, instances_of_all[0], baseline, index > expected_index, time)
                expected_index = index + 1
            if job.report:
                job.report.note = job.complaint
        except KeyboardInterrupt:
            if not isinstance(job.source, Camera):
                raise
            interrupted = True  # a camera has no other end: what there is, is the whole
    if watch and not watch.is_done and not interrupted:
        print(f"--show-relations: there is no frame {watch.frame}, or it looks at no others", file=sys.stderr)
    # Not an error: what could be read has been written.
    if job.complaint:
        print(job.complaint, file=sys.stderr)
    if interrupted:
        raise KeyboardInterrupt


def _open_all(job: Job, stack: ExitStack) -> None:
    """On the stack, each is finished whatever happens to the others."""
    if isinstance(job.source, Camera):
        stack.enter_context(job.source)
    for file in job.files:
        stack.enter_context(file)
    if job.writer:
        stack.enter_context(job.writer)
    if job.report:
        stack.enter_context(job.report)


def complaint(source: VideoReader | Camera) -> str:
    """What was wrong with a video that was read to its end, or with a camera until now; "" if nothing."""
    if isinstance(source, Camera):
        told = []
        if source.skipped:
            told.append(f"{source.skipped} frames came while the detector was busy, and were left out")
        if source.reconnections:
            told.append(f"it broke off and was opened again {source.reconnections} times")
        return f"camera {source.name}: {'; '.join(told)}" if told else ""
    status = source.status
    if status is None or status.state == "ok":
        return ""
    return f"{status.state}: {status.reason}"


def detect_frames(
    job: Job,
    times: FrameTimes,
    args: argparse.Namespace,
    detectors: Sequence[Detector],
    predictors: Sequence[VideoPredictor],
    watch: RelationWatch | None,
    stack: ExitStack,
) -> Iterator[tuple[DetectedFrame, ...]]:
    """The frames of a video, each as all predictors have finished it; one that looks ahead holds up the others.

    `stack` ends the decoding.
    """
    # A camera has a thread of its own, which leaves frames out where the detector is slower.
    frames = times.watch(job.source if isinstance(job.source, Camera) else job.source.with_gaps())
    if not isinstance(job.source, Camera):
        frames = stack.enter_context(closing(read_ahead(frames)))
    # A frame is decoded once, and kept until the last predictor has taken it.
    copies = list(itertools.tee(frames, len(predictors)))
    if watch:
        copies[0] = watch.frames(copies[0])
    streams = []
    for predictor, detector, copy in zip(predictors, detectors, copies, strict=True):
        stream = predictor.stream(copy)
        if args.link is not None:
            # Only what is kept is linked: other boxes would lead tracks astray, and cost time.
            stream = link_stream(filter_frames(stream, args.confidence_threshold), detector.linker(args.link))
        streams.append(stream)
    # Strict: a stream that ends early is an error, not a shorter video.
    return zip(*streams, strict=True)


def filter_frames(frames: Iterable[DetectedFrame], threshold: float) -> Iterator[DetectedFrame]:
    """The frames with the detections whose score is at least `threshold`."""
    for frame in frames:
        yield frame._replace(output={"instances": filter_by_score(frame.output["instances"], threshold)})


def filter_by_score(instances: Instances, threshold: float) -> Instances:
    return instances[instances.scores >= threshold]


def draw_frame(
    image: np.ndarray, results: Sequence[Instances], detectors: Sequence[Detector], trails: Sequence[Trails]
) -> np.ndarray:
    """The picture of a frame: that of the detector, with those of the others from left to right before it."""
    pictures = []
    for instances, detector, trail in zip(results, detectors, trails, strict=True):
        with_trails = trail.draw(image, instances)
        pictures.append(draw_instances(with_trails, instances, detector.class_names, threshold=0))
    if len(pictures) == 1:
        return pictures[0]
    titles = [detector.title for detector in detectors]
    # The detector stands on the right, whatever it is compared with.
    return side_by_side([*pictures[1:], pictures[0]], [*titles[1:], titles[0]])


def show_relations(
    watch: RelationWatch, image: np.ndarray, detections: Instances, args: argparse.Namespace, class_names: Sequence[str]
) -> None:
    """Write the picture of --show-relations beside the video."""
    _, x, y = args.show_relations  # pixels
    row = detection_at(detections, x, y)
    if row is None:
        tqdm.write(f"no detection in frame {watch.frame} holds the point {x:g},{y:g}: there are no relations to show")
        return
    supports = []
    for support in watch.supports(int(detections.proposal_index[row])):
        supports.append((support.image, support.box, f"frame {support.index}: {support.weight:.1%}"))
    name = class_name(int(detections.pred_classes[row]), class_names)
    title = f"frame {watch.frame}: {name} {detections.scores[row]:.2f}"
    picture = draw_relations(image, detections.pred_boxes.tensor[row].tolist(), supports, title)
    write_image(_relations_path(Path(args.output)), picture)


def main(words: Sequence[str] | None = None) -> None:
    args = parse_args(words)
    detectors = detectors_of(args)
    jobs = jobs_of(args, detectors)
    predictors = [VideoPredictor(detectors[0].cfg, lookahead=args.lookahead, fused=True)]
    # --lookahead is for the detector: another one may have no window to choose it from.
    predictors += [VideoPredictor(detector.cfg, fused=True) for detector in detectors[1:]]
    if args.webcam and len(jobs) > 1:
        run_together(jobs, lambda job, watched: run(job, args, detectors, predictors, watched))
        return
    for job in jobs:
        run(job, args, detectors, predictors)
