"""Frames a second of every method in a stream, and where the time of two of them goes.

One frame of a stream: its new frame is encoded, the window is full. Random weights, noise, batch 1.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gpu_steps.step import NotApplicable, Step
from gpu_steps.streams import EndlessStream, configuration, noise
from gpu_steps.timing import PRECISIONS, PeakMemory, Times, measure, precision
from vod2.d2 import CfgNode, build_model
from vod2.engine.analysis import analyze
from vod2.engine.random_weights import damp_frozen_normalisation
from vod2.temporal import build_support_schedule

SINGLE = "FasterRCNN_R101.yaml"
METHODS = (
    SINGLE,
    "RDN_R101.yaml",
    "LSTS_R101.yaml",
    "MST_R101.yaml",
    "MEGA_R101.yaml",
    "SELSA_R101.yaml",
    "RFCN_R101.yaml",
    "HVRNet_R101.yaml",
    "CSMN_R101.yaml",
    "FGFA_R101.yaml",
    "DFF_R101.yaml",
    "RDN_Base_R101.yaml",
    "Relation_R101.yaml",
)
SIZES = ((600, 1000), (320, 512))
SMALL = (("quick/FasterRCNN.yaml", "quick/RDN.yaml"), ((64, 96),))
KERNELS = 15  # of the longest, that are listed
LONGEST_FILL = 60  # frames until the window of every method is full (MEGA: 25 + 25)


def run(step: Step) -> None:
    # The sizes of a stream do not change, so cuDNN may choose its algorithms by trying.
    torch.backends.cudnn.benchmark = True
    methods, sizes = SMALL if step.small else (METHODS, SIZES)
    models = Models(step)
    with step.seconds_for(0.85):  # in order of worth: what is left out for lack of time is the last of these
        for size in sizes:
            for name in PRECISIONS:
                for config in methods:
                    case = f"{_title(config)}, {size[0]} x {size[1]}, {name}"
                    step.case(case, partial(_stream, step, models, config, size, name), needs=4)
    size = sizes[0]
    for config in methods[:2]:
        step.case(f"{_title(config)}, kernels", partial(_kernels, step, models, config, size), needs=4)
    for config in methods[:2]:
        for name, change in (("channels last", _channels_last), ("torch.compile of the backbone", _compile_backbone)):
            case = f"{_title(config)}, {size[0]} x {size[1]}, bf16, {name}"
            step.case(case, partial(_stream, step, models, config, size, "bf16", change), needs=30)


def _title(config: str) -> str:
    return config.rpartition("/")[2].removesuffix(".yaml").removesuffix("_R101")


class Models:
    """The detectors that were built, their cost, and the time of the single frame."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self._models: dict[str, tuple[nn.Module, CfgNode]] = {}
        self._gflop: dict[tuple, float] = {}
        self.single: dict[tuple, float] = {}

    def get(self, config: str) -> tuple[nn.Module, CfgNode]:
        if config not in self._models:
            cfg = configuration(self.step.root, config, self.step.device)
            torch.manual_seed(0)
            model = build_model(cfg).eval().requires_grad_(False)
            damp_frozen_normalisation(model.backbone)
            self._models[config] = model, cfg
        return self._models[config]

    def gflop(self, config: str, size: tuple[int, int]) -> float:
        """Operations of one frame of a stream, see `vod2.engine.analysis`."""
        if (config, size) not in self._gflop:
            model, cfg = self.get(config)
            self._gflop[config, size] = analyze(model, build_support_schedule(cfg), size)[-1].flops / 1e9
        return self._gflop[config, size]


def _stream(
    step: Step,
    models: Models,
    config: str,
    size: tuple[int, int],
    name: str,
    change: Callable[[nn.Module], nn.Module] | None = None,
) -> dict:
    if name == "TF32" and step.device != "cuda":
        raise NotApplicable("a CPU does not compute in it")
    model, cfg = models.get(config)
    if change is not None:
        model = change(model)
    with precision(name, step.device):
        peak = PeakMemory(step.device, model)
        times = _time(step, EndlessStream(model, cfg, noise(4, size)))
    gflop = models.gflop(config, size)
    # The methods begin with the single frame, so its time is there when that of the others comes.
    if config in (SINGLE, SMALL[0][0]):
        models.single.setdefault((size, name, change), times.median)
    single = models.single.get((size, name, change))
    return {
        "median ms": 1e3 * times.median,
        "p95 ms": 1e3 * times.p95,
        "frames/s": 1 / times.median,
        "times the single frame": times.median / single if single else None,
        "peak GiB": peak.gib(),
        "GFLOP": gflop,
        "of the roofline": _roofline(step, model, gflop, name, times),
        "frames": times.count,
    }


def _time(step: Step, stream: EndlessStream) -> Times:
    """Of a frame, once the window is full."""
    fill, count = (3, 3) if step.small else (LONGEST_FILL, 30)
    # In the middle of a long video the window is as large as it gets.
    window = stream.memory.schedule.period + len(list(stream.memory.schedule.window(500, 1000, "video")))
    for _ in range(min(fill, window + 2)):
        stream.step()
    return measure(stream.step, step.device, count, warmup=2, seconds=6.0)


def _roofline(step: Step, model: nn.Module, gflop: float, name: str, times: Times) -> float | None:
    """The least time that the card could take, over the measured one.

    The least time is that of the operations at the measured rate of matrix products, or that of reading every weight
    once at the measured bandwidth, whichever is longer. None where the machine step did not measure them.
    """
    rates = step.settings.rates
    if name not in rates or "copy" not in rates:
        return None
    numbers = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    least = max(gflop * 1e9 / (rates[name] * 1e12), numbers / (rates["copy"] * 1e9))
    return least / times.median


def _kernels(step: Step, models: Models, config: str, size: tuple[int, int]) -> dict:
    """The longest kernels of ten frames (on a CPU: operators), with their share of the time of all of them."""
    model, cfg = models.get(config)
    on_gpu = step.device == "cuda"
    stream = EndlessStream(model, cfg, noise(4, size))
    count = 2 if step.small else 10
    with precision("fp32", step.device):
        _time(step, stream)
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
            for _ in range(count):
                stream.step()
    attribute = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, attribute))
    # 1 where nothing was recorded, as the shares divide by it.
    total = sum(getattr(event, attribute) for event in events) or 1
    longest = [
        f"{event.key[:80]} {100 * getattr(event, attribute) / total:.1f}% ({event.count // count} a frame)"
        for event in events[:KERNELS]
    ]
    return {"ms a frame in kernels": total / count / 1e3, "longest": longest}


def _channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)


def _compile_backbone(model: nn.Module) -> nn.Module:
    """The backbone alone: what follows has shapes that depend on the data."""
    if not torch.cuda.is_available():
        raise NotApplicable("tried on a GPU only")
    # The case before has left the model in channels last.
    model.to(memory_format=torch.contiguous_format)
    model.backbone.compile()
    return model
