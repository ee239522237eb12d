"""Names of version 0.1 that have others now. They work for one version."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from vod2.modeling.aggregation import Aggregated
from vod2.structures import Clip, Frame, TemporalContext


def warn_renamed(old: str, new: str) -> None:
    """Say where a name went, at the line that uses it."""
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=3)


class DeprecatedAggregate:
    """The method of `ProposalAggregator` that took key frames and contexts apart."""

    if TYPE_CHECKING:  # what it is mixed into has

        def forward_clips(self, clips: Sequence[Clip]) -> list[Aggregated[Tensor]]: ...

    def aggregate(self, keys: Sequence[Frame], contexts: Sequence[TemporalContext]) -> list[Aggregated[Tensor]]:
        """Deprecated: `forward_clips`."""
        warn_renamed("ProposalAggregator.aggregate", "forward_clips")
        return self.forward_clips([Clip(*pair) for pair in zip(keys, contexts, strict=True)])


class DeprecatedPixelMethods:
    """Methods of `PixelAggregator` that have other names."""

    if TYPE_CHECKING:  # what it is mixed into has

        def __call__(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]: ...

        def support_features(self, frame: Frame, context: TemporalContext) -> dict[str, Tensor]: ...

    per_key_frame: bool

    def enter(self, frame: Frame, context: TemporalContext) -> dict[str, Tensor]:
        """Deprecated: `support_features`."""
        warn_renamed("PixelAggregator.enter", "support_features")
        return self.support_features(frame, context)

    def forward_all(self, frames: Sequence[Frame], context: TemporalContext) -> list[dict[str, Tensor]]:
        """Deprecated: `forward` of each frame."""
        warn_renamed("PixelAggregator.forward_all", "forward")
        return [self(frame, context).value for frame in frames]


def honour_old_names(aggregator: DeprecatedPixelMethods) -> None:
    """Make a `PixelAggregator` that was written for version 0.1 one of this version."""
    name = type(aggregator).__name__
    if type(aggregator).enter is not DeprecatedPixelMethods.enter:
        warn_renamed(f"{name}.enter", f"{name}.support_features")
        setattr(aggregator, "support_features", aggregator.enter)  # noqa: B010  (its class has a method of that name)
    if getattr(aggregator, "joint", False) or getattr(aggregator, "enters_anew", False):
        warn_renamed(f"{name}.joint and enters_anew", f"{name}.per_key_frame")
        aggregator.per_key_frame = True
