"""Level 1 around a backbone: new maps in the place of some, and what the backbone makes of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vod2.modeling.aggregation import Aggregated
from vod2.modeling.backbone import forward_stages, outputs_after, split_maps
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
    # The frames of all clips in one list, so that the rest of the backbone runs once.
    results, frames, maps, numbers_of_clips = [], [], [], []
    for clip in clips:
        numbers = _waiting(clip, aggregator) if with_supports else []
        result, support_maps = aggregator.forward_clip(clip.key, clip.context, numbers)
        results.append(result)
        frames += [clip.key, *(clip.context.frames[i] for i in numbers)]
        maps += [result.value, *support_maps]
        numbers_of_clips.append(numbers)
    enhanced = iter(replace_maps(backbone, aggregator, frames, maps))

    enhanced_clips = []
    for clip, numbers in zip(clips, numbers_of_clips, strict=True):
        key = next(enhanced)
        supports = {i: next(enhanced) for i in numbers}
        if with_supports and _once_per_frame(aggregator):
            # One stands for all places that its frame has in the context, the key frame for its own.
            of_frame = {frame.index: frame for frame in (*supports.values(), key)}
            supports = {i: of_frame.get(frame.index, frame) for i, frame in enumerate(clip.context.frames)}
        enhanced_clips.append(clip.with_context_frames(key, supports))
    return enhanced_clips, results


def enhance_supports(
    backbone: nn.Module, aggregator: PixelAggregator, frames: Sequence[Frame], contexts: Sequence[TemporalContext]
) -> list[Frame]:
    """Frames that enter the memory of a stream, with the maps that their proposals are made of as supports.

    Args:
        contexts: of each frame, what its memory holds.
    """
    maps = [aggregator.support_features(frame, seen) for frame, seen in zip(frames, contexts, strict=True)]
    return replace_maps(backbone, aggregator, frames, maps)


def enhance_in_context(
    backbone: nn.Module, aggregator: PixelAggregator, context: TemporalContext
) -> dict[int, Frame] | None:
    """{index: frame} of a context, with the maps that proposals are made of for key frames that are not in it.

    None where each key frame makes its own.
    """
    numbers = sorted(_first_places(context, range(len(context))).values())
    maps = aggregator.features_in_context(context, numbers)
    if maps is None:
        return None
    frames = [context.frames[i] for i in numbers]
    return {frame.index: frame for frame in replace_maps(backbone, aggregator, frames, maps)}


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
    stage = aggregator.stage
    changed = [row for row, new_maps in enumerate(maps) if new_maps]
    replaced = list(frames)
    if not changed:
        return replaced
    # The rest of the backbone runs once, for all maps that have changed.
    later = forward_stages(backbone, torch.cat([maps[row][stage] for row in changed]), after=stage)
    # Nothing may come after the stage: then no map says how many frames there are.
    later_maps = split_maps(later) if later else [{}] * len(changed)
    for row, later_of_frame in zip(changed, later_maps, strict=True):
        frame = frames[row]
        new_maps = maps[row] if aggregator.replaces_stage else {}
        features = frame.features | new_maps | later_of_frame
        # Boxes that level 1 does not move stay, with nothing pooled from them; other proposals are of the old maps.
        proposals = None if frame.is_embedded else frame.proposals
        replaced[row] = frame.with_(features=features, proposals=proposals)
    return replaced


def _waiting(clip: Clip, aggregator: PixelAggregator) -> list[int]:
    """The numbers of the frames of a clip's context whose proposals are still to be made."""
    context = clip.context
    numbers = [i for i, role in enumerate(context.roles) if role is not Role.KEY and not context.frames[i].is_embedded]
    if not _once_per_frame(aggregator):
        return numbers
    # The key frame is enhanced as such.
    return sorted(i for index, i in _first_places(context, numbers).items() if index != clip.key.index)


def _first_places(context: TemporalContext, numbers: Sequence[int]) -> dict[int, int]:
    """{index of a frame: the first of the ascending numbers at which it stands}: one place stands for all of them."""
    # The first one comes last here, and wins.
    return {context.frames[i].index: i for i in reversed(numbers)}


def _once_per_frame(aggregator: PixelAggregator) -> bool:
    """Whether a frame that stands in a context more than once, or that is the key frame itself, is enhanced once.

    In training the key frame has sampled RoIs, which its other places in the context must not have.
    """
    return aggregator.per_key_frame and not aggregator.training
