"""Filling of gaps in plain Python, with the whole video at hand.

A row is (box xyxy, score, label, track).
"""

from reference.linking import iou


def fill(video: list[list[tuple]], max_gap: int, min_iou: float) -> list[list[tuple]]:
    """Rows (box, score, label, track, filled) of every frame."""
    video = [[(tuple(box), score, label, track) for box, score, label, track in rows] for rows in video]
    name = {track: track for rows in video for _, _, _, track in rows}
    boxes: dict[int, dict[int, tuple]] = {}  # {track: {frame: row}}, after joining
    result = [[(*row, False) for row in rows] for rows in video]
    added: list[list[tuple]] = [[] for _ in video]
    for t, rows in enumerate(video):
        beginning = [row for row in rows if name[row[3]] not in boxes]
        present = {name[row[3]] for row in rows}
        pairs = []
        for place, row in enumerate(rows):
            if row not in beginning:
                continue
            for track, seen in boxes.items():
                last = max(seen)
                if track in present or not 1 <= t - last - 1 <= max_gap or seen[last][2] != row[2]:
                    continue
                overlap = max(iou(row[0], seen[last][0]), iou(row[0], moved(seen, t)))
                if overlap >= min_iou:
                    pairs.append((-overlap, place, track))
        rows_done, tracks_done = set(), set()
        for _, place, track in sorted(pairs):
            if place not in rows_done and track not in tracks_done:
                rows_done.add(place)
                tracks_done.add(track)
                name[rows[place][3]] = track
        for box, score, label, track in rows:
            seen = boxes.setdefault(name[track], {})
            last = max(seen, default=t - 1)
            for k in range(last + 1, t) if 1 <= t - last - 1 <= max_gap else ():
                share = (k - last) / (t - last)
                between = tuple((1 - share) * a + share * b for a, b in zip(seen[last][0], box, strict=True))
                others = [row for row in [*video[k], *added[k]] if row[2] == label]
                if all(iou(between, other[0]) < 0.5 for other in others):
                    value = (1 - share) * seen[last][1] + share * score
                    added[k].append((between, value, label, name[track], True))
            seen[t] = (box, score, label)
    return [
        [(box, score, label, name[track], filled) for box, score, label, track, filled in rows] + new
        for rows, new in zip(result, added, strict=True)
    ]


def moved(seen: dict[int, tuple], t: int) -> tuple:
    """The last box of a track where its velocity over its last five boxes takes it by frame t."""
    frames = sorted(seen)[-5:]
    first, last = frames[0], frames[-1]
    if first == last:
        return seen[last][0]
    steps = []
    for axis in (0, 1):
        begin = (seen[first][0][axis] + seen[first][0][axis + 2]) / 2
        end = (seen[last][0][axis] + seen[last][0][axis + 2]) / 2
        steps.append((end - begin) / (last - first) * (t - last))
    x1, y1, x2, y2 = seen[last][0]
    return x1 + steps[0], y1 + steps[1], x2 + steps[0], y2 + steps[1]
