"""When a video is damaged: bursts of frames, drawn from a seed and the name of the video alone.

Whoever asks for a frame gets the same one: nothing depends on the order of reading, on other frames or on the process.
"""

import bisect
import functools
import hashlib
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vod2.data.damage.kinds import DAMAGES, Moment
from vod2.errors import UserError

# Every frame that is read asks for the plan of its video.
_REMEMBERED_VIDEOS = 4096


@dataclass(frozen=True)
class DamageConfig:
    """How videos are damaged.

    Args:
        seed: at least 0.
        share: of the frames of a video that are damaged, in [0, 1]; a video that is too short for it, on average.
        lengths: least and greatest number of frames of a burst.
        kinds: of `DAMAGES`; in a video they come about equally often.
        strengths: least and greatest strength of a burst, in (0, 1].

    Raises:
        UserError: a value out of its range, an unknown kind or none.
    """

    seed: int = 0
    share: float = 1 / 3
    lengths: tuple[int, int] = (4, 12)
    kinds: tuple[str, ...] = field(default=tuple(DAMAGES))
    strengths: tuple[float, float] = (0.4, 1.0)

    def __post_init__(self) -> None:
        for name in ("lengths", "kinds", "strengths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists cannot be keys of the cache
        unknown = [kind for kind in self.kinds if kind not in DAMAGES]
        if unknown or not self.kinds:
            raise UserError(f"damage: kinds are {self.kinds}, expected some of {', '.join(DAMAGES)}")
        limits = {
            "seed": (self.seed >= 0, "a number of at least 0"),
            "share": (0 <= self.share <= 1, "a number in [0, 1]"),
            "lengths": (
                len(self.lengths) == 2 and 1 <= self.lengths[0] <= self.lengths[-1],
                "two numbers of at least 1, the least first",
            ),
            "strengths": (
                len(self.strengths) == 2 and 0 < self.strengths[0] <= self.strengths[-1] <= 1,
                "two numbers in (0, 1], the least first",
            ),
        }
        for name, (is_right, expected) in limits.items():
            if not is_right:
                raise UserError(f"damage: {name} is {getattr(self, name)}, expected {expected}")


class Burst(NamedTuple):
    """Frames `start` to `start + length - 1`, which are damaged alike: see `Moment` for `draws`."""

    start: int
    length: int
    kind: str
    strength: float
    draws: tuple[float, float, float, float]


@functools.lru_cache(_REMEMBERED_VIDEOS)
def plan_bursts(config: DamageConfig, video_id: str, video_length: int) -> tuple[Burst, ...]:
    """The bursts of a video of `video_length` frames, in order and without overlap.

    Example:
        >>> bursts = plan_bursts(DamageConfig(seed=1, share=0.5), "a", 300)
        >>> sum(burst.length for burst in bursts), bursts == plan_bursts(DamageConfig(seed=1, share=0.5), "a", 300)
        (150, True)
    """
    rng = _generator(config.seed, video_id)
    lengths = _draw_lengths(config, video_length, rng)
    clean = video_length - sum(lengths)
    # At least one clean frame keeps two bursts apart, where there are as many; the rest lies anywhere.
    between = min(max(len(lengths) - 1, 0), clean)
    gaps = rng.multinomial(clean - between, np.full(len(lengths) + 1, 1 / (len(lengths) + 1)))
    gaps[1 : 1 + between] += 1
    bursts, start = [], 0
    for number, length in enumerate(lengths):
        start += int(gaps[number])
        # Each kind once, in a drawn order, before any of them comes again.
        if number % len(config.kinds) == 0:
            order = rng.permutation(len(config.kinds))
        kind = config.kinds[order[number % len(config.kinds)]]
        # Two decimals are what the record of it says, and so what is done.
        strength = max(round(float(rng.uniform(*config.strengths)), 2), 0.01)
        bursts.append(Burst(start, length, kind, strength, tuple(rng.random(4).tolist())))
        start += length
    return tuple(bursts)


def burst_at(config: DamageConfig, video_id: str, video_length: int, frame: int) -> Burst | None:
    """The burst that a frame belongs to, None for a clean one."""
    bursts = plan_bursts(config, video_id, video_length)
    position = bisect.bisect_right(bursts, frame, key=lambda burst: burst.start) - 1
    if position < 0 or frame >= bursts[position].start + bursts[position].length:
        return None
    return bursts[position]


def moment_of(config: DamageConfig, video_id: str, burst: Burst, frame: int) -> Moment:
    """What the kinds of damage want to know of a frame of a burst."""
    # A generator for each frame: its noise does not depend on which frames were read before.
    rng = _generator(config.seed, video_id, frame)
    return Moment(burst.draws, (frame - burst.start) / burst.length, rng)


def damage_frame(image: np.ndarray, config: DamageConfig, video_id: str, video_length: int, frame: int) -> np.ndarray:
    """Frame `frame` of a video as it is after the damage.

    Args:
        image: (H, W, C) uint8, BGR or one channel; it is not changed.
        config, video_id, video_length, frame: see `burst_at`.

    Returns:
        As `image`, which a clean frame is itself.
    """
    burst = burst_at(config, video_id, video_length, frame)
    if burst is None:
        return image
    return DAMAGES[burst.kind](image, burst.strength, moment_of(config, video_id, burst, frame))


def _draw_lengths(config: DamageConfig, video_length: int, rng: np.random.Generator) -> list[int]:
    """Lengths of bursts that together are the share of the video, on average where whole bursts cannot be."""
    least, most = (min(length, video_length) for length in config.lengths)
    remaining = config.share * video_length
    lengths: list[int] = []
    # Frames come whole: the rest of one is drawn.
    remaining = math.floor(remaining) + int(rng.random() < remaining % 1)
    while remaining >= max(least, 1):
        length = int(rng.integers(least, min(most, remaining) + 1))
        # What would be left over for less than a burst goes to this one, if it may be so long.
        if 0 < remaining - length < least:
            length = remaining if remaining <= most else remaining - least
        lengths.append(length)
        remaining -= length
    if 0 < remaining and rng.random() < remaining / least:
        lengths.append(min(least, video_length - sum(lengths)))
    return [length for length in lengths if length > 0]


def _generator(seed: int, *name: str | int) -> np.random.Generator:
    """A generator of its own for whatever is named; Python's hash of a text is another one in every process."""
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])
