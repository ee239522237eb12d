"""Names of version 0.1 that have others now. They work for one version."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vod2.d2 import Instances
from vod2.modeling.aggregation import Aggregated
from vod2.modeling.deprecated import warn_renamed
from vod2.modeling.propose import propose_frames
from vod2.structures import Clip, Frame, TemporalContext


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
        warn_renamed("VideoRCNN.propose", "vod2.modeling.propose_frames")
        return propose_frames(self.proposal_generator, self.roi_heads, frames, targets, ignored)
