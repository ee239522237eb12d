"""Which frames a process reads, and in what order."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch.utils.data as torchdata

from vod2.d2 import comm
from vod2.errors import UserError


class SizedDataset(Protocol):
    """A dataset of PyTorch's that knows how many samples it has."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class VideoInferenceSampler(torchdata.Sampler):
    """Positions of frames to evaluate: whole videos, spread over the processes so that each gets about as many frames.

    The longest video goes first, each to the process that has the fewest frames so far (of equals the lowest rank).
    Within a process, videos and frames keep the order of the dataset. A process may get none.

    Args:
        video_ids: the video of every frame of the dataset; frames of one video need not be adjacent.
        rank, world_size: of this process; None asks Detectron2's `comm`.

    Example:
        >>> from vod2.data import VideoInferenceSampler
        >>> videos = ["a", "a", "b", "b", "b", "c"]
        >>> [list(VideoInferenceSampler(videos, rank, 2)) for rank in range(2)]
        [[2, 3, 4], [0, 1, 5]]
    """

    def __init__(self, video_ids: Sequence[str], rank: int | None = None, world_size: int | None = None) -> None:
        rank = comm.get_rank() if rank is None else rank
        world_size = comm.get_world_size() if world_size is None else world_size
        if not 0 <= rank < world_size:
            raise ValueError(f"expected a rank in [0, {world_size}), got {rank}")
        positions: dict[str, list[int]] = {}
        for position, video in enumerate(video_ids):
            positions.setdefault(video, []).append(position)
        loads = [0] * world_size
        own = []
        for frames in sorted(positions.values(), key=len, reverse=True):
            lightest = loads.index(min(loads))
            loads[lightest] += len(frames)
            if lightest == rank:
                own.append(frames)
        self._positions = [position for frames in sorted(own) for position in frames]

    def __iter__(self) -> Iterator[int]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


class NumberedSampler(torchdata.Sampler):
    """An endless training sampler whose items know their place in the training: (number, item).

    Numbers count over all processes, so that no two samples of a training have the same one.

    Args:
        sampler: yields what the dataset is asked for (such as positions), the share of this process.
        rank, world_size: of this process; None asks Detectron2's `comm`.
    """

    def __init__(self, sampler: torchdata.Sampler, rank: int | None = None, world_size: int | None = None) -> None:
        self._sampler = sampler
        self._rank = comm.get_rank() if rank is None else rank
        self._world_size = comm.get_world_size() if world_size is None else world_size
        self._first = 0
        self._before: frozenset[int] = frozenset()

    def start(self, first: int, before: Iterable[int] = ()) -> None:
        """Let iterators that begin from now on yield the items with these numbers: `before`, then all from `first` on.

        Those in between are drawn and left out: a sampler has no shorter way to its later items.
        """
        self._first = first
        self._before = frozenset(before)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for count, item in enumerate(self._sampler):
            number = count * self._world_size + self._rank
            if number >= self._first or number in self._before:
                yield number, item


class TripletItem(NamedTuple):
    """One clip of a batch of triplets.

    Attributes:
        position: of the key frame in the dataset.
        triplet_class: the class that the clip was drawn for, in [0, K); the key frame has an object of it.
        triplet_place: (row, column): the clip is video `column` of the `row`-th class of its batch.
    """

    position: int
    triplet_class: int
    triplet_place: tuple[int, int]


class TripletVideos(torchdata.Sampler):
    """Key frames of endless batches of `num_classes` x `num_videos` clips, class after class (HVR-Net).

    A batch has distinct classes. Of each, it takes distinct videos where the class has that many, and repeats them in
    turn where not; a video that another class of the batch has taken comes only where there is no other. Of each video
    it takes any frame with an object of the class. All are uniform. A batch is drawn from the seed and its number
    alone; process r of w has the batches r, r + w, ...

    Args:
        video_ids: the video of every frame of the dataset.
        classes: the classes of the objects of every frame of the dataset, in [0, K).
        num_classes, num_videos: of a batch.
        seed: at least 0, the same in all processes.
        accumulate: so many batches of this process are dealt in turn, clip by clip, for `vod2.engine.micro_batches`.
        rank, world_size: of this process; None asks Detectron2's `comm`.

    Raises:
        UserError: fewer than `num_classes` classes have a frame.

    Example:
        >>> from vod2.data import TripletVideos
        >>> sampler = TripletVideos(["a", "a", "b"], [[0], [0, 1], [1]], num_classes=2, num_videos=1, seed=0)
        >>> batch = [item for item, _ in zip(sampler, range(2))]
        >>> sorted(item.triplet_class for item in batch)
        [0, 1]
    """

    def __init__(
        self,
        video_ids: Sequence[str],
        classes: Sequence[Collection[int]],
        num_classes: int = 3,
        num_videos: int = 3,
        *,
        seed: int,
        accumulate: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if num_classes < 1 or num_videos < 1:
            raise UserError(f"triplets need at least one class and one video, got {num_classes} and {num_videos}")
        self._num_classes, self._num_videos, self._seed = num_classes, num_videos, seed
        self._accumulate = accumulate
        self._rank = comm.get_rank() if rank is None else rank
        self._world_size = comm.get_world_size() if world_size is None else world_size
        frames: dict[int, dict[str, list[int]]] = {}
        for position, (video, present) in enumerate(zip(video_ids, classes, strict=True)):
            for category in set(present):
                frames.setdefault(category, {}).setdefault(video, []).append(position)
        if len(frames) < num_classes:
            raise UserError(
                f"batches of triplets need {num_classes} classes, the training set has objects of {len(frames)}: "
                "lower DATALOADER.TRIPLET.NUM_CLASSES or add data"
            )
        self._frames = {category: frames[category] for category in sorted(frames)}

    def __iter__(self) -> Iterator[TripletItem]:
        numbers = itertools.count(self._rank, self._world_size)
        while True:
            together = [
                self._batch(np.random.default_rng((self._seed, number)))
                for number in itertools.islice(numbers, self._accumulate)
            ]
            for clips in zip(*together, strict=True):
                yield from clips

    def _batch(self, rng: np.random.Generator) -> Iterator[TripletItem]:
        taken: set[str] = set()
        for row, category in enumerate(rng.choice(list(self._frames), self._num_classes, replace=False).tolist()):
            frames = self._frames[category]
            names = list(frames)
            shuffled = [names[i] for i in rng.permutation(len(names))]
            preferred = sorted(shuffled, key=taken.__contains__)[: self._num_videos]
            for column, video in zip(range(self._num_videos), itertools.cycle(preferred), strict=False):
                taken.add(video)
                yield TripletItem(int(rng.choice(frames[video])), category, (row, column))


class TripletDataset(torchdata.Dataset):
    """A dataset of clips that is asked for `TripletItem`s and gives the clips `triplet_class` and `triplet_place`.

    Args:
        dataset: map-style, of dicts.
    """

    def __init__(self, dataset: SizedDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, item: TripletItem) -> dict:
        place = {"triplet_class": item.triplet_class, "triplet_place": item.triplet_place}
        return {**self._dataset[item.position], **place}
