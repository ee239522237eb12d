"""The tables of an evaluation for the log."""

from collections.abc import Mapping, Sequence

import numpy as np
from tabulate import tabulate

from vod2.evaluation.arrays import Detections
from vod2.evaluation.error_split import ERROR_TYPES
from vod2.evaluation.evaluated import EvaluatedDataset
from vod2.evaluation.groups import CLEAN, DETERIORATED
from vod2.evaluation.mot_metrics import MOT_METRICS, PER_CLASS

LINKED_NOTE = (
    "Identities are linked from boxes, not annotated: flicker, delay, gap, coverage, HOTA, IDF1, MOTA and the groups "
    "slow, medium and fast depend on the linking."
)
NO_TRACKS_NOTE = (
    "Identities are not annotated: no flicker, delay, gap, coverage, HOTA, IDF1 and MOTA, and no groups slow, medium "
    "and fast."
)
STABILITY = {
    "flicker": "times lost or found again in 100 frames",
    "delay": "frames until first found",
    "gap": "frames of the longest loss",
    "coverage": "percent of the frames in which it is found",
}
"""{measure of tracks: what it counts}."""


def evaluation_report(results: Mapping[str, float], data: EvaluatedDataset, detections: Detections) -> str:
    """Five tables: AP50 of all objects and of each group; of each class that has objects or detections; what AP50 is
    lost to; tracks, where there are any; whether linked detections keep their identities.

    Args:
        results: the metrics of `VIDEvaluator`.
    """
    parts = [_groups(results, data, detections), _classes(results, data, detections), _errors(results)]
    if "flicker" in results:
        rows = [(name, results[name], meaning) for name, meaning in STABILITY.items()]
        parts.append(_table(["tracks", "mean", "(score >= .5, IoU >= .5)"], rows))
    if "HOTA" in results:
        rows = [(name, results[name], meaning) for name, meaning in MOT_METRICS.items()]
        parts.append(_table(["identities", "mean", "(score >= .5; IDF1, MOTA: IoU >= .5)"], rows))
    if "linked-identities" in results:
        parts.append(LINKED_NOTE)
    if len(data.truth) and (data.tracks.track < 0).all():
        parts.append(NO_TRACKS_NOTE)
    return "\n\n".join(part for part in parts if part)


def _groups(results: Mapping[str, float], data: EvaluatedDataset, detections: Detections) -> str:
    truth = data.truth
    totals = len(data.image_ids), int((~truth.ignore).sum()), len(detections)
    rows: list[Sequence] = [("all", results["AP50"], *totals)]
    for name, group in data.groups.items():
        row = [name, results[f"AP50-{name}"], None, int(group.objects.sum()), None]
        # A group of objects is evaluated on all frames with all detections: it has no numbers of its own.
        if group.frames is not None:
            row[2], row[4] = int(group.frames.sum()), int(group.frames[detections.image].sum())
        rows.append(row)
    rows.append(("any class", results["AP50-any-class"], *totals))
    return _table(["", "AP50", "frames", "objects", "detections"], rows)


def _classes(results: Mapping[str, float], data: EvaluatedDataset, detections: Detections) -> str:
    names, truth = data.class_names, data.truth
    objects = np.bincount(truth.labels[~truth.ignore], minlength=len(names)).tolist()
    predicted = np.bincount(detections.labels, minlength=len(names)).tolist()
    of_tracks = [measure for measure in PER_CLASS if measure in results]
    rows = []
    for name, num_objects, num_detections in zip(names, objects, predicted, strict=True):
        if num_objects or num_detections:  # a set may have few of its classes
            values = [results[f"{measure}-{name}"] for measure in of_tracks]
            rows.append((name, results[f"AP50-{name}"], num_objects, num_detections, *values))
    return _table(["class", "AP50", "objects", "detections", *of_tracks], rows)


def _errors(results: Mapping[str, float]) -> str:
    rows = [(name, *values) for name, values in error_columns(results).items()]
    return _table(["lost to", *error_headers(results)], rows)


def error_headers(results: Mapping[str, float]) -> list[str]:
    """Of `error_columns`: AP50 lost and errors, of all frames and of each group that the results have."""
    return [f"{column}{suffix.replace('-', ' ')}" for suffix in _parts(results) for column in ("dAP50", "errors")]


def error_columns(results: Mapping[str, float]) -> dict[str, list[float | int | None]]:
    """{error: values}; those of NaN in a results.json are None."""
    rows: dict[str, list[float | int | None]] = {}
    for name in ERROR_TYPES:
        rows[name] = []
        for suffix in _parts(results):
            rows[name] += [results[f"dAP50-{name}{suffix}"], int(results[f"errors-{name}{suffix}"])]
    return rows


def _parts(results: Mapping[str, float]) -> list[str]:
    suffixes = ("", f"-{CLEAN}", f"-{DETERIORATED}")
    return [suffix for suffix in suffixes if f"errors-{ERROR_TYPES[0]}{suffix}" in results]


def _table(headers: list[str], rows: list) -> str:
    """As text; "" without rows."""
    if not rows:
        return ""
    # The first column stays text, also where a name reads like a number.
    return tabulate(rows, headers=headers, tablefmt="plain", floatfmt=".2f", disable_numparse=[0])
