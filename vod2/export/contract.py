"""Whether the parts of a detector, one after the other, give what its stream gives: what an aggregator must keep to."""

import copy
import logging
import math

import torch
from torch import Tensor

from vod2.d2 import CfgNode
from vod2.errors import UserError
from vod2.export.agreement import agreement
from vod2.export.graphs import Part, PartGraph, keyframe_interval, make_parts
from vod2.export.manifest import describe
from vod2.export.runner import graph_detector
from vod2.modeling import VideoRCNN
from vod2.modeling.aggregation import merge_disjoint
from vod2.structures import Clip, Support
from vod2.temporal import FrameMemory, SupportSchedule

_LOGGER = logging.getLogger(__name__)
_LARGEST = 192  # pixels of a side: what is compared does not depend on the size of the images
_LIMIT = 1e-6  # of numbers in double precision, where rounding makes 1e-13 in tiny detectors
_LATER = 7  # frames


def require_contract(cfg: CfgNode, model: VideoRCNN, schedule: SupportSchedule, size: tuple[int, int]) -> None:
    """Compare the detector in a stream of a few noise frames with its parts in PyTorch, both in double precision.

    The images are at most 192 pixels high and wide, so that it costs little.

    Args:
        cfg: the configuration of the detector.
        model: in evaluation mode, on the CPU; it stays as it is.
        schedule: that of the stream.
        size: (height, width) of the images after resizing.

    Raises:
        UserError: they differ, since an aggregator does what a graph cannot (`ProposalAggregator.takes_padding`).
    """
    try:
        _compare(cfg, copy.deepcopy(model).double(), schedule, size, _LIMIT)
    except RuntimeError as error:  # of an operator that is not there for float64, or that mixes both
        _LOGGER.warning(
            "the detector does not run in double precision (%s): its parts are compared with its stream in single "
            "precision, within the limits of files",
            str(error).split("\n")[0],
        )
        _compare(cfg, model, schedule, size, math.inf)


def _compare(cfg: CfgNode, model: VideoRCNN, schedule: SupportSchedule, size: tuple[int, int], limit: float) -> None:
    """`require_contract` in the precision of the model; no number may differ by more than `limit`."""
    size = min(size[0], _LARGEST), min(size[1], _LARGEST)
    interval = keyframe_interval(model)
    if interval:  # a first keyframe, one between, and a keyframe with a memory
        indices = [0, interval] if interval == 1 else [0, 1, interval]
    elif model.roi_heads.aggregator is None:
        indices = [0]
    else:  # other numbers than those of the graph, which begin at 0
        schedule, indices = _Later(schedule), [_LATER, _LATER + 1, _LATER + 2]
    parts = make_parts(model, schedule, size)
    manifest = describe(parts, size, interval=interval)
    detector = graph_detector(cfg, manifest, {part.name: part for part in parts}, schedule)
    memories = FrameMemory(schedule), FrameMemory(schedule)
    for memory in memories:
        memory.start("noise", indices[-1] + 1)
    for t in indices:
        for index in memories[0].missing(t):
            noise = torch.Generator().manual_seed(index)
            image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=noise)
            model.remember([{"image": image, "frame_index": index}], [memories[0]])
            detector.remember(memories[1], index, image[None])
        expected = _scored(model, parts[0], memories[0], t)
        _require_same(model, expected, detector.scored(memories[1], t), limit)


class _Later(SupportSchedule):
    """Another schedule, in a video that begins `_LATER` frames later."""

    reads = {}

    def __init__(self, schedule: SupportSchedule) -> None:
        self.schedule, self.lookahead = schedule, schedule.lookahead

    @property
    def largest_window(self) -> int | None:
        return self.schedule.largest_window

    def _window(self, t: int, length: int | None, video: str) -> list[Support]:
        assert length is not None  # that of `require_contract`
        window = self.schedule.window(t - _LATER, length - _LATER, video)
        return [support._replace(index=support.index + _LATER) for support in window]


@torch.no_grad()
def _scored(model: VideoRCNN, part: Part, memory: FrameMemory, index: int) -> tuple[Tensor, Tensor]:
    """`GraphDetector.scored` of the detector itself: what `VideoRCNN.detect_from` selects from."""
    context = memory.context(index)
    clips, enhanced = model.enhance_clips([Clip(memory.frame(index), context, inputs={"frame_index": index})])
    (clip,), _ = model.propose_clips(clips)
    (aggregated,) = model.roi_heads.aggregate([clip])
    memory.carry(merge_disjoint(result.carry for result in [*enhanced, aggregated]))
    assert isinstance(part.module, PartGraph)  # all parts of `make_parts` are
    return part.module.predicted(aggregated.value, clip.key.require_proposals().boxes, clip.key.image_size)


def _require_same(
    model: VideoRCNN, expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], limit: float
) -> None:
    named = []
    for boxes, scores in (expected, found):
        named.append({"boxes": boxes, "scores": scores, "valid": torch.ones(len(boxes), dtype=torch.bool)})
    compared = agreement(*named)
    if not compared.faults and all(difference <= limit for difference in compared.differences.values()):
        return
    level = model.roi_heads.aggregator or model.pixel_aggregator
    name = type(model if level is None else level).__name__
    raise UserError(
        f"{name} does not give in its parts what it gives in a stream ({compared}): nothing was exported. A "
        "graph gets the first SUPPORT_TOPK proposals of a support, rows that are padding, and no role, video or number "
        "of a frame; see docs/extending.md, Export"
    )
