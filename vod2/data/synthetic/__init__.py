"""Synthetic sets: videos of drawn objects, generated from a seed in ImageNet VID's layout.

The quick set (this package) is small and easy, for tests and the demo; VOD-Synth 1 (`vod_synth`) is a benchmark.
"""

from vod2.data.synthetic.classes import SYNTHETIC_CLASSES, look_alikes
from vod2.data.synthetic.layout import read_deterioration, read_visibility, video_id
from vod2.data.synthetic.scene import SyntheticConfig, SyntheticObject, render_video
from vod2.data.synthetic.writer import write_mp4, write_synthetic

__all__ = [
    "SYNTHETIC_CLASSES",
    "SyntheticConfig",
    "SyntheticObject",
    "look_alikes",
    "read_deterioration",
    "read_visibility",
    "render_video",
    "video_id",
    "write_mp4",
    "write_synthetic",
]
