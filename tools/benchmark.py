#!/usr/bin/env python3
"""Speed: of whole detectors, of their training steps, and of single parts beside the plain way of doing the same.

    python tools/benchmark.py detectors --config-file configs/FasterRCNN_R101.yaml configs/RDN_R101.yaml --size 600x1000
    python tools/benchmark.py detectors --all --size 320x512 --json speed.json
    python tools/benchmark.py training --config-file configs/RDN_R101.yaml --size 320x512
    python tools/benchmark.py parts --list
    python tools/benchmark.py parts geometry_bias --threads 1

What is compared runs by turns in one process, so that ratios can be trusted on a machine that does other work, too.
A part is a function decorated with `benchmark`; it takes the device and returns named pairs of callables.
"""

import argparse
import importlib
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from tabulate import tabulate
from torch.nn.functional import normalize

from speed import detectors, training
from speed.machine import resident_mb, synchronize
from speed.options import add_whole, positive
from vod2.d2 import Boxes, BoxMode, DatasetCatalog, Instances, MetadataCatalog, build_model
from vod2.engine import VideoPredictor, cli, inference_copy, load_config
from vod2.engine.random_weights import damp_frozen_normalisation
from vod2.errors import UserError
from vod2.evaluation import VIDEvaluator, index_tracks
from vod2.evaluation.motion import motion_iou, speed_groups
from vod2.layers import PatchAttention, PixelAttention
from vod2.layers.patch_attention import cut_patches, standardised
from vod2.ops import (
    compiled_device_types,
    relation_geometry_bias,
    relation_geometry_bias_reference,
    roi_align,
    st_sampling,
    st_sampling_reference,
)
from vod2.temporal import FrameMemory, build_support_schedule

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class Comparison(NamedTuple):
    """One row: the plain way (None: it would take too long) and ours, two callables that do the same work."""

    name: str
    plain: Callable[[], object] | None
    ours: Callable[[], object]


BENCHMARKS: dict[str, Callable[[torch.device], list[Comparison]]] = {}


def benchmark(function):
    """Adds the function to the benchmarks under its own name."""
    BENCHMARKS[function.__name__] = function
    return function


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count, 4) xyxy boxes of 10 to 310 pixels a side."""
    corner = torch.rand(count, 2, generator=generator) * 700
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 300 + 10], dim=1)


@benchmark
def geometry_bias(device: torch.device) -> list[Comparison]:
    """The bias of 300 key boxes against 2775 support boxes, 16 heads: compiled op against whole embedding."""
    if device.type not in compiled_device_types():
        raise RuntimeError(f"vod2._C has no kernels for {device.type}: run python setup.py build_ext --inplace first")
    generator = torch.Generator().manual_seed(0)
    query, key = (random_boxes(count, generator).to(device) for count in (300, 2775))
    weight = (torch.randn(16, 64, generator=generator) / 8).to(device).requires_grad_()
    bias = torch.ones(16, device=device, requires_grad=True)
    grad = torch.randn(16, 300, 2775, generator=generator).to(device)

    def forward(function):
        with torch.no_grad():
            function(query, key, weight, bias)

    def forward_backward(function):
        torch.autograd.grad(function(query, key, weight, bias), (weight, bias), grad)

    return [
        Comparison(
            step.__name__.replace("_", " + "),
            # Bound here: when it is called, the loop has gone on to the last step.
            lambda step=step: step(relation_geometry_bias_reference),
            lambda step=step: step(relation_geometry_bias),
        )
        for step in (forward, forward_backward)
    ]


def assert_same(plain: torch.Tensor, ours: torch.Tensor) -> None:
    """To 1e-5, relative to the largest number."""
    # A relative tolerance of each number would ask too much of those near 0.
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5 * plain.abs().max().item())


def steps(
    name: str, plain: Callable, ours: Callable, inputs: tuple[torch.Tensor, ...], few: tuple[torch.Tensor, ...], of: str
) -> list[Comparison]:
    """Forward on `inputs`, forward and backward on `few` of them; the two ways must agree on these."""

    def forward(function):
        with torch.no_grad():
            return function(*inputs)

    def forward_backward(function):
        # New leaves each time, whose graph belongs to this call alone.
        leaves = [tensor.detach().requires_grad_() for tensor in few]
        return torch.autograd.grad(function(*leaves).square().mean(), leaves)

    for ours_gradient, plain_gradient in zip(forward_backward(ours), forward_backward(plain), strict=True):
        assert_same(plain_gradient, ours_gradient)
    return [
        Comparison(f"{name}, {step}", lambda run=run: run(plain), lambda run=run: run(ours))
        for step, run in (("forward", forward), (f"forward + backward, {of}", forward_backward))
    ]


@benchmark
def patch_attention(device: torch.device) -> list[Comparison]:
    """SPFA of 300 proposals against 6300 supports (21 frames), 16 patches of 256 x 2 x 2: tiles against one table."""
    attention, generator = PatchAttention(4, temperature=1.0), torch.Generator().manual_seed(0)
    target, support = (torch.randn(count, 256, 7, 7, generator=generator).to(device) for count in (300, 6300))
    values = torch.randn(6300, 2048, generator=generator).to(device)

    def plain(target, support, values):
        target, support = (standardised(cut_patches(maps, 4)) for maps in (target, support))
        table = target.flatten(0, 1) @ support.flatten(0, 1).T  # (N*16, M*16)
        weights = table.unflatten(1, (-1, 16)).amax(dim=2).softmax(dim=1)
        return (weights @ values).unflatten(0, (-1, 16))

    few = target, support[:1260], values[:1260]
    return steps("16 patches", plain, attention, (target, support, values), few, "300 x 1260")


@benchmark
def pixel_attention(device: torch.device) -> list[Comparison]:
    """stCIE of 38 x 63 cells against 21 such frames, 2048 channels, relation features of 256: against one table."""
    torch.manual_seed(0)
    frames = torch.randn(21, 2048, 38, 63).to(device)
    rows = []
    for normaliser in ("count", "softmax"):
        attention = PixelAttention(2048, 256, normaliser).to(device)
        torch.nn.init.normal_(attention.source_content.weight, std=0.02)

        # The default argument binds the attention of this turn: the functions run after the loop.
        def plain(frames, attention=attention):
            query = normalize(attention.target_relation(frames[:1])[0].flatten(1), dim=0)  # (d, L)
            key = normalize(attention.source_relation(frames).transpose(0, 1).flatten(1), dim=0)  # (d, S)
            content = attention.source_content(frames).transpose(0, 1).flatten(1)  # (C, S)
            cosines = query.T @ key
            weights = cosines / key.shape[1] if attention.normaliser == "count" else cosines.softmax(dim=1)
            return attention.target_content(frames[:1]) + (content @ weights.T).reshape(frames[:1].shape)

        def ours(frames, attention=attention):
            return attention(frames[:1], frames.split(1))

        rows += steps(normaliser, plain, ours, (frames,), (frames[:3],), "3 frames")
    return rows


@benchmark
def learned_sampling(device: torch.device) -> list[Comparison]:
    """LSTS at 38 x 63 cells, 1024 channels, embeddings of 256: whole offsets, each once, against grid_sample."""
    generator = torch.Generator().manual_seed(0)
    value, key, query = (torch.randn(1, size, 38, 63, generator=generator).to(device) for size in (1024, 256, 256))
    # Divided by the root of 256, so that the similarities are of the size of one.
    maps, grad = (value, key / 16, query), torch.randn(value.shape, generator=generator).to(device)
    ops = importlib.import_module("vod2.ops.st_sampling")  # the function has the same name

    def without_kernels(*inputs):
        # Without kernels the op runs its Python version.
        kernels, ops.COMPILED = ops.COMPILED, ()
        try:
            return st_sampling(*inputs)
        finally:
            ops.COMPILED = kernels

    def forward(function, locations):
        with torch.no_grad():
            return function(*maps, locations)

    def forward_backward(function, locations):
        leaves = [tensor.detach().requires_grad_() for tensor in (*maps, locations)]
        return torch.autograd.grad(function(*leaves), leaves, grad)

    rows = []
    for count in (40, 81):
        locations = torch.randn(count, 2, generator=generator).to(device)
        assert_same(forward(st_sampling_reference, locations), forward(st_sampling, locations))
        for step in (forward, forward_backward):
            for name, ours in (("op", st_sampling), ("Python", without_kernels)):
                rows.append(
                    Comparison(
                        f"{count} locations, {step.__name__.replace('_', ' + ')}, {name}",
                        # The reference is timed once for both rows.
                        partial(step, st_sampling_reference, locations) if name == "op" else None,
                        partial(step, ours, locations),
                    )
                )
    return rows


@benchmark
def roi_pooling(device: torch.device) -> list[Comparison]:
    """RoIAlign, 7 x 7 bins of 2 x 2 samples at stride 16: our kernels against torchvision's operator."""
    if device.type not in compiled_device_types():
        raise RuntimeError(f"vod2._C has no kernels for {device.type}: run python setup.py build_ext --inplace first")
    generator, options = torch.Generator().manual_seed(0), ((7, 7), 1 / 16, 2, True)
    rows = []
    sizes = {"training, 8 x 64 RoIs of 128 x 192": (8, 512, 8, 12, 64), "600 x 1000, 300 RoIs": (1, 2048, 38, 63, 300)}
    for name, (maps, channels, height, width, count) in sizes.items():
        features = torch.randn(maps, channels, height, width, generator=generator).to(device).requires_grad_()
        image = 16.0 * torch.tensor([width, height, width, height])
        places = torch.rand(maps * count, 2, 2, generator=generator).sort(dim=1).values.flatten(1) * image  # xyxy
        numbers = torch.arange(maps).repeat_interleave(count)[:, None]
        rois = torch.cat([numbers, places], dim=1).to(device)

        def forward(function, features=features, rois=rois):
            with torch.no_grad():
                return function(features, rois, *options)

        pooled = {function: function(features, rois, *options) for function in (torchvision.ops.roi_align, roi_align)}
        grad = torch.randn(*pooled[roi_align].shape, generator=generator).to(device)

        def backward(function, features=features, pooled=pooled, grad=grad):
            # Only the backward pass is timed: the graph of one forward pass serves all runs.
            return torch.autograd.grad(pooled[function], features, grad, retain_graph=True)[0]

        for step in (forward, backward):
            assert_same(step(torchvision.ops.roi_align), step(roi_align))
            plain, ours = partial(step, torchvision.ops.roi_align), partial(step, roi_align)
            rows.append(Comparison(f"{name}, {step.__name__}", plain, ours))
    return rows


CLASSES, DETECTIONS, VIDEO_LENGTH = 30, 300, 317  # the mean length of ImageNet VID's 555 validation videos


def moving_objects(num_frames: int) -> list[dict]:
    """Dataset dicts: videos with one or two objects that stay, move slowly, or move fast."""
    records = []
    for frame in range(num_frames):
        video, index = divmod(frame, VIDEO_LENGTH)
        tracks = range(1 + video % 5 // 2)
        # Every 50 frames they begin anew, so that none leaves the image.
        shift = (0.0, 1.5, 4.0)[video % 3] * (index % 50)
        notes = [
            {
                "bbox": [50 + 120 * track + shift, 40, 150 + 120 * track + shift, 140],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": (video + 7 * track) % CLASSES,
                "iscrowd": 0,
                "track_id": track,
            }
            for track in tracks
        ]
        records.append({"image_id": str(frame), "video_id": str(video), "frame_index": index, "annotations": notes})
    return records


def random_instances(record: dict, generator: torch.Generator) -> Instances:
    """Detections anywhere, the first of them on the objects of the frame."""
    boxes = random_boxes(DETECTIONS, generator)
    labels = torch.randint(CLASSES, (DETECTIONS,), generator=generator)
    for row, note in enumerate(record["annotations"]):
        boxes[row] = torch.tensor(note["bbox"]) + 8 * torch.randn(4, generator=generator)
        labels[row] = note["category_id"]
    scores = torch.rand(DETECTIONS, generator=generator)
    return Instances((720, 1280), pred_boxes=Boxes(boxes), scores=scores, pred_classes=labels)


def fill_evaluator(records: list[dict]) -> VIDEvaluator:
    name = f"benchmark_{len(records)}"
    # A second run of the benchmark brings records of its own under the same name.
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = [f"class {label}" for label in range(CLASSES)]
    evaluator, generator = VIDEvaluator(name, protocol="fixed"), torch.Generator().manual_seed(0)
    evaluator.reset()
    for record in records:
        evaluator.process([record], [{"instances": random_instances(record, generator)}])
    return evaluator


def evaluate_in_loops(records: list[dict], instances: list[Instances]) -> list[float]:
    """AP50 of all objects and of each speed, the mean over classes: frame by frame, class by class, box by box."""
    boxes = np.array([note["bbox"] for record in records for note in record["annotations"]])
    speeds = speed_groups(motion_iou(*index_tracks(records), boxes)).values()
    return [mean_ap_in_loops(records, instances, counts) for counts in (np.ones(len(boxes), bool), *speeds)]


def mean_ap_in_loops(records: list[dict], instances: list[Instances], counts: np.ndarray) -> float:
    """AP50 of the objects (m,) that count, the mean over classes; the others are ignored."""
    ranked: list[list[tuple[float, bool]]] = [[] for _ in range(CLASSES)]  # (score, whether it shows an object)
    positives = [0] * CLASSES
    start = 0  # row in `counts` of the frame's first object
    for record, detections in zip(records, instances, strict=True):
        notes = record["annotations"]
        frame_counts = counts[start : start + len(notes)]
        start += len(notes)
        boxes = detections.pred_boxes.tensor.numpy()
        scores, labels = detections.scores.numpy(), detections.pred_classes.numpy()
        for label in np.union1d(labels, [note["category_id"] for note in notes]).tolist():
            objects = [row for row, note in enumerate(notes) if note["category_id"] == label]
            positives[label] += sum(bool(frame_counts[row]) for row in objects)
            matched = set()
            # The surest detection first: each takes the free object that it overlaps most.
            for detection in sorted(np.flatnonzero(labels == label).tolist(), key=lambda row: -scores[row]):
                free = [row for row in objects if row not in matched]
                ious = [iou_of_two(boxes[detection].tolist(), notes[row]["bbox"]) for row in free]
                match = free[int(np.argmax(ious))] if free and max(ious) >= 0.5 else None
                matched.add(match)
                # A detection of an ignored object is neither true nor false.
                if match is None or frame_counts[match]:
                    ranked[label].append((float(scores[detection]), match is not None))
    aps = [ap_in_loops(rows, total) for rows, total in zip(ranked, positives, strict=True) if total]
    return 100 * sum(aps) / len(aps) if aps else float("nan")


def iou_of_two(first: list[float], second: list[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return common / (areas - common)


def ap_in_loops(ranked: list[tuple[float, bool]], positives: int) -> float:
    num_true, precision = 0, []
    for rank, (_, is_true) in enumerate(sorted(ranked, key=lambda row: -row[0]), 1):
        num_true += is_true
        precision.append((num_true / rank, is_true))
    best = total = 0.0
    # From the end, so that `best` is the best precision at this recall or a higher one.
    for value, is_true in reversed(precision):
        best = max(best, value)
        total += best * is_true
    return total / positives


@benchmark
def keyframe_interval(device: torch.device) -> list[Comparison]:
    """Ten frames of a stream at 600 x 1000, one of them a keyframe: LSTS and DFF against R-FCN R-101 on every frame."""
    rows = []
    for name, prepare in (("models as built", lambda model: model), ("inference copies", inference_copy)):
        single = stream_of_ten("RFCN_R101.yaml", device, prepare)
        for method in ("LSTS", "DFF_RFCN"):
            rows.append(Comparison(f"{method}, {name}", single, stream_of_ten(f"{method}_R101.yaml", device, prepare)))
    return rows


def stream_of_ten(
    config: str, device: torch.device, prepare: Callable[[torch.nn.Module], torch.nn.Module]
) -> Callable[[], object]:
    """Steps through the next ten frames of an endless stream of noise, with random weights."""
    cfg = load_config(CONFIGS / config, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", device.type])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    damp_frozen_normalisation(model.backbone)
    model = prepare(model)
    memory, frames = FrameMemory(build_support_schedule(cfg)), itertools.count()
    # Long enough for any number of repeats.
    memory.start("video", 1 << 20)
    image = torch.randint(0, 256, (3, 600, 1000), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def step(t: int) -> object:
        new_frames = [{"image": image, "frame_index": index} for index in memory.missing(t)]
        return model.step({"frame_index": t, "support": new_frames}, memory)

    for _ in range(10):  # what a stream carries is there
        step(next(frames))
    return lambda: [step(next(frames)) for _ in range(10)]


@benchmark
def evaluation(device: torch.device) -> list[Comparison]:
    """AP of 30 classes, all objects and three speeds, 300 detections a frame: arrays against loops."""
    # The loops would take minutes for 5,000 frames.
    few, many = moving_objects(500), moving_objects(5000)
    generator = torch.Generator().manual_seed(0)
    instances = [random_instances(record, generator) for record in few]
    return [
        Comparison("500 frames", lambda: evaluate_in_loops(few, instances), fill_evaluator(few).evaluate),
        Comparison("5,000 frames", None, fill_evaluator(many).evaluate),
    ]


@benchmark
def evaluation_of_vid(device: torch.device) -> list[Comparison]:
    """Collecting and evaluating 176,126 frames of 300 detections; minutes, so run it with --repeats 1."""
    records = moving_objects(176126)
    return [Comparison("collect and evaluate", None, lambda: fill_evaluator(records).evaluate())]


STREAM_FRAMES, STREAM_SIZE = 20_000, (64, 96)


@benchmark
def long_stream(device: torch.device) -> list[Comparison]:
    """Resident memory of one stream of 20,000 frames, printed while it runs; minutes, and no row in the table."""
    config = Path(__file__).parents[1] / "configs" / "quick" / "RDN.yaml"
    sizes = ["INPUT.MIN_SIZE_TEST", str(STREAM_SIZE[0]), "INPUT.MAX_SIZE_TEST", str(STREAM_SIZE[1])]
    # Beside a small window, anything that grows with the video shows soon.
    window = ["VIDEO.TEST_SCHEDULE.RADIUS", "3"]
    cfg = load_config(str(config), [*sizes, *window, "MODEL.WEIGHTS", "", "MODEL.DEVICE", str(device)])
    stream = VideoPredictor(cfg).open()
    frames = np.random.default_rng(0).integers(0, 256, (64, *STREAM_SIZE, 3), dtype=np.uint8)
    start = time.perf_counter()
    for index in range(STREAM_FRAMES):
        stream.step(frames[index % len(frames)])
        if (index + 1) % 2000 == 0:
            rate = (index + 1) / (time.perf_counter() - start)
            print(f"frame {index + 1}: {resident_mb('VmRSS'):.1f} MB resident, {rate:.0f} frames/s", flush=True)
    return []


# Frames through each method of configs/quick; LSTS, the cheapest, shows what grows slowly.
STREAM_LENGTHS = {"RDN": 50_000, "MEGA": 50_000, "SELSA": 50_000, "LSTS": 200_000}
# Small enough for hours of video in minutes: 32x32 pixels, few proposals and layers of a few channels.
TINY_STREAM = [
    *("INPUT.MIN_SIZE_TEST", "32", "INPUT.MAX_SIZE_TEST", "32", "MODEL.WEIGHTS", "", "TEST.DETECTIONS_PER_IMAGE", "4"),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", "8", "MODEL.RPN.POST_NMS_TOPK_TEST", "4", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
]
TINY_SUPPORTS = ["MODEL.VIDEO.SUPPORT_TOPK", "2"]
TINY_WINDOW = ["VIDEO.TEST_SCHEDULE.RADIUS", "2"]
TINY_METHODS = {
    "RDN": [*TINY_SUPPORTS, *TINY_WINDOW],
    "MEGA": [*TINY_SUPPORTS, *TINY_WINDOW, "VIDEO.TEST_SCHEDULE.COUNT", "3"],
    "SELSA": [*TINY_SUPPORTS, "VIDEO.TEST_SCHEDULE.COUNT", "3"],
    "LSTS": ["VIDEO.TEST_SCHEDULE.INTERVAL", "50"],
}


@benchmark
def long_streams(device: torch.device) -> list[Comparison]:
    """Memory and latency of streams of 50,000 tiny frames and more, a line for each method; an hour."""
    for method, num_frames in STREAM_LENGTHS.items():
        print(stream_figures(method, num_frames, device), flush=True)
    return []


def stream_figures(method: str, num_frames: int, device: torch.device) -> str:
    """What one stream keeps beyond its first 1,000 frames, and how long its first and last frames take."""
    config = CONFIGS / "quick" / f"{method}.yaml"
    cfg = load_config(str(config), [*TINY_STREAM, *TINY_METHODS[method], "MODEL.DEVICE", str(device)])
    stream = VideoPredictor(cfg).open()
    frames = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    seconds = np.ones(num_frames)  # not empty: its memory is there before the first frame
    settled = most = 0.0
    for index in range(num_frames):
        # Of the processor: other work on the machine would make a step last longer.
        start = time.process_time()
        stream.step(frames[index % len(frames)])
        seconds[index] = time.process_time() - start
        if index + 1 == 1000:
            settled = most = resident_mb("VmRSS")
        elif (index + 1) % 500 == 0:
            most = max(most, resident_mb("VmRSS"))
    end = resident_mb("VmRSS")
    tenth = num_frames // 10
    first, last = (1000 * np.median(part) for part in (seconds[:tenth], seconds[-tenth:]))
    return (
        f"{method}, {num_frames} frames: {settled:.1f} MB after 1,000, at most {most - settled:+.1f} MB later, "
        f"{end - settled:+.1f} MB at the end; median of a step {first:.2f} ms in the first "
        f"tenth, {last:.2f} ms in the last"
    )


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    run()  # warm up
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        synchronize(device)  # kernels run on after the call returns
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak_megabytes(run: Callable[[], object], device: torch.device) -> float:
    """The most memory that one run holds beyond what was held before it; on the CPU as Linux counts resident memory."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts over from the present
    run()
    return resident_mb("VmHWM") - before


def measure(comparison: Comparison, device: torch.device, repeats: int) -> list:
    ours = (median_seconds(comparison.ours, device, repeats), peak_megabytes(comparison.ours, device))
    if comparison.plain is None:
        return [comparison.name, "", f"{1000 * ours[0]:.1f}", "", "", f"{ours[1]:.0f}", ""]
    plain = (median_seconds(comparison.plain, device, repeats), peak_megabytes(comparison.plain, device))
    return [
        comparison.name,
        *(f"{1000 * seconds:.1f}" for seconds in (plain[0], ours[0])),
        f"{plain[0] / ours[0]:.1f}x",
        *(f"{megabytes:.0f}" for megabytes in (plain[1], ours[1])),
        f"{plain[1] / ours[1]:.1f}x" if ours[1] else "",
    ]


def add_parts(commands: Any) -> None:
    about = "Single parts beside the plain way of doing the same."
    parser = commands.add_parser("parts", help=about, description=about)
    parser.set_defaults(run=measure_parts)
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to run (default: all)")
    parser.add_argument("--list", action="store_true", help="only list the names")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--threads", default=1, type=positive, help="CPU threads of PyTorch (1)")
    parser.add_argument("--repeats", default=7, type=positive, help="timed runs, of which the median counts (7)")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_whole(commands, "detectors", detectors)
    add_whole(commands, "training", training)
    add_parts(commands)
    arguments = parser.parse_args(words)
    arguments.run(arguments)


def measure_parts(arguments: argparse.Namespace) -> None:
    unknown = sorted(set(arguments.names) - set(BENCHMARKS))
    if unknown:
        raise UserError(f"no benchmark is named {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    if arguments.list:
        for name, function in BENCHMARKS.items():
            print(f"{name}: {function.__doc__.splitlines()[0]}")
        return
    torch.set_num_threads(arguments.threads)
    headers = ["", "plain ms", "ours ms", "faster", "plain MB", "ours MB", "smaller"]
    for name in arguments.names or BENCHMARKS:
        rows = [measure(row, arguments.device, arguments.repeats) for row in BENCHMARKS[name](arguments.device)]
        print(f"{name} on {arguments.device}, threads: {arguments.threads}\n")
        print(tabulate(rows, headers, tablefmt="github", disable_numparse=True), end="\n\n")


if __name__ == "__main__":
    cli.run(main)
