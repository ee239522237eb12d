"""Streams: keyframes against every frame, and what long ones keep."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vod2.benchmark.comparing import Comparison, assert_same, random_boxes
from vod2.benchmark.machine import resident_mb
from vod2.d2 import build_model
from vod2.engine import VideoPredictor, inference_copy, load_config
from vod2.engine.random_weights import damp_frozen_normalisation
from vod2.layers import RelationModules, remembered_attention
from vod2.package_files import CONFIGS
from vod2.structures import ProposalSet
from vod2.temporal import FrameMemory, build_support_schedule


def keyframe_interval(device: torch.device) -> list[Comparison]:
    """Ten frames of a stream at 600 x 1000, one of them a keyframe: LSTS and DFF against R-FCN R-101 on every frame."""
    rows = []
    for name, prepare in (("models as built", lambda model: model), ("inference copies", inference_copy)):
        single = stream_of_ten("RFCN_R101.yaml", device, prepare)
        for method in ("LSTS", "DFF_RFCN"):
            rows.append(Comparison(f"{method}, {name}", single, stream_of_ten(f"{method}_R101.yaml", device, prepare)))
    return rows


def stream_of_ten(config: str, device: torch.device, prepare: Callable[[Any], Any]) -> Callable[[], object]:
    """Steps through the next ten frames of an endless stream of noise, with random weights."""
    cfg = load_config(str(CONFIGS / config), ["MODEL.WEIGHTS", "", "MODEL.DEVICE", device.type])
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


def distillation(device: torch.device) -> list[Comparison]:
    """RDN's refinement in a stream, 555 of the proposals of 37 frames of 75: all pairs against those of new frames."""
    torch.manual_seed(0)
    relation, generator = RelationModules(dim=1024, num_heads=16).with_geometry().to(device).eval(), torch.Generator()

    def make_frame() -> ProposalSet:
        scores = torch.randn(75, generator=generator).sort(descending=True).values
        features = torch.randn(75, 1024, generator=generator)
        boxes = random_boxes(75, generator)
        return ProposalSet.of_frame(boxes.to(device), features.to(device), scores.to(device), (600, 1000)).remembered()

    window = [make_frame() for _ in range(37)]

    def step(attend: Callable[[ProposalSet, ProposalSet], Tensor | None]) -> Tensor | None:
        window[:] = [*window[1:], make_frame()]
        support = ProposalSet.cat(window)
        best = support.scores.argsort(descending=True, stable=True)[: round(0.2 * len(support))]
        return attend(support[best.sort().values], support)

    @torch.no_grad()
    def plain(pool: ProposalSet, support: ProposalSet) -> Tensor:
        return relation(pool.rows, support.rows, pool.boxes, support.boxes)

    @torch.no_grad()
    def ours(pool: ProposalSet, support: ProposalSet) -> Tensor | None:
        return remembered_attention(relation, pool, support)

    support = ProposalSet.cat(window)
    pool = support[torch.arange(555) % 15 + 75 * (torch.arange(555) // 15)]
    found = ours(pool, support)
    if found is None:
        print(f"distillation: streams on {device.type} compute all pairs, there is nothing to compare with")
        return []
    assert_same(plain(pool, support), found)
    return [Comparison("step", lambda: step(plain), lambda: step(ours))]


STREAM_FRAMES, STREAM_SIZE = 20_000, (64, 96)


def long_stream(device: torch.device) -> list[Comparison]:
    """Resident memory of one stream of 20,000 frames, printed while it runs; minutes, and no row in the table."""
    sizes = ["INPUT.MIN_SIZE_TEST", str(STREAM_SIZE[0]), "INPUT.MAX_SIZE_TEST", str(STREAM_SIZE[1])]
    # Beside a small window, anything that grows with the video shows soon.
    window = ["VIDEO.TEST_SCHEDULE.RADIUS", "3"]
    opts = [*sizes, *window, "MODEL.WEIGHTS", "", "MODEL.DEVICE", str(device)]
    cfg = load_config(str(CONFIGS / "quick" / "RDN.yaml"), opts)
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
STREAM_LENGTHS = {"RDN": 50_000, "MEGA": 50_000, "SELSA": 200_000, "LSTS": 50_000}
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
    settled, most, tenth = 0.0, 0.0, num_frames // 10
    for index in range(num_frames):
        # Of the processor: other work on the machine would make a step last longer.
        start = time.process_time()
        stream.step(frames[index % len(frames)])
        seconds[index] = time.process_time() - start
        if index + 1 == 1000:
            settled = most = resident_mb("VmRSS")
        elif (index + 1) % 500 == 0:
            most = max(most, resident_mb("VmRSS"))
        if (index + 1) % tenth == 0:
            median = 1000 * np.median(seconds[index + 1 - tenth : index + 1])
            print(f"{method}, frame {index + 1}: {resident_mb('VmRSS'):.1f} MB, {median:.2f} ms a step", flush=True)
    end = resident_mb("VmRSS")
    first, last = (1000 * np.median(part) for part in (seconds[:tenth], seconds[-tenth:]))
    return (
        f"{method}, {num_frames} frames: {settled:.1f} MB after 1,000, at most {most - settled:+.1f} MB later, "
        f"{end - settled:+.1f} MB at the end; median of a step {first:.2f} ms in the first "
        f"tenth, {last:.2f} ms in the last"
    )
