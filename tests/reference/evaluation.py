"""AP and kinds of error of detections, in plain loops over frames, classes and boxes.

An object is (box xyxy, label, ignored), a detection (box xyxy, score, label); both come as {frame: [...]}.
A detection is found at an IoU of one half, without added pixels.
"""

from collections.abc import Iterable

Box = tuple[float, float, float, float]
Objects = dict[object, list[tuple[Box, int, bool]]]
Found = dict[object, list[tuple[Box, float, int]]]

HALF, TENTH = 0.5, 0.1


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def match_frame(objects: list, found: list) -> dict[int, int]:
    """{detection: object}: the surest detection first, each takes the nearest free object of its label."""
    matches: dict[int, int] = {}
    for d in sorted(range(len(found)), key=lambda row: -found[row][1]):
        best = 0.0
        for g, (box, label, _) in enumerate(objects):
            overlap = iou(found[d][0], box)
            if label == found[d][2] and g not in matches.values() and overlap >= HALF and overlap > best:
                best, matches[d] = overlap, g
    return matches


def area(ranked: Iterable[tuple[float, bool]], positives: int) -> float:
    """All-point AP of (score, true), which may come in any order; equal scores rank in the order given."""
    recall, precision, true = [0.0], [0.0], 0
    for rank, (_, is_true) in enumerate(sorted(ranked, key=lambda row: -row[0]), 1):
        true += is_true
        recall.append(true / positives)
        precision.append(true / rank)
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def average_precision(objects: Objects, found: Found, label: int, frames: Iterable) -> float:
    """AP of one class on some frames, as if there were no others; NaN where they have no object of it that counts."""
    ranked, positives = [], 0
    for frame in frames:
        here, detections = objects.get(frame, []), found.get(frame, [])
        positives += sum(1 for _, its, ignored in here if its == label and not ignored)
        matches = match_frame(here, detections)
        for d, (_, score, its) in enumerate(detections):
            if its == label and not (d in matches and here[matches[d]][2]):
                ranked.append((score, d in matches))
    return area(ranked, positives) if positives else float("nan")


def mean(values: Iterable[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def error_of(detection: tuple, objects: list) -> tuple[str, int | None]:
    """The kind of error of a detection without a match, and the object that it is about. No object is ignored."""
    box, _, label = detection
    same = [(iou(box, its), -g) for g, (its, name, _) in enumerate(objects) if name == label]
    other = [(iou(box, its), -g) for g, (its, name, _) in enumerate(objects) if name != label]
    best_same, best_other = max(same, default=(-1.0, 0)), max(other, default=(-1.0, 0))
    if TENTH <= best_same[0] < HALF:
        return "localisation", -best_same[1]
    if best_other[0] >= HALF:
        return "classification", -best_other[1]
    if best_same[0] >= HALF:
        return "duplicate", None
    if max(best_same[0], best_other[0]) < TENTH:
        return "background", None
    return "both", None


def split_errors(objects: Objects, found: Found, num_classes: int) -> dict[str, tuple[float, int]]:
    """{error: (gain in mean AP where an oracle fixes it, how many there are)}."""
    rows, errors, missed = [], [], []
    positives = [0] * num_classes
    for frame in found.keys() | objects.keys():
        here, detections = objects.get(frame, []), found.get(frame, [])
        matches = match_frame(here, detections)
        explained = set(matches.values())
        for d, detection in enumerate(detections):
            rows.append((detection[1], detection[2], d in matches))
            if d not in matches:
                kind, target = error_of(detection, here)
                free = target is not None and target not in matches.values()
                errors.append((kind, len(rows) - 1, (frame, target) if free else None))
                explained.add(target)
        for g, (_, label, _) in enumerate(here):
            positives[label] += 1
            if g not in explained:
                missed.append(label)

    def mean_ap(rows: list, positives: list[int]) -> float:
        values = []
        for label in range(num_classes):
            if before[label]:
                ranked = [(score, true) for score, its, true in rows if its == label]
                values.append(area(ranked, positives[label]) if positives[label] else 1.0)
        return mean(values)

    before, result = list(positives), {}
    for kind in ("classification", "localisation", "both", "duplicate", "background"):
        mine = [(index, target) for name, index, target in errors if name == kind]
        fixed: dict[int, tuple | None] = {index: None for index, _ in mine}
        for target in {target for _, target in mine if target is not None}:
            surest = max((index for index, its in mine if its == target), key=lambda index: (rows[index][0], -index))
            frame, g = target
            fixed[surest] = (rows[surest][0], objects[frame][g][1], True)
        after = [fixed.get(index, row) for index, row in enumerate(rows)]
        after = [row for row in after if row is not None]
        result[kind] = mean_ap(after, positives) - mean_ap(rows, positives), len(mine)
    left = [count - missed.count(label) for label, count in enumerate(positives)]
    result["missed"] = mean_ap(rows, left) - mean_ap(rows, positives), len(missed)
    return result
