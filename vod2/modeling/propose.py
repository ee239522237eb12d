"""The step between feature maps and level 2: boxes of every frame, and what is pooled from them.

B: frames, N: proposals of a frame, G: ignore regions.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from vod2.d2 import Instances
from vod2.modeling.object_ids import with_track_ids
from vod2.modeling.pixel import PixelAggregator, enter_memory, keeps_boxes
from vod2.modeling.roi_heads import VideoROIHeads
from vod2.modeling.video_rpn import VideoRPN
from vod2.structures import Clip, Frame, PreciseBoxes, ProposalSet, TemporalContext


def propose_clips(
    rpn: VideoRPN, heads: VideoROIHeads, clips: Sequence[Clip], with_supports: bool
) -> tuple[list[Clip], dict[str, Tensor]]:
    """Embedded proposals for all frames of clips that have none yet, and the losses of the RPN on the key frames.

    Args:
        with_supports: whether somebody asks for the proposals of supports.
    """
    # The same frame may stand in several places, so frames are told apart by their identity.
    waiting = {id(clip.key): (clip.key, clip.targets, clip.ignore_regions) for clip in clips}
    if with_supports:
        for support in (frame for clip in clips for frame in clip.supports):
            waiting.setdefault(id(support), (_looked_at(support, heads.support_topk), None, None))
    waiting = {name: entry for name, entry in waiting.items() if not entry[0].is_embedded}
    if not waiting:
        return list(clips), {}
    frames, targets, regions = zip(*waiting.values(), strict=True)
    ignored = regions if any(one is not None for one in regions) else None
    proposed, losses = propose_frames(rpn, heads, frames, targets if rpn.training else None, ignored)
    done = dict(zip(waiting, proposed, strict=True))
    clips = [
        clip.with_frames(done.get(id(clip.key), clip.key), [done.get(id(frame), frame) for frame in clip.supports])
        for clip in clips
    ]
    if rpn.training and heads.needs.track_iou is not None:
        clips = [with_track_ids(clip, heads.needs.track_iou) for clip in clips]
    return clips, losses


def propose_frames(
    rpn: VideoRPN,
    heads: VideoROIHeads,
    frames: Sequence[Frame],
    targets: Sequence[Instances | None] | None = None,
    ignored: Sequence[Tensor | None] | None = None,
) -> tuple[list[Frame], dict[str, Tensor]]:
    """B frames with embedded proposals, and the losses of the RPN on those with targets.

    Args:
        frames: with feature maps; where all of them have boxes, these stay.
        targets: the ground truth of each frame, or None for a frame without loss; None if there is no training.
        ignored: the ignore regions (G, 4) of each frame, or None: what lies there is not sampled as background.
    """
    losses: dict[str, Tensor] = {}
    known = [frame.proposals for frame in frames if frame.proposals is not None]
    if len(known) == len(frames):
        proposals = [_as_instances(one) for one in known]
    else:
        maps = stacked_maps(frames, rpn.in_features)
        proposals, losses = rpn.propose([frame.image_size for frame in frames], maps, targets, ignored)
    proposals = heads.select(proposals, targets, ignored)
    embedded = heads.embed(stacked_maps(frames, heads.box_in_features), proposals)
    trained = [False] * len(frames) if targets is None else [target is not None for target in targets]
    done = [
        frame.with_(proposals=embedding, targets=rois if is_trained else None)
        for frame, embedding, rois, is_trained in zip(frames, embedded, proposals, trained, strict=True)
    ]
    return done, losses


def prepare_supports(
    backbone: nn.Module,
    aggregator: PixelAggregator | None,
    rpn: VideoRPN,
    heads: VideoROIHeads,
    frames: Sequence[Frame],
    contexts: Sequence[TemporalContext],
) -> list[Frame]:
    """Encoded frames of streams as their memories keep them: with the proposals that other frames will look at.

    Feature maps stay where level 1 will look at them.

    Args:
        aggregator: level 1, or None.
        contexts: what the memory of each frame's stream holds by now.
    """
    if aggregator is None:
        return [frame.with_(features={}) for frame in propose_frames(rpn, heads, frames)[0]]
    if heads.aggregator is None:  # level 1 looks at maps only
        return list(frames)
    if aggregator.per_key_frame:
        return propose_boxes(rpn, frames) if keeps_boxes(backbone, aggregator, rpn.in_features) else list(frames)
    entered = enter_memory(backbone, aggregator, frames, contexts)
    proposed, _ = propose_frames(rpn, heads, entered)
    return [frame.with_(proposals=done.proposals) for frame, done in zip(frames, proposed, strict=True)]


def propose_boxes(rpn: VideoRPN, frames: Sequence[Frame]) -> list[Frame]:
    """The frames with proposals that nothing has been pooled from: features (N, 0)."""
    found, _ = rpn.propose([frame.image_size for frame in frames], stacked_maps(frames, rpn.in_features))
    return [frame.with_(proposals=_boxes_only(one)) for frame, one in zip(frames, found, strict=True)]


def stacked_maps(frames: Sequence[Frame], levels: Iterable[str]) -> dict[str, Tensor]:
    """{level: (B, C, H, W)} of B frames."""
    # Only what is read: a map of the whole image takes as long to copy as a cheap layer to compute.
    return {name: _stacked([frame.features[name] for frame in frames]) for name in dict.fromkeys(levels)}


def _stacked(maps: list[Tensor]) -> Tensor:
    """B times (1, C, H, W) -> (B, C, H, W); one map is not copied."""
    return maps[0] if len(maps) == 1 else torch.cat(maps)


def _looked_at(support: Frame, count: int) -> Frame:
    """The support with no more boxes than level 2 looks at, where it has boxes already."""
    return support if support.proposals is None else support.with_(proposals=support.proposals.top(count))


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
