"""Wrappers of datasets."""

import copy
import pickle
import random

import numpy as np
import torch.utils.data as torchdata

_MAX_REJECTED = 100  # a mapper that rejects so many items in a row rejects, for all practical purposes, all of them


class DatasetFromList(torchdata.Dataset):
    """A list as a map-style dataset.

    Args:
        lst: the items.
        copy: whether an item is deep-copied on access, so that callers may change it. Serialized ones always are.
        serialize: whether the items are kept as bytes in one array. Worker processes then share that memory; a list
            of Python objects would be copied page by page as reference counts change.
    """

    def __init__(self, lst, copy=True, serialize=True):
        self._copy = copy
        self._serialize = serialize
        if not serialize:
            self._list = lst
            return
        items = [np.frombuffer(pickle.dumps(item, protocol=-1), dtype=np.uint8) for item in lst]
        self._ends = np.cumsum([len(item) for item in items], dtype=np.int64)
        self._bytes = np.concatenate(items) if items else np.zeros(0, dtype=np.uint8)

    def __len__(self):
        return len(self._ends) if self._serialize else len(self._list)

    def __getitem__(self, idx):
        if not self._serialize:
            return copy.deepcopy(self._list[idx]) if self._copy else self._list[idx]
        if not -len(self) <= idx < len(self):
            raise IndexError(f"index {idx} is outside of a dataset of {len(self)} items")
        idx %= len(self)
        start = self._ends[idx - 1] if idx else 0
        return pickle.loads(self._bytes[start : self._ends[idx]].data)


class MapDataset(torchdata.Dataset):
    """`map_func` applied to each item of a dataset.

    Where `map_func` returns None, another item of a map-style dataset is given in its place, and the item of an
    iterable dataset is left out.

    Raises:
        RuntimeError: on access, where `map_func` gave None for 100 items in a row, or for all there are.
    """

    def __new__(cls, dataset, map_func):
        if isinstance(dataset, torchdata.IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset, map_func):
        self._dataset = dataset
        self._map_func = map_func
        # A fixed seed: which item stands in for a rejected one must not depend on, nor disturb, the global state.
        self._rng = random.Random(42)
        self._candidates = set(range(len(dataset)))

    # pickle, used for spawned workers, would call __new__ without arguments
    def __getnewargs__(self):
        return self._dataset, self._map_func

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, idx):
        # Some samplers yield tensors, which a set of integers never contains
        idx = int(idx)
        for _ in range(_MAX_REJECTED):
            data = self._map_func(self._dataset[idx])
            if data is not None:
                # A random mapper may accept an item that it has rejected before
                self._candidates.add(idx)
                return data
            # Not tried again, so that a mapper that rejects everything ends in an error
            self._candidates.discard(idx)
            if not self._candidates:
                break
            idx = self._rng.choice(tuple(self._candidates))
        raise RuntimeError(
            f"the mapper {self._map_func} returned None for one item after the other of a dataset of {len(self)} "
            f"(the last: {idx}): check what it rejects and why"
        )


class _MapIterableDataset(torchdata.IterableDataset):
    def __init__(self, dataset, map_func):
        self._dataset = dataset
        self._map_func = map_func

    def __len__(self):
        return len(self._dataset)

    def __iter__(self):
        return (data for data in map(self._map_func, self._dataset) if data is not None)


class ToIterableDataset(torchdata.IterableDataset):
    """A map-style dataset, read in the order of a sampler.

    The sampler runs inside each worker process of a `DataLoader`; the workers take turns, chunks of `shard_chunk_size`
    indices at a time, so that together they yield each index once.
    """

    def __init__(self, dataset, sampler, shard_chunk_size=1):
        self.dataset = dataset
        self.sampler = sampler
        self.shard_chunk_size = shard_chunk_size

    def __len__(self):
        return len(self.sampler)

    def __iter__(self):
        worker = torchdata.get_worker_info()
        indices = iter(self.sampler)
        if worker is not None:
            indices = (
                index
                for place, index in enumerate(indices)
                if place // self.shard_chunk_size % worker.num_workers == worker.id
            )
        for idx in indices:
            yield self.dataset[idx]


class AspectRatioGroupedDataset(torchdata.IterableDataset):
    """Lists of `batch_size` dicts of an iterable, all wide ("width" > "height") or all tall; a rest is dropped."""

    def __init__(self, dataset, batch_size):
        self.dataset = dataset
        self.batch_size = batch_size

    def __iter__(self):
        groups: dict[bool, list] = {True: [], False: []}
        for item in self.dataset:
            group = groups[item["width"] > item["height"]]
            group.append(item)
            if len(group) == self.batch_size:
                # A copy, because the list is reused
                yield group[:]
                group.clear()
