"""HOTA, IDF1 and MOTA of one class in some videos, written from the papers: loops, and matchings by trying all.

A video is a list of frames; a frame is a list of objects [(identity, box)] and one of detections [(track, box)], boxes
xyxy. Nothing is fast here: with more than six boxes in a frame it does not end.

HOTA's matching is the one of its authors' code, which the paper describes as its approximation: the same for all
thresholds, it maximises the sum of IoU times the association that the two tracks could have at best.
"""

from fractions import Fraction
from itertools import permutations
from math import sqrt

from reference.linking import iou

ALPHAS = [Fraction(k, 20) for k in range(1, 20)]


def matchings(objects, detections):
    """All sets of pairs (row of an object, row of a detection) in which no row comes twice, of the most pairs."""
    short = min(len(objects), len(detections))
    for rows in permutations(range(len(objects)), short):
        for columns in permutations(range(len(detections)), short):
            if list(rows) == sorted(rows):
                yield list(zip(rows, columns, strict=True))


def best(objects, detections, value):
    """The pairs of the matching whose sum of values is the greatest."""
    pairs = max(matchings(objects, detections), key=lambda pairs: sum(value(i, j) for i, j in pairs))
    return [(i, j) for i, j in pairs if value(i, j) > 0]


def clear_counts(video):
    """Matched, missed, false and switches, as Bernardin and Stiefelhagen define them: pairs of the frame before go on
    where they still overlap by half, the others are matched for the greatest IoU."""
    matched = missed = false = switches = 0
    last, before = {}, {}  # track by identity: ever, and in the last frame with objects and detections
    for objects, detections in video:
        if not objects or not detections:
            missed, false = missed + len(objects), false + len(detections)
            continue

        def value(i, j, objects=objects, detections=detections, before=before):
            overlap = iou(objects[i][1], detections[j][1])
            if overlap < 0.5:
                return 0.0
            return overlap + 100 * (before.get(objects[i][0]) == detections[j][0])

        pairs = best(objects, detections, value)
        matched, missed, false = (
            matched + len(pairs),
            missed + len(objects) - len(pairs),
            false + len(detections) - len(pairs),
        )
        before = {}
        for i, j in pairs:
            identity, track = objects[i][0], detections[j][0]
            switches += last.get(identity, track) != track
            last[identity] = before[identity] = track
    return matched, missed, false, switches


def mota(videos):
    matched, missed, false, switches = (sum(counts) for counts in zip(*map(clear_counts, videos), strict=True))
    return 1 - (missed + false + switches) / (matched + missed)


def idf1(videos):
    """Ristani et al.: each identity gets at most one track of its video, so that most pairs agree."""
    true = total = 0
    for video in videos:
        identities = sorted({name for objects, _ in video for name, _ in objects})
        tracks = sorted({name for _, detections in video for name, _ in detections})
        agree = {}
        for objects, detections in video:
            total += len(objects) + len(detections)
            for identity, box in objects:
                for track, found in detections:
                    agree[identity, track] = agree.get((identity, track), 0) + (iou(box, found) >= 0.5)

        def value(i, j, identities=identities, tracks=tracks, agree=agree):
            return agree.get((identities[i], tracks[j]), 0)

        true += sum(value(i, j) for i, j in best(identities, tracks, value))
    return 2 * true / total


def hota(videos):
    """Luiten et al., equations 3 to 8: (HOTA, DetA, AssA), means over the thresholds."""
    values = []
    for alpha in ALPHAS:
        pairs, misses, false, associations = 0, 0, 0, 0.0
        for video in videos:
            true, missed, wrong = hota_pairs(video, float(alpha))
            pairs, misses, false = pairs + len(true), misses + missed, false + wrong
            for identity, track in true:
                tpa = true.count((identity, track))
                fna = sum(name == identity for objects, _ in video for name, _ in objects) - tpa
                fpa = sum(name == track for _, detections in video for name, _ in detections) - tpa
                associations += tpa / (tpa + fna + fpa)
        detection = pairs / (pairs + misses + false)
        association = associations / pairs if pairs else 0.0
        values.append((sqrt(detection * association), detection, association))
    return [sum(column) / len(ALPHAS) for column in zip(*values, strict=True)]


def hota_pairs(video, alpha):
    """The true pairs (identity, track) of all frames, and how many objects and detections have none."""
    overlap, count = {}, {}
    for objects, detections in video:
        for name, _ in objects:
            count["object", name] = count.get(("object", name), 0) + 1
        for name, _ in detections:
            count["track", name] = count.get(("track", name), 0) + 1
        for identity, box in objects:
            for track, found in detections:
                of_object = sum(iou(box, other) for _, other in detections)
                of_track = sum(iou(other, found) for _, other in objects)
                both = iou(box, found)
                if both:
                    share = both / (of_object + of_track - both)
                    overlap[identity, track] = overlap.get((identity, track), 0) + share
    true, missed, wrong = [], 0, 0
    for objects, detections in video:
        found = []
        if objects and detections:

            def value(i, j, objects=objects, detections=detections):
                identity, track = objects[i][0], detections[j][0]
                together = overlap.get((identity, track), 0)
                possible = together / (count["object", identity] + count["track", track] - together)
                return possible * iou(objects[i][1], detections[j][1])

            found = [
                (objects[i][0], detections[j][0])
                for i, j in best(objects, detections, value)
                if iou(objects[i][1], detections[j][1]) >= alpha - 1e-12
            ]
        true += found
        missed, wrong = missed + len(objects) - len(found), wrong + len(detections) - len(found)
    return true, missed, wrong
