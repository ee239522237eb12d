"""The memory bank of MAMBA, of any level, as tensors that are carried from frame to frame.

M: features in the bank, (...): the shape of a feature, n: features of a frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vod2.structures import Role, TemporalContext

SAMPLINGS = ("random", "score", "frequency")


class FeatureBank(NamedTuple):
    """Features of key frames of the past, without gradient.

    Attributes:
        features: (M, ...).
        scores: (M,), how sure the detector was that there is an object.
        frame: (M,) int64, the number of the frame that each is of.
        copies: (M,) int64, how often that frame stood in its own local window: as long as it stands in the window as
            often, its features are found there, and not read here.
    """

    features: Tensor
    scores: Tensor
    frame: Tensor
    copies: Tensor

    @staticmethod
    def of_frame(features: Tensor, scores: Tensor, frame: int, copies: int) -> "FeatureBank":
        """The features (n, ...) of one frame."""
        numbers = torch.full((len(features),), frame, dtype=torch.int64, device=features.device)
        return FeatureBank(features.detach(), scores.detach(), numbers, torch.full_like(numbers, copies))

    @staticmethod
    def of_carry(carry: Mapping[str, Tensor], name: str, like: Tensor, scores: Tensor) -> "FeatureBank":
        """The bank that `as_carry` wrote, or an empty one of features as `like` (n, ...) and scores as `scores`."""
        if f"{name}.features" not in carry:
            return FeatureBank.of_frame(like[:0], scores[:0], frame=0, copies=0)
        return FeatureBank(*(carry[f"{name}.{part}"] for part in FeatureBank._fields))

    def as_carry(self, name: str) -> dict[str, Tensor]:
        """{name: tensor} of all of it; {} of an empty bank, so that who asks sees that nothing is carried."""
        if len(self.features) == 0:
            return {}
        return {f"{name}.{part}": value for part, value in self._asdict().items()}

    def at(self, rows: Tensor) -> "FeatureBank":
        """The features at `rows`, numbers or a mask."""
        return FeatureBank(*(value[rows] for value in self))

    def outside(self, window: Sequence[int]) -> "FeatureBank":
        """Those of frames of which at least one copy has left the local window, the frames `window`."""
        numbers = torch.tensor(window, dtype=torch.int64, device=self.frame.device)
        there = (self.frame[:, None] == numbers).sum(dim=1)
        return self.at(there < self.copies)


@dataclass(frozen=True)
class BankRules:
    """How a bank is read and written.

    Everything that is drawn follows from the number of the key frame: a stream can be repeated.

    Args:
        size: features that a bank holds at most; 0 for no bank.
        keys: features of it that a key frame reads at most.
        sampling: which ones, "random", "score" (the highest), or "frequency" (drawn without replacement, by the softmax
            of the scores).

    Raises:
        ValueError: on other values.

    Example:
        >>> import torch
        >>> from vod2.projects.mamba import BankRules, FeatureBank
        >>> rules = BankRules(size=4, keys=2, sampling="score")
        >>> bank = FeatureBank.of_frame(torch.rand(3, 8), torch.tensor([0.2, 0.9, 0.5]), frame=0, copies=1)
        >>> rules.read(bank, window=[1], t=1).scores.tolist()
        [0.8999999761581421, 0.5]
        >>> len(rules.written(bank, bank, t=1).features)
        4
    """

    size: int = 20000
    keys: int = 2000
    sampling: str = "random"

    def __post_init__(self) -> None:
        if self.size < 0 or self.keys < 0:
            raise ValueError(f"expected MEMORY and KEYS of at least 0, got {self.size}, {self.keys}")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"SAMPLING is {self.sampling!r}, expected one of {', '.join(SAMPLINGS)}")

    def read(self, bank: FeatureBank, window: Sequence[int], t: int) -> FeatureBank:
        """The key set of frame t, whose local window are the frames `window`: light-weight key-set construction."""
        past = bank.outside(window)
        return past.at(choose(past.scores, self.keys, self.sampling, seed=2 * t))

    def written(self, bank: FeatureBank, new: FeatureBank, t: int) -> FeatureBank:
        """The bank with the features of frame t: feature-wise updating, which drops features at random, not frames."""
        new = FeatureBank(*(value[: self.size] for value in new))
        room = self.size - len(new.features)
        kept = bank.at(choose(bank.scores, room, "random", seed=2 * t + 1))
        return FeatureBank(*(torch.cat(pair) for pair in zip(kept, new, strict=True)))


def choose(scores: Tensor, count: int, sampling: str, seed: int | None) -> Tensor:
    """At most `count` rows of `scores` (n,), int64, ascending, by a rule of `BankRules`; all where n <= count.

    Drawn from `seed`, or where that is None from the global generator.
    """
    n = len(scores)
    if n <= count:
        return torch.arange(n, device=scores.device)
    # Drawn on the CPU: every device takes the same rows.
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    noise = torch.rand(n, generator=generator, dtype=torch.float64).to(scores.device)
    if sampling == "random":
        priority = noise
    elif sampling == "score":
        priority = scores
    else:
        # The highest of scores with Gumbel noise are drawn by the softmax of the scores, without replacement.
        priority = scores.double() - (-noise.log()).log()
    return priority.topk(count).indices.sort().values


def local_window(context: TemporalContext) -> list[int]:
    """The numbers of the LOCAL frames of a context, each as often as it stands there."""
    framed = zip(context.frames, context.roles, strict=True)
    return [frame.index for frame, role in framed if role is Role.LOCAL]
