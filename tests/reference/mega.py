"""MEGA over a whole video as its authors' code goes through one: lists, queues and loops over frames, in float64.

Sources: section 3 of Chen et al. (CVPR 2020), and the published program's order of events. Proposals are pairs of
features (n, D) and boxes (n, 4).
"""

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from reference.rdn import relation_features

Proposals = tuple[Tensor, Tensor]
State = dict[str, Tensor]


class MEGAReference:
    """The state of one stream and the parameters of a `MEGAAggregator`.

    Args:
        state: state_dict of the aggregator.
        topk: proposals of a support frame.
        distilled: how many of these are distilled.
        memory: frames in the memory.
    """

    def __init__(self, state: State, *, heads: int, topk: int, distilled: int, memory: int) -> None:
        self.state = {name: value.detach().double() for name, value in state.items()}
        self.heads, self.topk, self.distilled = heads, topk, distilled
        self.stages = len({name.split(".")[1] for name in state if name.startswith("local_relations.")})
        self.looks = len({name.split(".")[1] for name in state if name.startswith("global_relations.")})
        self.queues = [deque(maxlen=memory) for _ in range(self.stages)]

    def relation(self, name: str, query: Proposals, key: Proposals) -> Proposals:
        """query + what it takes from key."""
        part = {n.removeprefix(f"{name}."): v for n, v in self.state.items() if n.startswith(f"{name}.")}
        if not part:
            return query
        added = relation_features(part, query[0], key[0], query[1], key[1], heads=self.heads)
        return query[0] + added, query[1]

    def transform(self, k: int, rows: Proposals) -> Proposals:
        weight, bias = self.state[f"transform.{k}.weight"], self.state[f"transform.{k}.bias"]
        return (rows[0] @ weight.T + bias).clamp(min=0), rows[1]

    def detect(
        self,
        key: Proposals,
        local: Sequence[Proposals],
        whole: Sequence[Proposals],
        memory: Sequence[list] | None = None,
    ) -> tuple[Proposals, list[list[Proposals]]]:
        """One frame -> its proposals, and for each stage what each frame of the window was to it as keys.

        Args:
            key: all proposals of the key frame.
            local: of each entry of the local window.
            whole: of each global entry.
            memory: the entries of every stage; None for those in the queues.
        """
        memory = self.queues if memory is None else memory
        everywhere = joined([top(one, self.topk) for one in whole], key)
        key = self.relation("global_relations.0", key, everywhere)
        frames = [self.relation("global_relations.0", top(one, self.topk), everywhere) for one in local]
        pool = [top(one, self.distilled) for one in frames]
        keys = []
        for s in range(self.stages):
            keys.append(frames)
            look_at = joined([*frames, *memory[s]], key)
            key = self.relation(f"local_relations.{s}", key, look_at)
            if s < self.stages - 1:
                key = self.transform(s, key)
                pool = [self.transform(s, self.relation(f"local_relations.{s}", one, look_at)) for one in pool]
                frames = pool
        for k in range(1, self.looks):
            key = self.relation(f"global_relations.{k}", key, everywhere)
        return key, keys

    def push(self, rows: Sequence[Proposals]) -> None:
        """One entry for each stage."""
        for queue, one in zip(self.queues, rows, strict=True):
            queue.append(one)


def top(one: Proposals, count: int) -> Proposals:
    return one[0][:count], one[1][:count]


def joined(parts: Sequence[Proposals], like: Proposals) -> Proposals:
    features, boxes = zip(*parts, (like[0][:0], like[1][:0]), strict=True)
    return torch.cat(features), torch.cat(boxes)


def global_entries(order: Sequence[int], count: int) -> list[list[int]]:
    """For every frame of the video the frames in the queue of global ones: filled from behind, then one each step."""
    queue, entries = deque(maxlen=count), []
    for t in range(len(order)):
        for place in range(count) if t == 0 else [0]:
            queue.append(order[(t + count - 1 - place) % len(order)])
        entries.append(list(queue))
    return entries


def run_repeating(
    reference: MEGAReference,
    keys: Sequence[Proposals],
    frames: Mapping[int, Proposals],
    whole: Sequence[Sequence[int]],
    radius: int,
) -> list[Tensor]:
    """A window that is filled with copies of the first frame and, at the end, of the last; each step pushes its oldest.

    Args:
        keys: all proposals of every frame.
        frames: {frame: its proposals as a support}.
        whole: of every frame the global entries.
    """
    last = len(keys) - 1
    window = deque([0] * (radius + 1) + [min(i + 1, last) for i in range(radius)], maxlen=2 * radius + 1)
    values = []
    for t, key in enumerate(keys):
        if t > 0:
            window.append(min(t + radius, last))
        value, rows = reference.detect(key, [frames[i] for i in window], [frames[i] for i in whole[t]])
        values.append(value[0])
        reference.push([stage[0] for stage in rows])
    return values


def run_clipped(
    reference: MEGAReference,
    keys: Sequence[Proposals],
    frames: Mapping[int, Proposals],
    whole: Sequence[Sequence[int]],
    radius: int,
) -> list[Tensor]:
    """A window that ends with the video; a frame is pushed when it has left, as the last step knew it."""
    known, values = {}, []
    for t, key in enumerate(keys):
        window = range(max(t - radius, 0), min(t + radius, len(keys) - 1) + 1)
        for gone in sorted(set(known) - set(window)):
            reference.push(known.pop(gone))
        value, rows = reference.detect(key, [frames[i] for i in window], [frames[i] for i in whole[t]])
        values.append(value[0])
        known = {i: [stage[place] for stage in rows] for place, i in enumerate(window)}
    return values


def training_clip(
    reference: MEGAReference,
    key: Proposals,
    local: Sequence[Proposals],
    past: Sequence[Proposals],
    whole: Sequence[Proposals],
) -> Tensor:
    """A clip with frames of the past: these look at each other as if they were a window, then they are the memory."""
    nobody = key[0][:0], key[1][:0]
    _, memory = reference.detect(nobody, past, whole, [[]] * reference.stages)
    return reference.detect(key, local, whole, memory)[0][0]
