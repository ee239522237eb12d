"""Which kinds of feature map a pixel aggregator gives the heads, in streams and in training: found by running both.

A kind follows from the gradient of the map: from the frames, and the levels of each, on which it depends.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from helpers.models import IMAGE_SIZE, make_video
from vod2.data import VideoDatasetMapper
from vod2.modeling import VideoRCNN
from vod2.structures import Frame, TemporalContext
from vod2.temporal import FrameMemory, SupportSchedule, TrainingSchedule


class MapKind(NamedTuple):
    """What the map of frame t is made of.

    Attributes:
        own: the levels of frame t itself that count.
        distance: t - new, where new is the last frame whose whole-backbone map counts.
        gap: from the one before it to new; None where only one counts.
    """

    own: frozenset[str]
    distance: int
    gap: int | None


def kinds_of_stream(model: VideoRCNN, schedule: SupportSchedule, length: int) -> set[MapKind]:
    """The kinds that the heads meet in a video of `length` frames."""
    aggregator, video, memory = model.eval().pixel_aggregator, make_video(length), FrameMemory(schedule)
    memory.start("video", length)
    frames, carry, kinds = [], {}, set()
    for t in range(length):
        for index in memory.missing(t):
            (frame,) = model.encode([{"image": video[index], "video_id": "video", "frame_index": index}])
            frames.append(_leaf(frame))
            memory.put(frames[-1])
        context = memory.context(t)
        found = aggregator(memory.frame(t), TemporalContext(context.frames, context.roles, carry))
        carry = found.carry  # not detached, as FrameMemory does it: so that the frames before can be found
        kinds.add(_kind(found.value[aggregator.stage], t, frames, aggregator.stage))
    return kinds


def kinds_of_training(
    model: VideoRCNN, schedule: TrainingSchedule, lengths: Sequence[int], clips: int, seed: int = 0
) -> Counter[MapKind]:
    """How often the heads meet each kind in training: `clips` clips, key frames uniform in videos of these lengths."""
    rng = np.random.default_rng(seed)
    np.random.seed(seed)  # the mapper's
    mapper = _Undecoded(is_train=True, augmentations=[], image_format="BGR", schedule=schedule)
    model.train()
    known: dict[tuple, MapKind] = {}
    histogram: Counter[MapKind] = Counter()
    for _ in range(clips):
        length = int(rng.choice(lengths))
        t = int(rng.integers(length))
        record = {"video_id": "video", "frame_index": t, "video_length": length, "annotations": []}
        clip = mapper(record | dict(zip(("height", "width"), IMAGE_SIZE, strict=True)))
        # The aggregator sees the order of frames, not their numbers: one clip of each kind of supports is enough.
        shape = tuple((one["frame_index"] - t, one["role"]) for one in clip["support"])
        if shape not in known:
            known[shape] = _kind_of_clip(model, clip)
        histogram[known[shape]] += 1
    return histogram


class _Undecoded(VideoDatasetMapper):
    """The training mapper, with noise in the place of the images on the disk."""

    def _reader(self, clip: dict, indices: Iterable[int]):
        return lambda record, number: _noise(number % 7)


@functools.cache
def _noise(seed: int) -> np.ndarray:
    return make_video(1, seed=seed)[0].permute(1, 2, 0).numpy()


def _kind_of_clip(model: VideoRCNN, clip: dict) -> MapKind:
    (read,) = model.read_clips([clip])
    key, context = read.key, read.context
    leaves = {id(frame): _leaf(frame) for frame in (key, *context.frames)}  # a frame of role KEY is the key itself
    frames = tuple(leaves[id(frame)] for frame in context.frames)
    aggregator = model.pixel_aggregator
    value = aggregator(leaves[id(key)], TemporalContext(frames, context.roles)).value[aggregator.stage]
    return _kind(value, key.index, list(leaves.values()), aggregator.stage)


def _leaf(frame: Frame) -> Frame:
    return frame.with_(features={name: x.detach().clone().requires_grad_() for name, x in frame.features.items()})


def _kind(value: Tensor, t: int, frames: Sequence[Frame], stage: str) -> MapKind:
    sources = [(frame.index, level, x) for frame in frames for level, x in frame.features.items()]
    gradients = torch.autograd.grad(
        value.square().sum(), [x for *_, x in sources], retain_graph=True, allow_unused=True
    )
    counting = {
        (index, level)
        for (index, level, _), gradient in zip(sources, gradients, strict=True)
        if gradient is not None and gradient.ne(0).any()
    }
    whole = sorted(index for index, level in counting if level == stage)
    own = frozenset(level for index, level in counting if index == t)
    return MapKind(own, t - whole[-1], whole[-1] - whole[-2] if len(whole) > 1 else None)
