"""Sparsely recursive feature updating and dense feature aggregation: LSTS, sections 3.3 and 3.4.

C: channels of the high-level feature F, H, W: its cells. The memory is such a map, (1, C, H, W).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vod2.d2 import CfgNode, ShapeSpec
from vod2.errors import UserError
from vod2.modeling import PIXEL_AGGREGATOR_REGISTRY, Aggregated, PixelAggregator
from vod2.modeling.backbone import forward_stages
from vod2.modeling.pixel import Aligner, KeyframeSteps, build_aligner
from vod2.moved import moved
from vod2.projects.lsts.modules import Aggregation, Layers, convolutions
from vod2.structures import Frame, Role, Support, TemporalContext

LOW, IMAGE = "low", "image"
CARRY = "lsts."  # before the names of what a stream carries from frame to frame

__getattr__ = moved(__name__, {"Memory": f"{__name__}:KeyframeMemory"})


class KeyframeMemory(NamedTuple):
    """What is known of all keyframes until now.

    Attributes:
        value: (1, C, H, W), F^memory.
        index: number of the last keyframe in it.
        image: (1, 3, H*s, W*s) of that keyframe, where the aligner looks at images.
    """

    value: Tensor
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    image: Tensor | None


@PIXEL_AGGREGATOR_REGISTRY.register()
class LSTSAggregator(PixelAggregator):
    """Keyframes run through the whole backbone, the frames between them only to the first blocks of conv4.

    A keyframe is a support, or a frame whose number is a multiple of the interval. In training the key frame is one
    where the schedule says so (a support of role KEY), or where it has no supports. The memory is carried by a stream;
    a clip folds its keyframes into one, in the order of time. At test keyframes after the key frame are left out:
    nothing looks ahead. Without supports and memory the map stays as it is.

    Attributes:
        stage: the high-level feature F: "head_map" of R-FCN, so that nothing but the heads comes after, or "res4".
        interval: distance of two keyframes.
        low_blocks: blocks of conv4 that a non-keyframe runs through.
        align, dense_align: aligner of keyframes, and of the frames between if that is another one.
        update, dense: `Aggregation` of equations 7 and 8, or None: the memory is replaced, the aligned memory is used.
        transform: from low-level to high-level features, or None.
        dense_feature: "high" or "low", the feature of a frame between keyframes that is aggregated.
        task_is_memory: the task feature of a keyframe is the memory, without another aggregation with its own feature.

    Raises:
        UserError: for a key of MODEL.LSTS that is none of the possible values.
    """

    def __init__(self, cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> None:
        super().__init__()
        node = cfg.MODEL.LSTS
        for key, allowed in (
            ("STAGE", tuple(name for name in ("res4", "res5", "head_map") if name in shapes)),
            ("UPDATE", ("none", "fixed", "quality")),
            ("DENSE", ("none", "fixed", "quality")),
            ("DENSE_FEATURE", ("high", "low")),
            ("TASK", ("aggregate", "memory")),
        ):
            if node[key] not in allowed:
                raise UserError(f"MODEL.LSTS.{key}: expected one of {allowed}, got {node[key]!r}")
        if cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME:
            raise UserError(
                "LSTSAggregator leaves frames without proposals of their own: set MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME "
                f"to '', it is {cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME!r}"
            )
        self.stage = node.STAGE
        # Blocks of conv4 need not have the channels of its output: those of an EfficientNet become wider.
        low_shape = shapes.get(f"res4/{node.LOW_BLOCKS}", shapes["res4"])
        low_channels, channels = low_shape.channels, shapes[self.stage].channels
        self.interval = cfg.VIDEO.TEST_SCHEDULE.INTERVAL
        self.low_blocks = node.LOW_BLOCKS
        self.task_is_memory = node.TASK == "memory"
        self.align = build_aligner(cfg, channels)
        self.dense_align = None
        if not node.SHARED and node.UPDATE != "none":  # without an update keyframes are not aligned
            self.dense_align = build_aligner(cfg, channels)
            if node.SHARED_LOCATIONS:
                self.dense_align.share_locations(self.align)
        quality = Layers(node.QUALITY_LAYERS, node.QUALITY_RELU, node.INIT_STD)
        self.update = _aggregation(node.UPDATE, channels, quality)
        self.dense = _aggregation(node.DENSE, channels, quality)
        self.dense_feature = node.DENSE_FEATURE
        self.transform = None
        if node.TRANSFORM:
            layers = Layers(node.TRANSFORM_LAYERS, init_std=node.INIT_STD)
            self.transform = convolutions(low_channels, layers, channels)
        for key, compares in (("TRANSFORM", not node.TRANSFORM), ("DENSE_FEATURE", node.DENSE_FEATURE == "low")):
            if compares and low_channels != channels:
                raise UserError(
                    f"MODEL.LSTS.{key} {node[key]!r} takes conv4 after LOW_BLOCKS {node.LOW_BLOCKS} for {self.stage}: "
                    f"expected as many channels, got {low_channels} and {channels}"
                )

    def encode(self, backbone: nn.Module, images: Tensor, frames: Sequence[Support]) -> list[dict[str, Tensor]]:
        """Keyframes get the map of `stage`, the others "low"; all their image where the aligner wants it."""
        # The first blocks once, for all frames: keyframes go on from there.
        low = forward_stages(backbone, images, until="res4", block=self.low_blocks)["res4"]
        kept: list[dict[str, Tensor]] = [{} for _ in frames]
        if self.align.needs_images:
            kept = [{IMAGE: image} for image in images.split(1)]
        whole = [row for row, frame in enumerate(frames) if self._is_keyframe(frame)]
        if whole:
            maps = forward_stages(backbone, low[whole], after="res4", until=self.stage, block=self.low_blocks)
            for row, value in zip(whole, maps[self.stage].split(1), strict=True):
                kept[row][self.stage] = value
        for row in set(range(len(images))) - set(whole):
            kept[row][LOW] = low[row : row + 1]
        return kept

    def forward(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]:
        """Equation 7 at a keyframe, equation 8 between two."""
        memory = self._memory(key, context)
        if self.stage in key.features:
            task, memory = self._keyframe(key, memory)
        elif memory is None:
            raise ValueError(
                f"frame {key.index} of video {key.video_id!r} is no keyframe, and there is none before it: give "
                "keyframes as supports, as VIDEO.TRAIN_SCHEDULE KeyframeTriplet and VIDEO.TEST_SCHEDULE Keyframes do"
            )
        else:
            task = self._between(key, memory)
        # Tensors only, the number of the keyframe too: `FrameMemory` detaches what it carries.
        carry = {f"{CARRY}memory": memory.value, f"{CARRY}index": torch.tensor(memory.index)}
        if memory.image is not None:
            carry[f"{CARRY}image"] = memory.image
        return Aggregated({self.stage: task}, carry=carry)

    def keyframe_steps(self) -> KeyframeSteps | None:
        """None where the aligner cannot be traced, or looks at images."""
        aligners = [aligner for aligner in (self.align, self.dense_align) if aligner is not None]
        if not all(aligner.portable and not aligner.needs_images for aligner in aligners):
            return None
        return KeyframeSteps(self.interval, self._updated, self._task_between, LOW)

    def _is_keyframe(self, frame: Support) -> bool:
        if frame.role is None:  # of the key frames of training clips, those between two keyframes
            return not self.training and frame.index % self.interval == 0
        return True

    def _memory(self, key: Frame, context: TemporalContext) -> KeyframeMemory | None:
        """What the stream has carried, and the keyframes of the context that are not in it yet."""
        memory = None
        is_carried = f"{CARRY}memory" in context.carry
        if is_carried:
            carry = context.carry
            memory = KeyframeMemory(carry[f"{CARRY}memory"], int(carry[f"{CARRY}index"]), carry.get(f"{CARRY}image"))
        # In the order of time, whatever that of the schedule; a frame in two roles is first what was there before.
        pairs = sorted(
            zip(context.frames, context.roles, strict=True),
            key=lambda pair: (pair[0].index, pair[1] is Role.KEYFRAME),
        )
        key_is_keyframe = self.stage in key.features
        for frame, _ in pairs:
            if self.stage not in frame.features:
                continue
            # The window of every frame names the last keyframe: a stream has folded it in at the first of them.
            is_in_memory = is_carried and memory is not None and frame.index <= memory.index
            if self.training:  # the schedule says what came before, which may be a later frame ("released")
                comes_later = frame is key
            else:
                comes_later = frame.index > key.index or (key_is_keyframe and frame.index == key.index)
            if not is_in_memory and not comes_later:
                _, memory = self._keyframe(frame, memory)
        return memory

    def _keyframe(self, frame: Frame, memory: KeyframeMemory | None) -> tuple[Tensor, KeyframeMemory]:
        """F of a keyframe and the memory before it -> its task feature and the memory after it."""
        feature, image = frame.features[self.stage], frame.features.get(IMAGE)
        # The first keyframe is the memory.
        if memory is None:
            return feature, KeyframeMemory(feature, frame.index, image)
        task, value = self._updated(feature, memory.value, memory.image, image)
        return task, KeyframeMemory(value, frame.index, image)

    def _updated(
        self, feature: Tensor, memory: Tensor, memory_image: Tensor | None = None, image: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """F of a keyframe and F^memory before it -> its task feature and F^memory after it; equation 7."""
        if self.update is None:  # each keyframe is the memory
            return feature, feature
        value = self.update(feature, self.align(memory, feature, memory_image, image))
        # Section 3.3 makes the task feature of the new memory and the keyframe's own; public code takes the memory.
        return value if self.task_is_memory else self.update(feature, value), value

    def _between(self, frame: Frame, memory: KeyframeMemory) -> Tensor:
        """The low-level feature of a frame between two keyframes and the memory -> its task feature."""
        return self._task_between(frame.features[LOW], memory.value, memory.image, frame.features.get(IMAGE))

    def _task_between(
        self, low: Tensor, memory: Tensor, memory_image: Tensor | None = None, image: Tensor | None = None
    ) -> Tensor:
        """The low-level feature of a frame and F^memory -> its task feature; equation 8."""
        high = low if self.transform is None else self.transform(low)
        # The memory is aligned to the transformed feature, as it is made of high-level ones.
        align: Aligner = self.align if self.dense_align is None else self.dense_align
        aligned = align(memory, high, memory_image, image)
        if self.dense is None:
            return aligned
        # "low": the transform only makes what the memory is compared with.
        return self.dense(aligned, high if self.dense_feature == "high" else low)


def _aggregation(kind: str, channels: int, layers: Layers) -> Aggregation | None:
    if kind == "none":
        return None
    return Aggregation(channels, layers if kind == "quality" else None)
