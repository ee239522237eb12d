"""HeaviestPaths: after every removal what enumeration finds."""

import numpy as np
import pytest

from reference import linking as reference
from vod2.modeling.linking import HeaviestPaths


@pytest.mark.parametrize("kind", ["bool", "weights"])
@pytest.mark.parametrize("seed", range(25))
def test_the_heaviest_path_is_that_of_enumeration_after_any_removals(seed, kind):
    """Weights are multiples of 1/16, so that sums are exact and ties real."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, 5)
    boxes = [rng.integers(1, 16, n) / 16 for n in counts]
    linked = [rng.random((n, m)) < 0.6 for n, m in zip(counts[:-1], counts[1:], strict=True)]
    weights = [rng.integers(0, 16, mask.shape) / 16 * (kind == "weights") for mask in linked]
    given = linked if kind == "bool" else [np.where(a, w, -np.inf) for a, w in zip(linked, weights, strict=True)]
    paths, left = HeaviestPaths(boxes, given), [list(range(n)) for n in counts]

    def weight(path):
        first, rows = path
        total = sum(boxes[first + k][row] for k, row in enumerate(rows))
        return total + sum(weights[first + k][pair] for k, pair in enumerate(zip(rows[:-1], rows[1:], strict=True)))

    while any(left):
        best = paths.best()
        first, rows = reference.heaviest(reference.all_paths(left, lambda t, i, j: linked[t][i, j]), weight)
        assert (best.first, best.rows.tolist()) == (first, rows)
        start = int(rng.integers(0, len(left)))
        gone = [rng.integers(0, n, 1) if n else np.empty(0, np.int64) for n in counts[start : start + 2]]
        paths.remove(start, gone)
        for t, removed in enumerate(gone, start):
            left[t] = [row for row in left[t] if row not in removed]
    assert paths.best() is None


def test_a_video_without_frames_has_no_path():
    assert HeaviestPaths([], []).best() is None
