"""Level 1 around a backbone: new maps in the place of some, and what the backbone makes of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vod2.modeling.aggregation import Aggregated
from vod2.modeling.backbone import forward_stages, outputs_after
from vod2.modeling.pixel.base import PixelAggregator
from vod2.structures import Clip, Frame, Role, TemporalContext


def enhance_clips(
    backbone: nn.Module, aggregator: PixelAggregator, clips: Sequence[Clip], with_supports: bool
) -> tuple[list[Clip], list[Aggregated[dict[str, Tensor]]]]:
    """Key frames, and supports whose proposals are still to be made, with the maps that these are made of.

    Args:
        with_supports: whether somebody asks for the proposals of supports.

    Returns:
        The clips, and what the aggregator returned for each key frame.
    """
    results, frames, maps = [], [], []
    waiting = [_waiting(clip, aggregator) if with_supports else [] for clip in clips]
    for clip, numbers in zip(clips, waiting, strict=True):
        result, support_maps = aggregator.forward_clip(clip.key, clip.context, numbers)
        results.append(result)
        frames += [clip.key, *(clip.context.frames[i] for i in numbers)]
        maps += [result.value, *support_maps]
    enhanced = iter(replace_maps(backbone, aggregator, frames, maps))
    done = []
    for clip, numbers in zip(clips, waiting, strict=True):
        key, supports = next(enhanced), {i: next(enhanced) for i in numbers}
        if with_supports and _once_per_frame(aggregator):
            of_frame = {frame.index: frame for frame in (*supports.values(), key)}
            supports = {i: of_frame.get(frame.index, frame) for i, frame in enumerate(clip.context.frames)}
        done.append(clip.with_context_frames(key, supports))
    return done, results


def enter_memory(
    backbone: nn.Module, aggregator: PixelAggregator, frames: Sequence[Frame], contexts: Sequence[TemporalContext]
) -> list[Frame]:
    """Frames that enter the memory of a stream, with the maps that their proposals are made of as supports.

    Args:
        contexts: of each frame, what its memory holds.
    """
    maps = [aggregator.support_features(frame, seen) for frame, seen in zip(frames, contexts, strict=True)]
    return replace_maps(backbone, aggregator, frames, maps)


def keeps_boxes(backbone: nn.Module, aggregator: PixelAggregator, levels: Sequence[str]) -> bool:
    """Whether an RPN that reads `levels` reads nothing that level 1 changes: no context moves the boxes of a frame."""
    changed = set(outputs_after(backbone, aggregator.stage))
    if aggregator.replaces_stage:
        changed.add(aggregator.stage)
    return changed.isdisjoint(levels)


def replace_maps(
    backbone: nn.Module, aggregator: PixelAggregator, frames: Sequence[Frame], maps: Sequence[dict[str, Tensor]]
) -> list[Frame]:
    """The frames with new maps of the aggregator's stage, where it replaces that, and what the backbone makes of these.

    Args:
        maps: {stage: (1, C, H, W)} of each frame, or {} for one that stays as it is.
    """
    stage, changed = aggregator.stage, [row for row, one in enumerate(maps) if one]
    replaced = list(frames)
    if not changed:
        return replaced
    later = forward_stages(backbone, torch.cat([maps[row][stage] for row in changed]), after=stage)
    for place, row in enumerate(changed):
        own = maps[row] if aggregator.replaces_stage else {}
        rest = {name: value[place : place + 1] for name, value in later.items()}
        # Boxes that level 1 does not move stay, with nothing pooled from them; other proposals are of the old maps.
        proposals = None if frames[row].is_embedded else frames[row].proposals
        replaced[row] = frames[row].with_(features=frames[row].features | own | rest, proposals=proposals)
    return replaced


def _waiting(clip: Clip, aggregator: PixelAggregator) -> list[int]:
    """The numbers of the frames of a clip's context whose proposals are still to be made."""
    context = clip.context
    numbers = [i for i, role in enumerate(context.roles) if role is not Role.KEY and not context.frames[i].is_embedded]
    if not _once_per_frame(aggregator):
        return numbers
    first = {context.frames[i].index: i for i in reversed(numbers)}
    return sorted(i for index, i in first.items() if index != clip.key.index)


def _once_per_frame(aggregator: PixelAggregator) -> bool:
    """Whether a frame that stands in a context more than once, or that is the key frame itself, is enhanced once.

    In training the key frame has sampled RoIs, which its other places in the context must not have.
    """
    return aggregator.per_key_frame and not aggregator.training
