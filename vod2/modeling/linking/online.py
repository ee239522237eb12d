"""Linking while the video is still running."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import torch

from vod2.d2 import Instances
from vod2.modeling.linking.base import BoxLinker

_ROW = "row_before_linking"


class OnlineLinker:
    """A `BoxLinker` for streams: it links windows of W frames, of which two that follow one another share half.

    When W frames have been pushed they are linked, and the first half of them is finished; the others, as they were
    before linking, begin the next window. A track of the new window continues the track of the old one with which it
    has most boxes in common. So a frame waits for at most W - 1 others, each is linked about twice, and W frames are
    kept, however long the stream. A video of fewer than W frames is linked as a whole, as `link` does.

    Args:
        linker: links each window.
        window: W, at least 2.

    Raises:
        ValueError: for a smaller window.

    Example:
        >>> from vod2.modeling import OnlineLinker, SeqNMS
        >>> online = OnlineLinker(SeqNMS(), window=20)
        >>> online.flush()
        []
    """

    def __init__(self, linker: BoxLinker, window: int) -> None:
        if window < 2:
            raise ValueError(f"OnlineLinker: expected a window of at least 2 frames, got {window}")
        self.linker, self.window = linker, window
        self.reset()

    def reset(self) -> None:
        """Forget the stream; the next frame begins another, whose tracks count from 0."""
        self._waiting: deque[Instances] = deque()
        self._linked_tracks: list[dict[int, int]] = []  # of the first waiting frames: {row before linking: track}
        self._new_tracks = count()

    def push(self, frame: Instances) -> list[Instances]:
        """The next frame of the stream -> the frames that are finished, in order; often none."""
        self._waiting.append(frame)
        if len(self._waiting) < self.window:
            return []
        return self._link_window(self.window - self.window // 2)

    def flush(self) -> list[Instances]:
        """The stream has ended: the frames that were still waiting. Then another stream may begin."""
        finished = self._link_window(len(self._waiting))
        self.reset()
        return finished

    def _link_window(self, number: int) -> list[Instances]:
        """Link what waits; the first `number` frames are finished."""
        # Frames wait as they were pushed: a second linking must not raise scores that the first one has raised.
        linked = self.linker.link([_with_rows(frame) for frame in self._waiting])
        tracks_of_rows = []  # of each frame {row before linking: track of this window}
        for frame in linked:
            tracks_of_rows.append(dict(zip(frame.get(_ROW).tolist(), frame.track_ids.tolist(), strict=True)))
        names = continue_tracks(self._linked_tracks, tracks_of_rows, self._new_tracks)
        for frame in linked:
            named = [names[track] for track in frame.track_ids.tolist()]
            frame.track_ids = torch.tensor(named, dtype=torch.int64, device=frame.track_ids.device)
            frame.remove(_ROW)
        self._linked_tracks = []  # of the frames that are linked again, with the next window
        for tracks in tracks_of_rows[number:]:
            self._linked_tracks.append({row: names[track] for row, track in tracks.items()})
        for _ in range(number):
            self._waiting.popleft()
        return linked[:number]


def continue_tracks(
    known: Sequence[Mapping[int, int]], frames: Sequence[Mapping[int, int]], fresh: Iterator[int]
) -> dict[int, int]:
    """{track of a later part of a stream: track of the stream}.

    A track takes the name of the one of the part before that it has most boxes in common with, unless another has more;
    what is left gets new names, in the order in which it appears.

    Args:
        known: of the frames that both parts hold {row of a box: track of the stream}.
        frames: of the frames of the later part, of which those come first, {row of a box: track of that part}.
        fresh: gives the new names.

    Example:
        >>> from itertools import count
        >>> continue_tracks([{0: 7, 1: 3}], [{0: 0, 1: 1}, {0: 2, 1: 1}], count(8))
        {0: 7, 1: 3, 2: 8}
    """
    common: Counter[tuple[int, int]] = Counter()  # (track of the later part, track of the stream): boxes in both
    # The frames that both parts hold are the first of the later one.
    for before, tracks in zip(known, frames, strict=False):
        for row, track in tracks.items():
            if row in before:
                common[track, before[row]] += 1
    names: dict[int, int] = {}
    taken: set[int] = set()
    # Greedy, from the pair with most boxes in common; of equals the one that was met first.
    for (track, stream_track), _ in common.most_common():
        if track not in names and stream_track not in taken:
            names[track] = stream_track
            taken.add(stream_track)
    for tracks in frames:
        for track in sorted(set(tracks.values())):
            if track not in names:
                names[track] = next(fresh)
    return names


def _with_rows(frame: Instances) -> Instances:
    """The same detections, each with its row, by which it is found again after linking."""
    numbered = Instances(frame.image_size, **frame.get_fields())
    numbered.set(_ROW, torch.arange(len(frame), device=frame.scores.device))
    return numbered
