"""All that a key frame may look at.

T: support frames, M: support proposals, C: channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import overload

import torch
from torch import Tensor

from vod2.structures.frame import Frame
from vod2.structures.proposals import ProposalSet
from vod2.structures.role import Role


@dataclass(frozen=True)
class TemporalContext:
    """The support frames of one key frame, with what is carried from step to step. Read-only.

    Args:
        frames: T frames (T may be 0; a frame may stand in it more than once).
        roles: T roles.
        carry: {name: tensor} that a recurrent aggregator returned for the previous frame.

    Raises:
        ValueError: if there are not as many roles as frames.

    Example:
        >>> from vod2.structures import Frame, Role, TemporalContext
        >>> context = TemporalContext((Frame("video", 3, (32, 32)),), (Role.LOCAL,))
        >>> len(context), len(context.select(Role.GLOBAL))
        (1, 0)
    """

    frames: tuple[Frame, ...] = ()
    roles: tuple[Role, ...] = ()
    carry: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.roles):
            raise ValueError(f"context: expected as many roles as frames ({len(self.frames)}), got {len(self.roles)}")
        # A frozen dataclass is set this way only. Tuples and a read-only carry: a memory hands out what it keeps.
        object.__setattr__(self, "frames", tuple(self.frames))
        object.__setattr__(self, "roles", tuple(self.roles))
        object.__setattr__(self, "carry", MappingProxyType(dict(self.carry)))

    def __len__(self) -> int:
        return len(self.frames)

    def select(self, *roles: Role) -> "TemporalContext":
        """The part of the context with one of the `roles`, in the same order."""
        return self.at([row for row, role in enumerate(self.roles) if role in roles])

    def at(self, rows: Sequence[int]) -> "TemporalContext":
        """The part of the context with the frames `rows`, in that order."""
        frames = tuple(self.frames[row] for row in rows)
        return TemporalContext(frames, tuple(self.roles[row] for row in rows), self.carry)

    def features(self, name: str) -> Tensor:
        """(T, C, H, W): the level `name` of every support frame; frames must agree in size.

        Raises:
            ValueError: if T is 0, or a frame does not have that level.
        """
        if not self.frames:
            raise ValueError(f"context without frames has no features {name!r}")
        missing = [f"{frame.video_id}:{frame.index}" for frame in self.frames if name not in frame.features]
        if missing:
            raise ValueError(f"feature {name!r} is missing in the frames {', '.join(missing)}")
        return torch.cat([frame.features[name] for frame in self.frames])

    @overload
    def proposals(self, top: int | None = None, *, like: ProposalSet) -> ProposalSet: ...

    @overload
    def proposals(self, top: int | None = None, *, like: None = None) -> ProposalSet | None: ...

    def proposals(self, top: int | None = None, *, like: ProposalSet | None = None) -> ProposalSet | None:
        """The proposals of all support frames.

        Args:
            top: the most proposals of a frame, those of the highest objectness; None for all.
            like: where there are no support frames, an empty set with its device and dimensions is returned; without
                it, None.
        """
        # Their `frame` counts the frames that have proposals, which need not be all of the context.
        sets: Sequence[ProposalSet] = [frame.proposals for frame in self.frames if frame.proposals is not None]
        if not sets:
            return None if like is None else like[:0]
        # A frame's best come first. Cut before they are joined: what is remembered of a frame are its first rows.
        return ProposalSet.cat(sets if top is None else [proposals[:top] for proposals in sets])
