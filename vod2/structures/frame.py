"""What is known of one frame of a video."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from vod2.d2 import Instances
from vod2.structures.proposals import ProposalSet


@dataclass(frozen=True)
class Frame:
    """One encoded frame.

    Args:
        video_id: name of the video.
        index: number of the frame in its video, from 0.
        image_size: (height, width) of the resized image, without padding.
        features: {level name: (1, C, H/s, W/s)}; empty where only proposals are kept.
        proposals: the frame's proposals with embedded features, or None before they are made.
        targets: of a key frame in training, its sampled RoIs with `proposal_boxes`, `gt_boxes` (resized pixels) and
            `gt_classes`, row by row those of `proposals`.

    Raises:
        ValueError: on a negative index or a feature map that is not (1, C, H, W).
    """

    video_id: str
    index: int
    image_size: tuple[int, int]
    features: dict[str, Tensor] = field(default_factory=dict)
    proposals: ProposalSet | None = None
    targets: Instances | None = None

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"frame of video {self.video_id!r}: expected an index of at least 0, got {self.index}")
        for name, value in self.features.items():
            if value.dim() != 4 or value.shape[0] != 1:
                raise ValueError(f"feature {name!r}: expected the shape (1, C, H, W), got {tuple(value.shape)}")

    @property
    def is_embedded(self) -> bool:
        """Whether there are proposals, and what was pooled from their boxes."""
        return self.proposals is not None and self.proposals.is_embedded

    def num_bytes(self) -> int:
        """Of its feature maps and the tensors of its proposals."""
        tensors = [*self.features.values()]
        if (proposals := self.proposals) is not None:
            tensors += [proposals.boxes, proposals.features, proposals.scores, proposals.frame]
            tensors += proposals.fields.values()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def require_proposals(self) -> ProposalSet:
        """`proposals`, of a frame that has them.

        Raises:
            ValueError: they are not made yet.
        """
        if self.proposals is None:
            raise ValueError(f"frame {self.index} of video {self.video_id!r}: expected proposals, it has none yet")
        return self.proposals

    def with_(self, **changes: Any) -> "Frame":
        """A copy in which the named fields are replaced."""
        return replace(self, **changes)
