"""VOD-Synth 1: a synthetic benchmark that is hard enough to rank methods (docs/vod_synth.md)."""

from vod2.data.synthetic.vod_synth.benchmark import (
    BENCHMARK,
    REVISION,
    SIZES,
    VodSynth,
    check_version,
    estimate,
    write_vod_synth,
)
from vod2.data.synthetic.vod_synth.classes import VOD_SYNTH_CLASSES, look_alike_group
from vod2.data.synthetic.vod_synth.deterioration import FRAME_KINDS, KINDS, OBJECT_KINDS
from vod2.data.synthetic.vod_synth.scene import BenchmarkObject

__all__ = [
    "BENCHMARK",
    "FRAME_KINDS",
    "KINDS",
    "OBJECT_KINDS",
    "REVISION",
    "SIZES",
    "VOD_SYNTH_CLASSES",
    "BenchmarkObject",
    "VodSynth",
    "check_version",
    "estimate",
    "look_alike_group",
    "write_vod_synth",
]
