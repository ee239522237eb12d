"""Names of version 0.1 that have others now. They work for one version."""

import warnings
from collections.abc import Sequence

from torch import Tensor

from vod2.modeling.aggregation import Aggregated
from vod2.structures import Clip, Frame, TemporalContext


def warn_renamed(old: str, new: str) -> None:
    """Say where a name went, at the line that uses it."""
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=3)


class DeprecatedAggregate:
    """The method of `ProposalAggregator` that took key frames and contexts apart."""

    def aggregate(self, keys: Sequence[Frame], contexts: Sequence[TemporalContext]) -> list[Aggregated[Tensor]]:
        """Deprecated: `forward_clips`."""
        warn_renamed("ProposalAggregator.aggregate", "forward_clips")
        return self.forward_clips([Clip(*pair) for pair in zip(keys, contexts, strict=True)])


class DeprecatedEnter:
    """Methods of `PixelAggregator` that have other names."""

    def enter(self, frame: Frame, context: TemporalContext) -> dict[str, Tensor]:
        """Deprecated: `support_features`."""
        warn_renamed("PixelAggregator.enter", "support_features")
        return self.support_features(frame, context)

    def forward_all(self, frames: Sequence[Frame], context: TemporalContext) -> list[dict[str, Tensor]]:
        """Deprecated: `forward` of each frame."""
        warn_renamed("PixelAggregator.forward_all", "forward")
        return [self(frame, context).value for frame in frames]


def honour_old_names(aggregator: DeprecatedEnter) -> None:
    """Make a `PixelAggregator` that was written for version 0.1 one of this version."""
    name = type(aggregator).__name__
    if type(aggregator).enter is not DeprecatedEnter.enter:
        warn_renamed(f"{name}.enter", f"{name}.support_features")
        aggregator.support_features = aggregator.enter
    if getattr(aggregator, "joint", False) or getattr(aggregator, "enters_anew", False):
        warn_renamed(f"{name}.joint and enters_anew", f"{name}.per_key_frame")
        aggregator.per_key_frame = True
