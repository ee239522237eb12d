"""The parts of a detector that are exported: pure functions of tensors whose sizes are fixed.

H, W: size of the resized image, P: proposals of a frame, D: embedding, T: frames of a window, S: proposals of a
support, K: classes, k: boxes regressed from a proposal (1 or K), C, h, w: a map.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vod2.d2 import Instances
from vod2.errors import UserError
from vod2.modeling import VideoDetector, VideoRCNN, propose_frames
from vod2.modeling.pixel import PIXEL_AGGREGATOR_REGISTRY, KeyframeSteps, PixelAggregator
from vod2.modeling.pixel.enhance import replace_maps
from vod2.modeling.roi_heads import PROPOSAL_AGGREGATOR_REGISTRY
from vod2.ops import portable
from vod2.structures import VALID, Frame, PreciseBoxes, ProposalSet, Role, TemporalContext
from vod2.temporal import SupportSchedule

DETECT, FRAME, AGGREGATE, KEYFRAME, BETWEEN = "detect", "frame", "aggregate", "keyframe", "between"
"""Names of parts, and of their files."""
DETECTIONS = ("boxes", "scores", "valid")


@dataclass(frozen=True)
class Part:
    """A part of a detector.

    Attributes:
        name: of its file.
        module: takes `inputs` in their order, returns a tuple of `outputs`.
        inputs: {name: example}.
        outputs: names.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]

    def run(self) -> tuple[Tensor, ...]:
        """What PyTorch makes of the examples."""
        return tuple(self(self.inputs).values())

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What PyTorch makes of other tensors than the examples, by name, as `OnnxGraph` does."""
        with torch.no_grad(), portable():
            found = self.module(*(inputs[name] for name in self.inputs))
        return dict(zip(self.outputs, found, strict=True))


class PartGraph(nn.Module):
    """Steps of a detector that several parts have."""

    def __init__(self, model: VideoRCNN) -> None:
        super().__init__()
        self.model = model

    def _embedded(self, frame: Frame) -> tuple[ProposalSet, Tensor]:
        """A frame with maps -> its P proposals, and (P,) bool, which of them are no padding."""
        (proposed,), _ = propose_frames(self.model.proposal_generator, self.model.roi_heads, [frame])
        proposals = proposed.require_proposals()
        return proposals, proposals.scores > -torch.inf

    def predicted(self, features: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Features (P, D) and boxes (P, 4) -> boxes (P, k, 4), not clipped, and probabilities (P, K + 1)."""
        predictor = self.model.roi_heads.box_predictor
        predictions = predictor(features)
        proposals = [Instances(size, proposal_boxes=PreciseBoxes(boxes))]
        (regressed,) = predictor.predict_boxes(predictions, proposals)
        (scores,) = predictor.predict_probs(predictions, proposals)
        return regressed.unflatten(1, (-1, 4)), scores

    def _detected(self, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
        """A frame with maps -> boxes (P, k, 4), scores (P, K + 1), valid (P,)."""
        proposals, valid = self._embedded(frame)
        boxes, scores = self.predicted(proposals.features, proposals.boxes, frame.image_size)
        return boxes, scores, valid


class DetectGraph(PartGraph):
    """A detector without other frames: image (1, 3, H, W) uint8 -> `DETECTIONS`."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (frame,) = self.model.encode([{"image": image[0]}])
        return self._detected(frame)


class FrameGraph(PartGraph):
    """What a memory keeps of a frame: image -> boxes (P, 4), features (P, D), objectness (P,), valid (P,).

    Rows that are padding come last, and are 0.
    """

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (frame,) = self.model.encode([{"image": image[0]}])
        proposals, valid = self._embedded(frame)
        features = proposals.features.masked_fill(~valid[:, None], 0.0)
        return proposals.boxes, features, proposals.scores.masked_fill(~valid, 0.0), valid


class AggregateGraph(PartGraph):
    """Level 2 and the prediction: the key frame's proposals and those of T supports -> boxes, scores.

    Rows of the key frame that are padding give rows without a meaning.
    """

    def __init__(self, model: VideoRCNN, size: tuple[int, int]) -> None:
        super().__init__(model)
        self.size = size

    def forward(
        self,
        key_boxes: Tensor,
        key_features: Tensor,
        key_objectness: Tensor,
        support_boxes: Tensor,
        support_features: Tensor,
        support_objectness: Tensor,
        support_valid: Tensor,
    ) -> tuple[Tensor, ...]:
        """(P, 4), (P, D), (P,); (T, S, 4), (T, S, D), (T, S), (T, S) bool -> (P, k, 4), (P, K + 1)."""
        query = ProposalSet.of_frame(key_boxes, key_features, key_objectness, self.size)
        # The numbers of the frames mean nothing to these methods; the order does not either.
        supports = []
        for number, row in enumerate(zip(support_boxes, support_features, support_objectness, strict=True)):
            proposals = ProposalSet.of_frame(*row, self.size, {VALID: support_valid[number]})
            supports.append(Frame("", number, self.size, proposals=proposals))
        context = TemporalContext(tuple(supports), (Role.LOCAL,) * len(supports))
        aggregator = self.model.roi_heads.aggregator
        assert aggregator is not None  # `make_parts` makes this of a model with level 2
        return self.predicted(aggregator(query, context).value, key_boxes, self.size)


class _CarryingGraph(PartGraph):
    """A part of a level 1 that carries a map from keyframe to keyframe."""

    def __init__(self, model: VideoRCNN, steps: KeyframeSteps) -> None:
        super().__init__(model)
        self.steps = steps

    def _detected_in(self, frame: Frame, task: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `_detected`, with `task` in the place of the map that level 1 replaces."""
        (enhanced,) = replace_maps(self.model.backbone, self._level1, [frame], [{self._level1.stage: task}])
        return self._detected(enhanced)

    @property
    def _level1(self) -> PixelAggregator:
        assert self.model.pixel_aggregator is not None  # the steps are its
        return self.model.pixel_aggregator


class KeyframeGraph(_CarryingGraph):
    """A keyframe: image, memory (1, C, h, w), is_first () bool -> `DETECTIONS`, memory.

    With `is_first`, for the first keyframe of a video, the memory that comes in is not read.
    """

    def forward(self, image: Tensor, memory: Tensor, is_first: Tensor) -> tuple[Tensor, ...]:
        (frame,) = self.model.encode([{"image": image[0], "frame_index": 0}])
        feature = frame.features[self._level1.stage]
        task, new = self.steps.at_keyframe(feature, torch.where(is_first, feature, memory))
        task, new = torch.where(is_first, feature, task), torch.where(is_first, feature, new)
        return *self._detected_in(frame, task), new


class BetweenGraph(_CarryingGraph):
    """A frame between two keyframes: image, memory (1, C, h, w) -> `DETECTIONS`."""

    def forward(self, image: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        (frame,) = self.model.encode([{"image": image[0], "frame_index": 1}])  # no multiple of the interval
        return self._detected_in(frame, self.steps.between(frame.features[self.steps.low], memory))


def make_parts(model: VideoRCNN, schedule: SupportSchedule, size: tuple[int, int]) -> list[Part]:
    """The parts of a detector, for images of `size` (height, width) after resizing and the windows of `schedule`.

    Args:
        model: in evaluation mode, on the CPU.

    Raises:
        UserError: the detector is none that can be exported; says what can.
    """
    _require_exportable(model)
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=noise)
    if model.pixel_aggregator is not None:
        return _keyframe_parts(model, image)
    if model.roi_heads.aggregator is None:
        return [Part(DETECT, DetectGraph(model), {"image": image}, DETECTIONS)]
    frame = Part(FRAME, FrameGraph(model), {"image": image}, ("boxes", "features", "objectness", "valid"))
    window = schedule.largest_window
    if not window:
        raise UserError(
            f"{type(schedule).__name__} of VIDEO.TEST_SCHEDULE names {'no' if window == 0 else 'any number of'} "
            "supports: what is exported takes a fixed number of them, give a schedule such as SlidingWindow or "
            "GlobalSample"
        )
    boxes, features, objectness, valid = frame.run()
    count = min(_support_topk(model), len(boxes))
    # The example is the frame itself, in every place of the window but the last, which is empty.
    supports = [value[None, :count].repeat(window, *[1] * value.dim()) for value in (boxes, features, objectness)]
    filled = valid[None, :count].repeat(window, 1)
    filled[1:][-1:] = False
    keys = ("key_boxes", "key_features", "key_objectness")
    names = ("support_boxes", "support_features", "support_objectness", "support_valid")
    inputs = dict(zip((*keys, *names), (boxes, features, objectness, *supports, filled), strict=True))
    return [frame, Part(AGGREGATE, AggregateGraph(model, size), inputs, ("boxes", "scores"))]


def keyframe_interval(model: VideoRCNN) -> int:
    """The distance of two keyframes; 0 for a method without any."""
    steps = None if model.pixel_aggregator is None else model.pixel_aggregator.keyframe_steps()
    return 0 if steps is None else steps.interval


def _support_topk(model: VideoRCNN) -> int:
    """How many proposals of a support level 2 looks at."""
    return model.roi_heads.support_topk


def _keyframe_parts(model: VideoRCNN, image: Tensor) -> list[Part]:
    aggregator = model.pixel_aggregator
    steps = None if aggregator is None else aggregator.keyframe_steps()
    assert aggregator is not None and steps is not None  # see `_require_exportable`
    with torch.no_grad(), portable():
        (first,) = model.encode([{"image": image[0], "frame_index": 0}])
    memory = first.features[aggregator.stage].flip(3)  # another map of that size
    inputs = {"image": image, "memory": memory}
    is_first = {"is_first": torch.tensor(False)}
    parts = [Part(KEYFRAME, KeyframeGraph(model, steps), inputs | is_first, (*DETECTIONS, "new_memory"))]
    if steps.interval > 1:
        parts.append(Part(BETWEEN, BetweenGraph(model, steps), inputs, DETECTIONS))
    return parts


def two_stage(model: VideoDetector) -> VideoRCNN:
    """The detector, if it is of the kind that graphs are made of.

    Raises:
        UserError: it is not.
    """
    if not isinstance(model, VideoRCNN):
        raise UserError(
            f"MODEL.META_ARCHITECTURE is {type(model).__name__!r}, which cannot be exported: expected 'VideoRCNN'"
        )
    return model


def _require_exportable(model: VideoRCNN) -> None:
    pixel, proposal = model.pixel_aggregator, model.roi_heads.aggregator
    steps = None if pixel is None else pixel.keyframe_steps()
    refused = None
    if pixel is not None and (steps is None or proposal is not None):
        refused = type(pixel).__name__
    elif proposal is not None and not proposal.takes_padding:
        refused = type(proposal).__name__
    if refused is not None:
        raise UserError(f"{refused} as it is configured cannot be exported: expected {_supported()}")
    if proposal is not None and getattr(proposal, "keep_relations", False):
        raise UserError(
            "MODEL.VIDEO.KEEP_RELATIONS asks for the weights of relations, which are not exported: set it to False"
        )
    if model.roi_heads.needs.feature_maps:
        raise UserError(
            f"{type(model.roi_heads).__name__} with {type(proposal).__name__} look at the feature maps of supports, "
            f"which cannot be exported: expected {_supported()}, on VideoROIHeads"
        )
    if len(model.roi_heads.box_in_features) > 1:
        raise UserError(
            f"MODEL.ROI_HEADS.IN_FEATURES is {list(model.roi_heads.box_in_features)}: which level a box is pooled from "
            "depends on the box, which cannot be exported; name one level"
        )


def _supported() -> str:
    """What can be exported, in words."""
    # The projects say it of their classes; those that are not imported are not here to be asked.
    proposals = [name for name, kind in PROPOSAL_AGGREGATOR_REGISTRY if kind.takes_padding]
    default = PixelAggregator.keyframe_steps
    pixels = [name for name, kind in PIXEL_AGGREGATOR_REGISTRY if kind.keyframe_steps is not default]
    return (
        f"no aggregator, one of {', '.join(proposals)}, or {', '.join(pixels)} with an aligner that compares "
        "maps by learned or fixed samples or by attention"
    )
