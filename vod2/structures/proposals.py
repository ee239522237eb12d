"""Proposals of one or more frames with their embedded features.

M: proposals in all, D: embedding dimension, T: frames.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor

from vod2.structures.derived import FeatureRows

BACKGROUND = -1
"""The id of a proposal that shows no object."""
UNKNOWN = -2
"""The id of a proposal of which nobody knows what it shows: its frame, or its object's track, is not annotated."""
POOLED_MAPS = "pooled_maps"
"""The field (M, C, P, P) with what was pooled from each box."""
TRACK_IDS = "track_ids"
"""The field (M,) int64 with the track of the object in each box."""
VALID = "valid"
"""The field (M,) bool of a set of a fixed size, False for the rows that fill it up. Without it, all are proposals."""


@dataclass(frozen=True)
class ProposalSet:
    """Proposals of one frame, or of the T frames of a context.

    Args:
        boxes: (M, 4) xyxy in pixels of the resized image.
        features: (M, D), or (M, P*P, D) where an aggregator keeps the patches of a RoI apart; (M, 0) before anything
            has been pooled from the boxes.
        scores: (M,) objectness logits, descending within each frame.
        frame: (M,) int64, ascending, row of the proposal's frame in the context, in [0, T); zeros for one frame.
        image_sizes: T pairs (height, width) of the resized images.
        fields: {name: (M, ...)} what else an aggregator has asked for of each proposal, see `ProposalNeeds`:
            POOLED_MAPS (M, C, P, P), what was pooled from its box; in training TRACK_IDS (M,) int64, the track of the
            object in its box, or BACKGROUND, or UNKNOWN; in an exported graph VALID (M,) bool, False for padding.

    Raises:
        ValueError: if the lengths or shapes contradict each other.

    Example:
        >>> import torch
        >>> from vod2.structures import ProposalSet
        >>> boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [2.0, 2.0, 6.0, 6.0]])
        >>> one = ProposalSet.of_frame(boxes, torch.zeros(2, 16), torch.tensor([0.9, 0.1]), (32, 32))
        >>> both = ProposalSet.cat([one, one])
        >>> len(both), both.frame.tolist(), len(both.top(1))
        (4, [0, 0, 1, 1], 2)
    """

    boxes: Tensor
    features: Tensor
    scores: Tensor
    frame: Tensor
    image_sizes: tuple[tuple[int, int], ...]
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    # No argument, so that `replace` leaves it out: other features have other values.
    _rows: FeatureRows | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.dim() != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes: expected the shape (M, 4), got {tuple(self.boxes.shape)}")
        if self.features.dim() < 2:
            raise ValueError(f"features: expected the shape (M, D) or (M, P*P, D), got {tuple(self.features.shape)}")
        object.__setattr__(self, "fields", MappingProxyType(dict(self.fields)))
        # Every tensor is checked here, once: all that follows indexes them with the same rows.
        rows = {"features": self.features, "scores": self.scores, "frame": self.frame, **self.fields}
        for name, value in rows.items():
            if len(value) != count:
                raise ValueError(f"{name}: expected {count} rows, one for each box, got {len(value)}")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def is_embedded(self) -> bool:
        """Whether there are features: what was pooled from the boxes."""
        return self.features.shape[1] > 0

    @property
    def rows(self) -> FeatureRows | Tensor:
        """`features`; of frames that a memory holds with what layers have made of them, see `through`."""
        return self.features if self._rows is None else self._rows

    def remembered(self) -> "ProposalSet":
        """The same proposals of a frame that enters a memory: from now on `rows` keep what layers make of them."""
        return self._with_rows(FeatureRows.remembered(self.features))

    def forgotten(self) -> "ProposalSet":
        """The same proposals without what layers have made of them."""
        return self._with_rows(None)

    def _with_rows(self, rows: FeatureRows | None) -> "ProposalSet":
        copy = replace(self)
        object.__setattr__(copy, "_rows", rows)
        return copy

    @staticmethod
    def of_frame(
        boxes: Tensor,
        features: Tensor,
        scores: Tensor,
        image_size: tuple[int, int],
        fields: Mapping[str, Tensor] | None = None,
    ) -> "ProposalSet":
        """The proposals of a single frame; arguments as in the class."""
        frame = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return ProposalSet(boxes, features, scores, frame, (image_size,), fields or {})

    def with_fields(self, **fields: Tensor) -> "ProposalSet":
        """The same proposals with further `fields`, or with others in the place of those of the same name."""
        return replace(self, fields={**self.fields, **fields})

    @staticmethod
    def cat(sets: Sequence["ProposalSet"]) -> "ProposalSet":
        """Join the sets, frame after frame; rows of `frame` are shifted accordingly.

        Of the fields, those that all sets have are kept.

        Raises:
            ValueError: if `sets` is empty (there is no device or dimension to make an empty set of).
        """
        if not sets:
            raise ValueError("ProposalSet.cat: expected at least one set")
        # Each set counts its frames from 0: in the joined one they come after those of the sets before.
        frames: list[Tensor] = []
        sizes: tuple[tuple[int, int], ...] = ()
        for proposals in sets:
            frames.append(proposals.frame + len(sizes))
            sizes += proposals.image_sizes

        fields = {}
        # A field that one set lacks has no rows for its proposals: in the joined set there would be a hole.
        for name in sets[0].fields:
            values = [proposals.fields[name] for proposals in sets if name in proposals.fields]
            if len(values) == len(sets):
                fields[name] = torch.cat(values)
        joined = ProposalSet(
            boxes=torch.cat([proposals.boxes for proposals in sets]),
            features=torch.cat([proposals.features for proposals in sets]),
            scores=torch.cat([proposals.scores for proposals in sets]),
            frame=torch.cat(frames),
            image_sizes=sizes,
            fields=fields,
        )
        if all(proposals._rows is None for proposals in sets):
            return joined
        return joined._with_rows(FeatureRows.cat([proposals.rows for proposals in sets]))

    def top(self, count: int) -> "ProposalSet":
        """The first `count` proposals of every frame, that is those of the highest objectness."""
        # Scores descend within a frame, so the place among its proposals is the rank.
        return self[self.rank() < count]

    def descending(self) -> "ProposalSet":
        """Those of a single frame in the order of their scores, which sampled RoIs do not have."""
        return self[self.scores.argsort(descending=True, stable=True)]

    def visible_to(self, queries: int) -> Tensor | None:
        """(N, M) bool: which of them each of N queries may look at, all but padding; None where none is padding."""
        valid = self.fields.get(VALID)
        return None if valid is None else valid[None].expand(queries, -1)

    def rank(self) -> Tensor:
        """(M,) int64: the place of each proposal among those of its frame, from 0."""
        counts = torch.bincount(self.frame, minlength=len(self.image_sizes))
        # `frame` ascends: the rows of a frame follow one another, from the sum of the counts before it.
        first = counts.cumsum(0) - counts
        return torch.arange(len(self), device=self.frame.device) - first[self.frame]

    def counts(self) -> Tensor:
        """(T,) int64: the number of proposals of each frame."""
        return torch.bincount(self.frame, minlength=len(self.image_sizes))

    def __getitem__(self, rows: Tensor | slice) -> "ProposalSet":
        selected = self._converted(lambda value: value[rows])
        return selected if self._rows is None else selected._with_rows(self._rows[rows])

    def detach(self) -> "ProposalSet":
        """The same values without gradient."""
        return self._converted(Tensor.detach)

    def _converted(self, convert: Callable[[Tensor], Tensor]) -> "ProposalSet":
        """`convert` applied to every tensor that has a row for each proposal."""
        # The sizes stay also of frames that have no row left, so that `frame` keeps its numbers.
        return ProposalSet(
            convert(self.boxes),
            convert(self.features),
            convert(self.scores),
            convert(self.frame),
            self.image_sizes,
            {name: convert(value) for name, value in self.fields.items()},
        )
