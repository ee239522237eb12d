"""Which items are read, and in what order. Each process takes its share of one common order."""

import itertools
import math
from collections import Counter

import torch
from torch.utils.data.sampler import Sampler

from vod2._d2lite.utils import comm


class _InfiniteSampler(Sampler):
    """Repeats `_epoch(generator)` for ever and takes every world_size-th index of it."""

    def __init__(self, shuffle, seed):
        self._shuffle = shuffle
        # The same in all processes: each takes its share of one common order
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        """The items of one round, int64, before they are shuffled."""
        raise NotImplementedError

    def __iter__(self):
        yield from itertools.islice(self._all_indices(), self._rank, None, self._world_size)

    def _all_indices(self):
        # Its own generator, so that other random draws in this process do not change the order
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            indices = self._epoch(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()


class TrainingSampler(_InfiniteSampler):
    """An infinite stream of shuffle(range(size)) + shuffle(range(size)) + ..., shared out over the processes.

    Args:
        size: number of items of the dataset.
        shuffle: False gives range(size) + range(size) + ...
        seed: the same in all processes; None draws one that they share.
    """

    def __init__(self, size, shuffle=True, seed=None):
        if not isinstance(size, int):
            raise TypeError(f"expected the size of the dataset as an int, got {size!r}")
        if size <= 0:
            raise ValueError(f"expected a dataset of at least one item, got size={size}")
        super().__init__(shuffle, seed)
        self._size = size

    def _epoch(self, generator):
        return torch.arange(self._size)


class RepeatFactorTrainingSampler(_InfiniteSampler):
    """Like `TrainingSampler`, but item i comes `repeat_factors[i]` times an epoch on average.

    The fractional part of a factor is a probability, drawn anew each epoch.

    Args:
        repeat_factors: (size,) float tensor.
    """

    def __init__(self, repeat_factors, *, shuffle=True, seed=None):
        super().__init__(shuffle, seed)
        self._whole = torch.trunc(repeat_factors)
        self._fraction = repeat_factors - self._whole

    def _epoch(self, generator):
        extra = torch.rand(len(self._fraction), generator=generator) < self._fraction
        times = (self._whole + extra).long()
        return torch.repeat_interleave(torch.arange(len(times)), times)

    @staticmethod
    def repeat_factors_from_category_frequency(dataset_dicts, repeat_thresh, sqrt=True):
        """The repeat factor of an image is the largest of those of its categories.

        That of category c is max(1, sqrt(repeat_thresh / f(c))) with f(c) the fraction of images that contain c
        (LVIS, arXiv:1908.03195, appendix B.2); without `sqrt`, max(1, repeat_thresh / f(c)).

        Returns:
            (len(dataset_dicts),) float32 tensor, each at least 1.
        """
        present = [{ann["category_id"] for ann in d["annotations"]} for d in dataset_dicts]
        count = Counter(itertools.chain.from_iterable(present))
        ratio = {c: repeat_thresh * len(dataset_dicts) / n for c, n in count.items()}
        factor = {c: max(1.0, math.sqrt(r) if sqrt else r) for c, r in ratio.items()}
        return torch.tensor([max((factor[c] for c in cats), default=1.0) for cats in present], dtype=torch.float32)


class InferenceSampler(Sampler):
    """Each of `size` items exactly once over all processes: contiguous shards, the first ones longer by one."""

    def __init__(self, size):
        # Contiguous, so that results gathered by rank are in the order of the dataset
        share, rest = divmod(size, comm.get_world_size())
        rank = comm.get_rank()
        begin = rank * share + min(rank, rest)
        self._local_indices = range(begin, begin + share + (rank < rest))

    def __iter__(self):
        yield from self._local_indices

    def __len__(self):
        return len(self._local_indices)
