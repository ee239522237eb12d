"""The heaviest paths through the boxes of a video, one after the other: dynamic programming that is kept up to date.

F: frames, n_t: boxes of frame t. Plain numpy, one class at a time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_NONE = -1  # the successor of a box that ends its path


class Path(NamedTuple):
    """One box in each of consecutive frames: row `rows[k]` of frame `first + k`."""

    first: int
    rows: np.ndarray

    @property
    def frames(self) -> np.ndarray:
        """(L,) int64: the frame of each box."""
        return np.arange(self.first, self.first + len(self.rows))


class HeaviestPaths:
    """The path whose boxes and links weigh most in all, among the boxes that have not been removed.

    A path may begin and end in any frame. For each box the weight of the heaviest path that begins with it is kept, and
    its next box. When boxes are removed, only those are computed again whose path led through one of them: from the
    last frame concerned backwards, until nothing changes any more.

    Args:
        boxes: F arrays (n_t,), weights of the boxes, at least 0.
        links: F - 1 arrays (n_t, n_{t+1}): weights of the links, at least 0, and -inf where there is none; or bool,
            where a link weighs nothing.

    Example:
        >>> import numpy as np
        >>> from vod2.modeling.linking import HeaviestPaths
        >>> paths = HeaviestPaths([np.array([0.9, 0.2]), np.array([0.5])], [np.array([[False], [True]])])
        >>> paths.best()
        Path(first=0, rows=array([0]))
        >>> paths.remove(0, [np.array([0])])
        >>> paths.best()
        Path(first=0, rows=array([1, 0]))
    """

    def __init__(self, boxes: Sequence[np.ndarray], links: Sequence[np.ndarray]) -> None:
        self._boxes, self._links = boxes, links
        self._weight = [box.astype(np.float64) for box in boxes]
        self._next = [np.full(len(box), _NONE) for box in boxes]
        self._top = np.array([-np.inf] * len(boxes))  # the best weight of each frame
        # Backwards: what a box weighs takes in the path that goes on in the next frame.
        for t in reversed(range(len(boxes))):
            self._solve(t, np.arange(len(boxes[t])))
            self._top[t] = self._weight[t].max(initial=-np.inf)

    def best(self) -> Path | None:
        """The heaviest path, of equals the first; None when all boxes are gone."""
        t = first = int(self._top.argmax()) if len(self._top) else 0
        if not len(self._top) or self._top[t] == -np.inf:
            return None
        rows, row = [], int(self._weight[t].argmax())
        while row != _NONE:
            rows.append(row)
            row = int(self._next[t][row])
            t += 1
        return Path(first, np.array(rows))

    def remove(self, first: int, rows: Sequence[np.ndarray]) -> None:
        """Boxes `rows[k]` of frame `first + k` are gone; some may have gone before."""
        last = first + len(rows) - 1
        changed = None  # of the frame after t, and False at the end, where _NONE points
        for t in range(last, -1, -1):
            weight, successor = self._weight[t], self._next[t]
            stale = np.empty(0, np.int64) if changed is None else changed[successor].nonzero()[0]
            # A box looks at the next frame only: if none here leads through a change, none before does.
            if t < first and not len(stale):
                return
            changed = np.zeros(len(weight) + 1, dtype=bool)
            if len(stale):
                before = weight[stale]
                self._solve(t, stale)
                # Another path of the same weight makes no difference to those that lead here.
                changed[stale] = weight[stale] != before
            if t >= first:
                gone = rows[t - first]
                # Kept as a row that no path takes, so that rows and links keep their numbers.
                weight[gone], successor[gone] = -np.inf, _NONE
                changed[gone] = True
            self._top[t] = weight.max(initial=-np.inf)

    def _solve(self, t: int, rows: np.ndarray) -> None:
        """The heaviest paths that begin with the boxes `rows` of frame t, from those of the next frame."""
        weight, successor = self._boxes[t][rows].astype(np.float64), np.full(len(rows), _NONE)
        if t + 1 < len(self._boxes) and len(self._boxes[t + 1]) and len(rows):
            links, after = self._links[t][rows], self._weight[t + 1]
            through = np.where(links, after, -np.inf) if links.dtype == bool else links + after
            successor = through.argmax(axis=1)
            best = through[np.arange(len(rows)), successor]
            # Without a link, or with links to removed boxes only, the path ends here.
            linked = best > -np.inf
            weight[linked] += best[linked]
            successor[~linked] = _NONE
        self._weight[t][rows], self._next[t][rows] = weight, successor
