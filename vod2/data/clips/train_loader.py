"""The endless loader of a training: every clip is drawn from its number, and the position can be saved."""

import contextlib
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.data as torchdata

from vod2.d2 import comm
from vod2.data.clips.samplers import NumberedSampler, SizedDataset


class Groups(NamedTuple):
    """How clips are grouped by aspect, see `GroupedByAspect`.

    Attributes:
        size: clips of a group.
        parts: groups of a batch.
    """

    size: int
    parts: int


class TrainingLoader:
    """Endless batches of clips, with a position that a resumed training goes on from.

    A clip is drawn from the seed and its number alone, so the position is the number of the next clip, and those of the
    clips that wait for a group of their aspect to be full: these are made again. What workers have made in advance
    does not count.

    Args:
        make: takes a seed; returns a loader of clips with `sample_number` (lists of one clip where they are grouped,
            else batches), and the sampler that it asks.
        seed: at least 0, the same in all processes.
        groups: None where batches come as they are.
    """

    def __init__(
        self,
        make: Callable[[int], tuple[Iterable[list[dict]], NumberedSampler]],
        seed: int,
        groups: Groups | None = None,
    ) -> None:
        self._make = make
        self._groups = groups
        self._seed = seed
        self._loader, self._sampler = make(seed)
        self._next = 0
        # Numbers of clips that have arrived and are in no batch yet, in the order of their arrival.
        self._waiting: list[int] = []

    def __iter__(self) -> Iterator[list[dict]]:
        """From the position on. To begin anew is to go on: the position counts what any iterator has given out."""
        self._sampler.start(self._next, self._waiting)
        self._waiting = []
        batches: Iterable[list[dict]] = self._arriving()
        if self._groups is not None:
            batches = GroupedByAspect(batches, *self._groups, processes=comm.get_world_size())
        for batch in batches:
            numbers = {clip["sample_number"] for clip in batch}
            self._waiting = [number for number in self._waiting if number not in numbers]
            yield batch

    def _arriving(self) -> Iterator[list[dict]]:
        for clips in self._loader:
            for clip in clips:
                self._waiting.append(clip["sample_number"])
                self._next = max(self._next, clip["sample_number"] + 1)
            yield clips

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches that have been given out: {"seed", "next", "waiting"}."""
        return {"seed": self._seed, "next": self._next, "waiting": list(self._waiting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the position of a loader of the same configuration, before the first batch."""
        if state["seed"] != self._seed:  # drawn by chance, where SEED is negative
            self._seed = state["seed"]
            self._loader, self._sampler = self._make(self._seed)
        self._next, self._waiting = state["next"], list(state["waiting"])

    def skip(self, number: int) -> None:
        """Go on with the samples from `number` on, of this loader's own order."""
        self._next, self._waiting = number, []


class SeededDataset(torchdata.Dataset):
    """A dataset whose every item is drawn from a seed and the number that comes with what it is asked for.

    The dicts get that number as `sample_number`, and as `sample_seed` a seed for what is drawn of them later, such as
    the proposals that are trained on.

    Mappers and augmentations draw from the global generators of numpy, Python and torch, whose state depends on the
    worker that is asked and on what it did before. They are seeded for each item here, and put back afterwards.

    Args:
        dataset: map-style.
        seed: at least 0.
    """

    def __init__(self, dataset: SizedDataset, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, numbered: tuple[int, Any]) -> dict:
        number, item = numbered
        sequence = np.random.SeedSequence((self._seed, number))
        with _seeded(sequence):
            clip = self._dataset[item]
        later = int(sequence.spawn(1)[0].generate_state(1)[0])
        return {**clip, "sample_number": number, "sample_seed": later}


class GroupedByAspect:
    """Batches of clips that are all wider than high, or all not, so that little is padded.

    Args:
        loader: yields lists of one dict with `width` and `height`.
        batch_size: at least 1; what does not fill a batch at the end of the loader is left out.
        parts: clips are dealt in turn to so many groupings, and a batch is a group of each, dealt in turn again: those
            that `vod2.engine.micro_batches` takes apart.
        processes: that share the samples, whose numbers count over all of them.
    """

    def __init__(self, loader: Iterable[list[dict]], batch_size: int, parts: int = 1, processes: int = 1) -> None:
        self._loader = loader
        self._batch_size = batch_size
        self._parts = parts
        self._processes = processes

    def __iter__(self) -> Iterator[list[dict]]:
        # Of each part: the clips of a wide and of a high group that are not full yet, and the groups that are.
        growing: list[dict[bool, list[dict]]] = [{True: [], False: []} for _ in range(self._parts)]
        full: list[deque[list[dict]]] = [deque() for _ in range(self._parts)]
        for arrived, (clip,) in enumerate(self._loader):
            # By its number, where it has one: a resumed training begins with clips that had waited for their groups.
            number = clip["sample_number"] // self._processes if "sample_number" in clip else arrived
            part = number % self._parts
            is_wide = clip["width"] > clip["height"]
            group = growing[part][is_wide]
            group.append(clip)
            if len(group) == self._batch_size:
                full[part].append(group)
                growing[part][is_wide] = []
            if all(full):  # every part has a group for the batch
                groups = [groups_of_part.popleft() for groups_of_part in full]
                # The first clip of each group, then the second of each: dealt in turn.
                yield list(itertools.chain.from_iterable(zip(*groups, strict=True)))


@contextlib.contextmanager
def _seeded(sequence: np.random.SeedSequence) -> Iterator[None]:
    numpy_seed, python_seed, torch_seed = sequence.generate_state(3).tolist()
    states = np.random.get_state(), random.getstate(), torch.default_generator.get_state()
    np.random.seed(numpy_seed)
    random.seed(python_seed)
    torch.default_generator.manual_seed(torch_seed)  # unlike torch.manual_seed, this leaves the GPU's alone
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        torch.default_generator.set_state(states[2])
