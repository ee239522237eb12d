"""The synthetic benchmark: videos of drawn objects, generated from a seed in ImageNet VID's layout."""

from vod2.data.synthetic.classes import SYNTHETIC_CLASSES, look_alikes
from vod2.data.synthetic.scene import SyntheticConfig, SyntheticObject, render_video
from vod2.data.synthetic.writer import read_deterioration, video_id, write_mp4, write_synthetic

__all__ = [
    "SYNTHETIC_CLASSES",
    "SyntheticConfig",
    "SyntheticObject",
    "look_alikes",
    "read_deterioration",
    "render_video",
    "video_id",
    "write_mp4",
    "write_synthetic",
]
