"""Detectors side by side: the time of a frame and its parts, memory, and the share of what the machine can do.

All detectors run in one process and their frames alternate, so that other work on the machine slows all of them alike:
ratios can be trusted where times cannot. Peak memory is that of a process that runs one detector alone.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tabulate import tabulate
from torch import nn

from vod2.atomic import write_json
from vod2.benchmark.alone import peak_alone
from vod2.benchmark.machine import Rates, measure_rates, peak_mb, synchronize
from vod2.d2 import build_model
from vod2.engine import convert_for_inference, load_config
from vod2.engine.analysis import RunningStream, analyze
from vod2.engine.random_weights import damp_frozen_normalisation
from vod2.errors import UserError
from vod2.package_files import CONFIGS
from vod2.temporal import build_support_schedule
from vod2.video import VideoReader

METHODS = (
    "FasterRCNN_R101.yaml",
    "Relation_R101.yaml",
    "RDN_Base_R101.yaml",
    "RDN_R101.yaml",
    "MEGA_R101.yaml",
    "SELSA_R101.yaml",
    "HVRNet_R101.yaml",
    "CSMN_R101.yaml",
    "MST_R101.yaml",
    "RFCN_R101.yaml",
    "DFF_R101.yaml",
    "FGFA_R101.yaml",
    "LSTS_R101.yaml",
)
"""Configurations of --all, those that come with vod2; the first one is what the others are compared with."""

PARTS = {
    "backbone": "backbone",
    "pixel level": "pixel_aggregator",
    "RPN": "proposal_generator",
    "RoI": "roi_heads",
    "relation": "roi_heads.aggregator",
}
"""Columns of the breakdown, and the sub-modules of a detector whose time they are; a part within another is not counted
in that one. Of a one-stage detector "RPN" is the dense head, and "RoI" the rescoring. The rest is pre-processing, the
memory, the predictions and their NMS."""

_WARM_UP = 2  # frames that are not timed: kernels are chosen, caches filled


class Row(NamedTuple):
    """What was measured of a detector; seconds of one frame in a running stream, memory in MiB.

    Args:
        ratio: median over that of the first row.
        parts: {column of `PARTS`, or "rest": its share of a frame}.
        bound_s: the time that its operations, or the reading of its weights, take at the machine's rates.
        reached: bound_s over the mean time of a frame.
    """

    config: str
    median_s: float
    mean_s: float
    p95_s: float
    frames: int
    ratio: float
    peak_mb: float
    parts: dict[str, float]
    gflop: float
    bound_s: float
    reached: float


class Detector:
    """A detector with random weights in the middle of an endless video, or of an evaluation that keeps its frames."""

    def __init__(self, config: str, size: tuple[int, int], device: torch.device, in_evaluation: bool = False) -> None:
        self.config, self.size = config, size
        cfg = load_config(config, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", str(device)])
        torch.manual_seed(0)
        model = build_model(cfg).eval().requires_grad_(False)
        # Before normalisation is folded into convolutions.
        damp_frozen_normalisation(model.backbone)
        self.model = convert_for_inference(model)
        self._schedule = build_support_schedule(cfg)
        # As `StreamingModel` keeps frames: of schedules that look at the whole video, without level 1.
        self._encode_once = in_evaluation and model.pixel_aggregator is None and self._schedule.lookahead is None
        self.stream = RunningStream(self.model, self._schedule, size, self._encode_once)
        self.seconds: list[float] = []

    def gflop(self) -> float:
        return analyze(self.model, self._schedule, self.size, self._encode_once)[-1].flops / 1e9

    def weights(self) -> int:
        """Bytes of them."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())


def time_frame(detector: Detector, device: torch.device) -> float:
    """Seconds of the next frame of its stream."""
    synchronize(device)
    start = time.perf_counter()
    detector.stream.step()
    synchronize(device)
    return time.perf_counter() - start


def time_alternating(detectors: Sequence[Detector], frames: int, device: torch.device) -> None:
    """Time so many frames of each, one by turns: whole periods, for as many keyframes as a stream has on average."""
    counts = [frames + -frames % detector.stream.period for detector in detectors]
    for detector in detectors:
        # The last one ends a period.
        for _ in range(_WARM_UP + -_WARM_UP % detector.stream.period):
            detector.stream.step()
    for turn in range(max(counts)):
        for detector, count in zip(detectors, counts, strict=True):
            if turn < count:
                detector.seconds.append(time_frame(detector, device))


class Breakdown:
    """The time within the parts of a model: calls of modules in them that are in no other call of the same part."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._open: list[tuple[str, float]] = []  # parts that are at work, the innermost last, and since when
        self._columns = self._columns_of(model)

    @staticmethod
    def _columns_of(model: nn.Module) -> dict[nn.Module, str]:
        """The column of each module: that of the innermost part that it is in."""
        columns: dict[nn.Module, str] = {}
        for column, part in PARTS.items():
            # A part that a detector does not have is absent, or no module.
            module: Any = model
            for name in part.split("."):
                module = getattr(module, name, None)
            if isinstance(module, nn.Module):
                columns |= dict.fromkeys(module.modules(), column)
        return columns

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = []
        for module, column in self._columns.items():
            hooks.append(module.register_forward_pre_hook(lambda *_, column=column: self._enter(column)))
            hooks.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, column: str) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            # What it is called from is not at work meanwhile.
            outer, since = self._open[-1]
            self.seconds[outer] += now - since
        self._open.append((column, now))

    def _leave(self) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        column, since = self._open.pop()
        self.seconds[column] += now - since
        if self._open:
            self._open[-1] = (self._open[-1][0], now)


def break_down(detector: Detector, frames: int, device: torch.device) -> dict[str, float]:
    """{part: its share of the time of a frame}; the watching itself slows a frame, so only shares are given."""
    breakdown, total = Breakdown(detector.model, device), 0.0
    with breakdown.watching():
        for _ in range(frames + -frames % detector.stream.period):
            total += time_frame(detector, device)
    shares = {part: seconds / total for part, seconds in breakdown.seconds.items()}
    return shares | {"rest": 1 - sum(shares.values())}


def make_row(detector: Detector, first: Detector, rates: Rates, peak: float, device: torch.device) -> Row:
    seconds, mean = sorted(detector.seconds), statistics.fmean(detector.seconds)
    median = statistics.median(seconds)
    parts = break_down(detector, max(2, len(seconds) // 4), device)
    gflop = detector.gflop()
    bound = max(gflop * 1e9 / rates.flops, detector.weights() / rates.bytes)
    return Row(
        config=detector.config,
        median_s=median,
        mean_s=mean,
        p95_s=seconds[round(0.95 * (len(seconds) - 1))],
        frames=len(seconds),
        ratio=median / statistics.median(first.seconds),
        peak_mb=peak,
        parts=parts,
        gflop=gflop,
        bound_s=bound,
        reached=bound / mean,
    )


def decode_seconds(path: str, size: tuple[int, int], most: int = 60) -> float:
    """Median seconds of decoding and resizing a frame of a video."""
    seconds = []
    frames = iter(VideoReader(path))
    for _ in itertools.repeat(None, most):
        start = time.perf_counter()
        frame = next(frames, None)
        if frame is None:
            break
        image = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
        nn.functional.interpolate(image, size, mode="bilinear")
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def run(args: argparse.Namespace) -> None:
    """Measure and print the detectors; with --peak, only run one and print the memory that it took."""
    torch.set_num_threads(args.threads)
    device, size = args.device, tuple(args.size)
    configs = list(args.config_file or [])
    if args.all:
        configs += [str(CONFIGS / name) for name in METHODS]
    if not configs:
        raise UserError("there is no detector to measure: give --config-file FILE ... or --all")
    if args.peak:
        Detector(configs[0], size, device, args.evaluation).stream.advance()
        print(peak_mb(device))
        return
    # First, while this process holds little itself.
    more = ["--evaluation"] if args.evaluation else []
    peaks = [peak_alone("detectors", config, args, *more) for config in configs]
    rates = measure_rates(device)
    detectors = [Detector(config, size, device, args.evaluation) for config in configs]
    time_alternating(detectors, args.frames, device)
    rows = [
        make_row(detector, detectors[0], rates, peak, device) for detector, peak in zip(detectors, peaks, strict=True)
    ]
    document = {
        "device": str(device),
        "threads": args.threads,
        "size": list(size),
        "evaluation": args.evaluation,
        "product_gflops": rates.flops / 1e9,
        "copy_gbytes": rates.bytes / 1e9,
        "rows": [row._asdict() for row in rows],
    }
    if args.video:
        document["decode_s"] = decode_seconds(args.video, size)
    print(render(document))
    if args.json:
        write_json(args.json, document)


def render(document: dict) -> str:
    """The tables as Markdown."""
    height, width = document["size"]
    lines = [
        f"{height} x {width} pixels on {document['device']}, threads: {document['threads']}, float32; matrix product "
        f"{document['product_gflops']:.0f} GFLOP/s, copy {document['copy_gbytes']:.1f} GB/s"
    ]
    if "decode_s" in document:
        lines.append(f"decoding and resizing a frame: {1000 * document['decode_s']:.1f} ms")
    rows = document["rows"]
    names = [Path(row["config"]).stem for row in rows]
    times = [
        [
            name,
            *(f"{1000 * row[key]:.1f}" for key in ("median_s", "p95_s", "mean_s")),
            f"{row['ratio']:.2f}x",
            f"{row['peak_mb']:.0f}",
            f"{row['gflop']:.1f}",
            f"{1000 * row['bound_s']:.1f}",
            f"{row['reached']:.0%}",
        ]
        for name, row in zip(names, rows, strict=True)
    ]
    headers = ["", "median ms", "p95 ms", "mean ms", "ratio", "peak MiB", "GFLOP", "bound ms", "reached"]
    columns = [*PARTS, "rest"]
    shares = [[name, *(f"{row['parts'][part]:.0%}" for part in columns)] for name, row in zip(names, rows, strict=True)]
    tables = [tabulate(times, headers, tablefmt="github", disable_numparse=True)]
    tables.append("Shares of a frame:\n\n" + tabulate(shares, ["", *columns], tablefmt="github", disable_numparse=True))
    return "\n".join(lines) + "\n\n" + "\n\n".join(tables) + "\n"
