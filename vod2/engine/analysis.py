"""What a detector costs: parameters and floating-point operations part by part, and the time of a frame."""

import functools
import math
import statistics
import time
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vod2.engine.random_weights import damp_frozen_normalisation
from vod2.modeling import VideoDetector
from vod2.ops import compiled_device_types
from vod2.temporal import FrameMemory, SupportSchedule

PARTS = (
    "backbone",
    "pixel_aggregator",
    "proposal_generator.rpn_head",
    "proposal_generator.head",
    "roi_heads.reduce",
    "roi_heads.box_pooler",
    "roi_heads.box_head",
    "roi_heads.temporal",
    "roi_heads.aggregator",
    "roi_heads.box_predictor",
    "roi_heads.rescoring",
)
"""Sub-modules of `VideoDetector` that make a row each; one that is absent or costs nothing makes none."""


_LONGEST_CARRY = 400
"""Steps that may pass until nothing carried grows any more: the longest memory of a paper is full after 267."""


class PartCost(NamedTuple):
    """Parameters of a part, the trainable ones among them, and its floating-point operations (2 per multiply-add)."""

    part: str
    parameters: int
    trainable: int
    flops: float


def analyze(
    model: VideoDetector, schedule: SupportSchedule, size: tuple[int, int], encode_once: bool = False
) -> list[PartCost]:
    """What one frame of a running stream costs: its new frame is encoded, its window is full.

    Where some frames cost more than others (keyframes), the mean over a period.

    Convolutions, deformable ones too, matrix products and attention count; sampling and pooling do not. Frozen
    normalisation keeps its numbers in buffers, which are no parameters. The last row is the total. The weights of
    `model` are spoilt: the cost does not depend on their values, but activations must stay small for the RPN to find
    its full number of boxes.

    Args:
        model: the detector.
        schedule: the window of a frame.
        size: (height, width) of the resized image.
        encode_once: see `RunningStream`.
    """
    flops = _stream_flops(model, schedule, size, encode_once)
    rows = []
    for part in PARTS:
        module = model.get_submodule(part) if _has(model, part) else None
        if module is not None:
            row = _count(part, module, _flops(part, flops))
            if row.parameters or row.flops:
                rows.append(row)
    return [*rows, _count("total", model, flops.get("", 0))]


def _flops(part: str, flops: dict[str, float]) -> float:
    """Operations of a part: where its sub-modules were called one by one, the sum of theirs."""
    if part in flops:
        return flops[part]
    total: float = 0
    inside = [name for name in flops if name.startswith(f"{part}.")]
    for name in inside:
        is_within_another = any(name.startswith(f"{other}.") for other in inside)
        if not is_within_another:  # else it is counted there
            total += flops[name]
    return total


def _has(model: nn.Module, part: str) -> bool:
    parent, _, name = part.rpartition(".")
    return isinstance(getattr(model.get_submodule(parent), name, None), nn.Module)


def _count(part: str, module: nn.Module, flops: float) -> PartCost:
    parameters = list(module.parameters())
    return PartCost(
        part, sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad), flops
    )


class RunningStream:
    """A stream of one noise image over and over, far from both ends: its window is full, all is carried that ever is.

    Args:
        model: the detector; is put in evaluation mode, and its normalisation damped: activations must stay small for
            the RPN to find its full number of boxes.
        schedule: the window of a frame.
        size: (height, width) of the resized image.
        encode_once: as in an evaluation that keeps all frames of a video (TEST.FRAME_STORE_MB): a step encodes one
            frame at most; the others that are new to the window have been encoded before.
    """

    def __init__(
        self, model: VideoDetector, schedule: SupportSchedule, size: tuple[int, int], encode_once: bool = False
    ) -> None:
        # Sets the factor rather than multiplying by it, so that a second stream of the model finds the same weights
        damp_frozen_normalisation(model.backbone)
        self.period = schedule.period
        self._step = _Step(model.eval())
        # A multiple of the period, for each period to begin with a keyframe where there are any
        self._next = self.period * -(-500 // self.period)
        self._memory = FrameMemory(schedule)
        # The end of the video is as far away as its beginning
        self._memory.start("video", length=2 * self._next)
        generator = torch.Generator().manual_seed(0)
        self._image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            _fill(model, self._memory, self._image, self._next - self.period)
        self._known = self._memory.frame(self._next - self.period) if encode_once else None

    @torch.no_grad()
    def step(self) -> None:
        """Detect in the next frame, which encodes the frames that are new. The first one begins a period."""
        missing = self._memory.missing(self._next)
        if self._known is not None:
            # One of the images of a video is encoded at each of its frames, whichever it is.
            for index in missing[:-1]:
                self._memory.put(self._known.with_(index=index))
            missing = missing[-1:]
        fresh = [{"image": self._image, "frame_index": index} for index in missing]
        self._step({"frame_index": self._next, "support": fresh}, self._memory)
        self._next += 1

    def advance(self) -> None:
        """Detect in the frames of the next period."""
        for _ in range(self.period):
            self.step()


def frame_seconds(model: VideoDetector, schedule: SupportSchedule, size: tuple[int, int], repeats: int = 3) -> float:
    """Seconds that a frame of a running stream takes: the mean over a period, the median of so many periods.

    On the model's device, of what `analyze` counts; reading and resizing of images, and the linking of boxes, are not
    in it. With random weights nearly every box is above the score threshold: NMS has as much to do as it can have.

    Args:
        model, schedule, size: see `RunningStream`.
        repeats: periods that are timed, after one that is not.

    Example:
        >>> from vod2.d2 import build_model
        >>> from vod2.engine import load_config
        >>> from vod2.temporal import NoWindow
        >>> model = build_model(load_config("configs/quick/FasterRCNN.yaml", ["MODEL.DEVICE", "cpu"]))
        >>> frame_seconds(model, NoWindow(), (64, 96), repeats=1) > 0
        True
    """
    stream = RunningStream(model, schedule, size)
    # Not timed: in the first period kernels are chosen and caches filled
    stream.advance()
    # GPU kernels are still running when the call returns
    wait = functools.partial(torch.cuda.synchronize, model.device) if model.device.type == "cuda" else lambda: None
    seconds = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        stream.advance()
        wait()
        seconds.append((time.perf_counter() - start) / stream.period)
    return statistics.median(seconds)


def _stream_flops(
    model: VideoDetector, schedule: SupportSchedule, size: tuple[int, int], encode_once: bool
) -> dict[str, float]:
    """{sub-module name: operations}, "" for the whole: the mean over one period of the schedule, far from both ends."""
    stream = RunningStream(model, schedule, size, encode_once)
    counter = FlopCounterMode(display=False, custom_mapping=_operators())
    with counter:
        stream.advance()
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    by_part = {name.removeprefix("_Step.model."): n for name, n in counts.items()} | {"": counter.get_total_flops()}
    return {name: n / stream.period for name, n in by_part.items()}


def _fill(model: VideoDetector, memory: FrameMemory, image: torch.Tensor, last: int) -> None:
    """Leave `memory` as it is after frame `last`: the window full, and all carried that a stream carries.

    Only one image is encoded, all frames are copies of it. Frames before are detected until the carry stops growing.
    """
    model.remember([{"image": image, "frame_index": last}], [memory])
    frame, period = memory.frame(last), memory.schedule.period
    last_carry_size = -1
    # Only frames that begin a period, because the carry changes with keyframes
    for now in [*range(max(last - _LONGEST_CARRY * period, 0), last, period), last]:
        for index in memory.missing(now):
            memory.put(frame.with_(index=index))
        context = memory.context(now)
        carry_size = sum(value.numel() for value in context.carry.values())
        if now < last and carry_size == last_carry_size:
            continue
        last_carry_size = carry_size
        model.detect_from(memory, {"frame_index": now})
    # What is made of the same supports is kept from the second time on (`remembered_together`).
    model.detect_from(memory, {"frame_index": last})


def _operators() -> dict:
    """What operators cost that the counter does not know; the compiled ones what their Python versions would count."""

    def deform_conv2d(input_shape: Any, weight_shape: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        return 2 * math.prod(out_shape) * math.prod(weight_shape[1:])

    def geometry_bias(query_shape: Any, key_shape: Any, weight_shape: Any, *_: Any, **__: Any) -> int:
        heads, dim = weight_shape
        return 2 * query_shape[0] * key_shape[0] * heads * dim

    def attention(query_shape: Any, key_shape: Any, value_shape: Any, *_: Any, **__: Any) -> int:
        *rows, dim = query_shape
        return 2 * math.prod(rows) * key_shape[-2] * (dim + value_shape[-1])

    compiled = {torch.ops.vod2.relation_geometry_bias: geometry_bias} if compiled_device_types() else {}
    # PyTorch knows the attention kernels of a GPU alone.
    attention_on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return {torch.ops.torchvision.deform_conv2d: deform_conv2d, attention_on_cpu: attention} | compiled


class _Step(nn.Module):
    """`VideoDetector.step` as the call of a module, from which the counter takes the names of the parts."""

    def __init__(self, model: VideoDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: dict, memory: FrameMemory) -> dict:
        return self.model.step(clip, memory)
