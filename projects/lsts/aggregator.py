"""Sparsely recursive feature updating and dense feature aggregation: LSTS, sections 3.3 and 3.4.

C: channels of conv4, H, W: its cells. The memory is a conv4 map (1, C, H, W).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from vod2.projects.lsts.modules import Aggregation, convolutions

from vod2.d2 import CfgNode, ShapeSpec
from vod2.errors import UserError
from vod2.modeling import PIXEL_AGGREGATOR_REGISTRY, Aggregated, PixelAggregator
from vod2.modeling.backbone import begin, finish
from vod2.modeling.pixel import Aligner, build_aligner
from vod2.structures import Frame, Role, Support, TemporalContext

LOW, HIGH, IMAGE = "low", "res4", "image"
CARRY = "lsts."  # before the names of what a stream carries from frame to frame


class Memory(NamedTuple):
    """What is known of all keyframes until now.

    Attributes:
        value: (1, C, H, W), F^memory.
        index: number of the last keyframe in it.
        image: (1, 3, H*s, W*s) of that keyframe, where the aligner looks at images.
    """

    value: Tensor
    index: int
    image: Tensor | None


@PIXEL_AGGREGATOR_REGISTRY.register()
class LSTSAggregator(PixelAggregator):
    """Keyframes run through the whole of conv4, the frames between them only through its first blocks.

    A keyframe is a support, or a frame whose number is a multiple of the interval. The memory is carried by a stream;
    a clip folds its keyframes into one, in the order of time. Keyframes after the key frame are left out: nothing looks
    ahead. Without supports and memory the map stays as it is.

    Args (all by `from_config`'s keys):
        channels: C.
        aligners: of keyframes, and of the frames between; may be the same one.
        update, dense: `Aggregation` of equations 7 and 8, or None: the memory is replaced, the aligned memory is used.
        transform: layers from low-level to high-level features, or None.
        interval: distance of two keyframes.
        low_blocks: blocks of conv4 that a non-keyframe runs through.
        task_is_memory: the task feature of a keyframe is the memory, without another aggregation with its own feature.
    """

    stage = HIGH

    def __init__(self, cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> None:
        super().__init__()
        node, channels = cfg.MODEL.LSTS, shapes[HIGH].channels
        for key, allowed in (
            ("UPDATE", ("none", "fixed", "quality")),
            ("DENSE", ("none", "fixed", "quality")),
            ("TASK", ("aggregate", "memory")),
        ):
            if node[key] not in allowed:
                raise UserError(f"MODEL.LSTS.{key}: expected one of {allowed}, got {node[key]!r}")
        self.interval = cfg.VIDEO.TEST_SCHEDULE.INTERVAL
        self.low_blocks = node.LOW_BLOCKS
        self.task_is_memory = node.TASK == "memory"
        self.align = build_aligner(cfg, channels)
        self.dense_align = None if node.SHARED else build_aligner(cfg, channels)
        self.update = _aggregation(node.UPDATE, channels, node.QUALITY_LAYERS)
        self.dense = _aggregation(node.DENSE, channels, node.QUALITY_LAYERS)
        self.transform = convolutions(channels, node.TRANSFORM_LAYERS) if node.TRANSFORM and self.dense else None

    def encode(self, backbone: nn.Module, images: Tensor, frames: Sequence[Support]) -> list[dict[str, Tensor]]:
        """Keyframes get "res4", the others "low"; all their image where the aligner wants it."""
        whole = [self._is_keyframe(frame) for frame in frames]
        low = begin(backbone, images, HIGH, self.low_blocks)
        rows = [row for row, is_whole in enumerate(whole) if is_whole]
        high = iter(finish(backbone, low[rows], HIGH, self.low_blocks).split(1) if rows else ())
        kept = []
        for row, is_whole in enumerate(whole):
            maps = {HIGH: next(high)} if is_whole else {LOW: low[row : row + 1]}
            if self.align.needs_images:
                maps[IMAGE] = images[row : row + 1]
            kept.append(maps)
        return kept

    def forward(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]:
        """Equation 7 at a keyframe, equation 8 between two."""
        memory = self._memory(key, context)
        if HIGH in key.features:
            task, memory = self._keyframe(key, memory)
        else:
            task = self._between(key, memory)
        carry = {f"{CARRY}memory": memory.value, f"{CARRY}index": torch.tensor(memory.index)}
        if memory.image is not None:
            carry[f"{CARRY}image"] = memory.image
        return Aggregated({HIGH: task}, carry=carry)

    def _is_keyframe(self, frame: Support) -> bool:
        if frame.role is None:  # a key frame of a training clip is one between two keyframes
            return not self.training and frame.index % self.interval == 0
        return True

    def _memory(self, key: Frame, context: TemporalContext) -> Memory | None:
        """What the stream has carried, and the keyframes of the context that are not in it yet."""
        memory = None
        if f"{CARRY}memory" in context.carry:
            carry = context.carry
            memory = Memory(carry[f"{CARRY}memory"], int(carry[f"{CARRY}index"]), carry.get(f"{CARRY}image"))
        pairs = sorted(
            zip(context.frames, context.roles, strict=True),
            key=lambda pair: (pair[0].index, pair[1] is Role.KEYFRAME),
        )
        key_is_one = HIGH in key.features
        for frame, _ in pairs:
            known = memory is not None and f"{CARRY}memory" in context.carry and frame.index <= memory.index
            later = frame.index > key.index or (key_is_one and frame.index == key.index)
            if HIGH in frame.features and not known and not later:
                _, memory = self._keyframe(frame, memory)
        return memory

    def _keyframe(self, frame: Frame, memory: Memory | None) -> tuple[Tensor, Memory]:
        """F of a keyframe and the memory before it -> its task feature and the memory after it."""
        own, image = frame.features[HIGH], frame.features.get(IMAGE)
        if memory is None or self.update is None:
            return own, Memory(own, frame.index, image)
        value = self.update(own, self.align(memory.value, own, memory.image, image))
        task = value if self.task_is_memory else self.update(own, value)
        return task, Memory(value, frame.index, image)

    def _between(self, frame: Frame, memory: Memory | None) -> Tensor:
        """The low-level feature of a frame between two keyframes and the memory -> its task feature."""
        if memory is None:
            raise ValueError(
                f"frame {frame.index} of video {frame.video_id!r} is no keyframe, and there is none before it: give "
                "keyframes as supports, as VIDEO.TRAIN_SCHEDULE KeyframeTriplet and VIDEO.TEST_SCHEDULE Keyframes do"
            )
        own = frame.features[LOW]
        if self.transform is not None:
            own = self.transform(own)
        align: Aligner = self.align if self.dense_align is None else self.dense_align
        aligned = align(memory.value, own, memory.image, frame.features.get(IMAGE))
        return aligned if self.dense is None else self.dense(aligned, own)


def _aggregation(kind: str, channels: int, layers: Sequence[tuple[int, int]]) -> Aggregation | None:
    if kind == "none":
        return None
    return Aggregation(channels, layers if kind == "quality" else None)
