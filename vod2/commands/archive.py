r"""Detect objects in an archive of videos, thousands to millions, here with several processes or on a cluster of Ray.

    vod2 archive --config-file configs/RDN_R101.yaml --input /videos --output found \
        --opts MODEL.WEIGHTS rdn.pth

OUTPUT/manifest.sqlite knows what has become of each video, OUTPUT/results has a file for each that is done. After a
kill, run the same command again: what is done is not done again. Ctrl-C or SIGTERM lets the workers finish their
videos, a second one ends them at once. Ends with 0 if all videos are done, 1 if some have failed, 2 if it cannot do its
work, 130 if it was stopped before the end. docs/scaling.md tells the rest.
"""

import argparse
import functools
import itertools
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import torch
from tqdm import tqdm

from vod2.archive import (
    RESULT_FORMATS,
    ArchiveDetector,
    Coordinator,
    Counts,
    Cutting,
    Layout,
    LocalWorkers,
    Manifest,
    Progress,
    RayWorkers,
    Scan,
    Settings,
    Workers,
    carries_state,
    find_videos,
    reach_of,
    require_format,
    signature_of,
)
from vod2.archive.manifest import DONE, FAILED
from vod2.checkpoint import require_weights
from vod2.checkpoint.public_file import sha256
from vod2.commands.parsing import command_parser
from vod2.d2 import CfgNode, MetadataCatalog
from vod2.engine import VideoPredictor, load_config
from vod2.engine.machines import core_count
from vod2.errors import UserError
from vod2.locking import locked_file

_SCAN_BATCH = 10_000  # videos of one transaction
_LINK = 60  # frames, where the configuration names a linker and --link is left out


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the YAML file of the model")
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="folders (all videos below), videos, patterns such as 'day/**/*.mp4', lists (.txt, a path a line)",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="manifest, results, parts")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="the manifest, if OUTPUT is not on a local disk")
    parser.add_argument("--format", choices=sorted(RESULT_FORMATS), default="jsonl", help="of results (default jsonl)")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, metavar="S", help="least score (default .5)")
    parser.add_argument(
        "--link",
        type=int,
        metavar="W",
        help="link what is kept to tracks, W frames at a time, by MODEL.VIDEO.LINKER, or SeqNMS if that names none "
        f"(default: {_LINK} if it names one, else no tracks; 0 for none)",
    )
    parser.add_argument("--fused", action="store_true", help="a faster copy of the model, the same to rounding")
    parser.add_argument(
        "--segment-frames", type=int, default=0, metavar="N", help="cut longer videos into segments of N frames"
    )
    parser.add_argument(
        "--overlap", type=int, metavar="M", help="frames that neighbouring segments share (default: the least)"
    )
    parser.add_argument(
        "--any-container", action="store_true", help="whatever FFmpeg opens, also lists of other files such as HLS's"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one for each GPU, or for each CPU core)"
    )
    parser.add_argument("--ray", action="store_true", help="actors of Ray, on its cluster, instead of processes here")
    parser.add_argument("--retries", type=int, default=2, metavar="N", help="of a failure that may pass (default 2)")
    parser.add_argument("--retry-failed", action="store_true", help="try again what has failed in earlier runs")
    parser.add_argument("--skip-scan", action="store_true", help="go on with the videos that the manifest knows")
    parser.add_argument("--verify", action="store_true", help="first compare results with their SHA-256; redo others")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    args = parser.parse_args(words)
    for name, least in (("workers", 1), ("retries", 0), ("segment_frames", 0), ("overlap", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} is {value}: expected at least {least}")
    if args.link is not None and args.link != 0 and args.link < 2:
        parser.error(f"--link is {args.link}: expected at least 2 frames, or 0 for no tracks")
    if args.overlap is not None and not args.segment_frames:
        parser.error("--overlap is of segments: give --segment-frames, too")
    return args


def settings_of(args: argparse.Namespace) -> Settings:
    """What the workers are told; mistakes of the configuration are found here, before there are any."""
    cfg = load_config(args.config_file, args.opts)
    if not cfg.MODEL.WEIGHTS:
        raise UserError("MODEL.WEIGHTS is empty: every worker would draw other weights; give a file with --opts")
    require_weights(cfg.MODEL.WEIGHTS)
    require_format(args.format)
    linked = _LINK if cfg.MODEL.VIDEO.LINKER.NAME else 0
    names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("thing_classes", []) if cfg.DATASETS.TEST else []
    return Settings(
        cfg=cfg,
        layout=Layout(args.output.absolute(), args.format, uuid.uuid4().hex),
        class_names=tuple(names),
        threshold=args.confidence_threshold,
        any_container=args.any_container,
        link=linked if args.link is None else args.link,
        fused=args.fused,
        segment_frames=args.segment_frames,
        threads=1,
    )


def cutting_of(args: argparse.Namespace, settings: Settings) -> Cutting | None:
    """How long videos are cut; refuses what segments would falsify, and says what they change."""
    if not args.segment_frames:
        return None
    cfg = settings.cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"  # the GPUs are the workers'
    predictor = VideoPredictor(cfg)
    schedule = cfg.VIDEO.TEST_SCHEDULE.NAME
    reach = reach_of(predictor.schedule, predictor.model)
    if reach is None:
        raise UserError(
            f"VIDEO.TEST_SCHEDULE.NAME is {schedule!r}, which samples all frames of the video until now: in a segment "
            "it would only see that segment, and give other results; leave out --segment-frames"
        )
    if carries_state(predictor):
        _say(
            "warning: this model carries state from frame to frame, and every segment begins without: frames near the "
            "beginning of a segment are detected as if the video began there. A longer --overlap lets it settle"
        )
    least = sum(reach) + int(bool(settings.link))
    overlap = least if args.overlap is None else args.overlap
    cutting = Cutting(args.segment_frames, overlap, reach, predictor.schedule.period)
    cutting.check(linked=bool(settings.link))
    return cutting


def kept_settings(args: argparse.Namespace, settings: Settings, cutting: Cutting | None) -> dict[str, object]:
    """What all results of a manifest have in common, by name."""
    cfg = settings.cfg
    keys = dict(_flat(cfg))
    for key in ("OUTPUT_DIR", "MODEL.DEVICE", "MODEL.WEIGHTS"):
        del keys[key]
    weights = sha256(cfg.MODEL.WEIGHTS) if os.path.isfile(cfg.MODEL.WEIGHTS) else cfg.MODEL.WEIGHTS
    options = {
        "--format": args.format,
        "--confidence-threshold": settings.threshold,
        "--link": settings.link,
        "--fused": settings.fused,
        "--segment-frames": settings.segment_frames,
        "--overlap": cutting.overlap if cutting else 0,
    }
    return {"SHA-256 of MODEL.WEIGHTS": weights} | options | keys


def _flat(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def devices_of(args: argparse.Namespace) -> list[str]:
    """One for each worker of this machine: GPUs in turn, or the CPU."""
    if args.device == "cpu":
        return ["cpu"] * (args.workers or core_count())
    gpus = torch.cuda.device_count()
    if not gpus:
        raise UserError("--device is cuda, but no GPU was found: give --device cpu")
    return [f"cuda:{number % gpus}" for number in range(args.workers or gpus)]


def make_workers(args: argparse.Namespace, settings: Settings, lock: int) -> Workers:
    """Begin them; each loads the model meanwhile."""
    if args.ray:
        return RayWorkers(functools.partial(ArchiveDetector, settings), args.device, args.workers)
    devices = devices_of(args)
    share = max(core_count() // len(devices), 1)
    settings = settings._replace(threads=min(share, torch.get_num_threads()))  # the latter as OMP_NUM_THREADS says
    return LocalWorkers(functools.partial(ArchiveDetector, settings), devices, inherited=[lock])


def scan(args: argparse.Namespace, manifest: Manifest) -> Scan:
    """Put all videos of --input into the manifest."""
    found = ((path, signature_of(path)) for path in find_videos(args.input))
    total = Scan()
    with tqdm(unit=" videos found", disable=None, leave=False) as bar:
        while batch := list(itertools.islice(found, _SCAN_BATCH)):
            result = manifest.add(batch)
            total = Scan(*(before + now for before, now in zip(total, result, strict=True)))
            bar.update(len(batch))
    return total


def verify(manifest: Manifest, layout: Layout) -> int:
    """Let the videos be done again whose result is not there, or not as it was written; returns how many."""
    wrong = []
    for row in manifest.rows(DONE):
        path = layout.output / row["result"]
        if not path.is_file() or sha256(os.fspath(path)) != row["sha256"]:
            wrong.append(row["id"])
    manifest.forget_results(wrong)
    return len(wrong)


def prepare(args: argparse.Namespace, manifest: Manifest, layout: Layout) -> Counts:
    """What earlier runs have left is put in order, new and changed videos are found."""
    shutil.rmtree(layout.temporary.parent, ignore_errors=True)
    layout.temporary.mkdir(parents=True)
    manifest.recover()
    if not args.skip_scan:
        found = scan(args, manifest)
        if found.changed:
            _say(f"{found.changed} videos have changed since they were looked at: they are detected again")
    if args.verify and (wrong := verify(manifest, layout)):
        _say(f"{wrong} results are gone or have been changed: their videos are detected again")
    if args.retry_failed and (failed := manifest.retry_failed()):
        _say(f"{failed} videos that had failed are tried again")
    counts = manifest.counts()
    if not counts.total:
        raise UserError(f"--input {' '.join(args.input)}: there is no video in it")
    return counts


def run(args: argparse.Namespace, settings: Settings, cutting: Cutting | None, manifest: Manifest, lock: int) -> Counts:
    """Do what is left; returns what has become of all videos."""
    counts = prepare(args, manifest, settings.layout)
    _say(f"{counts.total} videos: {counts.done} done, {counts.failed} failed, {counts.pending} to do")
    if counts.pending:
        workers = make_workers(args, settings, lock)
        try:
            with tqdm(total=counts.total, initial=counts.done + counts.failed, unit="video") as bar:
                changed = functools.partial(_show, bar)
                coordinator = Coordinator(manifest, workers, settings.layout, cutting, args.retries, changed)
                # After Ray, which has handlers of its own.
                _stop_on_signals(coordinator.stop)
                coordinator.run()
        finally:
            workers.close()
            manifest.recover()
            shutil.rmtree(settings.layout.temporary.parent, ignore_errors=True)
    return manifest.counts()


def _show(bar: tqdm, progress: Progress, failure: str) -> None:
    bar.set_postfix(failed=progress.failed, frames=progress.frames, refresh=False)
    bar.update(progress.done + progress.failed - (bar.n - bar.initial))
    if failure:
        tqdm.write(f"failed: {failure}", file=sys.stderr)


def _stop_on_signals(stop: Callable[[], None]) -> None:
    """The first SIGINT or SIGTERM calls `stop`, the second raises KeyboardInterrupt."""

    def first(number: int, frame: FrameType | None) -> None:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.default_int_handler)
        _say("stopping: what runs is finished first; once more ends it at once")
        stop()

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, first)


def report(counts: Counts, manifest: Manifest) -> int:
    """Say how it has ended; returns the exit code."""
    _say(f"{counts.total} videos: {counts.done} done, {counts.failed} failed, {counts.pending} left")
    if counts.pending:
        _say("stopped before the end: run the same command again to go on")
        return 130
    if counts.failed:
        _say(f"why: sqlite3 {manifest.path} \"SELECT path, error FROM videos WHERE status = '{FAILED}'\"")
        return 1
    return 0


def main(words: Sequence[str] | None = None) -> None:
    args = parse_args(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the workers run, it ends as Ctrl-C does
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings = settings_of(args)
    cutting = cutting_of(args, settings)
    # A worker of a killed coordinator ends within moments; a person who forgot another run is told soon enough.
    with locked_file(args.output / "archive.lock", "workers", patience=10) as lock:
        manifest = Manifest(args.manifest or args.output / "manifest.sqlite")
        try:
            manifest.keep_settings(kept_settings(args, settings, cutting))
            code = report(run(args, settings, cutting, manifest, lock), manifest)
        finally:
            manifest.close()
    sys.exit(code)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
