"""The step between feature maps and level 2: boxes of every frame, and what is pooled from them.

B: frames, N: proposals of a frame, G: ignore regions.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vod2.d2 import Instances
from vod2.modeling.box_source import BoxSource
from vod2.modeling.object_ids import with_track_ids
from vod2.modeling.pixel import PixelAggregator, enhance_in_context, enhance_supports, keeps_boxes
from vod2.modeling.roi_heads import VideoHeads
from vod2.structures import Clip, Frame, PreciseBoxes, ProposalSet, TemporalContext


class _Waiting(NamedTuple):
    """A frame without embedded proposals; of a key frame also its ground truth, ignore regions (G, 4) and seed."""

    frame: Frame
    targets: Instances | None = None
    ignored: Tensor | None = None
    seed: int | None = None


def propose_clips(
    rpn: BoxSource, heads: VideoHeads, clips: Sequence[Clip], with_supports: bool
) -> tuple[list[Clip], dict[str, Tensor]]:
    """Embedded proposals for all frames of clips that have none yet, and the losses of the RPN on the key frames.

    Args:
        rpn: the RPN, or the dense head in its place; so in all functions here.
        with_supports: whether somebody asks for the proposals of supports.
    """
    # The same frame may stand in several places, so frames are told apart by their identity.
    waiting: dict[int, _Waiting] = {}
    for clip in clips:
        if not clip.key.is_embedded:
            waiting[id(clip.key)] = _Waiting(clip.key, clip.targets, clip.ignore_regions, clip.seed)
    # After all key frames: a support that is the key frame of another clip is proposed as that.
    for clip in clips if with_supports else ():
        for support in clip.supports:
            if not support.is_embedded:
                waiting.setdefault(id(support), _Waiting(_with_top_boxes(support, heads.support_topk)))
    if not waiting:
        return list(clips), {}

    frames = [entry.frame for entry in waiting.values()]
    targets = [entry.targets for entry in waiting.values()] if rpn.training else None
    ignored: list[Tensor | None] | None = [entry.ignored for entry in waiting.values()]
    if all(entry.ignored is None for entry in waiting.values()):
        ignored = None
    seeds = [entry.seed for entry in waiting.values()]
    proposed, losses = propose_frames(rpn, heads, frames, targets, ignored, seeds)

    proposed_of = dict(zip(waiting, proposed, strict=True))
    proposed_clips = []
    for clip in clips:
        key = proposed_of.get(id(clip.key), clip.key)
        supports = [proposed_of.get(id(support), support) for support in clip.supports]
        proposed_clips.append(clip.with_frames(key, supports))
    if rpn.training and heads.needs.track_iou is not None:
        proposed_clips = [with_track_ids(clip, heads.needs.track_iou) for clip in proposed_clips]
    return proposed_clips, losses


def propose_frames(
    rpn: BoxSource,
    heads: VideoHeads,
    frames: Sequence[Frame],
    targets: Sequence[Instances | None] | None = None,
    ignored: Sequence[Tensor | None] | None = None,
    seeds: Sequence[int | None] | None = None,
) -> tuple[list[Frame], dict[str, Tensor]]:
    """B frames with embedded proposals, and the losses of the RPN on those with targets.

    Args:
        frames: with feature maps; where all of them have boxes, these stay.
        targets: the ground truth of each frame, or None for a frame without loss; None if there is no training.
        ignored: the ignore regions (G, 4) of each frame, or None: what lies there is not sampled as background.
        seeds: of each frame, what its anchors and RoIs are drawn from; None for the global generator.
    """
    losses: dict[str, Tensor] = {}
    boxes_of_frames = [frame.proposals for frame in frames if frame.proposals is not None]
    if len(boxes_of_frames) == len(frames):  # those of `propose_boxes`, from which nothing has been pooled
        proposals = [_as_instances(boxes) for boxes in boxes_of_frames]
    else:
        maps = stacked_maps(frames, rpn.in_features)
        proposals, losses = rpn.propose([frame.image_size for frame in frames], maps, targets, ignored, seeds)
    proposals = heads.select(proposals, targets, ignored, seeds)
    embedded = heads.embed(stacked_maps(frames, heads.box_in_features), proposals)
    proposed = []
    for row, frame in enumerate(frames):
        is_trained = targets is not None and targets[row] is not None
        rois = proposals[row] if is_trained else None
        # In inference also of clips, frame by frame: the products of a stream's steps, which round alike.
        of_frame = embedded[row] if rpn.training else embedded[row].remembered()
        proposed.append(frame.with_(proposals=of_frame, targets=rois))
    return proposed, losses


def prepare_supports(
    backbone: nn.Module,
    aggregator: PixelAggregator | None,
    rpn: BoxSource,
    heads: VideoHeads,
    frames: Sequence[Frame],
    contexts: Sequence[TemporalContext],
) -> list[Frame]:
    """Encoded frames of streams as their memories keep them: with the proposals that other frames will look at.

    Feature maps stay where level 1, or who asks for `ProposalNeeds.feature_maps`, will look at them.

    Args:
        aggregator: level 1, or None.
        contexts: what the memory of each frame's stream holds by now.
    """
    if aggregator is None:
        # Nothing reads other maps again, and they are most of what a frame holds.
        levels = heads.box_in_features if heads.needs.feature_maps else ()
        proposed, _ = propose_frames(rpn, heads, frames)
        return [frame.with_(features={level: frame.features[level] for level in levels}) for frame in proposed]
    if heads.aggregator is None:  # level 1 looks at maps only
        return list(frames)
    if aggregator.per_key_frame:
        # Features are made anew for each key frame; boxes too, unless the RPN reads what no context changes.
        return propose_boxes(rpn, frames) if keeps_boxes(backbone, aggregator, rpn.in_features) else list(frames)
    enhanced = enhance_supports(backbone, aggregator, frames, contexts)
    proposed, _ = propose_frames(rpn, heads, enhanced)
    # The memory keeps the maps as the backbone made them, with the proposals of what level 1 made of them.
    return [frame.with_(proposals=support.proposals) for frame, support in zip(frames, proposed, strict=True)]


def embed_context(
    backbone: nn.Module, aggregator: PixelAggregator, rpn: BoxSource, heads: VideoHeads, context: TemporalContext
) -> TemporalContext | None:
    """The context with the embedded proposals that its frames have for all key frames that are not in it.

    None where these differ from one key frame to the next.
    """
    context = TemporalContext(context.frames, context.roles)  # what is carried changes from frame to frame
    enhanced = enhance_in_context(backbone, aggregator, context)
    if enhanced is None:
        return None
    supports = [_with_top_boxes(frame, heads.support_topk) for frame in enhanced.values()]
    proposed, _ = propose_frames(rpn, heads, supports)
    proposals = {frame.index: frame.proposals for frame in proposed}
    # The maps stay those that `encode` made: the key frame takes from these.
    frames = tuple(frame.with_(proposals=proposals[frame.index]) for frame in context.frames)
    return TemporalContext(frames, context.roles)


def propose_boxes(rpn: BoxSource, frames: Sequence[Frame]) -> list[Frame]:
    """The frames with proposals that nothing has been pooled from: features (N, 0)."""
    sizes = [frame.image_size for frame in frames]
    proposals, _ = rpn.propose(sizes, stacked_maps(frames, rpn.in_features))
    return [frame.with_(proposals=_boxes_only(of_frame)) for frame, of_frame in zip(frames, proposals, strict=True)]


def stacked_maps(frames: Sequence[Frame], levels: Iterable[str]) -> dict[str, Tensor]:
    """{level: (B, C, H, W)} of B frames."""
    stacked = {}
    for name in levels:
        maps = [frame.features[name] for frame in frames]
        # No copy of a single one: a map of the whole image takes as long to copy as a cheap layer to compute.
        stacked[name] = maps[0] if len(maps) == 1 else torch.cat(maps)
    return stacked


def _with_top_boxes(support: Frame, count: int) -> Frame:
    """The support with no more boxes than level 2 looks at, where it has boxes already."""
    if support.proposals is None:
        return support
    return support.with_(proposals=support.proposals.top(count))


def _boxes_only(proposals: Instances) -> ProposalSet:
    boxes = proposals.proposal_boxes.tensor
    return ProposalSet.of_frame(
        boxes, boxes.new_empty(len(boxes), 0), proposals.objectness_logits, proposals.image_size
    )


def _as_instances(proposals: ProposalSet) -> Instances:
    return Instances(
        proposals.image_sizes[0],
        proposal_boxes=PreciseBoxes(proposals.boxes),
        objectness_logits=proposals.scores,
    )
