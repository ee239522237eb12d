"""Clips from the dicts that a loader makes.

A clip is Detectron2's dict with `support`, see `VideoDetector`.
"""

from collections.abc import Iterator, Sequence

import torch

from vod2.structures import Clip, Frame, Role, TemporalContext


def images_of(inputs: Sequence[dict]) -> list[dict]:
    """What is to be encoded of B clips: their key frames, then their supports, clip after clip.

    A support of role KEY is the key frame itself, and has no image.

    Raises:
        ValueError: if a clip has no image.
    """
    if any("image" not in clip for clip in inputs):
        raise ValueError(
            "a clip has no image because the stream was sent that frame before: use the model's step(), or wrap the "
            "model in vod2.StreamingModel"
        )
    # Key frames first: `make_clips` finds them at the front, whatever the number of supports.
    images = [_key_input(clip) for clip in inputs]
    for clip in inputs:
        for support in clip.get("support", ()):
            if support.get("role") is not Role.KEY:
                images.append({**support, "video_id": clip.get("video_id", "")})
    return images


def _key_input(clip: dict) -> dict:
    """The clip as level 1 is to encode its key frame, on which it may spend less because the supports help.

    Not where there are none (role KEYFRAME), nor where the schedule names the key frame itself (role KEY).
    """
    roles = _roles_of(clip)
    if not roles:
        return {**clip, "role": Role.KEYFRAME}
    return {**clip, "role": Role.KEY} if Role.KEY in roles else clip


def _roles_of(clip: dict) -> tuple[Role, ...]:
    return tuple(support.get("role", Role.LOCAL) for support in clip.get("support", ()))


def make_clips(inputs: Sequence[dict], frames: Sequence[Frame], training: bool, device: torch.device) -> list[Clip]:
    """B clips of their dicts and of the frames that `images_of` these were encoded to."""
    keys, supports = frames[: len(inputs)], iter(frames[len(inputs) :])
    return [_make_clip(clip, key, supports, training, device) for clip, key in zip(inputs, keys, strict=True)]


def _make_clip(inputs: dict, key: Frame, supports: Iterator[Frame], training: bool, device: torch.device) -> Clip:
    # `supports` goes through those of all clips, each of which takes as many as it has.
    roles = _roles_of(inputs)
    frames = tuple(key if role is Role.KEY else next(supports) for role in roles)
    if "ignore_regions" in inputs:
        inputs = {**inputs, "ignore_regions": inputs["ignore_regions"].to(device)}
    targets = inputs["instances"].to(device) if training else None
    return Clip(key, TemporalContext(frames, roles), targets, inputs)
