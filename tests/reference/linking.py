"""Linking by enumeration of all paths, in plain Python, for the boxes of one class.

A video is a list of frames, a frame a list of (box xyxy, score); a path is (first frame, [row, row, ...]).
"""

import math
from collections.abc import Callable, Iterator

Box = tuple[float, float, float, float]
Video = list[list[tuple[Box, float]]]
Path = tuple[int, list[int]]
Result = list[tuple[Path, list[float]]]
"""Paths in the order in which they are taken, with the new scores of their boxes."""


def iou(a: Box, b: Box) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def all_paths(left: list[list[int]], linked: Callable[[int, int, int], bool]) -> Iterator[Path]:
    """Every path through the rows `left` of each frame, those that begin first and with the smallest rows first."""

    def grow(t: int, row: int) -> Iterator[list[int]]:
        for after in left[t + 1] if t + 1 < len(left) else ():
            if linked(t, row, after):
                for rest in grow(t + 1, after):
                    yield [row, *rest]
        yield [row]

    for t, rows in enumerate(left):
        for row in rows:
            for path in grow(t, row):
                yield t, path


def heaviest(paths: Iterator[Path], weight: Callable[[Path], float]) -> Path:
    best = None
    for path in paths:
        if best is None or weight(path) > weight(best):
            best = path
    return best


def seq_nms(video: Video, link_iou: float, suppress_iou: float, rescore: str) -> Result:
    left = [list(range(len(frame))) for frame in video]

    def linked(t: int, i: int, j: int) -> bool:
        return iou(video[t][i][0], video[t + 1][j][0]) >= link_iou

    def scores(path: Path) -> list[float]:
        return [video[path[0] + k][row][1] for k, row in enumerate(path[1])]

    result = []
    while any(left):
        path = heaviest(all_paths(left, linked), lambda one: sum(scores(one)))
        value = max(scores(path)) if rescore == "max" else sum(scores(path)) / len(path[1])
        result.append((path, [value] * len(path[1])))
        for k, row in enumerate(path[1]):
            frame = video[path[0] + k]
            left[path[0] + k] = [
                other
                for other in left[path[0] + k]
                if other != row and iou(frame[other][0], frame[row][0]) < suppress_iou
            ]
    return result


def tubelets(video: Video, relation: Callable[[int, int, int], float] = lambda t, i, j: 0.0) -> Result:
    """Equations 8 and 9; `relation(t, i, j)` is w of box i of frame t and box j of frame t + 1."""
    left = [list(range(len(frame))) for frame in video]

    def weight(path: Path) -> float:
        total = 0.0
        for k in reversed(range(len(path[1]) - 1)):
            t, i, j = path[0] + k, path[1][k], path[1][k + 1]
            (box, score), (after, score_after) = video[t][i], video[t + 1][j]
            total += (score + score_after + iou(box, after)) * math.exp(relation(t, i, j))
        return total

    result = []
    while any(left):
        first, rows = path = heaviest(all_paths(left, lambda t, i, j: True), weight)
        scores = [video[first + k][row][1] for k, row in enumerate(rows)]
        best = sorted(scores, reverse=True)[: math.ceil(len(scores) / 2)]
        result.append((path, [score + sum(best) / len(best) for score in scores]))
        for k, row in enumerate(rows):
            left[first + k].remove(row)
    return result


def similarity(a: Box, b: Box) -> float:
    """Shares of width and height, and the distance of the centres over the mean of the diagonals."""
    width, height, other_width, other_height = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    shape = min(width, other_width) / max(width, other_width) * min(height, other_height) / max(height, other_height)
    distance = math.hypot((a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2)
    diagonal = (math.hypot(width, height) + math.hypot(other_width, other_height)) / 2
    return shape * math.exp(-distance / diagonal)


def greedy(video: Video, least: float, rescore: str) -> Result:
    """Of all pairs of two consecutive frames that are left take the most similar, until none is similar enough."""
    after: dict[tuple[int, int], int] = {}  # {(frame, row): row of the next frame}
    for t in range(len(video) - 1):
        pairs = {
            (i, j): similarity(box, other)
            for i, (box, _) in enumerate(video[t])
            for j, (other, _) in enumerate(video[t + 1])
        }
        while pairs and max(pairs.values()) >= least:
            best = max(pairs, key=lambda pair: pairs[pair])
            after[t, best[0]] = best[1]
            pairs = {pair: value for pair, value in pairs.items() if pair[0] != best[0] and pair[1] != best[1]}
    result = []
    continued = {(t + 1, row) for (t, _), row in after.items()}
    for t, frame in enumerate(video):
        for row in range(len(frame)):
            if (t, row) in continued:
                continue
            rows = [row]
            while (t + len(rows) - 1, rows[-1]) in after:
                rows.append(after[t + len(rows) - 1, rows[-1]])
            scores = [video[t + k][one][1] for k, one in enumerate(rows)]
            value = max(scores) if rescore == "max" else sum(scores) / len(scores)
            result.append(((t, rows), [value] * len(rows)))
    return result
