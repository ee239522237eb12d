"""Names of version 0.1 that have others now. They work for one version."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vod2.d2 import Instances
from vod2.modeling.aggregation import Aggregated
from vod2.structures import Clip, Frame, TemporalContext


def warn_renamed(old: str, new: str) -> None:
    """Say where a name went, at the line that uses it."""
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=3)


class DeprecatedSteps:
    """Steps of `VideoRCNN` on frames instead of clips."""

    if TYPE_CHECKING:  # what it is mixed into has
        proposal_generator: Any
        roi_heads: Any

        def enhance_clips(self, clips: Sequence[Clip]) -> tuple[list[Clip], list[Aggregated]]: ...

    def enhance(
        self, keys: Sequence[Frame], contexts: Sequence[TemporalContext]
    ) -> tuple[list[Frame], list[Aggregated]]:
        """Deprecated: `VideoRCNN.enhance_clips`."""
        warn_renamed("VideoRCNN.enhance", "VideoRCNN.enhance_clips")
        clips, results = self.enhance_clips([Clip(*pair) for pair in zip(keys, contexts, strict=True)])
        return [clip.key for clip in clips], results

    def propose(
        self,
        frames: Sequence[Frame],
        targets: Sequence[Instances | None] | None = None,
        ignored: Sequence[Tensor | None] | None = None,
    ) -> tuple[list[Frame], dict[str, Tensor]]:
        """Deprecated: `vod2.modeling.propose_frames`."""
        from vod2.modeling.propose import propose_frames  # which imports the heads, and these this module

        warn_renamed("VideoRCNN.propose", "vod2.modeling.propose_frames")
        return propose_frames(self.proposal_generator, self.roi_heads, frames, targets, ignored)


class DeprecatedAggregate:
    """The method of `ProposalAggregator` that took key frames and contexts apart."""

    if TYPE_CHECKING:  # what it is mixed into has

        def forward_clips(self, clips: Sequence[Clip]) -> list[Aggregated[Tensor]]: ...

    def aggregate(self, keys: Sequence[Frame], contexts: Sequence[TemporalContext]) -> list[Aggregated[Tensor]]:
        """Deprecated: `forward_clips`."""
        warn_renamed("ProposalAggregator.aggregate", "forward_clips")
        return self.forward_clips([Clip(*pair) for pair in zip(keys, contexts, strict=True)])


class DeprecatedEnter:
    """Methods of `PixelAggregator` that have other names."""

    if TYPE_CHECKING:  # what it is mixed into has

        def __call__(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]: ...

        def support_features(self, frame: Frame, context: TemporalContext) -> dict[str, Tensor]: ...

    def enter(self, frame: Frame, context: TemporalContext) -> dict[str, Tensor]:
        """Deprecated: `support_features`."""
        warn_renamed("PixelAggregator.enter", "support_features")
        return self.support_features(frame, context)

    def forward_all(self, frames: Sequence[Frame], context: TemporalContext) -> list[dict[str, Tensor]]:
        """Deprecated: `forward` of each frame."""
        warn_renamed("PixelAggregator.forward_all", "forward")
        return [self(frame, context).value for frame in frames]
