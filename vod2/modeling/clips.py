"""Clips as lists of frames and back: what `VideoRCNN.forward` and `inference` do between the steps of detection.

B: clips. A clip is Detectron2's dict with `support`, see `VideoRCNN`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vod2.d2 import Instances
from vod2.layers import half_open
from vod2.modeling.object_ids import object_ids
from vod2.structures import Frame, PreciseBoxes, Role, TemporalContext


def images_of(clips: Sequence[dict]) -> list[dict]:
    """What is to be encoded of B clips: their key frames, then their supports, clip after clip.

    A support of role KEY is the key frame itself, and has no image.

    Raises:
        ValueError: if a clip has no image.
    """
    if any("image" not in clip for clip in clips):
        raise ValueError(
            "a clip has no image because the stream was sent that frame before: use VideoRCNN.step, or wrap the "
            "model in vod2.StreamingModel"
        )
    keys = [_key_input(clip) for clip in clips]
    supports = [
        {**one, "video_id": clip.get("video_id", "")}
        for clip in clips
        for one in clip.get("support", ())
        if one.get("role") is not Role.KEY
    ]
    return [*keys, *supports]


def _key_input(clip: dict) -> dict:
    """The clip as level 1 is to encode its key frame, on which it may spend less because the supports help.

    Not where there are none (role KEYFRAME), nor where the schedule names the key frame itself (role KEY).
    """
    roles = roles_of(clip)
    if not roles:
        return {**clip, "role": Role.KEYFRAME}
    return {**clip, "role": Role.KEY} if Role.KEY in roles else clip


def roles_of(clip: dict) -> tuple[Role, ...]:
    """The roles of a clip's supports."""
    return tuple(support.get("role", Role.LOCAL) for support in clip.get("support", ()))


def context_of(
    key: Frame, supports: Iterator[Frame], roles: Sequence[Role], carry: Mapping[str, Tensor] | None = None
) -> TemporalContext:
    """The next of `supports` for each role, `key` itself for KEY."""
    if key.proposals is not None:
        key = key.with_(proposals=key.proposals.descending())
    frames = tuple(key if role is Role.KEY else next(supports) for role in roles)
    return TemporalContext(frames, tuple(roles), dict(carry or {}))


def contexts_with(
    keys: Sequence[Frame], supports: Iterable[Frame], contexts: Sequence[TemporalContext]
) -> list[TemporalContext]:
    """The contexts with other frames in the place of theirs; `supports` are those of `supports_of`, changed."""
    rest = iter(supports)
    return [context_of(key, rest, old.roles, old.carry) for key, old in zip(keys, contexts, strict=True)]


def supports_of(contexts: Iterable[TemporalContext]) -> list[Frame]:
    """All supports but those of role KEY, context after context."""
    return [
        frame
        for context in contexts
        for frame, role in zip(context.frames, context.roles, strict=True)
        if role is not Role.KEY
    ]


def seen_by_supports(key: Frame, context: TemporalContext, whole: bool) -> list[TemporalContext]:
    """What each support (but those of role KEY) may look at before its proposals are made.

    If `whole`, all the rest of its clip. If not, the supports before it, as in a stream: the result is the stream's
    where the clip begins with the video.
    """
    supports = context.select(*(role for role in Role if role is not Role.KEY))
    seen = []
    for i in range(len(supports)):
        frames, roles = supports.frames[:i], supports.roles[:i]
        if whole:
            frames = (key, *frames, *supports.frames[i + 1 :])
            roles = (Role.KEY, *roles, *supports.roles[i + 1 :])
        seen.append(TemporalContext(frames, roles, context.carry))
    return seen


def with_ids(frame: Frame, source: dict, threshold: float) -> Frame:
    """The frame whose proposals tell which of the instances of `source` they show; without any they are UNKNOWN."""
    ids = object_ids(frame.proposals.boxes, source.get("instances"), threshold)
    return frame.with_(proposals=replace(frame.proposals, ids=ids))


def support_sources(clips: Iterable[dict]) -> list[dict]:
    """The dicts of the frames of `supports_of`."""
    return [one for clip in clips for one in clip.get("support", ()) if one.get("role") is not Role.KEY]


def half_open_targets(clip: dict) -> dict:
    """A training clip with the boxes of all its instances from `vod2.layers.half_open`; `clip` stays as it is."""
    clip = dict(clip)
    if "support" in clip:
        clip["support"] = [half_open_targets(one) for one in clip["support"]]
    if "instances" in clip:
        fields = clip["instances"].get_fields()
        boxes = PreciseBoxes(half_open(fields["gt_boxes"].tensor))
        clip["instances"] = Instances(clip["instances"].image_size, **fields | {"gt_boxes": boxes})
    if "ignore_regions" in clip:
        clip["ignore_regions"] = half_open(clip["ignore_regions"])
    return clip


def ignored_in(clips: Sequence[dict], device: torch.device) -> list[Tensor | None] | None:
    """The ignore regions (G, 4) of each training clip's key frame, None where it has none; None if no clip has any."""
    regions = [clip.get("ignore_regions") for clip in clips]
    if all(one is None for one in regions):
        return None
    return [None if one is None else one.to(device) for one in regions]


def classes_of(clip: dict) -> frozenset[int]:
    """The class that a training clip was drawn for, or those of all its objects."""
    if "triplet_class" in clip:
        return frozenset({clip["triplet_class"]})
    return frozenset(clip["instances"].gt_classes.tolist())
