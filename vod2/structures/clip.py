"""One training sample or one detection: a key frame and all that it may look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from vod2.d2 import Instances
from vod2.structures.context import TemporalContext
from vod2.structures.frame import Frame
from vod2.structures.role import Role


@dataclass(frozen=True)
class Clip:
    """A key frame with its context: what every step of `VideoDetector` takes and returns. Read-only.

    Args:
        key: the frame that is detected in.
        context: the frames that it looks at. One of role KEY is the key frame itself.
        targets: in training the ground truth of the key frame, gt_boxes (xyxy in pixels of the resized image) and
            gt_classes in [0, K); else None.
        inputs: the dict that the clip was made of, see `VideoDetector`; empty where there was none.

    Example:
        >>> from vod2.structures import Clip, Frame, Role, TemporalContext
        >>> key, other = Frame("video", 3, (32, 32)), Frame("video", 5, (32, 32))
        >>> clip = Clip(key, TemporalContext((other, key), (Role.LOCAL, Role.KEY)))
        >>> [frame.index for frame in clip.supports]
        [5]
    """

    key: Frame
    context: TemporalContext = field(default_factory=TemporalContext)
    targets: Instances | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A copy, and read-only: the steps share the clips that they make of each other.
        object.__setattr__(self, "inputs", MappingProxyType(dict(self.inputs)))

    @property
    def supports(self) -> tuple[Frame, ...]:
        """The frames of the context but those of role KEY, in its order."""
        pairs = zip(self.context.frames, self.context.roles, strict=True)
        return tuple(frame for frame, role in pairs if role is not Role.KEY)

    @property
    def support_inputs(self) -> tuple[Mapping[str, Any], ...]:
        """The dicts that `supports` were made of."""
        inputs = self.inputs.get("support", ())
        return tuple(support for support in inputs if support.get("role") is not Role.KEY)

    @property
    def seed(self) -> int | None:
        """What is drawn of the clip in training is drawn from this; None where its loader gave it none."""
        return self.inputs.get("sample_seed")

    @property
    def ignore_regions(self) -> Tensor | None:
        """(G, 4) xyxy in pixels of the resized image, where nothing is trained as background; None for no such."""
        return self.inputs.get("ignore_regions")

    def with_context_frames(self, key: Frame, frames: Mapping[int, Frame]) -> "Clip":
        """The clip with another key frame, and with `frames`, {number in the context: frame}, in place of its own.

        The key frame's part of the context (role KEY) has its proposals in the order of their scores, which sampled
        RoIs do not have.
        """
        # Two frames of the same boxes: the key has its RoIs as sampled, row by row with their targets; as a support it
        # must have them by score, since `ProposalSet.top` takes the first.
        in_context = key if key.proposals is None else key.with_(proposals=key.proposals.descending())
        placed = []
        for number, (frame, role) in enumerate(zip(self.context.frames, self.context.roles, strict=True)):
            placed.append(in_context if role is Role.KEY else frames.get(number, frame))
        return replace(self, key=key, context=TemporalContext(tuple(placed), self.context.roles, self.context.carry))

    def with_frames(self, key: Frame, supports: Sequence[Frame]) -> "Clip":
        """The clip with another key frame, and with as many frames in the place of `supports`."""
        numbers = (number for number, role in enumerate(self.context.roles) if role is not Role.KEY)
        return self.with_context_frames(key, dict(zip(numbers, supports, strict=True)))
