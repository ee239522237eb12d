"""The long range memory of MEGA as tensors that are carried from frame to frame.

S: stages, R: proposals that are stored for a stage, D: embedding.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vod2.moved import moved
from vod2.structures import ProposalSet, TemporalContext

_PREFIX = "mega."
_PENDING = f"{_PREFIX}pending"

__getattr__ = moved(__name__, {"Memory": f"{__name__}:LongRangeMemory", "Rows": f"{__name__}:StoredProposals"})


class StoredProposals(NamedTuple):
    """Proposals of frames that have left the window: features (R, D) and boxes (R, 4) xyxy pixels."""

    features: Tensor
    boxes: Tensor


class LongRangeMemory(NamedTuple):
    """What a stream carries: for every stage the proposals of frames that have left the local window, oldest first.

    The last frame may be pending: it was the oldest of the local window at the step before, and belongs to the memory
    if it has left the window at this one.

    Attributes:
        stored: S, what each stage looks at.
        age: S times (R,) int64, descending: 1 in the frame that came last into the memory, 0 in the pending one.
        pending: the number of the pending frame in the video, and how often it stood in the window; (-1, 0) for none.
    """

    stored: tuple[StoredProposals, ...]
    age: tuple[Tensor, ...]
    pending: tuple[int, int] = (-1, 0)

    @staticmethod
    def empty(stages: int, like: ProposalSet) -> "LongRangeMemory":
        """Nothing, in the dtype and on the device of `like`."""
        # All stages share one empty set: nothing writes to it.
        empty = StoredProposals(like.features[:0].detach(), like.boxes[:0])
        return LongRangeMemory((empty,) * stages, (like.frame[:0],) * stages)

    @staticmethod
    def of_carry(carry: Mapping[str, Tensor], stages: int, like: ProposalSet) -> "LongRangeMemory":
        """The memory that `as_carry` wrote, or an empty one where there is none."""
        if _PENDING not in carry:
            return LongRangeMemory.empty(stages, like)
        index, copies = carry[_PENDING].tolist()
        stored, ages = [], []
        for stage in range(stages):
            stored.append(StoredProposals(carry[f"{_PREFIX}features.{stage}"], carry[f"{_PREFIX}boxes.{stage}"]))
            ages.append(carry[f"{_PREFIX}age.{stage}"])
        return LongRangeMemory(tuple(stored), tuple(ages), (index, copies))

    def as_carry(self) -> dict[str, Tensor]:
        """{name: tensor} of all of it, without gradient."""
        carry = {_PENDING: torch.tensor(self.pending)}
        for stage, (proposals, age) in enumerate(zip(self.stored, self.age, strict=True)):
            carry[f"{_PREFIX}features.{stage}"] = proposals.features.detach()
            carry[f"{_PREFIX}boxes.{stage}"] = proposals.boxes
            carry[f"{_PREFIX}age.{stage}"] = age
        return carry

    def updated(self, window: Sequence[int], size: int) -> "LongRangeMemory":
        """The memory at the step whose local window are the frames `window`: at most `size` frames, none pending.

        The pending frame stays if it stands in the window less often than before (a window that repeats the edge frame
        loses it copy by copy), and is dropped if nothing of it has left yet.
        """
        index, copies = self.pending
        # All ages go up by a frame when the pending one, of age 0, has come in; else it is dropped, as its age stays 0.
        left = int(window.count(index) < copies)
        stored, ages = [], []
        for of_stage, age in zip(self.stored, self.age, strict=True):
            age = age + left
            kept = (age > 0) & (age <= size)
            stored.append(StoredProposals(of_stage.features[kept], of_stage.boxes[kept]))
            ages.append(age[kept])
        return LongRangeMemory(tuple(stored), tuple(ages))

    def with_pending(self, local: TemporalContext, keys: Sequence[ProposalSet]) -> "LongRangeMemory":
        """Also the proposals of the oldest frame of the local window, as pending.

        Args:
            local: the window; nothing is pending where it is empty.
            keys: S times the proposals of the window that the stage has looked at.
        """
        indices = [frame.index for frame in local.frames if frame.proposals is not None]
        if not indices:
            return self
        # Kept already now: at the next step, when it has left, nobody has what the stages made of it.
        oldest = min(indices)
        row = indices.index(oldest)  # of several copies, all alike, one
        stored, ages = [], []
        for of_stage, age, key in zip(self.stored, self.age, keys, strict=True):
            # Without gradient: the memory outlives the step, and its graph with it.
            new = key[key.frame == row].detach()
            features = torch.cat([of_stage.features, new.features])
            boxes = torch.cat([of_stage.boxes, new.boxes])
            stored.append(StoredProposals(features, boxes))
            ages.append(torch.cat([age, age.new_zeros(len(new))]))  # age 0: pending
        return LongRangeMemory(tuple(stored), tuple(ages), (oldest, indices.count(oldest)))
