"""Which frames a process reads, and in what order."""

from collections.abc import Iterator, Sequence

import torch.utils.data as torchdata

from vod2.d2 import comm


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
    """An endless training sampler whose items know their place in the training: (number, position).

    Numbers count over all processes, so that no two samples of a training have the same one.

    Args:
        sampler: yields positions in the dataset, the share of this process.
        rank, world_size: of this process; None asks Detectron2's `comm`.
    """

    def __init__(self, sampler: torchdata.Sampler, rank: int | None = None, world_size: int | None = None) -> None:
        self._sampler = sampler
        self._rank = comm.get_rank() if rank is None else rank
        self._world_size = comm.get_world_size() if world_size is None else world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for count, position in enumerate(self._sampler):
            yield count * self._world_size + self._rank, position
