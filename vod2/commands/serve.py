r"""A page to try a detector: upload a video, watch its progress, see the report.

    vod2 serve --config-file configs/RDN_R101.yaml --opts MODEL.WEIGHTS rdn.pth
    vod2 serve --config-file configs/RDN_R101.yaml --host 0.0.0.0 --port 0 --work /scratch --keep 15 \
        --opts MODEL.WEIGHTS rdn.pth

The address is printed. By default only programs of this machine can open it; with another --host it holds a token,
without which nothing is answered. Videos are detected one after the other, and deleted then; their results after --keep
minutes, and when the server ends (Ctrl-C). It is for a few people who know each other, see docs/serving.md.
"""

import argparse
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np

from vod2.commands.detect import Detector, add_detector_options, detectors_of, job_of, require_link, run
from vod2.commands.parsing import command_parser
from vod2.engine import VideoPredictor
from vod2.errors import UserError
from vod2.serve import RESULTS, DetectionServer, Job, JobStore, ServerLimits, Watch, Worker, is_loopback
from vod2.video import UntrustedVideo, VideoLimits, without_path

_PREFIX = "vod2-serve-"


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at (default 127.0.0.1: this machine alone)"
    )
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0 is a free one (default 8000)")
    parser.add_argument("--token", action="store_true", help="ask for a token on this machine's own address, too")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that the server is called by; repeatable",
    )
    limits, video = ServerLimits(), VideoLimits()
    for option, kind, default, what in (
        ("--max-size", float, limits.upload_bytes / 2**20, "MiB of an upload"),
        ("--max-seconds", float, video.seconds, "seconds of a video"),
        ("--max-frames", int, video.frames, "frames of a video"),
        ("--max-pixels", int, video.pixels, "pixels of a frame, width times height"),
        ("--queue", int, limits.queue, "videos that are uploaded, wait or run at once"),
        (
            "--keep",
            float,
            limits.keep_seconds / 60,
            "minutes from the end of a detection to the deletion of its results",
        ),
    ):
        parser.add_argument(option, type=kind, default=default, metavar="N", help=f"{what} (default {default:g})")
    parser.add_argument(
        "--work",
        metavar="DIR",
        help="for uploads and results, in a folder of their own (default: the system's for such)",
    )
    add_detector_options(parser)
    args = parser.parse_args(words)
    require_link(parser, args)
    for name in ("max_size", "max_seconds", "max_frames", "max_pixels", "queue", "keep"):
        value = getattr(args, name)
        if not 0 < value < float("inf"):
            parser.error(f"--{name.replace('_', '-')} {value}: expected a number above 0")
    if not 0 <= args.port < 2**16:
        parser.error(f"--port {args.port}: expected 0 to {2**16 - 1}")
    return args


class _Upload(UntrustedVideo):
    """The video of a job, whose detection can be cancelled between any two frames that are read."""

    def __init__(self, job: Job, limits: VideoLimits, watch: Watch) -> None:
        self._watch = watch
        super().__init__(job.video, limits)

    def with_gaps(self) -> Iterator[np.ndarray | None]:
        for frame in super().with_gaps():
            # Frames finish later than they are read, the first of them much later.
            self._watch.check()
            yield frame


class UploadDetector:
    """What `vod2 detect` does with a video, for the worker of the server.

    Args:
        args: as of `parse_args`.
        detector: see there.
        predictor: of the same model.
    """

    def __init__(self, args: argparse.Namespace, detector: Detector, predictor: VideoPredictor) -> None:
        self._args, self._detector, self._predictor = args, detector, predictor
        self._limits = VideoLimits(args.max_frames, args.max_seconds, args.max_pixels)

    def __call__(self, job: Job, watch: Watch) -> str:
        """See `vod2.serve.worker.Detect`."""
        try:
            video = _Upload(job, self._limits, watch)
            paths = {kind: job.results / result.file for kind, result in RESULTS.items()}
            task = job_of(video, job.name, paths, self._args.confidence_threshold, [self._detector])
            run(task, self._args, [self._detector], [self._predictor], watch.frames)
        except UserError as error:
            # Of the upload, and of what was to be written about it
            message = without_path(str(error), job.video, job.name)
            raise UserError(without_path(message, job.folder, job.name)) from error
        return task.complaint


@contextmanager
def work_folder(parent: str | None) -> Iterator[Path]:
    """A new folder, which only this user can read and which is deleted at the end.

    Raises:
        UserError: `parent` is no folder that can be written to.
    """
    try:
        if parent is not None:
            os.makedirs(parent, exist_ok=True)
            if left := sorted(path.name for path in Path(parent).glob(f"{_PREFIX}*")):
                print(
                    f"{parent}: {', '.join(left)} is of another server: delete it if that was killed", file=sys.stderr
                )
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).absolute()
    except OSError as error:
        raise UserError(f"--work {parent}: cannot be written to ({error.strerror}): give another folder") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def open_server(args: argparse.Namespace, store: JobStore, title: str) -> DetectionServer:
    """Raises UserError if the address cannot be had."""
    facts = {"title": title, "seconds": args.max_seconds, "frames": args.max_frames}
    needs_token = args.token or not is_loopback(args.host)
    try:
        return DetectionServer((args.host, args.port), store, needs_token, tuple(args.allow_host), facts)
    except OSError as error:
        raise UserError(
            f"--host {args.host} --port {args.port}: cannot be listened at ({error.strerror}): choose an address of "
            "this machine, and a port that is free, or --port 0"
        ) from error


def address_of(server: DetectionServer, host: str) -> str:
    """What a browser opens, with the token if there is one."""
    if host in ("0.0.0.0", "::", ""):
        host = socket.gethostname()
    token = f"?token={server.access.token}" if server.access.token else ""
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}/{token}"


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # an exception: what is to be deleted at the end is deleted


@contextmanager
def ended_by_signals(server: DetectionServer) -> Iterator[None]:
    """SIGINT and SIGTERM end `serve_forever` between two requests.

    An exception out of the handler itself may come where a lock has just been acquired, which nobody would release
    then: the worker would wait for it, and the end of the program for the worker.
    """

    def note(number: int, frame: FrameType | None) -> None:
        server.end_code = 128 + number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(words: Sequence[str] | None = None) -> None:
    args = parse_args(words)
    args.compare, args.show_relations, args.output = [], None, None  # of `vod2 detect`, and not of the page
    logging.basicConfig(format="%(message)s")
    logging.getLogger("vod2.serve").setLevel(logging.INFO)
    detectors = detectors_of(args)
    limits = ServerLimits(int(args.max_size * 2**20), args.queue, 60 * args.keep)
    signal.signal(signal.SIGTERM, _terminated)
    with work_folder(args.work) as folder:
        store = JobStore(folder, limits)
        with open_server(args, store, detectors[0].title) as server:  # before the model, whose loading may take long
            predictor = VideoPredictor(detectors[0].cfg, lookahead=args.lookahead, fused=True)
            worker = Worker(store, UploadDetector(args, detectors[0], predictor))
            with worker, ended_by_signals(server):
                print(f"{address_of(server, args.host)}\nCtrl-C ends the server and deletes all results", flush=True)
                server.serve_forever()
