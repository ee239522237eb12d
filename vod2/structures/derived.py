"""What layers make of the features of a frame: computed once for as long as a memory holds the frame.

M: rows, D: embedding.
"""

import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


class LayerState(NamedTuple):
    """What a derived value holds for: a layer's tensors as they were, and the precision of autocast.

    Attributes:
        tensors: parameters and buffers; they share the memory, so that nothing else can be at its address meanwhile.
        versions: how often each had been written to.
    """

    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]
    half: torch.dtype | None

    @staticmethod
    def of(layer: nn.Module) -> "LayerState | None":
        """None where nothing may be kept: in training, where gradients flow, of tensors whose writes nobody counts."""
        tensors = (*layer.parameters(), *layer.buffers())
        if layer.training or torch.is_grad_enabled() or any(tensor.is_inference() for tensor in tensors):
            return None
        device = tensors[0].device.type if tensors else "cpu"
        half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        versions = tuple(tensor._version for tensor in tensors)
        return LayerState(tuple(tensor.detach() for tensor in tensors), versions, half)

    def holds(self, now: "LayerState") -> bool:
        if (self.versions, self.half) != (now.versions, now.half):
            return False
        return all(map(_is_same_memory, self.tensors, now.tensors))


class RememberedFeatures:
    """Features of one frame that a memory holds, and what layers have made of them, which ends with the frame.

    A value is made again where a tensor of its layer has been written to or replaced (an update, a checkpoint, another
    dtype or device), or the precision of autocast is another. It is dropped where the layer is in training mode or
    gradients flow. (Writes through `Parameter.data` are not counted by PyTorch: they go unnoticed.)

    Args:
        features: (M, D).

    Attributes:
        tables: {layer: whatever else is kept of the frame for it}, see `vod2.layers.frame_pairs`.
        together: {layer: what it made of several frames of which this is the first}, see `remembered_together`.
    """

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self.tables: weakref.WeakKeyDictionary[nn.Module, object] = weakref.WeakKeyDictionary()
        self.together: weakref.WeakKeyDictionary[nn.Module, _Together] = weakref.WeakKeyDictionary()
        self._derived: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, Activation | None], _Derived]]
        self._derived = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple:
        # A copy or a pickle begins anew: the layers are those of this process.
        return RememberedFeatures, (self.features,)

    def first_through(
        self, count: int, layer: nn.Module, before: Activation | None, state: LayerState
    ) -> "RememberedFeatures":
        """The first `count` rows after `before` and `layer`, which must work row by row.

        Each count is computed on its own: a product of more rows may round differently, and what a step gives must not
        depend on which steps came before it.
        """
        of_layer = self._derived.setdefault(layer, {})
        known = of_layer.get((count, before))
        if known is None or not known.state.holds(state):
            rows = self.features[:count]
            known = _Derived(state, RememberedFeatures(layer(rows if before is None else before(rows))))
            of_layer[count, before] = known
        return known.value

    def drop(self, layer: nn.Module) -> None:
        """Forget what the layer has made."""
        self._derived.pop(layer, None)
        self.tables.pop(layer, None)
        self.together.pop(layer, None)


class _Derived(NamedTuple):
    state: LayerState
    value: RememberedFeatures


class _Together(NamedTuple):
    """What a layer made of frames side by side.

    Attributes:
        state: of the layer.
        names: (frame, number of its first rows), in their order. Weak: the value goes with the first frame.
        value: None until they stand side by side for the second time.
    """

    state: LayerState
    names: tuple[tuple[weakref.ref, int], ...]
    value: RememberedFeatures | None


class FirstRows(NamedTuple):
    """The first `length` rows of a frame."""

    source: RememberedFeatures
    length: int


class FeatureRows:
    """Features (M, D) of frames that a memory holds, frame after frame, or a selection of their rows.

    A tensor that knows where its rows come from: `through` computes only what has not been computed at earlier steps.

    Args:
        parts: (source, number of its first rows); the source is a tensor where nobody remembers the frame.
        index: (M,) int64, the selected rows of all parts; None for all of them.

    Example:
        >>> import torch
        >>> from vod2.structures import FeatureRows, through
        >>> rows = FeatureRows.remembered(torch.rand(5, 8))
        >>> both = FeatureRows.cat([rows, rows])[torch.tensor([0, 9])]
        >>> with torch.no_grad():
        ...     through(both, torch.nn.Linear(8, 4).eval()).tensor.shape
        torch.Size([2, 4])
    """

    def __init__(self, parts: Sequence[tuple[RememberedFeatures | Tensor, int]], index: Tensor | None = None) -> None:
        self._parts, self._index = tuple(parts), index
        self._count = sum(count for _, count in self._parts)  # without the selection

    @staticmethod
    def remembered(features: Tensor) -> "FeatureRows":
        """Features (M, D) of one frame from now on remembered."""
        return FeatureRows([(RememberedFeatures(features), len(features))])

    @staticmethod
    def cat(rows: "Sequence[FeatureRows | Tensor]") -> "FeatureRows":
        """At least one, one after the other."""
        sets = [each if isinstance(each, FeatureRows) else FeatureRows([(each, len(each))]) for each in rows]
        parts = [part for each in sets for part in each._parts]
        if all(each._index is None for each in sets):
            return FeatureRows(parts)
        selections, first = [], 0
        for each in sets:
            selections.append(each._selection() + first)
            first += each._count
        return FeatureRows(parts, torch.cat(selections))

    def __len__(self) -> int:
        return self._count if self._index is None else len(self._index)

    def __getitem__(self, rows: Tensor | slice) -> "FeatureRows":
        if self._index is None and len(self._parts) == 1 and isinstance(rows, slice) and not rows.start:
            source, _ = self._parts[0]
            start, stop, step = rows.indices(self._count)
            if (start, step) == (0, 1):
                return FeatureRows([(source, stop)])
        return FeatureRows(self._parts, self._selection()[rows])

    @cached_property
    def tensor(self) -> Tensor:
        """(M, D)."""
        values = [_features(source)[:count] for source, count in self._parts]
        joined = values[0] if len(values) == 1 else torch.cat(values)
        return joined if self._index is None else joined[self._index]

    def first_rows(self) -> list[FirstRows] | None:
        """What they are where they are the first rows of remembered frames, frame after frame; None where not."""
        sources = [source for source, _ in self._parts if isinstance(source, RememberedFeatures)]
        if len(sources) < len(self._parts):
            return None
        limits = torch.tensor([count for _, count in self._parts])
        counts = limits
        if self._index is not None:
            # By the frame that each row is of, and its place in it.
            index = self._index.cpu()
            last = limits.cumsum(0)
            frame = torch.searchsorted(last, index, right=True)
            counts = torch.bincount(frame, minlength=len(sources))
            firsts = (last - limits).tolist()
            expected = [torch.arange(count) + first for count, first in zip(counts.tolist(), firsts, strict=True)]
            if not index.equal(torch.cat(expected)):
                return None
        return [FirstRows(*pair) for pair in zip(sources, counts.tolist(), strict=True)]

    def through(self, layer: nn.Module, before: Activation | None = None) -> "FeatureRows | Tensor":
        """What `through` returns."""
        state = LayerState.of(layer)
        if state is None:
            for source, _ in self._parts:
                if isinstance(source, RememberedFeatures):
                    source.drop(layer)
            return through(self.tensor, layer, before)
        parts: list[tuple[RememberedFeatures | Tensor, int]] = []
        for source, count in self._parts:
            if isinstance(source, RememberedFeatures):
                parts.append((source.first_through(count, layer, before, state), count))
            else:
                parts.append((through(source[:count], layer, before), count))
        return FeatureRows(parts, self._index)

    def _selection(self) -> Tensor:
        if self._index is not None:
            return self._index
        return torch.arange(self._count, device=_features(self._parts[0][0]).device)


@overload
def through(rows: Tensor, layer: nn.Module, before: Activation | None = None) -> Tensor: ...


@overload
def through(rows: FeatureRows | Tensor, layer: nn.Module, before: Activation | None = None) -> FeatureRows | Tensor: ...


def through(rows: FeatureRows | Tensor, layer: nn.Module, before: Activation | None = None) -> FeatureRows | Tensor:
    """Rows (M, D) after the activation `before`, if there is one, and `layer`: (M, D').

    Both must work row by row. Of frames that a memory holds each row is computed once, see `RememberedFeatures`.
    """
    if isinstance(rows, FeatureRows):
        return rows.through(layer, before)
    return layer(rows if before is None else before(rows))


def remembered_together(
    rows: FeatureRows | Tensor, layer: nn.Module, work: Callable[[], Tensor]
) -> FeatureRows | Tensor:
    """What `work` makes of all rows by a layer that relates them to each other, computed once for the same frames.

    Supports of the whole video are the same at every key frame. Where the same frames stand in the same order for the
    second time, the result is remembered, and what layers make of it (`through`), until the first of them leaves the
    memory, or others stand beside it. In a window that moves on nothing is kept.

    Args:
        rows: (M, D), all that the result depends on, but for the layer.
        layer: all of whose parameters `work` may use; no other layer's.
        work: returns (M', D').
    """
    state = LayerState.of(layer)
    frames = rows.first_rows() if isinstance(rows, FeatureRows) else None
    if not frames:
        return work()
    first = frames[0].source
    if state is None:
        first.together.pop(layer, None)
        return work()
    names = tuple((weakref.ref(frame.source), frame.length) for frame in frames)
    known = first.together.get(layer)
    if known is None or known.names != names or not known.state.holds(state):
        first.together[layer] = _Together(state, names, None)
        return work()
    value = known.value
    if value is None:
        value = RememberedFeatures(work())
        first.together[layer] = known._replace(value=value)
    return FeatureRows([(value, len(value.features))])


def cat_rows(rows: Sequence[FeatureRows | Tensor]) -> FeatureRows | Tensor:
    """At least one, one after the other: a tensor where all are."""
    tensors = [each for each in rows if isinstance(each, Tensor)]
    return torch.cat(tensors) if len(tensors) == len(rows) else FeatureRows.cat(rows)


def with_rows(rows: FeatureRows | Tensor, index: Tensor, values: Tensor) -> FeatureRows | Tensor:
    """Rows (M, D), of which those at `index` (K,) int64 are `values` (K, D)."""
    if isinstance(rows, Tensor):
        return rows.index_copy(0, index, values)
    place = torch.arange(len(rows), device=index.device)
    place[index] = torch.arange(len(rows), len(rows) + len(values), device=index.device)
    return FeatureRows.cat([rows, values])[place]


def as_tensor(rows: FeatureRows | Tensor) -> Tensor:
    """(M, D)."""
    return rows.tensor if isinstance(rows, FeatureRows) else rows


def _features(source: RememberedFeatures | Tensor) -> Tensor:
    return source if isinstance(source, Tensor) else source.features


def _is_same_memory(first: Tensor, second: Tensor) -> bool:
    if (first.dtype, first.device, first.shape) != (second.dtype, second.device, second.shape):
        return False
    return first.data_ptr() == second.data_ptr()
