"""Attention between the proposals of a stream's frames, of which each pair of frames is computed once.

N: queries, M: keys, R: queries of one frame, K: keys of one frame, F: frames,
S: slots of a table, h: heads, d: numbers of a head.
"""

import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vod2.layers.relation import RelationAttention
from vod2.structures import ProposalSet
from vod2.structures.derived import FeatureRows, FirstRows, LayerState, RememberedFeatures

WORTH_IT = 2**17
"""Pairs of a query and a key below which all of them are computed in less time than the tables take."""

_BATCH = 2**20
"""Logits that are computed at once: all those of a step, few enough to stay in a cache when a window is filled."""

_SPARE = 8  # slots of a table that grows, beside those that are needed
_lock = threading.Lock()  # streams of several threads may share frames, whose tables are written in place

_Name = tuple[weakref.ref, int]
"""The first so many rows of a frame. By a weak reference: the tables of two frames would keep each other alive."""


def remembered_attention(relation: RelationAttention, query: ProposalSet, key: ProposalSet) -> Tensor | None:
    """What `relation(query.rows, key.rows, query.boxes, key.boxes)` is, up to rounding, in a stream on the CPU.

    Between two frames nothing changes while a memory holds both. What is kept, of each query and each frame of keys, is
    the largest logit, the sum of the exponentials and that of the values that they weigh: d + 2 numbers for a head. A
    step adds a frame of keys to all queries, and all frames of keys to queries that are new. Then the sums of all
    frames are put together; none is ever subtracted, so that errors do not add up.

    Args:
        relation: of any kind.
        query: (N, D), the first rows of frames.
        key: (M, D), the first rows of frames.

    Returns:
        (N, D), or None where there is nothing to gain or nothing may be kept: in training, in half precision, on
        another device than the CPU, for few pairs, for proposals that no memory holds.
    """
    if len(query) * len(key) < max(WORTH_IT, 1) or query.boxes.device.type != "cpu":
        return None
    if torch.is_autocast_enabled("cpu") or query.features.dtype not in (torch.float32, torch.float64):
        return None
    queries, keys = (_first_rows(proposals) for proposals in (query, key))
    state = LayerState.of(relation)
    if queries is None or keys is None or state is None:
        return None
    with _lock:
        out = _attend(relation, state, (query, queries), (key, keys))
    return out if relation.output is None else relation.output(out)


def _first_rows(proposals: ProposalSet) -> list[FirstRows] | None:
    return None if isinstance(proposals.rows, Tensor) else proposals.rows.first_rows()


_Frames = tuple[ProposalSet, list[FirstRows]]
"""Proposals, and which rows of which frames they are."""


def _attend(relation: RelationAttention, state: LayerState, query: _Frames, key: _Frames) -> Tensor:
    """(N, D), before an output projection."""
    # A frame may stand in a context more than once; one without proposals has no keys.
    often = Counter(_name(rows) for rows, _ in _with_places(key[1]))
    places = {_name(rows): (rows, first) for rows, first in _with_places(key[1])}
    queries: dict[RememberedFeatures, tuple[int, int]] = {}  # {frame: (its rows, place of the first)}
    for rows, first in _with_places(query[1]):
        queries[rows.source] = max(queries.get(rows.source, (0, 0)), (rows.length, first))

    tables: dict[RememberedFeatures, _Table] = {}
    missing: dict[_Name, list[_Span]] = {name: [] for name in often}
    for source, (count, first) in queries.items():
        table = tables[source] = _table_of(source, relation, state)
        lacking = table.prepare(count, list(often))
        if table.rows < count:
            new = slice(first + table.rows, first + count)
            table.begin(relation.in_heads(source.features[table.rows : count], relation.query), query[0].boxes[new])
        for name in often:
            start = 0 if name in lacking else table.rows
            if start < count:
                missing[name].append(_Span(table, start, count))

    for spans, names in _batches(missing, relation.num_heads):
        at = [places[name] for name in names]
        of_frames = FeatureRows([rows for rows, _ in at])
        k, v = (relation.in_heads(of_frames, layer) for layer in (relation.key, relation.value))
        boxes = torch.cat([key[0].boxes[first : first + rows.length] for rows, first in at])
        _add(relation, names, spans, k, v, boxes)
    # At last: after an error in between, rows that lack some keys are computed anew.
    for source, (count, _) in queries.items():
        tables[source].rows = count
    merged = {source: table.merged(often) for source, table in tables.items()}
    return torch.cat([merged[rows.source][: rows.length] for rows, _ in _with_places(query[1])])


def _batches(
    missing: Mapping[_Name, Sequence["_Span"]], num_heads: int
) -> Iterator[tuple[tuple["_Span", ...], list[_Name]]]:
    """Frames of as many keys that the same rows lack, as many at once as make at most `_BATCH` numbers, or one."""
    groups: dict[tuple[tuple[_Span, ...], int], list[_Name]] = {}
    for name, spans in missing.items():
        if spans:
            groups.setdefault((tuple(spans), name[1]), []).append(name)
    for (spans, keys), names in groups.items():
        rows = sum(span.stop - span.start for span in spans)
        size = max(1, _BATCH // (num_heads * rows * keys))
        for first in range(0, len(names), size):
            yield spans, names[first : first + size]


def _add(
    relation: RelationAttention,
    names: Sequence[_Name],
    spans: Sequence["_Span"],
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
) -> None:
    """Write what the rows of `spans` take of the F frames `names` of K keys: k, v (h, F K, d), boxes (F K, 4)."""
    q = torch.cat([span.table.q[span.start : span.stop] for span in spans]).transpose(0, 1)
    query_boxes = torch.cat([span.table.boxes[span.start : span.stop] for span in spans])
    frames = len(names), -1  # (F, K)
    logits = relation.logits(q, k, query_boxes, boxes).unflatten(2, frames)  # (h, R, F, K)
    largest = logits.amax(dim=3)
    weights = (logits - largest[..., None]).exp()
    values = (weights.transpose(1, 2) @ v.unflatten(1, frames)).transpose(1, 2)  # (h, R, F, d)
    sums = torch.cat([values, weights.sum(dim=3, keepdim=True)], dim=3)
    lengths = [span.stop - span.start for span in spans]
    of_spans = zip(sums.transpose(0, 1).split(lengths), largest.transpose(0, 1).split(lengths), strict=True)
    for span, of_span in zip(spans, of_spans, strict=True):
        span.table.write(names, span.start, span.stop, *of_span)


class _Span(NamedTuple):
    """Rows of a table that are to be computed, from `start` to `stop`."""

    table: "_Table"
    start: int
    stop: int


def _name(rows: FirstRows) -> _Name:
    return weakref.ref(rows.source), rows.length


def _with_places(frames: Sequence[FirstRows]) -> Iterator[tuple[FirstRows, int]]:
    """Each that has rows, with the number of rows before it."""
    first = 0
    for rows in frames:
        if rows.length:
            yield rows, first
        first += rows.length


def _table_of(source: RememberedFeatures, relation: RelationAttention, state: LayerState) -> "_Table":
    """That of a frame, which is begun anew where a weight of the relation has changed."""
    table = source.tables.get(relation)
    if not isinstance(table, _Table) or not table.state.holds(state):
        heads = relation.num_heads
        table = source.tables[relation] = _Table(state, source.features[:0].unflatten(1, (heads, -1)))
    return table


class _Table:
    """Sums of the first rows of one frame over the keys of other frames, each of which has a slot."""

    def __init__(self, state: LayerState, q: Tensor) -> None:
        _, num_heads, dim = q.shape
        self.state = state
        self.slots: list[_Name | None] = []
        self.rows = 0  # queries of which all slots hold the sums
        self.q = q  # (R, h, d)
        self.boxes = q.new_zeros(0, 4)
        # (R, h, S, d + 1): the sum of exp(logit - largest) times the value, and without it
        self.sums = q.new_zeros(0, num_heads, 0, dim + 1)
        self.largest = q.new_zeros(0, num_heads, 0)

    def prepare(self, rows: int, keys: Sequence[_Name]) -> list[_Name]:
        """Make room for so many rows and for `keys`; returns those of them that are not in it yet."""
        wanted, known = set(keys), set(self.slots)
        for slot, name in enumerate(self.slots):
            if name is not None and name not in wanted:
                # Zero: what is left over may not be finite, and 0 times that is not 0.
                self.sums[:, :, slot].zero_()
                self.slots[slot] = None
        self.rows = min(self.rows, rows)
        missing = [name for name in keys if name not in known]
        self._grow(rows, len(keys))
        return missing

    def _grow(self, rows: int, slots: int) -> None:
        """Larger tensors, if they are too small; smaller ones, if they are less than half full."""
        room = self.sums.shape[0], self.sums.shape[2]
        if rows <= room[0] <= 2 * rows + 1 and slots <= room[1]:
            return
        size = rows + rows // 8, room[1] if slots <= room[1] else slots + _SPARE
        _, num_heads, _, width = self.sums.shape
        sums = self.sums.new_zeros(size[0], num_heads, size[1], width)
        largest = self.largest.new_zeros(size[0], num_heads, size[1])
        sums[: self.rows, :, : room[1]] = self.sums[: self.rows]
        largest[: self.rows, :, : room[1]] = self.largest[: self.rows]
        self.sums, self.largest = sums, largest
        self.slots += [None] * (size[1] - len(self.slots))

    def begin(self, q: Tensor, boxes: Tensor) -> None:
        """Queries (h, R', d) and boxes (R', 4) of further rows."""
        self.q = torch.cat([self.q[: self.rows], q.transpose(0, 1)])
        self.boxes = torch.cat([self.boxes[: self.rows].to(boxes), boxes])

    def write(self, names: Sequence[_Name], start: int, stop: int, sums: Tensor, largest: Tensor) -> None:
        """What rows from `start` to `stop` take of `names`: sums (R, h, F, d + 1) and largest logits (R, h, F)."""
        slots = []
        for name in names:
            slot = self.slots.index(name if name in self.slots else None)
            self.slots[slot] = name
            slots.append(slot)
        places = torch.tensor(slots, device=sums.device)
        self.sums[start:stop].index_copy_(2, places, sums)
        self.largest[start:stop].index_copy_(2, places, largest)

    def merged(self, counts: Mapping[_Name, int]) -> Tensor:
        """(R, h d): the softmax over all frames, each as often as `counts` says, 0 for those that are not there."""
        often = self.sums.new_tensor([0 if name is None else counts[name] for name in self.slots])
        largest = self.largest[: self.rows].masked_fill(often == 0, -torch.inf)
        weights = often * (largest - largest.amax(dim=2, keepdim=True)).exp()  # (R, h, S)
        sums = weights.flatten(0, 1)[:, None] @ self.sums[: self.rows].flatten(0, 1)  # (R h, 1, d + 1)
        taken = sums[:, 0, :-1] / sums[:, 0, -1:]  # (R h, d)
        return taken.reshape(self.rows, self.sums.shape[1] * taken.shape[1])
