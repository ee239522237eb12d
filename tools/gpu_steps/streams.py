"""Detectors with random weights, and streams of noise for them."""

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from vod2.d2 import CfgNode, Instances
from vod2.engine import load_config
from vod2.temporal import FrameMemory, build_support_schedule


def configuration(root: Path, name: str, device: str, *overrides: object) -> CfgNode:
    """configs/`name` without weights on `device`, with `overrides` KEY VALUE ... on top."""
    keys = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", device]
    return load_config(str(root / "configs" / name), [*keys, *overrides])


def noise(count: int, size: tuple[int, int], seed: int = 0) -> list[Tensor]:
    """`count` uint8 images (3, H, W) of coarse noise, so that frames differ everywhere and not only in texture."""
    height, width = size
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, 3, -(-height // 8), -(-width // 8)), generator=rng)
    full_size = coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)[:, :, :height, :width]
    return list(full_size.to(torch.uint8).contiguous())


class EndlessStream:
    """A video without an end that repeats some images; each `step` detects in its next frame.

    Args:
        model: a `VideoRCNN` in evaluation mode.
        cfg: its configuration, with the schedule of the window.
        images: (3, H, W) uint8 each.
        length: what the schedule is told that the video's length is.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode, images: list[Tensor], length: int = 1 << 20) -> None:
        self.model, self.images = model, images
        self.memory, self.frames = FrameMemory(build_support_schedule(cfg)), itertools.count()
        self.memory.start("video", length)

    def step(self) -> Instances:
        t = next(self.frames)
        # What the memory has of the window is not encoded again.
        new_frames = [{"image": self.images[i % len(self.images)], "frame_index": i} for i in self.memory.missing(t)]
        return self.model.step({"frame_index": t, "support": new_frames}, self.memory)["instances"]
